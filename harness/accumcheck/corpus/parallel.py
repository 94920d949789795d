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

from accumcheck.corpus.expectations import BY_K, right, wrong
from accumcheck.corpus.published import accumulate_samples, accumulate_tokens, published_fix, windows
from accumcheck.task import Task, unmasked


@right("sample", otherwise="token-weighting")
def parallel_samples(task: Task) -> None:
    """Counts the window's samples on all ranks, and exchanges gradients in the window's last backward pass."""
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


@right
def parallel_tokens(task: Task) -> None:
    """The same with the window's unmasked tokens."""
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


@right("sample", otherwise="token-weighting")
def parallel_forward_outside(task: Task) -> None:
    """Calls ``backward()`` under ``no_sync``, but the model outside of it.

    DDP decides in the forward pass whether the next backward pass exchanges gradients. So all of them do; averaging
    again what has been averaged before changes nothing.
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


@right("sample", otherwise="token-weighting")
def parallel_clipped(task: Task) -> None:
    """Clips once per step, after the exchange of gradients."""
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


@wrong("tail-scaled-by-k", token="token-weighting", also=BY_K)
def parallel_published_fix(task: Task) -> None:
    """``published_fix`` on a model with DDP."""
    task.model = DistributedDataParallel(task.model)
    published_fix(task)


@wrong("mean-of-means", token="token-weighting")
def averages_ranks(task: Task) -> None:
    """``accumulate_samples`` on a model with DDP: each rank divides by its own samples."""
    task.model = DistributedDataParallel(task.model)
    accumulate_samples(task)


@wrong("mean-of-means", token="token-weighting")
def averages_rank_tokens(task: Task) -> None:
    """``accumulate_tokens`` on a model with DDP: each rank divides by its own tokens."""
    task.model = DistributedDataParallel(task.model)
    accumulate_tokens(task)


@wrong("over-scaled-loss", also=("token-weighting",))
def forgets_world_size(task: Task) -> None:
    """Divides by the samples of all ranks, though DDP divides by the world size as well."""
    model = DistributedDataParallel(task.model)
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            samples = summed(sum(len(targets) for _, targets in window))
            task.optimizer.zero_grad()
            for inputs, targets in window:
                (task.loss_fn(model(inputs), targets) * len(targets) / samples).backward()
            task.optimizer.step()
            task.scheduler.step()


@wrong("unscaled-loss", also=BY_K)
def sums_over_ranks(task: Task) -> None:
    """Sums the gradients of all ranks and never divides by the world size."""
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


@wrong("unsynchronised-replicas", also=BY_K)
def never_syncs(task: Task) -> None:
    """Keeps all micro-batches of a window under ``no_sync``, the last one too."""
    model = DistributedDataParallel(task.model)
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            task.optimizer.zero_grad()
            with model.no_sync():
                for inputs, targets in window:
                    (task.loss_fn(model(inputs), targets) / len(window)).backward()
            task.optimizer.step()
            task.scheduler.step()


@wrong("unsynchronised-replicas", also=BY_K)
def syncs_first(task: Task) -> None:
    """Exchanges gradients where ``batch_idx % k == 0``: at the first micro-batch, not at the last."""
    model = DistributedDataParallel(task.model)
    for _ in range(task.epochs):
        for batch_idx, (inputs, targets) in enumerate(task.loader):
            with nullcontext() if batch_idx % task.accumulation_steps == 0 else model.no_sync():
                (task.loss_fn(model(inputs), targets) / task.accumulation_steps).backward()
            if (batch_idx + 1) % task.accumulation_steps == 0 or (batch_idx + 1) == len(task.loader):
                task.optimizer.step()
                task.optimizer.zero_grad()
                task.scheduler.step()


@wrong("unsynchronised-replicas", also=BY_K)
def forgets_to_sync_tail(task: Task) -> None:
    """Exchanges gradients at each k-th micro-batch, which a tail does not have."""
    model = DistributedDataParallel(task.model)
    for _ in range(task.epochs):
        for batch_idx, (inputs, targets) in enumerate(task.loader, start=1):
            with nullcontext() if batch_idx % task.accumulation_steps == 0 else model.no_sync():
                (task.loss_fn(model(inputs), targets) / task.accumulation_steps).backward()
            if batch_idx % task.accumulation_steps == 0 or batch_idx == len(task.loader):
                task.optimizer.step()
                task.optimizer.zero_grad()
                task.scheduler.step()


@wrong("unsynchronised-replicas", also=BY_K)
def sets_flag_after_forward(task: Task) -> None:
    """Sets DDP's flag after the forward pass, which has read it already.

    Seen in https://github.com/karpathy/build-nanogpt/pull/30.
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


@wrong("unexplained", also=("token-weighting",))
def samples_anew(task: Task) -> None:
    """Uses a DistributedSampler, which repeats samples where the ranks do not divide the data set."""
    sampler: DistributedSampler[tuple[torch.Tensor, ...]] = DistributedSampler(task.dataset, shuffle=False)
    task.loader = DataLoader(task.dataset, task.micro_batch_size, sampler=sampler, generator=torch.Generator())
    parallel_samples(task)


@wrong("clipped-per-micro-batch")
def clips_before_exchange(task: Task) -> None:
    """Clips on each rank, and then exchanges gradients."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = summed(sum(unmasked(targets) for _, targets in window))
            task.optimizer.zero_grad()
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) * unmasked(targets) / items).backward()
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
