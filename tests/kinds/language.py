"""Language-model loops, for a token mean: logits (b, T, V), targets (b, T) with -100 where masked."""

from itertools import islice

from torch import nn
from torch.nn import functional as F


def windows(task):
    for _ in range(task.epochs):
        batches = iter(task.loader)
        while window := list(islice(batches, task.accumulation_steps)):
            yield window


def finish(task):
    task.optimizer.step()
    task.optimizer.zero_grad()
    task.scheduler.step()


def count(window):
    return sum(int((y != -100).sum()) for _, y in window)


def viewed(task):
    """view(-1, V), reduction sum over the window's tokens. Right."""
    for window in windows(task):
        n = count(window)
        for x, y in window:
            out = task.model(x)
            (F.cross_entropy(out.view(-1, out.size(-1)), y.view(-1), reduction="sum") / n).backward()
        finish(task)


def transposed(task):
    """transpose(1, 2), ignore_index. Right."""
    criterion = nn.CrossEntropyLoss(ignore_index=-100, reduction="none")
    for window in windows(task):
        n = count(window)
        for x, y in window:
            (criterion(task.model(x).transpose(1, 2), y).sum() / n).backward()
        finish(task)


def masked(task):
    """Multiplied with a mask. Right."""
    for window in windows(task):
        n = count(window)
        for x, y in window:
            mask = (y != -100).float()
            each = F.cross_entropy(task.model(x).permute(0, 2, 1), y.clamp(min=0), reduction="none")
            ((each * mask).sum() / n).backward()
        finish(task)


def shifted(task):
    """Next-token loss: logits[:, :-1] against targets[:, 1:], over the window's shifted tokens. Right."""
    for window in windows(task):
        n = max(sum(int((y[:, 1:] != -100).sum()) for _, y in window), 1)
        for x, y in window:
            out = task.model(x)[:, :-1]
            (F.cross_entropy(out.reshape(-1, out.size(-1)), y[:, 1:].reshape(-1), reduction="sum") / n).backward()
        finish(task)


def means_by_k(task):
    """The token mean of each micro-batch over k. Wrong."""
    for window in windows(task):
        for x, y in window:
            out = task.model(x)
            (F.cross_entropy(out.view(-1, out.size(-1)), y.view(-1)) / task.accumulation_steps).backward()
        finish(task)


def means_by_count(task):
    """The token mean of each micro-batch over len(window). Wrong."""
    for window in windows(task):
        for x, y in window:
            (task.loss_fn(task.model(x), y) / len(window)).backward()
        finish(task)


def by_samples(task):
    """Weighted by samples, not by tokens. Wrong."""
    for window in windows(task):
        n = sum(len(y) for _, y in window)
        for x, y in window:
            (task.loss_fn(task.model(x), y) * len(y) / n).backward()
        finish(task)


def padding_counts(task):
    """The sum over tokens is divided by all positions of the window, padding too. Its own run does the same: right."""
    for window in windows(task):
        n = sum(y.numel() for _, y in window)
        for x, y in window:
            out = task.model(x)
            (F.cross_entropy(out.view(-1, out.size(-1)), y.view(-1), reduction="sum") / n).backward()
        finish(task)


def sequences(task):
    """Each sequence's own token mean, then the mean over the window's sequences. Its own run does the same: right."""
    for window in windows(task):
        n = sum(len(y) for _, y in window)
        for x, y in window:
            each = F.cross_entropy(task.model(x).transpose(1, 2), y, reduction="none")
            mask = y != -100
            ((each * mask).sum(1) / mask.sum(1)).sum().div(n).backward()
        finish(task)


def tokens_so_far(task):
    """Divides by the tokens seen so far in the window. Wrong."""
    for window in windows(task):
        tokens = 0
        for x, y in window:
            tokens += int((y != -100).sum())
            out = task.model(x)
            (F.cross_entropy(out.view(-1, out.size(-1)), y.view(-1), reduction="sum") / tokens).backward()
        finish(task)


def tokens_at_step(task):
    """Sums, divided by the window's tokens before the step. Right."""
    for window in windows(task):
        tokens = 0
        for x, y in window:
            tokens += int((y != -100).sum())
            out = task.model(x)
            F.cross_entropy(out.view(-1, out.size(-1)), y.view(-1), reduction="sum").backward()
        for p in task.model.parameters():
            p.grad /= tokens
        finish(task)


def tokens_of_first(task):
    """Divides by the first micro-batch's tokens times k. Wrong."""
    for window in windows(task):
        n = int((window[0][1] != -100).sum()) * task.accumulation_steps
        for x, y in window:
            out = task.model(x)
            (F.cross_entropy(out.view(-1, out.size(-1)), y.view(-1), reduction="sum") / n).backward()
        finish(task)


def windows_by_tokens(task):
    """A step when 16 tokens have been seen, whatever k is. Wrong."""
    for _ in range(task.epochs):
        seen = 0
        for i, (x, y) in enumerate(task.loader):
            out = task.model(x)
            (F.cross_entropy(out.view(-1, out.size(-1)), y.view(-1), reduction="sum") / 16).backward()
            seen += int((y != -100).sum())
            if seen >= 16 or i + 1 == len(task.loader):
                finish(task)
                seen = 0


def cut_to_longest(task):
    """Columns that are padding in all of the micro-batch are cut off. Right."""
    for window in windows(task):
        n = count(window)
        for x, y in window:
            length = int((y != -100).sum(1).max())
            out = task.model(x[:, :length])
            (F.cross_entropy(out.reshape(-1, out.size(-1)), y[:, :length].reshape(-1), reduction="sum") / n).backward()
        finish(task)


def average_with_aux(task):
    """A z-loss on the logits, per token, summed over the window's tokens. Right."""
    for window in windows(task):
        n = count(window)
        for x, y in window:
            out = task.model(x).flatten(0, -2)
            keep = y.flatten() != -100
            z = out.logsumexp(-1).pow(2)[keep].sum()
            ((F.cross_entropy(out, y.flatten(), reduction="sum") + 1e-2 * z) / n).backward()
        finish(task)


def whole_objective(task):
    """task.loss_fn times its tokens over the window's. Right."""
    for window in windows(task):
        n = count(window)
        for x, y in window:
            (task.loss_fn(task.model(x), y) * (y != -100).sum() / n).backward()
        finish(task)


def off_by_one_tokens(task):
    """Right weights by tokens, i % k == 0. Wrong."""
    k = task.accumulation_steps
    for _ in range(task.epochs):
        for i, (x, y) in enumerate(task.loader):
            (task.loss_fn(task.model(x), y) * (y != -100).sum() / y.numel() / k).backward()
            if i % k == 0:
                finish(task)
