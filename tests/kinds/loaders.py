"""Loaders and samplers of the loop's own. Right, unless the docstring says what is wrong."""

from itertools import islice

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    WeightedRandomSampler,
    random_split,
)


def train(task, loader, loss=None):
    for _ in range(task.epochs):
        batches = iter(loader() if callable(loader) else loader)
        while window := list(islice(batches, task.accumulation_steps)):
            n = sum(len(y) for _, y in window)
            for x, y in window:
                (
                    task.loss_fn(task.model(x), y) * len(y) / n
                    if loss is None
                    else loss(task.loss_fn(task.model(x), y), y)
                ).backward()
            task.optimizer.step()
            task.optimizer.zero_grad()
            task.scheduler.step()


def shuffled(task):
    """Shuffles from a generator of its own."""
    train(
        task, DataLoader(task.dataset, task.micro_batch_size, shuffle=True, generator=torch.Generator().manual_seed(0))
    )


def shuffled_globally(task):
    """Shuffles from the global stream, after manual_seed."""
    torch.manual_seed(0)
    train(task, DataLoader(task.dataset, task.micro_batch_size, shuffle=True))


def shuffled_tail(task):
    """Shuffled, and / k: short windows are too small. Wrong."""
    k = task.accumulation_steps
    train(task, DataLoader(task.dataset, task.micro_batch_size, shuffle=True), lambda loss, y: loss / k)


