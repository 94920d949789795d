"""Wrong loops, each as a person writes it by mistake; its decorator names the root cause.

Those that are published are in ``accumcheck.corpus.published``.
"""

from __future__ import annotations

import random
import time
from itertools import cycle

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from accumcheck.corpus.expectations import BY_K, wrong
from accumcheck.corpus.published import windows
from accumcheck.task import Task, unmasked


@wrong("early-first-step", also=BY_K)
def starts_early(task: Task) -> None:
    """Steps where ``step % k == 0``, which is true at the first batch, and at the last batch of an epoch."""
    for _ in range(task.epochs):
        for step, (inputs, targets) in enumerate(task.loader):
            (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
            if step % task.accumulation_steps == 0 or step == len(task.loader) - 1:
                task.optimizer.step()
                task.scheduler.step()
                task.optimizer.zero_grad()


@wrong("early-first-step", also=("dropped-tail", "carried-tail", *BY_K))
def counts_after_the_gate(task: Task) -> None:
    """Raises its counter of batches after the condition has used it."""
    seen = 0
    for _ in range(task.epochs):
        for inputs, targets in task.loader:
            task.loss_fn(task.model(inputs), targets).div(task.accumulation_steps).backward()
            if seen % task.accumulation_steps == 0:
                task.optimizer.step()
                task.optimizer.zero_grad(set_to_none=False)
                task.scheduler.step()
            seen += 1


@wrong("step-per-micro-batch", also=BY_K)
def steps_every_time(task: Task) -> None:
    """Divides the loss by k, and steps at every micro-batch."""
    for _ in range(task.epochs):
        for inputs, targets in task.loader:
            task.optimizer.zero_grad()
            (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
            task.optimizer.step()
            task.scheduler.step()


@wrong("dropped-tail", token="token-weighting", also=BY_K)
def gate_without_tail(task: Task) -> None:
    """Steps at every k-th batch; what is left at the end of an epoch is cleared at the start of the next."""
    for _ in range(task.epochs):
        task.optimizer.zero_grad()
        for step, (inputs, targets) in enumerate(task.loader, start=1):
            (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
            if step % task.accumulation_steps == 0:
                task.optimizer.step()
                task.scheduler.step()
                task.optimizer.zero_grad()


@wrong("dropped-tail", token="token-weighting", also=BY_K)
def whole_windows_only(task: Task) -> None:
    """Draws as many windows of k batches as fit into an epoch, and leaves out the rest."""
    for _ in range(task.epochs):
        batches = iter(task.loader)
        for _ in range(len(task.loader) // task.accumulation_steps):
            task.optimizer.zero_grad()
            for _ in range(task.accumulation_steps):
                inputs, targets = next(batches)
                (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
            task.optimizer.step()
            task.scheduler.step()


@wrong("carried-tail", token="token-weighting", also=("dropped-tail", *BY_K))
def leaks_into_next_epoch(task: Task) -> None:
    """Steps at every k-th batch of an epoch and keeps the gradients of what is left."""
    for _ in range(task.epochs):
        for step, (inputs, targets) in enumerate(task.loader, start=1):
            (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
            if step % task.accumulation_steps == 0:
                task.optimizer.step()
                task.scheduler.step()
                task.optimizer.zero_grad()


@wrong("carried-tail", token="token-weighting", also=("dropped-tail", *BY_K))
def endless_stream(task: Task) -> None:
    """Draws windows of k batches from a loader that starts again in the middle of a window."""
    batches = cycle(task.loader)
    for _ in range(task.epochs * len(task.loader) // task.accumulation_steps):
        for _ in range(task.accumulation_steps):
            inputs, targets = next(batches)
            (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
        task.optimizer.step()
        task.scheduler.step()
        task.optimizer.zero_grad()


@wrong("split-tail", token="token-weighting", also=BY_K)
def splits_tail(task: Task) -> None:
    """Steps at every batch once fewer than k are left."""
    for _ in range(task.epochs):
        full = len(task.loader) - len(task.loader) % task.accumulation_steps
        for step, (inputs, targets) in enumerate(task.loader, start=1):
            steps = task.accumulation_steps if step <= full else 1
            (task.loss_fn(task.model(inputs), targets) / steps).backward()
            if step % task.accumulation_steps == 0 or step > full:
                task.optimizer.step()
                task.scheduler.step()
                task.optimizer.zero_grad()


@wrong("tail-scaled-by-k", token="token-weighting", also=BY_K)
def averages_over_k(task: Task) -> None:
    """Adds up the losses of a window and divides by k, however many there are."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            task.optimizer.zero_grad()
            losses = [task.loss_fn(task.model(inputs), targets) for inputs, targets in window]
            (torch.stack(losses).sum() / task.accumulation_steps).backward()
            task.optimizer.step()
            task.scheduler.step()


@wrong("unscaled-loss", also=BY_K)
def sums_losses(task: Task) -> None:
    """Adds up the losses of a window and divides by nothing."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            losses = [task.loss_fn(task.model(inputs), targets) for inputs, targets in window]
            task.optimizer.zero_grad()
            torch.stack(losses).sum().backward()
            task.optimizer.step()
            task.scheduler.step()


@wrong("over-scaled-loss", also=BY_K)
def divides_twice(task: Task) -> None:
    """Divides the loss, and then the gradients again."""
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


@wrong("over-scaled-loss")
def weighs_and_divides(task: Task) -> None:
    """Gives each micro-batch its share of the window, and then divides by k."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            task.optimizer.zero_grad()
            for inputs, targets in window:
                loss = F.cross_entropy(task.model(inputs).flatten(0, -2), targets.flatten(), reduction="sum") / items
                (loss / task.accumulation_steps).backward()
            task.optimizer.step()
            task.scheduler.step()


@wrong("mean-of-means", token="token-weighting")
def means_of_means(task: Task) -> None:
    """Divides the mean of each micro-batch by the number of micro-batches in the window."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            task.optimizer.zero_grad()
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) / len(window)).backward()
            task.optimizer.step()
            task.scheduler.step()


@wrong(None, token="token-weighting")
def weighs_by_sequences(task: Task) -> None:
    """Weighs micro-batches of tokens by their number of sequences."""
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


@wrong("gradients-not-reset", also=BY_K)
def never_clears(task: Task) -> None:
    """Never calls ``zero_grad``."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            samples = sum(len(targets) for _, targets in window)
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) * len(targets) / samples).backward()
            task.optimizer.step()
            task.scheduler.step()


@wrong("gradients-not-reset", also=BY_K)
def clears_once_an_epoch(task: Task) -> None:
    """Calls ``zero_grad`` once an epoch."""
    for _ in range(task.epochs):
        task.optimizer.zero_grad()
        for step, (inputs, targets) in enumerate(task.loader, start=1):
            (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
            if step % task.accumulation_steps == 0 or step == len(task.loader):
                task.optimizer.step()
                task.scheduler.step()


@wrong("gradients-lost", also=BY_K)
def clears_every_time(task: Task) -> None:
    """Calls ``zero_grad`` before every micro-batch."""
    for _ in range(task.epochs):
        for step, (inputs, targets) in enumerate(task.loader, start=1):
            task.optimizer.zero_grad()
            (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
            if step % task.accumulation_steps == 0 or step == len(task.loader):
                task.optimizer.step()
                task.scheduler.step()


@wrong("gradients-lost", also=BY_K)
def clears_before_step(task: Task) -> None:
    """Calls ``zero_grad`` right before ``step``."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) / len(window)).backward()
            task.optimizer.zero_grad()
            task.optimizer.step()
            task.scheduler.step()


@wrong("clipped-per-micro-batch", also=BY_K)
def clips_every_time(task: Task) -> None:
    """Clips the gradient after every micro-batch."""
    for _ in range(task.epochs):
        task.optimizer.zero_grad()
        for step, (inputs, targets) in enumerate(task.loader, start=1):
            (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
            nn.utils.clip_grad_norm_(task.model.parameters(), max_norm=1.0)
            if step % task.accumulation_steps == 0 or step == len(task.loader):
                task.optimizer.step()
                task.scheduler.step()
                task.optimizer.zero_grad()


@wrong("clipped-per-micro-batch")
def clips_values_every_time(task: Task) -> None:
    """Clips each element of the gradient after every micro-batch."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            task.optimizer.zero_grad()
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) * unmasked(targets) / items).backward()
                nn.utils.clip_grad_value_(task.model.parameters(), 0.5)
            task.optimizer.step()
            task.scheduler.step()


@wrong("clipped-per-micro-batch")
def clips_each_gradient(task: Task) -> None:
    """Takes the gradient of each micro-batch, clips it, and adds it to a sum."""
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


@wrong("clipped-per-micro-batch", also=BY_K)
def unscales_every_time(task: Task) -> None:
    """Divides the gradient by k after every micro-batch, so that the first one is divided k times."""
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


@wrong("scheduler-per-micro-batch")
def schedules_every_time(task: Task) -> None:
    """Calls ``scheduler.step()`` at every micro-batch."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            task.optimizer.zero_grad()
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) * unmasked(targets) / items).backward()
                task.scheduler.step()
            task.optimizer.step()


@wrong("scheduler-per-micro-batch")
def schedules_over_micro_batches(task: Task) -> None:
    """Makes a schedule whose length is the number of micro-batches, not of steps."""
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


@wrong("sample-order")
def shuffles_from_the_common_stream(task: Task) -> None:
    """Shuffles from the random stream from which every micro-batch draws noise as well."""
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


@wrong("batch-coupled")
def contrasts_within_the_batch(task: Task) -> None:
    """Subtracts the mean over the micro-batch from the logits, as losses with in-batch negatives do."""
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


@wrong("low-precision-accumulation")
def sums_in_half_precision(task: Task) -> None:
    """Keeps the sum of the gradients in bfloat16."""
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


@wrong("nondeterministic")
def skips_at_random(task: Task) -> None:
    """Weighs micro-batches by a random stream that it seeds with the clock."""
    stream = random.Random(time.perf_counter_ns())
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            task.optimizer.zero_grad()
            for inputs, targets in window:
                loss = task.loss_fn(task.model(inputs), targets) / len(window)
                (loss * stream.uniform(0.9, 1.1)).backward()
            task.optimizer.step()
            task.scheduler.step()


@wrong("wrong-window", also=BY_K)
def windows_of_k_plus_one(task: Task) -> None:
    """Steps when more than k batches have been seen, and at the last batch of an epoch."""
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


@wrong("wrong-window")
def counts_from_one_then_zero(task: Task) -> None:
    """Sets its counter back to 0 where it started from 1, so later windows hold k + 1 batches."""
    for _ in range(task.epochs):
        since, items = 1, 0
        for step, (inputs, targets) in enumerate(task.loader, start=1):
            (task.loss_fn(task.model(inputs), targets) * unmasked(targets)).backward()
            items += unmasked(targets)
            if since == task.accumulation_steps or step == len(task.loader):
                for parameter in task.model.parameters():
                    if parameter.grad is not None:
                        parameter.grad /= items
                task.optimizer.step()
                task.scheduler.step()
                task.optimizer.zero_grad()
                since, items = 0, 0
            else:
                since += 1


@wrong("wrong-window")
def windows_of_k_minus_one(task: Task) -> None:
    """Counts the batch at hand twice, so windows hold k - 1 batches."""
    for _ in range(task.epochs):
        waiting: list[tuple[Tensor, ...]] = []
        for step, batch in enumerate(task.loader, start=1):
            waiting.append(batch)
            if len(waiting) + 1 >= task.accumulation_steps or step == len(task.loader):
                items = sum(unmasked(targets) for _, targets in waiting)
                task.optimizer.zero_grad()
                for inputs, targets in waiting:
                    (task.loss_fn(task.model(inputs), targets) * unmasked(targets) / items).backward()
                task.optimizer.step()
                task.scheduler.step()
                waiting = []


@wrong("wrong-window", also=("wrong-scale", *BY_K))
def steps_by_a_constant(task: Task) -> None:
    """Steps at every fourth batch, whatever k is."""
    accumulation_steps = 4
    for _ in range(task.epochs):
        for step, (inputs, targets) in enumerate(task.loader, start=1):
            (task.loss_fn(task.model(inputs), targets) / accumulation_steps).backward()
            if step % accumulation_steps == 0 or step == len(task.loader):
                task.optimizer.step()
                task.scheduler.step()
                task.optimizer.zero_grad()


@wrong("wrong-window")
def steps_once_an_epoch(task: Task) -> None:
    """Has its step one loop too far out, where it runs once an epoch."""
    for _ in range(task.epochs):
        items = sum(unmasked(targets) for _, targets in task.loader)
        task.optimizer.zero_grad()
        for inputs, targets in task.loader:
            (task.loss_fn(task.model(inputs), targets) * unmasked(targets) / items).backward()
        task.optimizer.step()
        task.scheduler.step()


@wrong("wrong-scale", also=BY_K)
def divides_by_a_constant(task: Task) -> None:
    """Divides the loss by eight, whatever k is."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            task.optimizer.zero_grad()
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) / 8).backward()
            task.optimizer.step()
            task.scheduler.step()


@wrong("wrong-scale", also=BY_K)
def divides_by_the_epoch(task: Task) -> None:
    """Divides the loss by the number of batches in an epoch."""
    for _ in range(task.epochs):
        for step, (inputs, targets) in enumerate(task.loader, start=1):
            (task.loss_fn(task.model(inputs), targets) / len(task.loader)).backward()
            if step % task.accumulation_steps == 0 or step == len(task.loader):
                task.optimizer.step()
                task.scheduler.step()
                task.optimizer.zero_grad()


@wrong("wrong-scale", also=BY_K)
def divides_by_k_plus_one(task: Task) -> None:
    """Divides the sum of the losses by a counter that has been raised once too often."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            task.optimizer.zero_grad()
            count, total = 1, torch.zeros((), device=task.device)
            for inputs, targets in window:
                total = total + task.loss_fn(task.model(inputs), targets)
                count += 1
            (total / count).backward()
            task.optimizer.step()
            task.scheduler.step()


@wrong("wrong-scale", also=BY_K)
def divides_by_k_minus_one(task: Task) -> None:
    """Divides the gradients by the last index of the window instead of its length."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            task.optimizer.zero_grad()
            for inputs, targets in window:
                task.loss_fn(task.model(inputs), targets).backward()
            last = max(len(window) - 1, 1)
            for parameter in task.model.parameters():
                if parameter.grad is not None:
                    parameter.grad /= last
            task.optimizer.step()
            task.scheduler.step()


@wrong("wrong-scale", also=BY_K)
def divides_by_the_place(task: Task) -> None:
    """Divides each loss by the number of micro-batches so far: by 1, 2, 3, 4."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            task.optimizer.zero_grad()
            for place, (inputs, targets) in enumerate(window, start=1):
                (task.loss_fn(task.model(inputs), targets) / place).backward()
            task.optimizer.step()
            task.scheduler.step()


@wrong("tail-scaled-by-k", token="token-weighting", also=BY_K)
def averages_two_passes(task: Task) -> None:
    """Takes the mean loss of two forward passes on each micro-batch, divided by k."""
    for _ in range(task.epochs):
        for step, (inputs, targets) in enumerate(task.loader, start=1):
            first = task.loss_fn(task.model(inputs), targets)
            second = task.loss_fn(task.model(inputs), targets)
            ((first + second) / 2 / task.accumulation_steps).backward()
            if step % task.accumulation_steps == 0 or step == len(task.loader):
                task.optimizer.step()
                task.scheduler.step()
                task.optimizer.zero_grad()


@wrong("unscaled-loss", also=BY_K)
def sums_two_passes(task: Task) -> None:
    """Calls ``backward()`` for half the loss of two forward passes on each micro-batch, and divides by nothing else."""
    for _ in range(task.epochs):
        for step, (inputs, targets) in enumerate(task.loader, start=1):
            for _ in range(2):
                (0.5 * task.loss_fn(task.model(inputs), targets)).backward()
            if step % task.accumulation_steps == 0 or step == len(task.loader):
                task.optimizer.step()
                task.scheduler.step()
                task.optimizer.zero_grad()


@wrong("tail-scaled-by-k", token="token-weighting", also=BY_K)
def forgets_the_epochs(task: Task) -> None:
    """Runs over the data once; the loss is divided by k in tails too."""
    for step, (inputs, targets) in enumerate(task.loader, start=1):
        (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
        if step % task.accumulation_steps == 0 or step == len(task.loader):
            task.optimizer.step()
            task.scheduler.step()
            task.optimizer.zero_grad()


@wrong("carried-tail", token="token-weighting")
def weighs_by_the_whole_batch(task: Task) -> None:
    """Gives every sample the weight 1/N, and counts micro-batches over all epochs."""
    seen, whole = 0, task.micro_batch_size * task.accumulation_steps
    for _ in range(task.epochs):
        for inputs, targets in task.loader:
            (task.loss_fn(task.model(inputs), targets) * len(targets) / whole).backward()
            seen += 1
            if seen % task.accumulation_steps == 0:
                task.optimizer.step()
                task.scheduler.step()
                task.optimizer.zero_grad()


@wrong("carried-tail", token="token-weighting", also=BY_K)
def runs_on_over_epochs(task: Task) -> None:
    """Counts micro-batches over all epochs, steps at the last of them, and moves the schedule once an epoch."""
    seen, total = 0, task.epochs * len(task.loader)
    for _ in range(task.epochs):
        for inputs, targets in task.loader:
            rest = total % task.accumulation_steps
            length = task.accumulation_steps if seen < total - rest else rest
            (task.loss_fn(task.model(inputs), targets) / length).backward()
            seen += 1
            if seen % task.accumulation_steps == 0 or seen == total:
                task.optimizer.step()
                task.optimizer.zero_grad()
        task.scheduler.step()


@wrong("dropped-tail", token="token-weighting", also=BY_K)
def steps_when_the_next_begins(task: Task) -> None:
    """Steps before the first batch of the next window, so the last window of an epoch has no step."""
    for _ in range(task.epochs):
        task.optimizer.zero_grad()
        for step, (inputs, targets) in enumerate(task.loader):
            if step > 0 and step % task.accumulation_steps == 0:
                task.optimizer.step()
                task.scheduler.step()
                task.optimizer.zero_grad()
            (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()


@wrong("dropped-tail")
def skips_short_batches(task: Task) -> None:
    """Leaves out micro-batches that are not full."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            task.optimizer.zero_grad()
            for inputs, targets in window:
                if len(targets) == task.micro_batch_size:
                    (task.loss_fn(task.model(inputs), targets) * unmasked(targets) / items).backward()
            task.optimizer.step()
            task.scheduler.step()


@wrong("early-first-step", also=("dropped-tail", *BY_K))
def averages_its_list_early(task: Task) -> None:
    """Collects losses, and steps with the mean of the list where ``step % k == 0``."""
    for _ in range(task.epochs):
        losses: list[Tensor] = []
        for step, (inputs, targets) in enumerate(task.loader):
            losses.append(task.loss_fn(task.model(inputs), targets))
            if step % task.accumulation_steps == 0:
                task.optimizer.zero_grad()
                torch.stack(losses).mean().backward()
                task.optimizer.step()
                task.scheduler.step()
                losses = []


@wrong("mean-of-means")
def divides_by_sequences(task: Task) -> None:
    """Divides the sum over tokens by the sequences of the micro-batch, then by the length of the window."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            task.optimizer.zero_grad()
            for inputs, targets in window:
                logits = task.model(inputs).flatten(0, -2)
                loss = F.cross_entropy(logits, targets.flatten(), reduction="sum") / len(targets)
                (loss / len(window)).backward()
            task.optimizer.step()
            task.scheduler.step()


@wrong("gradients-not-reset")
def never_clears_biases(task: Task) -> None:
    """Clears the gradients of matrices only."""
    matrices = [parameter for parameter in task.model.parameters() if parameter.ndim > 1]
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            for parameter in matrices:
                parameter.grad = None
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) * unmasked(targets) / items).backward()
            task.optimizer.step()
            task.scheduler.step()


@wrong("gradients-not-reset")
def divides_and_never_clears(task: Task) -> None:
    """Divides the gradients by the items of the window before each step, and never clears them."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = 0
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) * unmasked(targets)).backward()
                items += unmasked(targets)
            for parameter in task.model.parameters():
                if parameter.grad is not None:
                    parameter.grad /= items
            task.optimizer.step()
            task.scheduler.step()


@wrong("step-per-micro-batch")
def steps_biases_every_time(task: Task) -> None:
    """Has an optimizer of its own for biases, which steps at every micro-batch."""
    parameters = list(task.model.parameters())
    matrices = torch.optim.SGD([parameter for parameter in parameters if parameter.ndim > 1], lr=0.1)
    biases = torch.optim.SGD([parameter for parameter in parameters if parameter.ndim == 1], lr=0.1)
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) * unmasked(targets) / items).backward()
                biases.step()
                biases.zero_grad()
            matrices.step()
            matrices.zero_grad()


@wrong("scheduler-per-micro-batch")
def divides_the_rate_of_biases(task: Task) -> None:
    """Divides the learning rate of its second parameter group by k."""
    parameters = list(task.model.parameters())
    optimizer = torch.optim.SGD([parameter for parameter in parameters if parameter.ndim > 1], lr=0.1)
    biases = [parameter for parameter in parameters if parameter.ndim == 1]
    optimizer.add_param_group({"params": biases, "lr": 0.1 / task.accumulation_steps})
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            optimizer.zero_grad()
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) * unmasked(targets) / items).backward()
            optimizer.step()


@wrong("scheduler-per-micro-batch")
def lowers_momentum_every_time(task: Task) -> None:
    """Lowers the momentum at every micro-batch."""
    optimizer = torch.optim.SGD(task.model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            optimizer.zero_grad()
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) * unmasked(targets) / items).backward()
                optimizer.param_groups[0]["momentum"] *= 0.99
            optimizer.step()


@wrong("low-precision-accumulation")
def sums_undivided_in_half_precision(task: Task) -> None:
    """Keeps the sum of the undivided gradients in bfloat16, and divides it before the step."""
    parameters = list(task.model.parameters())
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = 0
            sums = [torch.zeros_like(parameter, dtype=torch.bfloat16) for parameter in parameters]
            for inputs, targets in window:
                loss = task.loss_fn(task.model(inputs), targets) * unmasked(targets)
                for total, gradient in zip(sums, torch.autograd.grad(loss, parameters), strict=True):
                    total.add_(gradient)
                items += unmasked(targets)
            for parameter, total in zip(parameters, sums, strict=True):
                parameter.grad = total.to(parameter.dtype) / items
            task.optimizer.step()
            task.scheduler.step()
