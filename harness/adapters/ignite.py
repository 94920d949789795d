"""PyTorch Ignite, ``create_supervised_trainer(gradient_accumulation_steps=k)``."""

from __future__ import annotations

from harness.task import Task


def train(task: Task, max_norm: float | None = None) -> None:
    """The schedule runs where Ignite's own example has it: at each completed iteration that ends a window."""
    from ignite.engine import Engine, Events, create_supervised_trainer  # noqa: PLC0415

    trainer = create_supervised_trainer(
        task.model, task.optimizer, task.loss_fn, task.device, gradient_accumulation_steps=task.accumulation_steps
    )

    @trainer.on(Events.ITERATION_COMPLETED(every=task.accumulation_steps))
    def schedule(_: Engine) -> None:
        task.scheduler.step()

    trainer.run(task.loader, max_epochs=task.epochs)
