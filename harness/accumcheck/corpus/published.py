"""Training loops that are compared everywhere: full batch, correct accumulation, and what is published.

Each loop is written as a person would write it. A window has k micro-batches; the last window of an epoch may be
shorter, and is then called a tail.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from itertools import islice

from torch import Tensor

from accumcheck.corpus.expectations import BY_K, loops_of, right, wrong
from accumcheck.task import Loop, Task, unmasked


@wrong("step-per-micro-batch")
def full_batch(task: Task) -> None:
    """One step per batch; with micro-batches of N this is full-batch training, to which all others are compared."""
    for _ in range(task.epochs):
        for inputs, targets in task.loader:
            task.optimizer.zero_grad()
            task.loss_fn(task.model(inputs), targets).backward()
            task.optimizer.step()
            task.scheduler.step()


@right("sample", otherwise="token-weighting")
def accumulate_samples(task: Task) -> None:
    """Each micro-batch weighs its share of the window's samples."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            samples = sum(len(targets) for _, targets in window)
            task.optimizer.zero_grad()
            for inputs, targets in window:
                loss = task.loss_fn(task.model(inputs), targets)
                (loss * len(targets) / samples).backward()
            task.optimizer.step()
            task.scheduler.step()


@right
def accumulate_tokens(task: Task) -> None:
    """Each micro-batch weighs its share of the window's unmasked tokens, counted before the first backward pass."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            tokens = sum(unmasked(targets) for _, targets in window)
            task.optimizer.zero_grad()
            for inputs, targets in window:
                loss = task.loss_fn(task.model(inputs), targets)
                (loss * unmasked(targets) / tokens).backward()
            task.optimizer.step()
            task.scheduler.step()


@wrong("tail-scaled-by-k", token="token-weighting", also=BY_K)
def published_fix(task: Task) -> None:
    """The loss is divided by k; a step at every k-th micro-batch and at the last one of an epoch.

    The condition is the one of https://github.com/rasbt/LLMs-from-scratch/pull/300.
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


@wrong("unscaled-loss", also=BY_K)
def published_fix_undivided(task: Task) -> None:
    """The same as ``published_fix`` without the division."""
    task.optimizer.zero_grad()
    for _ in range(task.epochs):
        for batch_idx, (inputs, targets) in enumerate(task.loader):
            task.loss_fn(task.model(inputs), targets).backward()
            if (batch_idx + 1) % task.accumulation_steps == 0 or (batch_idx + 1) == len(task.loader):
                task.optimizer.step()
                task.optimizer.zero_grad()
                task.scheduler.step()


@wrong("early-first-step", also=("dropped-tail", "carried-tail", *BY_K))
def early_first_step(task: Task) -> None:
    """A step where ``batch_idx % k == 0``, which is true at the first micro-batch.

    Reported in https://github.com/rasbt/LLMs-from-scratch/issues/299.
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


LOOPS: dict[str, Loop] = loops_of(sys.modules[__name__])


def windows(micro_batches: Iterable[tuple[Tensor, ...]], accumulation_steps: int) -> Iterator[list[tuple[Tensor, ...]]]:
    """Lists of ``accumulation_steps`` consecutive micro-batches; the last list may be shorter."""
    source = iter(micro_batches)
    while window := list(islice(source, accumulation_steps)):
        yield window
