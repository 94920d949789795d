"""Correct loops in the styles that people write: all of them equal the full batch, and none may raise an alarm.

Each takes care of short micro-batches and tails, for means over unmasked tokens as well as over samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.data import unmasked
from harness.loops import windows
from harness.task import Loop, Task


def one_backward_a_window(task: Task) -> None:
    """The window's losses are added up, and differentiated at once."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            task.optimizer.zero_grad()
            losses = [task.loss_fn(task.model(inputs), targets) * unmasked(targets) for inputs, targets in window]
            (torch.stack(losses).sum() / items).backward()
            task.optimizer.step()
            task.scheduler.step()


def listed_batches(task: Task) -> None:
    """All batches in a list, made once; windows are slices of it."""
    batches = list(task.loader)
    for _ in range(task.epochs):
        for start in range(0, len(batches), task.accumulation_steps):
            window = batches[start : start + task.accumulation_steps]
            items = sum((targets != -100).sum() for _, targets in window)
            for inputs, targets in window:
                logits = task.model(inputs)
                loss = F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1), reduction="sum")
                (loss / items).backward()
            task.optimizer.step()
            task.scheduler.step()
            task.optimizer.zero_grad(set_to_none=False)


def looks_ahead(task: Task) -> None:
    """Knows that a batch is the last one, because it has drawn the next already; gradients are scaled at the end."""
    for _ in range(task.epochs):
        items, gathered = 0, 0
        for (inputs, targets), last in _with_last(task.loader):
            (task.loss_fn(task.model(inputs), targets) * unmasked(targets)).backward()
            items += unmasked(targets)
            gathered += 1
            if gathered == task.accumulation_steps or last:
                for parameter in task.model.parameters():
                    if parameter.grad is not None:
                        parameter.grad.div_(items)
                task.optimizer.step()
                task.scheduler.step()
                task.optimizer.zero_grad()
                items, gathered = 0, 0


def _with_last(batches: object) -> Iterator[tuple[tuple[Tensor, ...], bool]]:
    source = iter(batches)  # type: ignore[call-overload]
    current = next(source, None)
    while current is not None:
        following = next(source, None)
        yield current, following is None
        current = following


def takes_gradients(task: Task) -> None:
    """``torch.autograd.grad`` into buffers of one's own, an optimizer and a schedule of one's own."""
    parameters = list(task.model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            sums = [torch.zeros_like(parameter) for parameter in parameters]
            for inputs, targets in window:
                loss = task.loss_fn(task.model(inputs), targets) * (unmasked(targets) / items)
                for total, gradient in zip(sums, torch.autograd.grad(loss, parameters), strict=True):
                    total.add_(gradient)
            for parameter, total in zip(parameters, sums, strict=True):
                parameter.grad = total
            optimizer.step()
            scheduler.step()


def steps_with_closure(task: Task) -> None:
    """The gradient is computed inside of ``optimizer.step``, as several libraries do."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):

            def closure(window: list[tuple[Tensor, ...]] = window) -> float:
                items = sum(unmasked(targets) for _, targets in window)
                task.optimizer.zero_grad()
                total = 0.0
                for inputs, targets in window:
                    loss = task.loss_fn(task.model(inputs), targets) * unmasked(targets) / items
                    loss.backward()
                    total += loss.item()
                return total

            task.optimizer.step(closure)
            task.scheduler.step()


def last_backward_inside_step(task: Task) -> None:
    """All but the last micro-batch go before ``step``, the last one into its closure."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            task.optimizer.zero_grad()

            def backward(batch: tuple[Tensor, ...], items: int = items) -> Tensor:
                inputs, targets = batch
                loss = task.loss_fn(task.model(inputs), targets) * unmasked(targets) / items
                loss.backward()
                return loss

            for batch in window[:-1]:
                backward(batch)
            task.optimizer.step(partial(_value, backward, window[-1]))
            task.scheduler.step()


def _value(backward: Callable[[tuple[Tensor, ...]], Tensor], batch: tuple[Tensor, ...]) -> float:
    return backward(batch).item()


def clips_once(task: Task) -> None:
    """Clips what the optimizer sees, once per update; not the full batch's plain gradient, but its clipped one."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            task.optimizer.zero_grad()
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) * unmasked(targets) / items).backward()
            nn.utils.clip_grad_norm_(task.model.parameters(), max_norm=1.0)
            task.optimizer.step()
            task.scheduler.step()


def scales_losses(task: Task) -> None:
    """A gradient scaler, unscaled once before clipping; the number of items is counted in a pass of its own."""
    scaler = torch.amp.GradScaler(task.device.type, enabled=True)
    for _ in range(task.epochs):
        counts = [unmasked(targets) for _, targets in task.loader]
        items = [sum(counts[i : i + task.accumulation_steps]) for i in range(0, len(counts), task.accumulation_steps)]
        for step, (inputs, targets) in enumerate(task.loader):
            with torch.autocast(task.device.type, torch.bfloat16):
                loss = task.loss_fn(task.model(inputs), targets)
            scaler.scale(loss * counts[step] / items[step // task.accumulation_steps]).backward()
            if (step + 1) % task.accumulation_steps == 0 or step + 1 == len(task.loader):
                scaler.unscale_(task.optimizer)
                nn.utils.clip_grad_value_(task.model.parameters(), 1.0)
                scaler.step(task.optimizer)
                scaler.update()
                task.scheduler.step()
                task.optimizer.zero_grad()


def evaluates_between_epochs(task: Task) -> None:
    """Measures the loss over all data before each epoch; the learning rate changes once an epoch; prints."""
    for epoch in range(task.epochs):
        task.model.eval()
        with torch.no_grad():
            total = sum(task.loss_fn(task.model(inputs), targets).item() for inputs, targets in task.loader)
        print(f"epoch {epoch}: {total}")
        task.model.train()
        batches = iter(task.loader)
        while window := list(islice(batches, task.accumulation_steps)):
            items = sum(unmasked(targets) for _, targets in window)
            for place, (inputs, targets) in enumerate(window):
                with nullcontext():  # where data-parallel loops write model.no_sync()
                    (task.loss_fn(task.model(inputs), targets) * unmasked(targets) / items).backward()
                if place == len(window) - 1:
                    task.optimizer.step()
                    task.optimizer.zero_grad()
        task.scheduler.step()


def joins_micro_batches(task: Task) -> None:
    """One forward pass over the whole window, summed in place of averaged: another loss, and the same in both runs."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            task.optimizer.zero_grad()
            inputs, targets = (torch.cat(parts) for parts in zip(*window, strict=True))
            logits = task.model(inputs)
            F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="sum").backward()
            task.optimizer.step()
            task.scheduler.step()


STYLES: dict[str, Loop] = {
    loop.__name__: loop
    for loop in (
        one_backward_a_window,
        listed_batches,
        looks_ahead,
        takes_gradients,
        steps_with_closure,
        last_backward_inside_step,
        clips_once,
        scales_losses,
        evaluates_between_epochs,
        joins_micro_batches,
    )
}
