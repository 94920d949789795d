"""Wrong loops, each as a person writes it by mistake, by the finding that names its root cause.

``harness.loops`` has those that are published. What is known of a bug's spread is in the documentation of its finding.
"""

from __future__ import annotations

import random
import time
from itertools import cycle

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from harness.data import unmasked
from harness.loops import early_first_step, published_fix, published_fix_undivided, windows
from harness.task import Loop, Task


def starts_early(task: Task) -> None:
    """The gate is open at batch 0; the last batch of an epoch is taken care of."""
    for _ in range(task.epochs):
        for step, (inputs, targets) in enumerate(task.loader):
            (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
            if step % task.accumulation_steps == 0 or step == len(task.loader) - 1:
                task.optimizer.step()
                task.scheduler.step()
                task.optimizer.zero_grad()


def counts_after_the_gate(task: Task) -> None:
    """A counter over all epochs that is raised after it is asked."""
    seen = 0
    for _ in range(task.epochs):
        for inputs, targets in task.loader:
            task.loss_fn(task.model(inputs), targets).div(task.accumulation_steps).backward()
            if seen % task.accumulation_steps == 0:
                task.optimizer.step()
                task.optimizer.zero_grad(set_to_none=False)
                task.scheduler.step()
            seen += 1


def steps_every_time(task: Task) -> None:
    """The division is there, the gate was forgotten."""
    for _ in range(task.epochs):
        for inputs, targets in task.loader:
            task.optimizer.zero_grad()
            (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
            task.optimizer.step()
            task.scheduler.step()


def gate_without_tail(task: Task) -> None:
    """What is left at the end of an epoch is cleared at the start of the next."""
    for _ in range(task.epochs):
        task.optimizer.zero_grad()
        for step, (inputs, targets) in enumerate(task.loader, start=1):
            (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
            if step % task.accumulation_steps == 0:
                task.optimizer.step()
                task.scheduler.step()
                task.optimizer.zero_grad()


def whole_windows_only(task: Task) -> None:
    """As many updates as fit into an epoch; what does not fill one is never looked at."""
    for _ in range(task.epochs):
        batches = iter(task.loader)
        for _ in range(len(task.loader) // task.accumulation_steps):
            task.optimizer.zero_grad()
            for _ in range(task.accumulation_steps):
                inputs, targets = next(batches)
                (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
            task.optimizer.step()
            task.scheduler.step()


def leaks_into_next_epoch(task: Task) -> None:
    """The gate asks the index within the epoch, and nobody clears what the epoch leaves behind."""
    for _ in range(task.epochs):
        for step, (inputs, targets) in enumerate(task.loader, start=1):
            (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
            if step % task.accumulation_steps == 0:
                task.optimizer.step()
                task.scheduler.step()
                task.optimizer.zero_grad()


def endless_stream(task: Task) -> None:
    """A fixed number of updates from a loader that starts over in the midst of a window."""
    batches = cycle(task.loader)
    for _ in range(task.epochs * len(task.loader) // task.accumulation_steps):
        for _ in range(task.accumulation_steps):
            inputs, targets = next(batches)
            (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
        task.optimizer.step()
        task.scheduler.step()
        task.optimizer.zero_grad()


def splits_tail(task: Task) -> None:
    """Once fewer than k batches are left, each is an update of its own."""
    for _ in range(task.epochs):
        full = len(task.loader) - len(task.loader) % task.accumulation_steps
        for step, (inputs, targets) in enumerate(task.loader, start=1):
            steps = task.accumulation_steps if step <= full else 1
            (task.loss_fn(task.model(inputs), targets) / steps).backward()
            if step % task.accumulation_steps == 0 or step > full:
                task.optimizer.step()
                task.scheduler.step()
                task.optimizer.zero_grad()


def averages_over_k(task: Task) -> None:
    """One backward over the window's losses, added up and divided by k however many they are."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            task.optimizer.zero_grad()
            losses = [task.loss_fn(task.model(inputs), targets) for inputs, targets in window]
            (torch.stack(losses).sum() / task.accumulation_steps).backward()
            task.optimizer.step()
            task.scheduler.step()


def sums_losses(task: Task) -> None:
    """One backward over the sum of the window's losses, which nobody divides."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            losses = [task.loss_fn(task.model(inputs), targets) for inputs, targets in window]
            task.optimizer.zero_grad()
            torch.stack(losses).sum().backward()
            task.optimizer.step()
            task.scheduler.step()


def divides_twice(task: Task) -> None:
    """The loss is divided, and the gradients once more."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            task.optimizer.zero_grad()
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) / len(window)).backward()
            for parameter in task.model.parameters():
                if parameter.grad is not None:
                    parameter.grad /= task.accumulation_steps
            task.optimizer.step()
            task.scheduler.step()


def weighs_and_divides(task: Task) -> None:
    """Each micro-batch has its share already, as in a loss that is given the number of items; then comes ``/ k``."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            task.optimizer.zero_grad()
            for inputs, targets in window:
                loss = F.cross_entropy(task.model(inputs).flatten(0, -2), targets.flatten(), reduction="sum") / items
                (loss / task.accumulation_steps).backward()
            task.optimizer.step()
            task.scheduler.step()


def means_of_means(task: Task) -> None:
    """The mean of the micro-batches' means, by the window's own length."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            task.optimizer.zero_grad()
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) / len(window)).backward()
            task.optimizer.step()
            task.scheduler.step()


def weighs_by_sequences(task: Task) -> None:
    """Micro-batches of tokens, weighed by their number of sequences."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            sequences = sum(len(targets) for _, targets in window)
            task.optimizer.zero_grad()
            for inputs, targets in window:
                logits = task.model(inputs)
                loss = F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1), ignore_index=-100)
                (loss * (len(targets) / sequences)).backward()
            task.optimizer.step()
            task.scheduler.step()


def never_clears(task: Task) -> None:
    """``zero_grad`` was forgotten."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            samples = sum(len(targets) for _, targets in window)
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) * len(targets) / samples).backward()
            task.optimizer.step()
            task.scheduler.step()


def clears_once_an_epoch(task: Task) -> None:
    """``zero_grad`` stands one loop too far out."""
    for _ in range(task.epochs):
        task.optimizer.zero_grad()
        for step, (inputs, targets) in enumerate(task.loader, start=1):
            (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
            if step % task.accumulation_steps == 0 or step == len(task.loader):
                task.optimizer.step()
                task.scheduler.step()


def clears_every_time(task: Task) -> None:
    """``zero_grad`` at the head of the batch loop, as without accumulation."""
    for _ in range(task.epochs):
        for step, (inputs, targets) in enumerate(task.loader, start=1):
            task.optimizer.zero_grad()
            (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
            if step % task.accumulation_steps == 0 or step == len(task.loader):
                task.optimizer.step()
                task.scheduler.step()


def clears_before_step(task: Task) -> None:
    """``zero_grad`` and ``step`` have changed places."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) / len(window)).backward()
            task.optimizer.zero_grad()
            task.optimizer.step()
            task.scheduler.step()


def clips_every_time(task: Task) -> None:
    """Clipping outside of the gate: what has been gathered so far is cut again and again."""
    for _ in range(task.epochs):
        task.optimizer.zero_grad()
        for step, (inputs, targets) in enumerate(task.loader, start=1):
            (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
            nn.utils.clip_grad_norm_(task.model.parameters(), max_norm=1.0)
            if step % task.accumulation_steps == 0 or step == len(task.loader):
                task.optimizer.step()
                task.scheduler.step()
                task.optimizer.zero_grad()


def clips_values_every_time(task: Task) -> None:
    """The same with a limit for each element, in a loop that is right otherwise."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            task.optimizer.zero_grad()
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) * unmasked(targets) / items).backward()
                nn.utils.clip_grad_value_(task.model.parameters(), 0.5)
            task.optimizer.step()
            task.scheduler.step()


def clips_each_gradient(task: Task) -> None:
    """Each micro-batch's gradient is taken, clipped and added up by hand."""
    parameters = list(task.model.parameters())
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            sums = [torch.zeros_like(parameter) for parameter in parameters]
            for inputs, targets in window:
                loss = task.loss_fn(task.model(inputs), targets) * unmasked(targets) / items
                gradients = torch.autograd.grad(loss, parameters)
                norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
                for total, gradient in zip(sums, gradients, strict=True):
                    total.add_(gradient, alpha=min(1.0, 1.0 / float(norm)))
            for parameter, total in zip(parameters, sums, strict=True):
                parameter.grad = total
            task.optimizer.step()
            task.scheduler.step()


def unscales_every_time(task: Task) -> None:
    """``grad /= k`` inside of the batch loop: the first micro-batch is divided k times."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            task.optimizer.zero_grad()
            for inputs, targets in window:
                task.loss_fn(task.model(inputs), targets).backward()
                for parameter in task.model.parameters():
                    if parameter.grad is not None:
                        parameter.grad /= len(window)
            task.optimizer.step()
            task.scheduler.step()


def schedules_every_time(task: Task) -> None:
    """``scheduler.step()`` outside of the gate."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            task.optimizer.zero_grad()
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) * unmasked(targets) / items).backward()
                task.scheduler.step()
            task.optimizer.step()


def schedules_over_micro_batches(task: Task) -> None:
    """A schedule of one's own whose length counts micro-batches instead of updates."""
    total = task.epochs * len(task.loader)
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=3e-4)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / (total + 1))
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            optimizer.zero_grad()
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) * unmasked(targets) / items).backward()
            optimizer.step()
            scheduler.step()


def shuffles_from_the_common_stream(task: Task) -> None:
    """A loader that shuffles from the stream which noise on every micro-batch draws from as well."""
    loader = DataLoader(task.dataset, task.micro_batch_size, shuffle=True)
    for _ in range(task.epochs):
        for window in windows(loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            task.optimizer.zero_grad()
            for inputs, targets in window:
                noise = 0 * torch.randn((), device=task.device)
                ((task.loss_fn(task.model(inputs), targets) + noise) * unmasked(targets) / items).backward()
            task.optimizer.step()
            task.scheduler.step()


def contrasts_within_the_batch(task: Task) -> None:
    """Logits are taken relative to their mean over the micro-batch, as in losses with in-batch negatives."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            task.optimizer.zero_grad()
            for inputs, targets in window:
                logits = task.model(inputs)
                loss = task.loss_fn(logits - logits.mean(dim=0), targets)
                (loss * unmasked(targets) / items).backward()
            task.optimizer.step()
            task.scheduler.step()


def sums_in_half_precision(task: Task) -> None:
    """Gradients are kept in bfloat16 between micro-batches to save memory."""
    parameters = list(task.model.parameters())
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            sums = [torch.zeros_like(parameter, dtype=torch.bfloat16) for parameter in parameters]
            for inputs, targets in window:
                loss = task.loss_fn(task.model(inputs), targets) * unmasked(targets) / items
                for total, gradient in zip(sums, torch.autograd.grad(loss, parameters), strict=True):
                    total.add_(gradient.bfloat16())
            for parameter, total in zip(parameters, sums, strict=True):
                parameter.grad = total.to(parameter.dtype)
            task.optimizer.step()
            task.scheduler.step()


def skips_at_random(task: Task) -> None:
    """Leaves out micro-batches by a random stream that it seeds with the clock."""
    stream = random.Random(time.perf_counter_ns())
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            task.optimizer.zero_grad()
            for inputs, targets in window:
                loss = task.loss_fn(task.model(inputs), targets) / len(window)
                (loss * stream.uniform(0.9, 1.1)).backward()
            task.optimizer.step()
            task.scheduler.step()


def windows_of_k_plus_one(task: Task) -> None:
    """The gate opens when more than k batches have been seen; no finding has that name."""
    seen = 0
    for _ in range(task.epochs):
        for step, (inputs, targets) in enumerate(task.loader, start=1):
            (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
            seen += 1
            if seen > task.accumulation_steps or step == len(task.loader):
                task.optimizer.step()
                task.scheduler.step()
                task.optimizer.zero_grad()
                seen = 0


SAMPLE_BUGS: dict[str, tuple[Loop, ...]] = {
    "early-first-step": (early_first_step, starts_early, counts_after_the_gate),
    "step-per-micro-batch": (steps_every_time,),
    "dropped-tail": (gate_without_tail, whole_windows_only),
    "carried-tail": (leaks_into_next_epoch, endless_stream),
    "split-tail": (splits_tail,),
    "tail-scaled-by-k": (published_fix, averages_over_k),
    "unscaled-loss": (published_fix_undivided, sums_losses),
    "over-scaled-loss": (divides_twice, weighs_and_divides),
    "mean-of-means": (means_of_means,),
    "gradients-not-reset": (never_clears, clears_once_an_epoch),
    "gradients-lost": (clears_every_time, clears_before_step),
    "clipped-per-micro-batch": (clips_every_time, clips_values_every_time, clips_each_gradient, unscales_every_time),
    "scheduler-per-micro-batch": (schedules_every_time, schedules_over_micro_batches),
    "sample-order": (shuffles_from_the_common_stream,),
    "batch-coupled": (contrasts_within_the_batch,),
    "low-precision-accumulation": (sums_in_half_precision,),
    "nondeterministic": (skips_at_random,),
    "unexplained": (windows_of_k_plus_one,),
}
"""Wrong loops for means over samples, by the id of their root cause."""

TOKEN_BUGS: dict[str, tuple[Loop, ...]] = {
    "token-weighting": (means_of_means, weighs_by_sequences),
}
"""Loops that are wrong for means over unmasked tokens only."""
