"""Ultralytics' training loop, retold: its trainer trains its own models alone, and asks for torchvision.

https://github.com/ultralytics/ultralytics/blob/v8.4.190/ultralytics/engine/trainer.py
"""

from __future__ import annotations

from torch import nn

from accumcheck.task import Task

MAX_NORM = 10.0  # trainer.py, line 915; to have another one, its documentation says, override optimizer_step()


def train(task: Task, max_norm: float | None = None) -> None:
    """``BaseTrainer._do_train`` in other words, ``nbs`` = b·k, without warm-up, with the loss of detection.

    That loss is a mean times the images of the micro-batch (utils/loss.py, line 512), and is not divided (trainer.py,
    line 550): an update is made with a sum, with or without accumulation. Windows are counted over all of training
    (lines 521 and 602); the schedule moves at the start of each epoch (line 501).
    """
    _run(task, max_norm, summed=True)


def classify(task: Task, max_norm: float | None = None) -> None:
    """The same with the loss of classification, a mean (utils/loss.py, line 1027): an update is a sum of k means."""
    _run(task, max_norm, summed=False)


def warmup(task: Task, max_norm: float | None = None) -> None:
    """Detection with ``warmup_epochs`` as it is set: windows grow from 1 to k micro-batches (trainer.py, lines 522 to
    524), while the last epoch has none (line 278). The learning rates of the warm-up are left out."""
    _run(task, max_norm, summed=True, warmup_epochs=3.0)


def _run(task: Task, max_norm: float | None, summed: bool, warmup_epochs: float = 0.0) -> None:
    batches = len(task.loader)
    warm = round(min(warmup_epochs, task.epochs - 1) * batches)
    most = min(task.accumulation_steps, batches * task.epochs)
    window, stepped = most, -1
    task.optimizer.zero_grad()
    for epoch in range(task.epochs):
        if epoch:  # the first call sets the rate of the first epoch, which a task's scheduler has
            task.scheduler.step()
        for batch, (inputs, targets) in enumerate(task.loader):
            number = batch + batches * epoch
            if warm and number <= warm:
                window = max(1, round(1 + (most - 1) * number / warm))
            loss = task.loss_fn(task.model(inputs), targets)
            (loss * len(targets) if summed else loss).backward()
            if number - stepped >= window:
                nn.utils.clip_grad_norm_(task.model.parameters(), max_norm or MAX_NORM)
                task.optimizer.step()
                task.optimizer.zero_grad()
                stepped = number
