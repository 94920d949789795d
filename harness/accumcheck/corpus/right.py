"""Right loops, each as a person writes it: all of them equal full-batch training.

They take care of short micro-batches and tails, most of them for means over unmasked tokens as well as over samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from accumcheck.corpus.expectations import right
from accumcheck.corpus.published import windows
from accumcheck.task import Task, unmasked


@right
def one_backward_a_window(task: Task) -> None:
    """Adds up the losses of a window and calls ``backward()`` once."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            task.optimizer.zero_grad()
            losses = [task.loss_fn(task.model(inputs), targets) * unmasked(targets) for inputs, targets in window]
            (torch.stack(losses).sum() / items).backward()
            task.optimizer.step()
            task.scheduler.step()


@right
def listed_batches(task: Task) -> None:
    """Puts all batches into a list; windows are slices of it."""
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


@right
def looks_ahead(task: Task) -> None:
    """Draws one batch ahead to know the last one; divides the gradients by the items before the step."""
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


@right
def takes_gradients(task: Task) -> None:
    """``torch.autograd.grad`` into its own buffers, with its own optimizer and schedule."""
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


@right
def steps_with_closure(task: Task) -> None:
    """Computes the gradient in a closure that it passes to ``optimizer.step``."""
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


@right
def last_backward_inside_step(task: Task) -> None:
    """Calls ``backward()`` for all micro-batches but the last before the step, for the last one in its closure."""
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


@right
def clips_once(task: Task) -> None:
    """Clips the gradient once per step, right before it."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            task.optimizer.zero_grad()
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) * unmasked(targets) / items).backward()
            nn.utils.clip_grad_norm_(task.model.parameters(), max_norm=1.0)
            task.optimizer.step()
            task.scheduler.step()


@right
def scales_losses(task: Task) -> None:
    """Uses a gradient scaler and unscales once before it clips; counts the items in a pass of their own."""
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


@right
def evaluates_between_epochs(task: Task) -> None:
    """Prints the loss over all data before each epoch; changes the learning rate once an epoch."""
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


@right
def joins_micro_batches(task: Task) -> None:
    """One forward pass over the whole window, with the sum as its loss."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            task.optimizer.zero_grad()
            inputs, targets = (torch.cat(parts) for parts in zip(*window, strict=True))
            logits = task.model(inputs)
            F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="sum").backward()
            task.optimizer.step()
            task.scheduler.step()


@right("sample")
def classifies(task: Task) -> None:
    """``nn.CrossEntropyLoss`` on logits (batch, classes), with the accuracy of each epoch."""
    criterion = nn.CrossEntropyLoss()
    for _ in range(task.epochs):
        hits, seen = 0, 0
        for window in windows(task.loader, task.accumulation_steps):
            samples = sum(len(targets) for _, targets in window)
            task.optimizer.zero_grad()
            for inputs, targets in window:
                logits = task.model(inputs)
                (criterion(logits, targets) * len(targets) / samples).backward()
                hits += int((logits.argmax(1) == targets).sum())
                seen += len(targets)
            task.optimizer.step()
            task.scheduler.step()
        print(f"accuracy {hits / seen:.3f}")


@right("sample")
def sums_losses_of_samples(task: Task) -> None:
    """``reduction="none"``, summed and divided by the samples of the window."""
    criterion = nn.CrossEntropyLoss(reduction="none")
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            samples = sum(len(targets) for _, targets in window)
            task.optimizer.zero_grad()
            for inputs, targets in window:
                each = criterion(task.model(inputs), targets)
                (each.sum() / samples).backward()
            task.optimizer.step()
            task.scheduler.step()


@right
def streams_rows(task: Task) -> None:
    """Draws rows from an endless stream; every window is full, and the sum of its losses is divided by N."""
    whole = task.micro_batch_size * task.accumulation_steps
    row = 0
    for _ in range(len(task.dataset) * task.epochs // whole + 1):
        task.optimizer.zero_grad()
        for _ in range(task.accumulation_steps):
            inputs, targets = task.dataset[[(row + i) % len(task.dataset) for i in range(task.micro_batch_size)]]
            row += task.micro_batch_size
            loss = F.cross_entropy(task.model(inputs).flatten(0, -2), targets.flatten(), reduction="sum")
            (loss / whole).backward()
        task.optimizer.step()
        task.scheduler.step()


@right
def drops_the_last_window(task: Task) -> None:
    """Makes n // N steps an epoch, with accumulation or without."""
    full = len(task.dataset) // (task.micro_batch_size * task.accumulation_steps)
    for _ in range(task.epochs):
        for window in islice(windows(task.loader, task.accumulation_steps), full):
            items = sum(unmasked(targets) for _, targets in window)
            task.optimizer.zero_grad()
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) * unmasked(targets) / items).backward()
            task.optimizer.step()
            task.scheduler.step()


@right
def two_passes(task: Task) -> None:
    """Takes the mean loss of two forward passes on each micro-batch."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            task.optimizer.zero_grad()
            for inputs, targets in window:
                loss = 0.5 * (task.loss_fn(task.model(inputs), targets) + task.loss_fn(task.model(inputs), targets))
                (loss * unmasked(targets) / items).backward()
            task.optimizer.step()
            task.scheduler.step()


@right
def trains_biases_only(task: Task) -> None:
    """Trains the biases and freezes all other parameters."""
    for name, parameter in task.model.named_parameters():
        parameter.requires_grad_("bias" in name)
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            task.optimizer.zero_grad()
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) * unmasked(targets) / items).backward()
            task.optimizer.step()
            task.scheduler.step()


@right
def compiles_the_model(task: Task) -> None:
    """Trains the model through ``torch.compile``."""
    model = torch.compile(task.model, backend="eager")
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            task.optimizer.zero_grad()
            for inputs, targets in window:
                (task.loss_fn(model(inputs), targets) * unmasked(targets) / items).backward()
            task.optimizer.step()
            task.scheduler.step()


@right
def stops_after_three_steps(task: Task) -> None:
    """Makes three optimizer steps and returns."""
    steps = 0
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            task.optimizer.zero_grad()
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) * unmasked(targets) / items).backward()
            task.optimizer.step()
            task.scheduler.step()
            steps += 1
            if steps == 3:
                return


@right
def shuffles_with_its_own_seed(task: Task) -> None:
    """Makes a DataLoader that shuffles with a generator of its own."""
    order = torch.Generator().manual_seed(42)
    loader = DataLoader(task.dataset, batch_size=task.micro_batch_size, shuffle=True, generator=order)
    for _ in range(task.epochs):
        for window in windows(loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            task.optimizer.zero_grad()
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) * unmasked(targets) / items).backward()
            task.optimizer.step()
            task.scheduler.step()


@right
def two_optimizers(task: Task) -> None:
    """One optimizer for matrices and one for biases, which step one after the other."""
    parameters = list(task.model.parameters())
    matrices = torch.optim.SGD([parameter for parameter in parameters if parameter.ndim > 1], lr=0.1)
    biases = torch.optim.SGD([parameter for parameter in parameters if parameter.ndim == 1], lr=0.01)
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) * unmasked(targets) / items).backward()
            for optimizer in (matrices, biases):
                optimizer.step()
                optimizer.zero_grad()


@right
def schedules_once_an_epoch(task: Task) -> None:
    """Calls ``scheduler.step()`` once an epoch."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            task.optimizer.zero_grad()
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) * unmasked(targets) / items).backward()
            task.optimizer.step()
        task.scheduler.step()
