"""Data-parallel training loops, right and wrong, as people write them; run them with ``accumcheck check --ranks``.

The process group is there when a loop is called; ``task.model`` is bare, ``task.loader`` yields this rank's share.
DistributedDataParallel (DDP) averages gradients over ranks: where a loss has been divided by what all ranks hold, it
must be multiplied by the world size.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

from harness.data import unmasked
from harness.loops import accumulate_samples, accumulate_tokens, published_fix, windows
from harness.task import Loop, Task


def parallel_samples(task: Task) -> None:
    """Claims: equals the full batch for means over samples, on any number of ranks. True at every length.

    The window's samples are counted on all ranks; gradients are exchanged in the window's last backward pass.
    """
    model = DistributedDataParallel(task.model)
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            samples = summed(sum(len(targets) for _, targets in window))
            task.optimizer.zero_grad()
            for place, (inputs, targets) in enumerate(window, start=1):
                with nullcontext() if place == len(window) else model.no_sync():
                    loss = task.loss_fn(model(inputs), targets) * len(targets) / samples
                    (loss * dist.get_world_size()).backward()
            task.optimizer.step()
            task.scheduler.step()


def parallel_tokens(task: Task) -> None:
    """Claims: equals the full batch for means over unmasked tokens, on any number of ranks. True at every length."""
    model = DistributedDataParallel(task.model)
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            tokens = summed(sum(unmasked(targets) for _, targets in window))
            task.optimizer.zero_grad()
            for place, (inputs, targets) in enumerate(window, start=1):
                with nullcontext() if place == len(window) else model.no_sync():
                    loss = task.loss_fn(model(inputs), targets) * unmasked(targets) / tokens
                    (loss * dist.get_world_size()).backward()
            task.optimizer.step()
            task.scheduler.step()


def parallel_forward_outside(task: Task) -> None:
    """Claims: saves communication, as ``backward()`` runs under ``no_sync``. False, but the updates are right.

    DDP decides in the forward pass whether the next backward pass exchanges gradients. So all of them do, and what has
    been averaged before stays as it is when it is averaged again.
    """
    model = DistributedDataParallel(task.model)
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            samples = summed(sum(len(targets) for _, targets in window))
            task.optimizer.zero_grad()
            for place, (inputs, targets) in enumerate(window, start=1):
                loss = task.loss_fn(model(inputs), targets) * len(targets) / samples
                with nullcontext() if place == len(window) else model.no_sync():
                    (loss * dist.get_world_size()).backward()
            task.optimizer.step()
            task.scheduler.step()


def parallel_clipped(task: Task) -> None:
    """Claims: clips as the full batch does. True: once a step, when gradients have been exchanged."""
    model = DistributedDataParallel(task.model)
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            samples = summed(sum(len(targets) for _, targets in window))
            task.optimizer.zero_grad()
            for place, (inputs, targets) in enumerate(window, start=1):
                with nullcontext() if place == len(window) else model.no_sync():
                    loss = task.loss_fn(model(inputs), targets) * len(targets) / samples
                    (loss * dist.get_world_size()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
            task.optimizer.step()
            task.scheduler.step()


def parallel_published_fix(task: Task) -> None:
    """Claims: the published fix, under DDP. False as on one rank: tails are divided by k, means are averaged."""
    task.model = DistributedDataParallel(task.model)
    published_fix(task)


def averages_ranks(task: Task) -> None:
    """Claims: a loop that is right on one rank is right under DDP. False where ranks hold unequally many samples."""
    task.model = DistributedDataParallel(task.model)
    accumulate_samples(task)


def averages_rank_tokens(task: Task) -> None:
    """Claims: the same for tokens. False: each rank divides by its own tokens, and ranks weigh the same."""
    task.model = DistributedDataParallel(task.model)
    accumulate_tokens(task)


def forgets_world_size(task: Task) -> None:
    """Claims: dividing by the samples of all ranks is enough. False: DDP divides by the world size as well."""
    model = DistributedDataParallel(task.model)
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            samples = summed(sum(len(targets) for _, targets in window))
            task.optimizer.zero_grad()
            for inputs, targets in window:
                (task.loss_fn(model(inputs), targets) * len(targets) / samples).backward()
            task.optimizer.step()
            task.scheduler.step()


def sums_over_ranks(task: Task) -> None:
    """Claims: exchanges gradients by hand. False: an all-reduce sums, and nothing divides by the world size."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            samples = sum(len(targets) for _, targets in window)
            task.optimizer.zero_grad()
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) * len(targets) / samples).backward()
            for parameter in task.model.parameters():
                dist.all_reduce(parameter.grad)
            task.optimizer.step()
            task.scheduler.step()


