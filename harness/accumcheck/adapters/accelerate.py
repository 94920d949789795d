"""Hugging Face Accelerate, the loop of its gradient accumulation guide."""

from __future__ import annotations

from typing import Any

from accumcheck.adapters import need
from accumcheck.task import Task


def train(task: Task, max_norm: float | None = None) -> None:
    """``accumulate`` as documented."""
    _run(task, max_norm)


def dataloader_unsynced(task: Task, max_norm: float | None = None) -> None:
    """With ``sync_with_dataloader=False``: windows run on across epochs."""
    _run(task, max_norm, sync_with_dataloader=False)


def zero_grad_first(task: Task, max_norm: float | None = None) -> None:
    """With ``zero_grad`` at the start of the ``accumulate`` block.

    Accelerate's optimizer ignores the call except at the last micro-batch, where it clears the gradients of the others.
    """
    _run(task, max_norm, clear_first=True)


def _run(task: Task, max_norm: float | None, clear_first: bool = False, **settings: Any) -> None:
    """``settings`` are those of GradientAccumulationPlugin."""
    accelerate = need("accelerate", "accelerate")

    plugin = accelerate.utils.GradientAccumulationPlugin(num_steps=task.accumulation_steps, **settings)
    accelerator = accelerate.Accelerator(gradient_accumulation_plugin=plugin, cpu=task.device.type == "cpu")
    model, optimizer, loader, scheduler = accelerator.prepare(task.model, task.optimizer, task.loader, task.scheduler)
    for _ in range(task.epochs):
        for inputs, targets in loader:
            with accelerator.accumulate(model):
                if clear_first:
                    optimizer.zero_grad()
                accelerator.backward(task.loss_fn(model(inputs), targets))
                if max_norm and accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), max_norm)
                optimizer.step()
                scheduler.step()
                if not clear_first:
                    optimizer.zero_grad()
