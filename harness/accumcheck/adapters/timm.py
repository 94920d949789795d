"""timm's training script, retold: train.py is in timm's repository, in none of its releases on PyPI.

https://github.com/huggingface/pytorch-image-models/blob/v1.0.28/train.py
"""

from __future__ import annotations

from itertools import islice

from torch import nn

from accumcheck.task import Task


def train(task: Task, max_norm: float | None = None) -> None:
    """``train_one_epoch`` with ``--grad-accum-steps k``, in other words (train.py, lines 1209 to 1377 at v1.0.28).

    Its data loader drops a short last micro-batch (timm/data/loader.py, ``drop_last=is_training``). When the tail
    begins, its length takes the place of k (lines 1223 to 1224), and not in the divisor alone: from the tail's second
    micro-batch on, the gate counts batches of the epoch in multiples of that length (line 1221). With k = 4, a tail of
    three micro-batches behind four is split, behind eight it is not.
    """
    batches = len(task.dataset) // task.micro_batch_size
    rest = batches % task.accumulation_steps
    for _ in range(task.epochs):
        steps = task.accumulation_steps
        task.optimizer.zero_grad()
        for index, (inputs, targets) in enumerate(islice(task.loader, batches)):
            due = index + 1 == batches or (index + 1) % steps == 0
            if index >= batches - rest:
                steps = rest
            (task.loss_fn(task.model(inputs), targets) / steps).backward()
            if due:
                if max_norm:
                    nn.utils.clip_grad_norm_(task.model.parameters(), max_norm)
                task.optimizer.step()
                task.optimizer.zero_grad()
                task.scheduler.step()
