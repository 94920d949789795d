"""Training loops with FSDP2, right and wrong, beside those with DDP in ``accumcheck.corpus.parallel``.

``fully_shard`` replaces the model's parameters, so each loop makes its own optimizer behind it. A module of its own:
importing FSDP costs each rank a second or two.
"""

from __future__ import annotations

import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.optim import SGD
from torch.optim.lr_scheduler import ExponentialLR

from accumcheck.corpus.expectations import BY_K, right, wrong
from accumcheck.corpus.parallel import summed
from accumcheck.corpus.published import windows
from accumcheck.task import Task


@right("sample", otherwise="token-weighting")
def sharded_samples(task: Task) -> None:
    """The same as ``parallel_samples`` with FSDP2; makes the optimizer after ``fully_shard``."""
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


@wrong("carried-tail", token="token-weighting", also=("carried-tail", *BY_K))
def sharded_tail_unsynchronised(task: Task) -> None:
    """Exchanges gradients at each k-th micro-batch, which a tail does not have.

    The step of a tail finds no gradient; FSDP2 keeps the tail until the first exchange of the next epoch.
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
