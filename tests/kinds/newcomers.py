"""What newcomers write."""

from itertools import islice

import torch

ACCUM = 2
STEP = 0


def constant_two(task):
    """Constants written in: windows of 2, divided by 2."""
    for _ in range(task.epochs):
        for i, (x, y) in enumerate(task.loader):
            (task.loss_fn(task.model(x), y) / ACCUM).backward()
            if (i + 1) % ACCUM == 0:
                task.optimizer.step()
                task.optimizer.zero_grad()


def constant_divisor(task):
    """The gate has k, the division a constant 4."""
    for _ in range(task.epochs):
        for i, (x, y) in enumerate(task.loader):
            (task.loss_fn(task.model(x), y) / 4).backward()
            if (i + 1) % task.accumulation_steps == 0 or i + 1 == len(task.loader):
                task.optimizer.step()
                task.optimizer.zero_grad()


def one_epoch_right(task):
    """One epoch. Right."""
    batches = iter(task.loader)
    while window := list(islice(batches, task.accumulation_steps)):
        n = sum(len(y) for _, y in window)
        for x, y in window:
            (task.loss_fn(task.model(x), y) * len(y) / n).backward()
        task.optimizer.step()
        task.optimizer.zero_grad()


def three_epochs(task):
    """Three epochs written in, tail divided by k."""
    for _ in range(3):
        for i, (x, y) in enumerate(task.loader):
            (task.loss_fn(task.model(x), y) / task.accumulation_steps).backward()
            if (i + 1) % task.accumulation_steps == 0 or i + 1 == len(task.loader):
                task.optimizer.step()
                task.optimizer.zero_grad()
                task.scheduler.step()


def global_step(task):
    """A step counter in a global variable: the second call goes on where the first ended."""
    global STEP
    for _ in range(task.epochs):
        for x, y in task.loader:
            (task.loss_fn(task.model(x), y) / task.accumulation_steps).backward()
            STEP += 1
            if STEP % task.accumulation_steps == 0:
                task.optimizer.step()
                task.optimizer.zero_grad()


def global_step_reset(task):
    """The same counter, set to 0 at the start; steps at 0, k, 2k ..."""
    global STEP
    STEP = 0
    for _ in range(task.epochs):
        for x, y in task.loader:
            (task.loss_fn(task.model(x), y) / task.accumulation_steps).backward()
            if STEP % task.accumulation_steps == 0:
                task.optimizer.step()
                task.optimizer.zero_grad()
            STEP += 1


def stops_by_loss(task):
    """Stops early when an epoch's mean loss is below a bound. Right."""
    for _ in range(task.epochs):
        total, batches = 0.0, iter(task.loader)
        while window := list(islice(batches, task.accumulation_steps)):
            n = sum(len(y) for _, y in window)
            for x, y in window:
                loss = task.loss_fn(task.model(x), y)
                (loss * len(y) / n).backward()
                total += loss.item() * len(y)
            task.optimizer.step()
            task.optimizer.zero_grad()
            task.scheduler.step()
        if total / len(task.dataset) < 0.05:
            break


def stops_by_micro_batches(task):
    """Stops after six micro-batches, so that accumulation trains on less."""
    seen = 0
    for _ in range(task.epochs):
        batches = iter(task.loader)
        while window := list(islice(batches, task.accumulation_steps)):
            n = sum(len(y) for _, y in window)
            for x, y in window:
                (task.loss_fn(task.model(x), y) * len(y) / n).backward()
                seen += 1
            task.optimizer.step()
            task.optimizer.zero_grad()
            if seen >= 6:
                return


def list_of_losses(task):
    """Losses are collected, their mean goes backward once. Wrong where micro-batches are unequal."""
    losses = []
    for _ in range(task.epochs):
        for i, (x, y) in enumerate(task.loader):
            losses.append(task.loss_fn(task.model(x), y))
            if (i + 1) % task.accumulation_steps == 0 or i + 1 == len(task.loader):
                torch.stack(losses).mean().backward()
                task.optimizer.step()
                task.optimizer.zero_grad()
                losses = []


def sum_of_losses(task):
    """Losses are summed up and go backward once, undivided."""
    total = 0
    for _ in range(task.epochs):
        for i, (x, y) in enumerate(task.loader):
            total = total + task.loss_fn(task.model(x), y)
            if (i + 1) % task.accumulation_steps == 0 or i + 1 == len(task.loader):
                total.backward()
                task.optimizer.step()
                task.optimizer.zero_grad()
                total = 0


