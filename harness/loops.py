"""Training loops that are compared everywhere: full batch, correct accumulation, and what is published.

Each loop is written as a person would write it, knows nothing of the harness, and states what it claims and what is
true of it. Windows run over k micro-batches; the last window of an epoch may be a tail.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from torch import Tensor

from harness.data import unmasked
from harness.task import Loop, Task


def full_batch(task: Task) -> None:
    """Claims: one optimizer step per batch. True; with micro-batches of N it is the reference for all others."""
    for _ in range(task.epochs):
        for inputs, targets in task.loader:
            task.optimizer.zero_grad()
            task.loss_fn(task.model(inputs), targets).backward()
            task.optimizer.step()
            task.scheduler.step()


def accumulate_samples(task: Task) -> None:
    """Claims: equals the full batch for losses that are means over samples. True at every length.

    A micro-batch weighs its share of the window's samples, so short micro-batches and tails come out right.
    """
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            samples = sum(len(targets) for _, targets in window)
            task.optimizer.zero_grad()
            for inputs, targets in window:
                loss = task.loss_fn(task.model(inputs), targets)
                (loss * len(targets) / samples).backward()
            task.optimizer.step()
            task.scheduler.step()


def accumulate_tokens(task: Task) -> None:
    """Claims: equals the full batch for losses that are means over unmasked tokens. True at every length.

    A micro-batch weighs its share of the window's unmasked tokens, which must be counted before the first backward.
    """
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            tokens = sum(unmasked(targets) for _, targets in window)
            task.optimizer.zero_grad()
            for inputs, targets in window:
                loss = task.loss_fn(task.model(inputs), targets)
                (loss * unmasked(targets) / tokens).backward()
            task.optimizer.step()
            task.scheduler.step()


def published_fix(task: Task) -> None:
    """Claims: first iteration, tail and boundary are all handled. True of *when* it steps, not of the weights.

    The condition ``(batch_idx + 1) % k == 0 or (batch_idx + 1) == len(loader)`` steps at every boundary. The loss is
    divided by k everywhere, so a tail of r micro-batches is updated with r/k of its gradient, and a short last
    micro-batch weighs as much as a full one. Equal to the full batch only if N divides n (and, for token means, if all
    micro-batches have equally many tokens). The condition is the one that https://github.com/rasbt/LLMs-from-scratch/pull/300
    brought to the book's code.
    """
    task.optimizer.zero_grad()
    for _ in range(task.epochs):
        for batch_idx, (inputs, targets) in enumerate(task.loader):
            loss = task.loss_fn(task.model(inputs), targets)
            (loss / task.accumulation_steps).backward()
            if (batch_idx + 1) % task.accumulation_steps == 0 or (batch_idx + 1) == len(task.loader):
                task.optimizer.step()
                task.optimizer.zero_grad()
                task.scheduler.step()


def published_fix_undivided(task: Task) -> None:
    """Claims: the same as ``published_fix``, which readers copy without the division. False for k > 1.

    Every window is the sum of its micro-batches' means: k times the gradient, or r times in a tail.
    """
    task.optimizer.zero_grad()
    for _ in range(task.epochs):
        for batch_idx, (inputs, targets) in enumerate(task.loader):
            task.loss_fn(task.model(inputs), targets).backward()
            if (batch_idx + 1) % task.accumulation_steps == 0 or (batch_idx + 1) == len(task.loader):
                task.optimizer.step()
                task.optimizer.zero_grad()
                task.scheduler.step()


def early_first_step(task: Task) -> None:
    """Claims: steps once in k micro-batches. False: ``batch_idx % k == 0`` is true at the first one.

    The first update is made with 1/k of the first micro-batch, later windows are shifted by one, and what is left at
    the end of an epoch joins the next epoch's first update, or is lost after the last epoch. Reported in
    https://github.com/rasbt/LLMs-from-scratch/issues/299.
    """
    task.optimizer.zero_grad()
    for _ in range(task.epochs):
        for batch_idx, (inputs, targets) in enumerate(task.loader):
            loss = task.loss_fn(task.model(inputs), targets)
            (loss / task.accumulation_steps).backward()
            if batch_idx % task.accumulation_steps == 0:
                task.optimizer.step()
                task.optimizer.zero_grad()
                task.scheduler.step()


LOOPS: dict[str, Loop] = {
    loop.__name__: loop
    for loop in (
        full_batch,
        accumulate_samples,
        accumulate_tokens,
        published_fix,
        published_fix_undivided,
        early_first_step,
    )
}


def windows(micro_batches: Iterable[tuple[Tensor, ...]], accumulation_steps: int) -> Iterator[list[tuple[Tensor, ...]]]:
    """Lists of ``accumulation_steps`` consecutive micro-batches; the last list may be shorter."""
    source = iter(micro_batches)
    while window := list(islice(source, accumulation_steps)):
        yield window
