"""Conditions for a step, in all shapes."""

import itertools
from itertools import islice, zip_longest


def finish(task):
    task.optimizer.step()
    task.optimizer.zero_grad()
    task.scheduler.step()


def window_right(task, window):
    n = sum(len(y) for _, y in window)
    for x, y in window:
        (task.loss_fn(task.model(x), y) * len(y) / n).backward()
    finish(task)


def grouper(task):
    """zip_longest over k references to one iterator. Right."""
    for _ in range(task.epochs):
        for window in zip_longest(*[iter(task.loader)] * task.accumulation_steps):
            window_right(task, [batch for batch in window if batch is not None])


def zipped(task):
    """zip over k references to one iterator: the tail is lost."""
    for _ in range(task.epochs):
        for window in zip(*[iter(task.loader)] * task.accumulation_steps):
            window_right(task, window)


def slices(task):
    """list(loader)[s : s + k]. Right."""
    for _ in range(task.epochs):
        batches = list(task.loader)
        for start in range(0, len(batches), task.accumulation_steps):
            window_right(task, batches[start : start + task.accumulation_steps])


def sentinel(task):
    """next(it, None) looks one ahead. Right."""
    for _ in range(task.epochs):
        it = iter(task.loader)
        batch, window = next(it, None), []
        while batch is not None:
            following = next(it, None)
            window.append(batch)
            if len(window) == task.accumulation_steps or following is None:
                window_right(task, window)
                window = []
            batch = following


def countdown(task):
    """A counter that counts down, and a count of what is left. Divides by k: short windows are too small."""
    k = task.accumulation_steps
    for _ in range(task.epochs):
        left = k
        for i, (x, y) in enumerate(task.loader):
            (task.loss_fn(task.model(x), y) / k).backward()
            left -= 1
            if left == 0 or i == len(task.loader) - 1:
                finish(task)
                left = k


def countdown_forgotten(task):
    """The counter is set back to k at a full window only, and lives on over epochs: after a tail, the next window is short."""
    k = left = task.accumulation_steps
    for _ in range(task.epochs):
        for i, (x, y) in enumerate(task.loader):
            (task.loss_fn(task.model(x), y) / k).backward()
            left -= 1
            if left == 0 or i == len(task.loader) - 1:
                finish(task)
            if left == 0:
                left = k


def not_modulo(task):
    """if not (i + 1) % k, else-branch of the for flushes. Right but for the tail, which divides by k."""
    k = task.accumulation_steps
    for _ in range(task.epochs):
        for i, (x, y) in enumerate(task.loader):
            (task.loss_fn(task.model(x), y) / k).backward()
            if not (i + 1) % k:
                finish(task)
        if (i + 1) % k:
            finish(task)


def flushes_always(task):
    """A step after each epoch, whether anything is left or not: with nothing there is no gradient. Divides by k."""
    k = task.accumulation_steps
    for _ in range(task.epochs):
        for i, (x, y) in enumerate(task.loader):
            (task.loss_fn(task.model(x), y) / k).backward()
            if (i + 1) % k == 0:
                finish(task)
        finish(task)


def flushes_at_the_end(task):
    """Left-overs run on over epochs, and are flushed once after training."""
    k, count = task.accumulation_steps, 0
    for _ in range(task.epochs):
        for x, y in task.loader:
            (task.loss_fn(task.model(x), y) / k).backward()
            count += 1
            if count % k == 0:
                finish(task)
    if count % k:
        finish(task)


def k_minus_one(task):
    """i % k == k - 1. The tail joins the next epoch."""
    k = task.accumulation_steps
    for _ in range(task.epochs):
        for i, (x, y) in enumerate(task.loader):
            (task.loss_fn(task.model(x), y) / k).backward()
            if i % k == k - 1:
                finish(task)


def starts_at_one(task):
    """enumerate(loader, 1), and (i + 1) % k: the first step comes early."""
    k = task.accumulation_steps
    for _ in range(task.epochs):
        for i, (x, y) in enumerate(task.loader, 1):
            (task.loss_fn(task.model(x), y) / k).backward()
            if (i + 1) % k == 0 or i == len(task.loader):
                finish(task)


