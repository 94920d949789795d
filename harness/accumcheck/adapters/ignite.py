"""PyTorch Ignite, ``create_supervised_trainer(gradient_accumulation_steps=k)``."""

from __future__ import annotations

from accumcheck.adapters import need
from accumcheck.task import Task


def train(task: Task) -> None:
    """The schedule is moved by Ignite's handler LRScheduler, attached where its documentation does so."""
    engine, handlers = need("ignite.engine", "pytorch-ignite"), need("ignite.handlers", "pytorch-ignite")
    trainer = engine.create_supervised_trainer(
        task.model, task.optimizer, task.loss_fn, task.device, gradient_accumulation_steps=task.accumulation_steps
    )
    trainer.add_event_handler(engine.Events.ITERATION_STARTED, handlers.LRScheduler(task.scheduler))
    trainer.run(task.loader, max_epochs=task.epochs)
