"""Wrong at some sizes only, or not made for all."""

from itertools import islice

from torch.utils.data import DataLoader


def finish(task):
    task.optimizer.step()
    task.optimizer.zero_grad()
    task.scheduler.step()


def window_right(task, window):
    n = sum(len(y) for _, y in window)
    for x, y in window:
        (task.loss_fn(task.model(x), y) * len(y) / n).backward()


def third_is_short(task):
    """The third window of an epoch steps one micro-batch early, and what is left over is one more window."""
    k = task.accumulation_steps
    for _ in range(task.epochs):
        window, count = [], 0
        for i, batch in enumerate(task.loader):
            window.append(batch)
            size = k - 1 if count == 2 and k > 1 else k
            if len(window) == size or i + 1 == len(task.loader):
                window_right(task, window)
                finish(task)
                window, count = [], count + 1


def third_keeps(task):
    """Gradients are not cleared after the second window of an epoch."""
    for _ in range(task.epochs):
        batches, count = iter(task.loader), 0
        while window := list(islice(batches, task.accumulation_steps)):
            window_right(task, window)
            task.optimizer.step()
            count += 1
            if count != 2:
                task.optimizer.zero_grad()
            task.scheduler.step()


def third_epoch(task):
    """From the third epoch on nothing is cleared."""
    for epoch in range(task.epochs):
        batches = iter(task.loader)
        while window := list(islice(batches, task.accumulation_steps)):
            window_right(task, window)
            task.optimizer.step()
            if epoch < 2:
                task.optimizer.zero_grad()
            task.scheduler.step()


def fifth_update(task):
    """Every fifth micro-batch over all, gradients are cleared 'to save memory'."""
    seen = 0
    for _ in range(task.epochs):
        batches = iter(task.loader)
        while window := list(islice(batches, task.accumulation_steps)):
            n = sum(len(y) for _, y in window)
            for x, y in window:
                (task.loss_fn(task.model(x), y) * len(y) / n).backward()
                seen += 1
                if seen % 5 == 0 and len(window) > 1:
                    task.optimizer.zero_grad()
            finish(task)


def asserts_divisible(task):
    """Asserts that N divides n. Right where it does."""
    assert len(task.dataset) % (task.micro_batch_size * task.accumulation_steps) == 0
    k = task.accumulation_steps
    for _ in range(task.epochs):
        for i, (x, y) in enumerate(task.loader):
            (task.loss_fn(task.model(x), y) / k).backward()
            if (i + 1) % k == 0:
                finish(task)


def asserts_and_errs(task):
    """Asserts that N divides n, and divides by nothing."""
    assert len(task.dataset) % (task.micro_batch_size * task.accumulation_steps) == 0
    k = task.accumulation_steps
    for _ in range(task.epochs):
        for i, (x, y) in enumerate(task.loader):
            task.loss_fn(task.model(x), y).backward()
            if (i + 1) % k == 0:
                finish(task)


def raises_on_short(task):
    """Cannot take a short micro-batch (a fixed buffer); off by one besides."""
    k = task.accumulation_steps
    for _ in range(task.epochs):
        for i, (x, y) in enumerate(task.loader):
            if len(y) != task.micro_batch_size:
                raise ValueError(f"expected {task.micro_batch_size} samples, got {len(y)}")
            (task.loss_fn(task.model(x), y) / k).backward()
            if i % k == 0:
                finish(task)


def raises_below_batch(task):
    """Wants one whole window at least; the tail is divided by k."""
    k = task.accumulation_steps
    if len(task.dataset) < k * task.micro_batch_size:
        raise ValueError("the data set is smaller than a batch")
    for _ in range(task.epochs):
        for i, (x, y) in enumerate(task.loader):
            (task.loss_fn(task.model(x), y) / k).backward()
            if (i + 1) % k == 0 or i + 1 == len(task.loader):
                finish(task)


def skips_single(task):
    """Micro-batches of one sample are left out, as BatchNorm cannot take them."""
    for _ in range(task.epochs):
        batches = iter(task.loader)
        while window := list(islice(batches, task.accumulation_steps)):
            window = [(x, y) for x, y in window if len(y) > 1]
            if window:
                window_right(task, window)
                finish(task)


def drops_short_micro_batch(task):
    """drop_last on its own loader of micro-batches, the last window is kept: without accumulation the whole tail is dropped."""
    for _ in range(task.epochs):
        batches = iter(DataLoader(task.dataset, task.micro_batch_size, drop_last=True))
        while window := list(islice(batches, task.accumulation_steps)):
            window_right(task, window)
            finish(task)


def wrong_for_odd(task):
    """k // 2 * 2 micro-batches a window: wrong for odd k only."""
    k = task.accumulation_steps
    size = k // 2 * 2 or 1
    for _ in range(task.epochs):
        batches = iter(task.loader)
        while window := list(islice(batches, size)):
            window_right(task, window)
            finish(task)


def wrong_above_eight(task):
    """At most 8 micro-batches a window, 'for memory'."""
    size = min(task.accumulation_steps, 6)
    for _ in range(task.epochs):
        batches = iter(task.loader)
        while window := list(islice(batches, size)):
            window_right(task, window)
            finish(task)