def first_is_skipped(task):
    """i > 0 and i % k == 0, or the end: the first window holds one too many."""
    k = task.accumulation_steps
    for _ in range(task.epochs):
        for i, (x, y) in enumerate(task.loader):
            (task.loss_fn(task.model(x), y) / k).backward()
            if (i > 0 and i % k == 0) or i + 1 == len(task.loader):
                finish(task)


def greater(task):
    """count > k: windows of k + 1."""
    k, count = task.accumulation_steps, 0
    for _ in range(task.epochs):
        for i, (x, y) in enumerate(task.loader):
            (task.loss_fn(task.model(x), y) / k).backward()
            count += 1
            if count > k or i + 1 == len(task.loader):
                finish(task)
                count = 0


def samples_seen(task):
    """seen % N == 0 over all epochs: short micro-batches put it out of step."""
    big, seen = task.micro_batch_size * task.accumulation_steps, 0
    for _ in range(task.epochs):
        for x, y in task.loader:
            (task.loss_fn(task.model(x), y) * len(y) / big).backward()
            seen += len(y)
            if seen % big == 0:
                finish(task)


def samples_in_epoch(task):
    """seen >= N or seen_in_epoch == n. Sums of losses over N, of the tail too, as its own run has it: right."""
    big, n = task.micro_batch_size * task.accumulation_steps, len(task.dataset)
    for _ in range(task.epochs):
        seen = epoch = 0
        for x, y in task.loader:
            (task.loss_fn(task.model(x), y) * len(y) / big).backward()
            seen, epoch = seen + len(y), epoch + len(y)
            if seen >= big or epoch == n:
                finish(task)
                seen = 0


def boundaries(task):
    """A set of the indices at which to step, by range(k - 1, L, k), and the last. Right."""
    k, length = task.accumulation_steps, len(task.loader)
    ends = {*range(k - 1, length, k), length - 1}
    for _ in range(task.epochs):
        window = []
        for i, batch in enumerate(task.loader):
            window.append(batch)
            if i in ends:
                window_right(task, window)
                window = []


def spreads_tail(task):
    """Micro-batches are spread evenly over ceil(L / k) windows: none is longer than k, but none is full either."""
    k, length = task.accumulation_steps, len(task.loader)
    count = -(-length // k)
    for _ in range(task.epochs):
        batches = iter(task.loader)
        for w in range(count):
            window_right(task, list(islice(batches, length // count + (w < length % count))))


def tail_in_last(task):
    """The left-overs join the last full window: it is longer than k."""
    k, length = task.accumulation_steps, len(task.loader)
    for _ in range(task.epochs):
        batches = list(task.loader)
        full = max(length // k, 1)
        for w in range(full):
            window_right(task, batches[w * k : (w + 1) * k if w + 1 < full else length])


def overlaps(task):
    """Windows overlap by one micro-batch."""
    k = task.accumulation_steps
    for _ in range(task.epochs):
        batches = list(task.loader)
        start = 0
        while start < len(batches):
            window_right(task, batches[start : start + k])
            start += max(k - 1, 1)


def chained(task):
    """chain of all epochs, windows of k on it; the last one is short."""
    batches = itertools.chain.from_iterable(task.loader for _ in range(task.epochs))
    while window := list(islice(batches, task.accumulation_steps)):
        window_right(task, window)


def by_power_of_two(task):
    """(i + 1) & (k - 1): right for powers of two only; short windows divide by their count of samples."""
    k = task.accumulation_steps
    for _ in range(task.epochs):
        window = []
        for i, batch in enumerate(task.loader):
            window.append(batch)
            if (i + 1) & (k - 1) == 0 or i + 1 == len(task.loader):
                window_right(task, window)
                window = []


def reversed_window(task):
    """The micro-batches of a window go backward in reverse. Right."""
    for _ in range(task.epochs):
        batches = iter(task.loader)
        while window := list(islice(batches, task.accumulation_steps)):
            window_right(task, window[::-1])
