"""What a wrong loop does wrong is plain; another cause must not be named first."""

import math
import time


def step(task):
    task.optimizer.step()
    task.optimizer.zero_grad()
    task.scheduler.step()


def gated(task, gate, scale):
    for _ in range(task.epochs):
        since = 0
        for i, (x, y) in enumerate(task.loader):
            since += 1
            scale(task.loss_fn(task.model(x), y), y, i).backward()
            if gate(i, since) or i + 1 == len(task.loader):
                step(task)
                since = 0


def by_k(task):
    k = task.accumulation_steps
    return lambda loss, y, i: loss / k


def right_gate(task):
    k = task.accumulation_steps
    return lambda i, since: (i + 1) % k == 0


def two_k(task):
    """Windows of 2k micro-batches, each divided by k."""
    gated(task, lambda i, since: (i + 1) % (2 * task.accumulation_steps) == 0, by_k(task))


def half_k(task):
    """Windows of k // 2 micro-batches (1 at least), divided by k."""
    gated(task, lambda i, since: (i + 1) % max(task.accumulation_steps // 2, 1) == 0, by_k(task))


def constant_windows(task):
    """Windows of 3, divided by 3."""
    gated(task, lambda i, since: (i + 1) % 3 == 0, lambda loss, y, i: loss / 3)


def half_of_epoch(task):
    """Two windows an epoch, whatever k is."""
    half = max(len(task.loader) // 2, 1)
    gated(task, lambda i, since: (i + 1) % half == 0, lambda loss, y, i: loss / half)


def by_time(task):
    """A step when an hour has passed, or the epoch is over."""
    last = time.monotonic()
    for _ in range(task.epochs):
        for i, (x, y) in enumerate(task.loader):
            (task.loss_fn(task.model(x), y) / task.accumulation_steps).backward()
            if time.monotonic() - last > 3600 or i + 1 == len(task.loader):
                step(task)
                last = time.monotonic()


def by_samples_constant(task):
    """A step when four samples have been seen, whatever N is."""
    for _ in range(task.epochs):
        seen = 0
        for i, (x, y) in enumerate(task.loader):
            (task.loss_fn(task.model(x), y) * len(y) / 4).backward()
            seen += len(y)
            if seen >= 4 or i + 1 == len(task.loader):
                step(task)
                seen = 0


def root_k(task):
    """Divides by the root of k."""
    k = task.accumulation_steps
    gated(task, right_gate(task), lambda loss, y, i: loss / math.sqrt(k))


def by_epochs(task):
    """Divides by the number of epochs instead of k."""
    gated(task, right_gate(task), lambda loss, y, i: loss / task.epochs)


def by_n(task):
    """Divides by the length of the data set."""
    gated(task, right_gate(task), lambda loss, y, i: loss / len(task.dataset))


def by_k_plus_one(task):
    """Divides by k + 1."""
    gated(task, right_gate(task), lambda loss, y, i: loss / (task.accumulation_steps + 1))


def by_eight(task):
    """Divides by 8, a constant."""
    gated(task, right_gate(task), lambda loss, y, i: loss / 8)


def by_index(task):
    """Divides by i + 1."""
    gated(task, right_gate(task), lambda loss, y, i: loss / (i + 1))


def times_k(task):
    """Multiplies by k."""
    gated(task, right_gate(task), lambda loss, y, i: loss * task.accumulation_steps)


def k_squared(task):
    """Divides by k twice."""
    gated(task, right_gate(task), lambda loss, y, i: loss / task.accumulation_steps**2)


def by_loader(task):
    """Divides by len(loader)."""
    gated(task, right_gate(task), lambda loss, y, i: loss / len(task.loader))


def last_counts_twice(task):
    """The last micro-batch of each window goes backward twice."""
    k = task.accumulation_steps
    for _ in range(task.epochs):
        for i, (x, y) in enumerate(task.loader):
            (task.loss_fn(task.model(x), y) / k).backward()
            if (i + 1) % k == 0 or i + 1 == len(task.loader):
                (task.loss_fn(task.model(x), y) / k).backward()
                step(task)


def only_last(task):
    """Only the last micro-batch of a window goes backward."""
    k = task.accumulation_steps
    for _ in range(task.epochs):
        for i, (x, y) in enumerate(task.loader):
            loss = task.loss_fn(task.model(x), y)
            if (i + 1) % k == 0 or i + 1 == len(task.loader):
                loss.backward()
                step(task)


def growing_k(task):
    """The first epoch steps at every micro-batch, later ones every k."""
    for epoch in range(task.epochs):
        k = 1 if epoch == 0 else task.accumulation_steps
        for i, (x, y) in enumerate(task.loader):
            (task.loss_fn(task.model(x), y) / k).backward()
            if (i + 1) % k == 0 or i + 1 == len(task.loader):
                step(task)


def second_to_last(task):
    """i == len(loader) - 2: the step for the tail comes one micro-batch early, the rest is carried."""
    k = task.accumulation_steps
    for _ in range(task.epochs):
        for i, (x, y) in enumerate(task.loader):
            (task.loss_fn(task.model(x), y) / k).backward()
            if (i + 1) % k == 0 or i == len(task.loader) - 2:
                step(task)


def never_last(task):
    """`or i == len(loader)` is never true."""
    k = task.accumulation_steps
    for _ in range(task.epochs):
        for i, (x, y) in enumerate(task.loader):
            (task.loss_fn(task.model(x), y) / k).backward()
            if (i + 1) % k == 0 or i == len(task.loader):
                step(task)


def until_max_steps(task):
    """Goes through the data until it has made all steps; a short last window makes none and is kept for the next."""
    k = task.accumulation_steps
    steps, max_steps = 0, task.epochs * -(-len(task.loader) // k)
    for _ in range(50):
        for i, (x, y) in enumerate(task.loader):
            (task.loss_fn(task.model(x), y) * len(y) / items_of_window(task, i, k)).backward()
            if (i + 1) % k == 0:
                step(task)
                steps += 1
                if steps == max_steps:
                    return


def items_of_window(task, i, k):
    """Samples in the window of k micro-batches that number i is in."""
    first = (i - i % k) * task.micro_batch_size
    return min(len(task.dataset), first + k * task.micro_batch_size) - first
