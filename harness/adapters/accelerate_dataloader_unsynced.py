"""Hugging Face Accelerate with ``sync_with_dataloader=False``."""

from __future__ import annotations

from harness.adapters.accelerate import run
from harness.task import Task


def train(task: Task, max_norm: float | None = None) -> None:
    """Windows run on across epochs."""
    run(task, max_norm, sync_with_dataloader=False)
