"""Sums and numbers of narrow types."""

from itertools import islice

import torch


def windows(task):
    for _ in range(task.epochs):
        batches = iter(task.loader)
        while window := list(islice(batches, task.accumulation_steps)):
            yield window, sum(len(y) for _, y in window)


def finish(task):
    task.optimizer.step()
    task.optimizer.zero_grad()
    task.scheduler.step()


def buffers(task, dtype, after=None):
    params = list(task.model.parameters())
    for window, n in windows(task):
        sums = [torch.zeros_like(p, dtype=dtype) for p in params]
        for x, y in window:
            loss = task.loss_fn(task.model(x), y) * len(y) / n
            for s, g in zip(sums, torch.autograd.grad(loss, params)):
                s.add_(g.to(dtype))
        for p, s in zip(params, sums):
            p.grad = s.to(p.dtype)
        finish(task)


def buffers_bf16(task):
    """Sums of shares in bfloat16."""
    buffers(task, torch.bfloat16)


def buffers_fp16(task):
    """Sums of shares in float16."""
    buffers(task, torch.float16)


def buffers_fp32(task):
    """Sums in float32. Right."""
    buffers(task, torch.float32)


def model_bf16(task):
    """The model is in bfloat16, and its buffers with it."""
    task.model.bfloat16()
    for window, n in windows(task):
        for x, y in window:
            (task.loss_fn(task.model(x), y) * len(y) / n).backward()
        finish(task)


def model_fp32(task):
    """task.model.float(). Right."""
    task.model.float()
    for window, n in windows(task):
        for x, y in window:
            (task.loss_fn(task.model(x), y) * len(y) / n).backward()
        finish(task)


def autocast_right(task):
    """autocast to bfloat16 for the forward pass, sums stay wide. Right."""
    for window, n in windows(task):
        for x, y in window:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                out = task.model(x)
                loss = task.loss_fn(out, y)
            (loss * len(y) / n).backward()
        finish(task)


def autocast_tail(task):
    """autocast, and / k: short windows are too small."""
    for window, n in windows(task):
        for x, y in window:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = task.loss_fn(task.model(x), y) / task.accumulation_steps
            loss.backward()
        finish(task)


def int8_each(task):
    """Each micro-batch's gradient is rounded to 8 bits, by its own largest element, and summed up."""
    params = list(task.model.parameters())
    for window, n in windows(task):
        sums = [torch.zeros_like(p) for p in params]
        for x, y in window:
            loss = task.loss_fn(task.model(x), y) * len(y) / n
            for s, g in zip(sums, torch.autograd.grad(loss, params)):
                scale = g.abs().max() / 127 + 1e-30
                s += (g / scale).round().clamp(-127, 127) * scale
        for p, s in zip(params, sums):
            p.grad = s
        finish(task)


def rounds_partial_sums(task):
    """The gradient is rounded through bfloat16 after each micro-batch, and divided before the step."""
    for window, n in windows(task):
        for x, y in window:
            (task.loss_fn(task.model(x), y) * len(y)).backward()
            for p in task.model.parameters():
                p.grad = p.grad.bfloat16().to(p.dtype)
        for p in task.model.parameters():
            p.grad /= n
        finish(task)


def rounds_once(task):
    """The window's gradient is rounded through bfloat16 once, before the step. Right."""
    for window, n in windows(task):
        for x, y in window:
            (task.loss_fn(task.model(x), y) * len(y) / n).backward()
        for p in task.model.parameters():
            p.grad = p.grad.bfloat16().to(p.dtype)
        finish(task)


def loss_in_bf16(task):
    """The loss is cast to bfloat16 before it is divided: only the factor is rounded, the window's own run rounds otherwise."""
    for window, n in windows(task):
        for x, y in window:
            loss = task.loss_fn(task.model(x).bfloat16(), y)
            (loss * len(y) / n).backward()
        finish(task)
