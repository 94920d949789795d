"""Lightning with the GradientAccumulationScheduler callback."""

from __future__ import annotations

from harness.adapters import need
from harness.adapters.lightning import run
from harness.task import Task


def train(task: Task, max_norm: float | None = None) -> None:
    """The same number in every epoch."""
    callbacks = need("lightning.pytorch.callbacks", "lightning")
    run(task, max_norm, callbacks=[callbacks.GradientAccumulationScheduler({0: task.accumulation_steps})])