def never_syncs(task: Task) -> None:
    """Claims: accumulates under ``no_sync``. False: the window's last micro-batch is under it, too."""
    model = DistributedDataParallel(task.model)
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            task.optimizer.zero_grad()
            with model.no_sync():
                for inputs, targets in window:
                    (task.loss_fn(model(inputs), targets) / len(window)).backward()
            task.optimizer.step()
            task.scheduler.step()


def syncs_first(task: Task) -> None:
    """Claims: one exchange in a window. False: ``batch_idx % k == 0`` is the first micro-batch, not the last."""
    model = DistributedDataParallel(task.model)
    for _ in range(task.epochs):
        for batch_idx, (inputs, targets) in enumerate(task.loader):
            with nullcontext() if batch_idx % task.accumulation_steps == 0 else model.no_sync():
                (task.loss_fn(model(inputs), targets) / task.accumulation_steps).backward()
            if (batch_idx + 1) % task.accumulation_steps == 0 or (batch_idx + 1) == len(task.loader):
                task.optimizer.step()
                task.optimizer.zero_grad()
                task.scheduler.step()


def forgets_to_sync_tail(task: Task) -> None:
    """Claims: exchanges before each step. False in a tail: it has a step, but no k-th micro-batch."""
    model = DistributedDataParallel(task.model)
    for _ in range(task.epochs):
        for batch_idx, (inputs, targets) in enumerate(task.loader, start=1):
            with nullcontext() if batch_idx % task.accumulation_steps == 0 else model.no_sync():
                (task.loss_fn(model(inputs), targets) / task.accumulation_steps).backward()
            if batch_idx % task.accumulation_steps == 0 or batch_idx == len(task.loader):
                task.optimizer.step()
                task.optimizer.zero_grad()
                task.scheduler.step()


def sets_flag_after_forward(task: Task) -> None:
    """Claims: one exchange in a window. False: DDP has read the flag in the forward pass already.

    So the next window's first micro-batch is exchanged, and this window's last is not; seen in
    https://github.com/karpathy/build-nanogpt/pull/30.
    """
    model = DistributedDataParallel(task.model)
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            task.optimizer.zero_grad()
            for place, (inputs, targets) in enumerate(window, start=1):
                loss = task.loss_fn(model(inputs), targets) / len(window)
                model.require_backward_grad_sync = place == len(window)
                loss.backward()
            task.optimizer.step()
            task.scheduler.step()


def samples_anew(task: Task) -> None:
    """Claims: a DistributedSampler shares out the data set. False where ranks do not divide it: samples come twice."""
    sampler: DistributedSampler[tuple[torch.Tensor, ...]] = DistributedSampler(task.dataset, shuffle=False)
    task.loader = DataLoader(task.dataset, task.micro_batch_size, sampler=sampler, generator=torch.Generator())
    parallel_samples(task)


def clips_before_exchange(task: Task) -> None:
    """Claims: clips the gradient. False: each rank clips its own part, and the parts are averaged then."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            samples = summed(sum(len(targets) for _, targets in window))
            task.optimizer.zero_grad()
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) * len(targets) / samples).backward()
            nn.utils.clip_grad_norm_(task.model.parameters(), max_norm=1.0)
            for parameter in task.model.parameters():
                dist.all_reduce(parameter.grad)
            task.optimizer.step()
            task.scheduler.step()


def summed(count: int) -> int:
    """The sum of a count over all ranks."""
    total = torch.tensor(count)
    dist.all_reduce(total)
    return int(total)


RIGHT: tuple[Loop, ...] = (parallel_samples, parallel_forward_outside, parallel_clipped)
"""Loops that equal the full batch for means over samples; ``parallel_tokens`` does for both objectives."""

BUGS: dict[str, tuple[Loop, ...]] = {
    "tail-scaled-by-k": (parallel_published_fix,),
    "mean-of-means": (averages_ranks,),
    "over-scaled-loss": (forgets_world_size,),
    "unscaled-loss": (sums_over_ranks,),
    "unsynchronised-replicas": (never_syncs, syncs_first, forgets_to_sync_tail, sets_flag_after_forward),
    "unexplained": (samples_anew,),
    "clipped-per-micro-batch": (clips_before_exchange,),
}
"""Wrong loops for means over samples, by the id of their root cause; ``averages_rank_tokens`` is one for tokens."""