def outputs_concatenated(task):
    """Outputs of a window are concatenated, one loss. Right."""
    for _ in range(task.epochs):
        batches = iter(task.loader)
        while window := list(islice(batches, task.accumulation_steps)):
            out = torch.cat([task.model(x) for x, _ in window])
            task.loss_fn(out, torch.cat([y for _, y in window])).backward()
            task.optimizer.step()
            task.optimizer.zero_grad()
            task.scheduler.step()


def retains_graph(task):
    """The running total goes backward at every micro-batch with retain_graph: earlier ones count again and again."""
    k = task.accumulation_steps
    for _ in range(task.epochs):
        total = 0
        for i, (x, y) in enumerate(task.loader):
            total = total + task.loss_fn(task.model(x), y) / k
            total.backward(retain_graph=True)
            if (i + 1) % k == 0 or i + 1 == len(task.loader):
                task.optimizer.step()
                task.optimizer.zero_grad()
                total = 0


def retains_harmlessly(task):
    """retain_graph=True, though nothing goes backward twice. Right."""
    for _ in range(task.epochs):
        batches = iter(task.loader)
        while window := list(islice(batches, task.accumulation_steps)):
            n = sum(len(y) for _, y in window)
            for x, y in window:
                (task.loss_fn(task.model(x), y) * len(y) / n).backward(retain_graph=True)
            task.optimizer.step()
            task.optimizer.zero_grad()
            task.scheduler.step()


def clears_first(task):
    """zero_grad() at the top of every iteration."""
    for _ in range(task.epochs):
        for i, (x, y) in enumerate(task.loader):
            task.optimizer.zero_grad()
            (task.loss_fn(task.model(x), y) / task.accumulation_steps).backward()
            if (i + 1) % task.accumulation_steps == 0 or i + 1 == len(task.loader):
                task.optimizer.step()
                task.scheduler.step()


def clears_before_step(task):
    """zero_grad() right before step()."""
    for _ in range(task.epochs):
        for i, (x, y) in enumerate(task.loader):
            (task.loss_fn(task.model(x), y) / task.accumulation_steps).backward()
            if (i + 1) % task.accumulation_steps == 0 or i + 1 == len(task.loader):
                task.optimizer.zero_grad()
                task.optimizer.step()


def forgets_to_clear(task):
    """No zero_grad at all."""
    for _ in range(task.epochs):
        for i, (x, y) in enumerate(task.loader):
            (task.loss_fn(task.model(x), y) / task.accumulation_steps).backward()
            if (i + 1) % task.accumulation_steps == 0 or i + 1 == len(task.loader):
                task.optimizer.step()


def step_outdented(task):
    """step() is outside of the if: at every micro-batch; zero_grad() is inside."""
    for _ in range(task.epochs):
        for i, (x, y) in enumerate(task.loader):
            (task.loss_fn(task.model(x), y) / task.accumulation_steps).backward()
            task.optimizer.step()
            if (i + 1) % task.accumulation_steps == 0:
                task.optimizer.zero_grad()


def schedule_outdented(task):
    """scheduler.step() is outside of the if."""
    for _ in range(task.epochs):
        batches = iter(task.loader)
        while window := list(islice(batches, task.accumulation_steps)):
            n = sum(len(y) for _, y in window)
            for x, y in window:
                (task.loss_fn(task.model(x), y) * len(y) / n).backward()
                task.scheduler.step()
            task.optimizer.step()
            task.optimizer.zero_grad()


def after_epoch(task):
    """step() once an epoch."""
    for _ in range(task.epochs):
        for x, y in task.loader:
            (task.loss_fn(task.model(x), y) / len(task.loader)).backward()
        task.optimizer.step()
        task.optimizer.zero_grad()
        task.scheduler.step()


def rate_times_k(task):
    """The learning rate is multiplied with k, 'as the batch is larger'."""
    for group in task.optimizer.param_groups:
        group["lr"] *= task.accumulation_steps
    for _ in range(task.epochs):
        batches = iter(task.loader)
        while window := list(islice(batches, task.accumulation_steps)):
            n = sum(len(y) for _, y in window)
            for x, y in window:
                (task.loss_fn(task.model(x), y) * len(y) / n).backward()
            task.optimizer.step()
            task.optimizer.zero_grad()


def returns_generator(task):
    """A generator: nothing runs."""
    for x, y in task.loader:
        yield task.loss_fn(task.model(x), y)


async def coroutine(task):
    """A coroutine: nothing runs."""
    for x, y in task.loader:
        task.loss_fn(task.model(x), y).backward()
        task.optimizer.step()


def never_steps(task):
    """backward() only."""
    for x, y in task.loader:
        task.loss_fn(task.model(x), y).backward()
