"""PyTorch Ignite, ``create_supervised_trainer(gradient_accumulation_steps=k)``."""

from __future__ import annotations

from typing import Any

from accumcheck.adapters import need
from accumcheck.task import Task


def train(task: Task, max_norm: float | None = None) -> None:
    """The schedule runs where Ignite's own example has it: at each completed iteration that ends a window."""
    engine = need("ignite.engine", "pytorch-ignite")
    trainer = engine.create_supervised_trainer(
        task.model, task.optimizer, task.loss_fn, task.device, gradient_accumulation_steps=task.accumulation_steps
    )

    @trainer.on(engine.Events.ITERATION_COMPLETED(every=task.accumulation_steps))
    def schedule(_: Any) -> None:
        task.scheduler.step()

    trainer.run(task.loader, max_epochs=task.epochs)
