"""Hugging Face Accelerate with ``zero_grad`` at the start of the ``accumulate`` block."""

from __future__ import annotations

from harness.adapters.accelerate import run
from harness.task import Task


def train(task: Task, max_norm: float | None = None) -> None:
    """Accelerate's optimizer ignores the call except at the last micro-batch, where it clears the others' gradients."""
    run(task, max_norm, clear_first=True)
