"""The loop's own run without accumulation follows another convention, or several accumulate otherwise than alone."""

import itertools
import math
from itertools import islice

import torch
from torch.utils.data import DataLoader, Sampler


def cycled(task):
    """itertools.cycle over the loader, floor(total / k) updates of k micro-batches each. Micro-batches of unequal size divide by k."""
    k, batches = task.accumulation_steps, itertools.cycle(task.loader)
    for _ in range(task.epochs * len(task.loader) // k):
        for x, y in islice(batches, k):
            (task.loss_fn(task.model(x), y) / k).backward()
        task.optimizer.step()
        task.optimizer.zero_grad()
        task.scheduler.step()


class Forever(Sampler):
    def __init__(self, n):
        self.n = n

    def __iter__(self):
        while True:
            yield from range(self.n)


def infinite_sampler(task):
    """An endless sampler in order; every micro-batch is full, windows run on. Equal to its own run."""
    k, n, big = task.accumulation_steps, len(task.dataset), task.micro_batch_size * task.accumulation_steps
    batches = iter(DataLoader(task.dataset, task.micro_batch_size, sampler=Forever(n)))
    for _ in range(math.ceil(n * task.epochs / big)):
        for _ in range(k):
            x, y = next(batches)
            (task.loss_fn(task.model(x), y) / k).backward()
        task.optimizer.step()
        task.optimizer.zero_grad()
        task.scheduler.step()


class Shuffled(Sampler):
    def __init__(self, n):
        self.n, self.generator = n, torch.Generator().manual_seed(7)

    def __iter__(self):
        while True:
            yield from torch.randperm(self.n, generator=self.generator).tolist()


def infinite_shuffled(task):
    """An endless sampler that shuffles from its own generator. Equal to its own run."""
    k, n, big = task.accumulation_steps, len(task.dataset), task.micro_batch_size * task.accumulation_steps
    batches = iter(DataLoader(task.dataset, task.micro_batch_size, sampler=Shuffled(n)))
    for _ in range(math.ceil(n * task.epochs / big)):
        for _ in range(k):
            x, y = next(batches)
            (task.loss_fn(task.model(x), y) / k).backward()
        task.optimizer.step()
        task.optimizer.zero_grad()


def drops_last(task):
    """A loader of its own with drop_last, whole windows only; the same samples in batches of N."""
    k, big = task.accumulation_steps, task.micro_batch_size * task.accumulation_steps
    per_epoch = len(task.dataset) // big
    loader = DataLoader(task.dataset, task.micro_batch_size, drop_last=True)
    for _ in range(task.epochs):
        batches = iter(loader)
        for _ in range(per_epoch):
            for x, y in islice(batches, k):
                (task.loss_fn(task.model(x), y) / k).backward()
            task.optimizer.step()
            task.optimizer.zero_grad()
            task.scheduler.step()


def drop_last_tail(task):
    """drop_last on micro-batches, but the gate leaves a part of a window over, which joins the next epoch."""
    k = task.accumulation_steps
    loader = DataLoader(task.dataset, task.micro_batch_size, drop_last=True)
    for _ in range(task.epochs):
        for i, (x, y) in enumerate(loader):
            (task.loss_fn(task.model(x), y) / k).backward()
            if (i + 1) % k == 0:
                task.optimizer.step()
                task.optimizer.zero_grad()
                task.scheduler.step()


def whole_by_remainder(task):
    """Stops an epoch at its last whole window, by n - n % N samples seen."""
    k, big = task.accumulation_steps, task.micro_batch_size * task.accumulation_steps
    limit = len(task.dataset) - len(task.dataset) % big
    for _ in range(task.epochs):
        seen = 0
        for x, y in task.loader:
            if seen >= limit:
                break
            seen += len(y)
            (task.loss_fn(task.model(x), y) / k).backward()
            if seen % big == 0:
                task.optimizer.step()
                task.optimizer.zero_grad()
                task.scheduler.step()


def carries_over(task):
    """Windows of samples run on over epochs, without accumulation too: micro-batches are cut from one stream of samples; what is left at the end is a short update."""
    k, b, n = task.accumulation_steps, task.micro_batch_size, len(task.dataset)
    order = [i % n for i in range(n * task.epochs)]
    for start in range(0, len(order), b * k):
        window = order[start : start + b * k]
        for first in range(0, len(window), b):
            x, y = task.dataset[window[first : first + b]]
            (task.loss_fn(task.model(x), y) * len(y) / len(window)).backward()
        task.optimizer.step()
        task.optimizer.zero_grad()


def many_epochs(task):
    """Ten epochs written in, whatever the task says. Right: its own run has ten as well."""
    for _ in range(10):
        batches = iter(task.loader)
        while window := list(islice(batches, task.accumulation_steps)):
            n = sum(len(y) for _, y in window)
            for x, y in window:
                (task.loss_fn(task.model(x), y) * len(y) / n).backward()
            task.optimizer.step()
            task.optimizer.zero_grad()
            task.scheduler.step()


def max_steps(task):
    """Twenty updates, starting the loader again when it is empty. Right."""
    steps, batches = 0, iter(task.loader)
    while steps < 20:
        window = list(islice(batches, task.accumulation_steps))
        if not window:
            batches = iter(task.loader)
            continue
        n = sum(len(y) for _, y in window)
        for x, y in window:
            (task.loss_fn(task.model(x), y) * len(y) / n).backward()
        task.optimizer.step()
        task.optimizer.zero_grad()
        task.scheduler.step()
        steps += 1


def permutes_itself(task):
    """No loader: torch.randperm each epoch, slices of it. The same order for every b, and right."""
    k, b, n = task.accumulation_steps, task.micro_batch_size, len(task.dataset)
    xs, ys = task.dataset.tensors
    for _ in range(task.epochs):
        order = torch.randperm(n)
        for start in range(0, n, b * k):
            window = order[start : start + b * k]
            for rows in window.split(b):
                (task.loss_fn(task.model(xs[rows]), ys[rows]) * len(rows) / len(window)).backward()
            task.optimizer.step()
            task.optimizer.zero_grad()
            task.scheduler.step()


def permutes_wrongly(task):
    """The same, but every micro-batch divides by k: short windows and micro-batches weigh wrongly."""
    k, b, n = task.accumulation_steps, task.micro_batch_size, len(task.dataset)
    xs, ys = task.dataset.tensors
    for _ in range(task.epochs):
        order = torch.randperm(n)
        for start in range(0, n, b * k):
            for rows in order[start : start + b * k].split(b):
                (task.loss_fn(task.model(xs[rows]), ys[rows]) / k).backward()
            task.optimizer.step()
            task.optimizer.zero_grad()


def resamples(task):
    """nanoGPT's get_batch: rows drawn at random with replacement, once for the whole window. Right."""
    k, b, n = task.accumulation_steps, task.micro_batch_size, len(task.dataset)
    generator = torch.Generator().manual_seed(1)
    for _ in range(task.epochs * 3):
        window = torch.randint(n, (b * k,), generator=generator)
        for rows in window.split(b):
            x, y = task.dataset[rows]
            (task.loss_fn(task.model(x), y) / k).backward()
        task.optimizer.step()
        task.optimizer.zero_grad()


def uses_twice(task):
    """Each window makes two updates, by two passes over it (as PPO does). Right."""
    for _ in range(task.epochs):
        batches = iter(task.loader)
        while window := list(islice(batches, task.accumulation_steps)):
            n = sum(len(y) for _, y in window)
            for _ in range(2):
                for x, y in window:
                    (task.loss_fn(task.model(x), y) * len(y) / n).backward()
                task.optimizer.step()
                task.optimizer.zero_grad()


def tail_only_when_accumulating(task):
    """The tail is trained on without accumulation, and left out with it."""
    k = task.accumulation_steps
    for _ in range(task.epochs):
        batches = iter(task.loader)
        for _ in range(len(task.loader) // k):
            window = list(islice(batches, k))
            n = sum(len(y) for _, y in window)
            for x, y in window:
                (task.loss_fn(task.model(x), y) * len(y) / n).backward()
            task.optimizer.step()
            task.optimizer.zero_grad()
