"""Training loops with FSDP2, right and wrong, beside those with DDP in ``parallel_loops``.

``fully_shard`` replaces the model's parameters, so each loop makes its own optimizer behind it. A module of its own:
importing FSDP costs each rank a second or two.
"""

from __future__ import annotations

import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.optim import SGD
from torch.optim.lr_scheduler import ExponentialLR

from harness.loops import windows
from harness.parallel_loops import summed
from harness.task import Task


def sharded_samples(task: Task) -> None:
    """Claims: the same as ``parallel_samples`` under FSDP2. True at every length.

    The optimizer is made after ``fully_shard``, which replaces the parameters.
    """
    model, sharded = task.model, fully_shard(task.model)  # one module, two names
    optimizer = SGD(model.parameters(), lr=0.1)
    scheduler = ExponentialLR(optimizer, gamma=0.9)
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            samples = summed(sum(len(targets) for _, targets in window))
            for place, (inputs, targets) in enumerate(window, start=1):
                sharded.set_requires_gradient_sync(place == len(window))
                loss = task.loss_fn(model(inputs), targets) * len(targets) / samples
                (loss * dist.get_world_size()).backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()


def sharded_tail_unsynchronised(task: Task) -> None:
    """Claims: exchanges gradients before each step. False in a tail, which has no k-th micro-batch.

    A tail's step finds no gradient and does nothing; FSDP2 keeps the tail for the next epoch's first exchange.
    """
    model, sharded = task.model, fully_shard(task.model)  # one module, two names
    optimizer = SGD(model.parameters(), lr=0.1)
    for _ in range(task.epochs):
        for batch_idx, (inputs, targets) in enumerate(task.loader, start=1):
            sharded.set_requires_gradient_sync(batch_idx % task.accumulation_steps == 0)
            (task.loss_fn(model(inputs), targets) / task.accumulation_steps).backward()
            if batch_idx % task.accumulation_steps == 0 or batch_idx == len(task.loader):
                optimizer.step()
                optimizer.zero_grad()
