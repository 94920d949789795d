"""Loops that make the same update and differ in what they hold meanwhile; all weigh micro-batches by samples."""

from __future__ import annotations

from accumcheck.corpus.published import accumulate_samples, windows
from accumcheck.task import Loop, Task
from torch import Tensor


def named_outputs(task: Task) -> None:
    """The outputs have a name, so they live until the next micro-batch's outputs take it."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            samples = sum(len(targets) for _, targets in window)
            task.optimizer.zero_grad()
            for inputs, targets in window:
                outputs = task.model(inputs)
                loss = task.loss_fn(outputs, targets)
                (loss * len(targets) / samples).backward()
            task.optimizer.step()
            task.scheduler.step()


def outputs_kept(task: Task) -> None:
    """The outputs go into a list, as for an accuracy; detached or not, their bytes stay."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            samples = sum(len(targets) for _, targets in window)
            kept: list[Tensor] = []
            task.optimizer.zero_grad()
            for inputs, targets in window:
                kept.append(task.model(inputs))
                (task.loss_fn(kept[-1], targets) * len(targets) / samples).backward()
                kept[-1] = kept[-1].detach()
            task.optimizer.step()
            task.scheduler.step()


def total_of_losses(task: Task) -> None:
    """The losses are added up for the log, without ``.item()`` or ``.detach()``, after each backward pass."""
    total: Tensor | float = 0.0
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            samples = sum(len(targets) for _, targets in window)
            task.optimizer.zero_grad()
            for inputs, targets in window:
                loss = task.loss_fn(task.model(inputs), targets) * len(targets) / samples
                loss.backward()
                total = total + loss
            task.optimizer.step()
            task.scheduler.step()


def one_backward(task: Task) -> None:
    """The losses of a window are added up, and one backward pass is made at its end."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            samples = sum(len(targets) for _, targets in window)
            task.optimizer.zero_grad()
            losses = [task.loss_fn(task.model(inputs), targets) * len(targets) / samples for inputs, targets in window]
            sum(losses[1:], losses[0]).backward()
            task.optimizer.step()
            task.scheduler.step()


def buffers_kept(task: Task) -> None:
    """``zero_grad(set_to_none=False)``: gradients are filled with zeros where they are."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            samples = sum(len(targets) for _, targets in window)
            task.optimizer.zero_grad(set_to_none=False)
            for inputs, targets in window:
                loss = task.loss_fn(task.model(inputs), targets)
                (loss * len(targets) / samples).backward()
            task.optimizer.step()
            task.scheduler.step()


LOOPS: dict[str, Loop] = {
    "correct": accumulate_samples,
    **{loop.__name__: loop for loop in (named_outputs, outputs_kept, total_of_losses, one_backward, buffers_kept)},
}
