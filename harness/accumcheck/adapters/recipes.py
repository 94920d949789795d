"""Published recipes, retold: each loop does what its source does, in other words."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor, nn

from accumcheck.task import Task, unmasked


def pytorch_amp(task: Task, max_norm: float | None = None) -> None:
    """Gradient accumulation in PyTorch's mixed precision examples: the loss is divided, the condition counts batches.

    https://docs.pytorch.org/docs/stable/notes/amp_examples.html#gradient-accumulation
    """
    scaler = torch.amp.GradScaler(task.device.type)
    for _ in range(task.epochs):
        for i, (inputs, targets) in enumerate(task.loader):
            with torch.autocast(task.device.type, dtype=torch.float16):
                outputs = task.model(inputs)
                loss = task.loss_fn(outputs, targets) / task.accumulation_steps
            scaler.scale(loss).backward()
            if (i + 1) % task.accumulation_steps == 0:
                if max_norm:
                    scaler.unscale_(task.optimizer)
                    nn.utils.clip_grad_norm_(task.model.parameters(), max_norm)
                scaler.step(task.optimizer)
                scaler.update()
                task.optimizer.zero_grad()


def nanogpt(task: Task, max_norm: float | None = None) -> None:
    """nanoGPT: an inner loop of k micro-batches from an endless supply, as many updates as there are windows.

    https://github.com/karpathy/nanoGPT/blob/3adf61e154c3/train.py#L255-L330
    """

    def supply() -> Iterator[tuple[Tensor, ...]]:
        while True:
            yield from task.loader

    batches = supply()
    for _ in range(-(-len(task.loader) // task.accumulation_steps) * task.epochs):
        for inputs, targets in islice(batches, task.accumulation_steps):
            loss = task.loss_fn(task.model(inputs), targets)
            (loss / task.accumulation_steps).backward()
        if max_norm:
            nn.utils.clip_grad_norm_(task.model.parameters(), max_norm)
        task.optimizer.step()
        task.optimizer.zero_grad(set_to_none=True)
        task.scheduler.step()


def torchtune(task: Task, max_norm: float | None = None) -> None:
    """torchtune 0.6.1: sums of token losses, gradients divided by the window's tokens before the update.

    So do its LoRA and QAT recipes, and those of today. Recipes for preferences divide by k instead. Its count is of
    labels before the shift, ours of those that are predicted: the same where the first label of a row is masked.
    https://github.com/meta-pytorch/torchtune/blob/v0.6.1/recipes/full_finetune_single_device.py#L667-L755
    """
    tokens = 0
    task.optimizer.zero_grad()
    for _ in range(task.epochs):
        for i, (inputs, targets) in enumerate(task.loader):
            count = unmasked(targets)
            tokens += count
            (task.loss_fn(task.model(inputs), targets) * count).backward()
            if (i + 1) % task.accumulation_steps == 0:
                _step_by_tokens(task, tokens, max_norm)
                tokens = 0


def torchtune_main(task: Task, max_norm: float | None = None) -> None:
    """torchtune's full fine-tuning on main, unreleased: as many windows in an epoch as are full, and no more.

    https://github.com/meta-pytorch/torchtune/blob/bd2a0fc7c314/recipes/full_finetune_single_device.py#L577-L686
    """
    for _ in range(task.epochs):
        batches = iter(task.loader)
        for _ in range(len(task.loader) // task.accumulation_steps):
            tokens = 0
            for inputs, targets in islice(batches, task.accumulation_steps):
                count = unmasked(targets)
                tokens += count
                (task.loss_fn(task.model(inputs), targets) * count).backward()
            _step_by_tokens(task, tokens, max_norm)


def _step_by_tokens(task: Task, tokens: int, max_norm: float | None) -> None:
    """An update with gradients divided by the window's tokens."""
    for parameter in task.model.parameters():
        if parameter.grad is not None:
            parameter.grad /= tokens
    if max_norm:
        nn.utils.clip_grad_norm_(task.model.parameters(), max_norm)
    task.optimizer.step()
    task.optimizer.zero_grad()
    task.scheduler.step()


def book_before(task: Task) -> None:
    """The book's loop before its fix: ``batch_idx % k == 0``. It has no schedule and no clipping.

    https://github.com/rasbt/LLMs-from-scratch/issues/299
    """
    for _ in range(task.epochs):
        for batch_idx, (inputs, targets) in enumerate(task.loader):
            (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
            if batch_idx % task.accumulation_steps == 0:
                task.optimizer.step()
                task.optimizer.zero_grad()


def book_after(task: Task) -> None:
    """The book's loop after its fix: steps at every k-th batch, and at the last one.

    https://github.com/rasbt/LLMs-from-scratch/pull/300
    """
    for _ in range(task.epochs):
        for batch_idx, (inputs, targets) in enumerate(task.loader):
            (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
            if (batch_idx + 1) % task.accumulation_steps == 0 or (batch_idx + 1) == len(task.loader):
                task.optimizer.step()
                task.optimizer.zero_grad()
