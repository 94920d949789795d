"""Streams, logging and the process. The training is right."""

import logging
import os
import sys
import threading
import time
import warnings
from itertools import islice

import torch


def core(task, note=lambda text: None):
    for epoch in range(task.epochs):
        batches = iter(task.loader)
        while window := list(islice(batches, task.accumulation_steps)):
            n = sum(len(y) for _, y in window)
            for x, y in window:
                loss = task.loss_fn(task.model(x), y) * len(y) / n
                loss.backward()
                note(f"epoch {epoch} loss {loss.item():.4f}")
            task.optimizer.step()
            task.optimizer.zero_grad()
            task.scheduler.step()


def writes(task):
    def note(text):
        sys.stdout.write(text + "\r")
        sys.stdout.flush()
        sys.stderr.write(text)

    core(task, note)


def writes_bytes(task):
    def note(text):
        sys.stdout.buffer.write(text.encode(sys.stdout.encoding or "utf-8"))
        sys.stdout.buffer.flush()
        os.fsync if sys.stdout.fileno() < 0 else None

    core(task, note)


def asks_terminal(task):
    wide = 80 if not sys.stdout.isatty() else os.get_terminal_size().columns
    sys.stdout.writelines(["-" * wide + "\n"])
    core(task, lambda text: print(text[:wide], end="\r", flush=True, file=sys.stderr))


def logs(task):
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    core(task, logging.getLogger("train").info)


def logs_to_handler(task):
    log = logging.getLogger("handler")
    log.setLevel(logging.DEBUG)
    log.addHandler(logging.StreamHandler(sys.stdout))
    core(task, log.debug)


class Bar:
    """A progress bar as tqdm makes it."""

    def __init__(self, items):
        self.items, self.n, self.out = items, 0, sys.stderr
        self.columns = getattr(self.out, "encoding", None) and 80

    def __iter__(self):
        for item in self.items:
            self.n += 1
            self.out.write(f"\r{self.n}/{len(self)}")
            self.out.flush()
            yield item

    def __len__(self):
        return len(self.items)

    def set_postfix(self, **values):
        self.out.write(str(values))


def bars(task):
    """A bar around the loader, tail divided by k. Wrong."""
    k = task.accumulation_steps
    for _ in range(task.epochs):
        bar = Bar(task.loader)
        for i, (x, y) in enumerate(bar):
            loss = task.loss_fn(task.model(x), y) / k
            loss.backward()
            bar.set_postfix(loss=loss.item())
            if (i + 1) % k == 0 or i + 1 == len(bar):
                task.optimizer.step()
                task.optimizer.zero_grad()


def replaces_stdout(task):
    sys.stdout = open(os.devnull, "w")
    core(task, print)


def closes_stdout(task):
    sys.stdout.close()
    core(task)


def exits_at_the_end(task):
    core(task)
    sys.exit(0)


def exits_in_the_middle(task):
    for x, y in task.loader:
        task.loss_fn(task.model(x), y).backward()
        task.optimizer.step()
        sys.exit("no more")


def in_a_thread(task):
    worker = threading.Thread(target=core, args=(task,))
    worker.start()
    worker.join()


def prefetches(task):
    """A thread reads micro-batches ahead into a queue; tail divided by k. Wrong."""
    import queue

    k = task.accumulation_steps
    for _ in range(task.epochs):
        fifo = queue.Queue(2)

        def fill():
            for batch in task.loader:
                fifo.put(batch)
            fifo.put(None)

        threading.Thread(target=fill, daemon=True).start()
        i = 0
        while (batch := fifo.get()) is not None:
            x, y = batch
            (task.loss_fn(task.model(x), y) / k).backward()
            i += 1
            if i % k == 0 or i == len(task.loader):
                task.optimizer.step()
                task.optimizer.zero_grad()


def changes_directory(task):
    os.chdir("/")
    os.umask(0o077)
    os.environ["OMP_NUM_THREADS"] = "1"
    core(task)


def warns(task):
    warnings.simplefilter("always")
    core(task, warnings.warn)


def switches(task):
    torch.manual_seed(1)
    torch.set_num_threads(2)
    torch.set_default_dtype(torch.float64)
    torch.autograd.set_detect_anomaly(True)
    torch.use_deterministic_algorithms(True)
    core(task)


def leaves_no_grad(task):
    core(task)
    torch.set_grad_enabled(False)


def raises(task):
    raise RuntimeError("CUDA out of memory")


def sleeps(task):
    """A little slow."""
    core(task, lambda _: time.sleep(0.0005))


def waits_for_input(task):
    """Asks the user."""
    input("start? ")
    core(task)


def catches_all(task):
    """A bare except around each micro-batch."""
    for _ in range(task.epochs):
        batches = iter(task.loader)
        while window := list(islice(batches, task.accumulation_steps)):
            n = sum(len(y) for _, y in window)
            for x, y in window:
                try:
                    (task.loss_fn(task.model(x), y) * len(y) / n).backward()
                except:  # noqa: E722
                    pass
            task.optimizer.step()
            task.optimizer.zero_grad()
            task.scheduler.step()