def split(task):
    """random_split holds a tenth back."""
    held = max(1, len(task.dataset) // 10)
    part, _ = random_split(task.dataset, [len(task.dataset) - held, held], generator=torch.Generator().manual_seed(1))
    train(task, DataLoader(part, task.micro_batch_size))


def subset(task):
    """Every sample but the first."""
    rows = list(range(1, len(task.dataset))) or [0]
    train(task, DataLoader(Subset(task.dataset, rows), task.micro_batch_size))


def subset_early(task):
    """A subset, and i % k == 0. Wrong."""
    k = task.accumulation_steps
    loader = DataLoader(Subset(task.dataset, list(range(0, len(task.dataset), 2))), task.micro_batch_size)
    for _ in range(task.epochs):
        for i, (x, y) in enumerate(loader):
            (task.loss_fn(task.model(x), y) / k).backward()
            if i % k == 0:
                task.optimizer.step()
                task.optimizer.zero_grad()
                task.scheduler.step()


def batch_sampler(task):
    """A BatchSampler, no workers."""
    sampler = BatchSampler(SequentialSampler(task.dataset), task.micro_batch_size, drop_last=False)
    train(task, DataLoader(task.dataset, batch_sampler=sampler, num_workers=0))


def random_batch_sampler(task):
    """A BatchSampler over a RandomSampler with a generator."""
    sampler = RandomSampler(task.dataset, generator=torch.Generator().manual_seed(5))
    train(task, DataLoader(task.dataset, batch_sampler=BatchSampler(sampler, task.micro_batch_size, False)))


class ByLength(Sampler):
    def __init__(self, dataset):
        self.order = sorted(range(len(dataset)), key=lambda i: int((dataset.tensors[1][i] != -100).sum()))

    def __iter__(self):
        return iter(self.order)

    def __len__(self):
        return len(self.order)


def sorted_by_length(task):
    """Samples in the order of their lengths."""
    train(task, DataLoader(task.dataset, task.micro_batch_size, sampler=ByLength(task.dataset)))


def shuffles_batches(task):
    """Micro-batches of neighbours in random order: which samples meet in a window depends on b. Wrong."""
    b, n = task.micro_batch_size, len(task.dataset)
    generator = torch.Generator().manual_seed(2)

    def loader():
        chunks = torch.arange(n).split(b)
        return DataLoader(
            task.dataset, batch_sampler=[chunks[i].tolist() for i in torch.randperm(len(chunks), generator=generator)]
        )

    train(task, loader)


def sorted_within(task):
    """Shuffled in pools of one window, sorted within (bucketing by N). The pools are N samples, the same without accumulation."""
    big, n, b = task.micro_batch_size * task.accumulation_steps, len(task.dataset), task.micro_batch_size
    order = torch.randperm(n, generator=torch.Generator().manual_seed(4)).tolist()
    pools = [sorted(order[s : s + big]) for s in range(0, n, big)]
    batches = [pool[s : s + b] for pool in pools for s in range(0, len(pool), b)]
    train(task, DataLoader(task.dataset, batch_sampler=batches))


def weighted(task):
    """WeightedRandomSampler draws with replacement, from a generator."""
    n = len(task.dataset)
    sampler = WeightedRandomSampler(torch.linspace(1, 3, n), n, generator=torch.Generator().manual_seed(6))
    train(task, DataLoader(task.dataset, task.micro_batch_size, sampler=sampler))


def numpy_order(task):
    """NumPy's permutation, as a list of its integers."""
    import numpy as np

    rng = np.random.default_rng(0)
    train(
        task, lambda: DataLoader(task.dataset, task.micro_batch_size, sampler=list(rng.permutation(len(task.dataset))))
    )


def collates(task):
    """A collate_fn of its own."""

    def collate(rows):
        return torch.stack([x for x, _ in rows]), torch.stack([y for _, y in rows])

    train(task, DataLoader(task.dataset, task.micro_batch_size, collate_fn=collate))


def generator_of_rows(task):
    """A generator over slices of the data set, without a loader."""
    b, n = task.micro_batch_size, len(task.dataset)
    train(task, lambda: (task.dataset[s : s + b] for s in range(0, n, b)))


def rows_one_by_one(task):
    """A generator that stacks rows one by one, shuffled by random.Random(0), without a loader."""
    import random

    rng = random.Random(0)

    def batches():
        order = list(range(len(task.dataset)))
        rng.shuffle(order)
        for s in range(0, len(order), task.micro_batch_size):
            rows = [task.dataset[i] for i in order[s : s + task.micro_batch_size]]
            yield torch.stack([x for x, _ in rows]), torch.stack([y for _, y in rows])

    train(task, batches)


def big_batches_cut(task):
    """A loader of N samples, cut into micro-batches by chunk(): unlike split(), it evens them out. Right, as weights are shares."""
    big = task.micro_batch_size * task.accumulation_steps
    for _ in range(task.epochs):
        for x, y in DataLoader(task.dataset, big, shuffle=True, generator=torch.Generator().manual_seed(8)):
            for a, b in zip(x.chunk(task.accumulation_steps), y.chunk(task.accumulation_steps)):
                (task.loss_fn(task.model(a), b) * len(b) / len(y)).backward()
            task.optimizer.step()
            task.optimizer.zero_grad()
            task.scheduler.step()


def big_batches_divided(task):
    """A loader of N samples, cut into micro-batches of b, each divided by k. Wrong for short windows."""
    big = task.micro_batch_size * task.accumulation_steps
    for _ in range(task.epochs):
        for x, y in DataLoader(task.dataset, big):
            for a, b in zip(x.split(task.micro_batch_size), y.split(task.micro_batch_size)):
                (task.loss_fn(task.model(a), b) / task.accumulation_steps).backward()
            task.optimizer.step()
            task.optimizer.zero_grad()


def drops_last_itself(task):
    """drop_last=True on a loader of N samples: the same samples as without accumulation."""
    big = task.micro_batch_size * task.accumulation_steps
    for _ in range(task.epochs):
        for x, y in DataLoader(task.dataset, big, drop_last=True):
            for a, b in zip(x.split(task.micro_batch_size), y.split(task.micro_batch_size)):
                (task.loss_fn(task.model(a), b) / task.accumulation_steps).backward()
            task.optimizer.step()
            task.optimizer.zero_grad()


def two_loaders(task):
    """Two loaders in turn over two halves of the data, a window each. Right."""
    n = len(task.dataset)
    parts = [Subset(task.dataset, range(0, n // 2)), Subset(task.dataset, range(n // 2, n))]
    for _ in range(task.epochs):
        for part in parts:
            if not len(part):
                continue
            batches = iter(DataLoader(part, task.micro_batch_size))
            while window := list(islice(batches, task.accumulation_steps)):
                m = sum(len(y) for _, y in window)
                for x, y in window:
                    (task.loss_fn(task.model(x), y) * len(y) / m).backward()
                task.optimizer.step()
                task.optimizer.zero_grad()


def workers(task):
    """A loader with a worker process."""
    train(task, DataLoader(task.dataset, task.micro_batch_size, num_workers=1))
