"""Schedules of the loop's own. Windows and weights are right."""

import math
from itertools import islice

import torch
from torch.optim import lr_scheduler


def core(task, make=None, *, update=True, each=False, epoch=False, optimizer=None, before=lambda: None):
    optimizer = optimizer or torch.optim.AdamW(task.model.parameters(), lr=0.1)
    schedule = make(optimizer) if make else None
    for _ in range(task.epochs):
        batches, total = iter(task.loader), 0.0
        while window := list(islice(batches, task.accumulation_steps)):
            n = sum(len(y) for _, y in window)
            for x, y in window:
                loss = task.loss_fn(task.model(x), y) * len(y) / n
                loss.backward()
                total += loss.item()
                if each:
                    schedule.step()
            before()
            optimizer.step()
            optimizer.zero_grad()
            if update and schedule and not each:
                schedule.step()
        if epoch:
            schedule.step(total) if isinstance(schedule, lr_scheduler.ReduceLROnPlateau) else schedule.step()


def updates(task):
    return task.epochs * math.ceil(len(task.loader) / task.accumulation_steps)


def cosine_by_updates(task):
    """LambdaLR over updates, its length counted in updates. Right."""
    total = updates(task)
    core(task, lambda o: lr_scheduler.LambdaLR(o, lambda s: 0.5 * (1 + math.cos(math.pi * s / total))))


def cosine_of_micro_batches(task):
    """Moves once an update, but its length is counted in micro-batches."""
    total = task.epochs * len(task.loader)
    core(task, lambda o: lr_scheduler.CosineAnnealingLR(o, total))


def cosine_each(task):
    """Length in micro-batches, moves at every micro-batch."""
    total = task.epochs * len(task.loader)
    core(task, lambda o: lr_scheduler.CosineAnnealingLR(o, total), each=True)


def one_cycle_right(task):
    """OneCycle with total_steps in updates. Right."""
    core(task, lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=updates(task) + 1))


def one_cycle_wrong(task):
    """OneCycle with total_steps in micro-batches, moved once an update."""
    core(task, lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=task.epochs * len(task.loader) + 1))


def one_cycle_floor(task):
    """total_steps = epochs * len(loader) // k + 1, rounded down: too few where the tail makes an update of its own."""
    total = task.epochs * (len(task.loader) // task.accumulation_steps) + 1

    def make(o):
        return lr_scheduler.LambdaLR(o, lambda s: max(0.0, 1 - s / total))

    core(task, make)


def warmup_by_epochs(task):
    """Warmup counted in epochs, moved once an epoch. Right."""
    core(task, lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=2), update=False, epoch=True)


def warmup_by_micro_batches(task):
    """The first four micro-batches warm up."""
    optimizer, seen = torch.optim.SGD(task.model.parameters(), lr=0.1), [0]
    for _ in range(task.epochs):
        batches = iter(task.loader)
        while window := list(islice(batches, task.accumulation_steps)):
            n = sum(len(y) for _, y in window)
            for x, y in window:
                (task.loss_fn(task.model(x), y) * len(y) / n).backward()
                seen[0] += 1
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * min(1.0, seen[0] / 12)
            optimizer.step()
            optimizer.zero_grad()


def plateau(task):
    """ReduceLROnPlateau by the mean loss of an epoch. Right."""
    core(task, lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=0), update=False, epoch=True)


def plateau_each(task):
    """ReduceLROnPlateau at every micro-batch."""
    optimizer = torch.optim.SGD(task.model.parameters(), lr=0.1)
    schedule = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
    for _ in range(task.epochs):
        batches = iter(task.loader)
        while window := list(islice(batches, task.accumulation_steps)):
            n = sum(len(y) for _, y in window)
            for x, y in window:
                loss = task.loss_fn(task.model(x), y)
                (loss * len(y) / n).backward()
                schedule.step(loss.item())
            optimizer.step()
            optimizer.zero_grad()


def by_share_of_window(task):
    """The rate of a short window is lower, by its samples over N: with accumulation and without. Right."""
    big = task.micro_batch_size * task.accumulation_steps
    for _ in range(task.epochs):
        batches = iter(task.loader)
        while window := list(islice(batches, task.accumulation_steps)):
            n = sum(len(y) for _, y in window)
            for x, y in window:
                (task.loss_fn(task.model(x), y) * len(y) / n).backward()
            task.optimizer.param_groups[0]["lr"] = 0.1 * n / big
            task.optimizer.step()
            task.optimizer.zero_grad()


def polynomial_epoch_fraction(task):
    """The rate goes by epoch + i / len(loader), i counting micro-batches, at the time of the update (MAE)."""
    k = task.accumulation_steps
    for epoch in range(task.epochs):
        batches = list(task.loader)
        for i, (x, y) in enumerate(batches):
            if i % k == 0:
                task.optimizer.param_groups[0]["lr"] = 0.1 * (1 - (epoch + i / len(batches)) / task.epochs)
            first = i - i % k
            n = sum(len(t) for _, t in batches[first : first + k])
            (task.loss_fn(task.model(x), y) * len(y) / n).backward()
            if (i + 1) % k == 0 or i + 1 == len(batches):
                task.optimizer.step()
                task.optimizer.zero_grad()


def moved_before(task):
    """scheduler.step() before optimizer.step(), once an update. Right: its own run does the same."""
    core(task, before=task.scheduler.step, optimizer=task.optimizer)


def rate_by_k(task):
    """Its rate is 0.1 / k."""
    core(task, optimizer=torch.optim.SGD(task.model.parameters(), lr=0.1 / task.accumulation_steps))


def rate_by_batch(task):
    """Linear scaling: the rate is base * N / 256. Right: N is the same without accumulation."""
    core(
        task,
        optimizer=torch.optim.SGD(
            task.model.parameters(), lr=0.1 * task.micro_batch_size * task.accumulation_steps / 256
        ),
    )


def rate_by_micro_batch(task):
    """Linear scaling with the micro-batch size only: base * b / 256."""
    core(task, optimizer=torch.optim.SGD(task.model.parameters(), lr=0.1 * task.micro_batch_size / 256))


def sequence(task):
    """SequentialLR, warmup then cosine, in updates. Right."""

    def make(o):
        return lr_scheduler.SequentialLR(
            o,
            [lr_scheduler.LinearLR(o, 0.1, total_iters=2), lr_scheduler.CosineAnnealingLR(o, updates(task))],
            milestones=[2],
        )

    core(task, make)


def schedule_after_epoch_when_accumulating(task):
    """The task's schedule moves once an update, and once more at each epoch's end."""
    for _ in range(task.epochs):
        batches = iter(task.loader)
        while window := list(islice(batches, task.accumulation_steps)):
            n = sum(len(y) for _, y in window)
            for x, y in window:
                (task.loss_fn(task.model(x), y) * len(y) / n).backward()
            task.optimizer.step()
            task.optimizer.zero_grad()
            task.scheduler.step()
        task.scheduler.step()
