"""Wrong loops for bugs that people reported, each in the style of the code in which it was found.

``accumcheck.corpus.catalogue`` names the reports. Bugs that ``accumcheck.corpus.wrong``, ``published`` or ``parallel``
show already are not repeated here.
"""

from __future__ import annotations

from collections import deque
from copy import deepcopy
from functools import partial
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from accumcheck.corpus.expectations import BY_K, right, wrong
from accumcheck.corpus.published import windows
from accumcheck.task import IGNORE_INDEX, Task, unmasked

# --- when the optimizer steps


@wrong("wrong-window", also=("dropped-tail", "carried-tail", *BY_K))
def first_batch_steps_too(task: Task) -> None:
    """Has an extra step at the first micro-batch: ``i == 0 or (i + 1) % k == 0``."""
    for _ in range(task.epochs):
        for i, (inputs, targets) in enumerate(task.loader):
            (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
            if i == 0 or (i + 1) % task.accumulation_steps == 0:
                task.optimizer.step()
                task.optimizer.zero_grad()
                task.scheduler.step()


@wrong("early-first-step", also=("dropped-tail", "carried-tail", *BY_K))
def queue_starts_with_a_step(task: Task) -> None:
    """Queues before each micro-batch whether to skip its step; the queue holds one entry too many from the start."""
    skips, seen = deque([False]), 0
    for _ in range(task.epochs):
        for inputs, targets in task.loader:
            seen += 1
            skips.append(seen % task.accumulation_steps != 0)
            (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
            if not skips.popleft():
                task.optimizer.step()
                task.optimizer.zero_grad()
                task.scheduler.step()


@wrong("wrong-window", also=("dropped-tail", "carried-tail", *BY_K))
def counts_from_one_and_adds_one(task: Task) -> None:
    """Counts from one, and adds one in the condition as well, so the first window is one short."""
    task.optimizer.zero_grad()
    for _ in range(task.epochs):
        for step, (inputs, targets) in enumerate(task.loader, start=1):
            (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
            if (step + 1) % task.accumulation_steps == 0:
                task.optimizer.step()
                task.optimizer.zero_grad()
                task.scheduler.step()


@wrong("wrong-window", also=("dropped-tail", "carried-tail", *BY_K))
def steps_at_all_but_the_boundary(task: Task) -> None:
    """Has its condition the wrong way round: ``if (i + 1) % k`` is true at every micro-batch but the k-th."""
    for _ in range(task.epochs):
        for i, (inputs, targets) in enumerate(task.loader):
            (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
            if (i + 1) % task.accumulation_steps:
                task.optimizer.step()
                task.optimizer.zero_grad()
                task.scheduler.step()


@wrong("step-per-micro-batch", also=BY_K)
def synchronises_and_steps(task: Task) -> None:
    """Has one flag for two questions: to exchange gradients at every micro-batch also makes it step at every one."""
    sync_each_batch = True
    for _ in range(task.epochs):
        for i, (inputs, targets) in enumerate(task.loader, start=1):
            sync_gradients = sync_each_batch or i % task.accumulation_steps == 0 or i == len(task.loader)
            (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
            if sync_gradients:
                task.optimizer.step()
                task.optimizer.zero_grad()
                task.scheduler.step()


@wrong("carried-tail", token="token-weighting", also=BY_K)
def flushes_only_short_epochs(task: Task) -> None:
    """Steps at the last micro-batch only if an epoch has no more than k of them."""
    for _ in range(task.epochs):
        length = len(task.loader)
        for i, (inputs, targets) in enumerate(task.loader):
            (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
            last_of_a_short_epoch = length <= task.accumulation_steps and i + 1 == length
            if (i + 1) % task.accumulation_steps == 0 or last_of_a_short_epoch:
                task.optimizer.step()
                task.optimizer.zero_grad()
                task.scheduler.step()


@wrong("carried-tail", token="token-weighting", also=("dropped-tail", *BY_K))
def counts_anew_each_epoch(task: Task) -> None:
    """Starts its counter at zero in each epoch, so an epoch of fewer than k micro-batches never steps."""
    for _ in range(task.epochs):
        step = 0
        for inputs, targets in task.loader:
            (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
            step += 1
            if step == task.accumulation_steps:
                task.optimizer.step()
                task.scheduler.step()
                task.model.zero_grad()
                step = 0


@wrong(None, token="token-weighting", also=BY_K)
def steps_by_samples_seen(task: Task) -> None:
    """Steps when N samples have been seen; what an epoch has left over never gets there."""
    for _ in range(task.epochs):
        task.optimizer.zero_grad()
        seen = 0
        for inputs, targets in task.loader:
            (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
            seen += len(targets)
            if seen >= task.micro_batch_size * task.accumulation_steps:
                task.optimizer.step()
                task.scheduler.step()
                task.optimizer.zero_grad()
                seen = 0


@wrong("scheduler-per-micro-batch", also=("dropped-tail", *BY_K))
def discards_the_rest_and_hurries(task: Task) -> None:
    """Takes the learning rate's next value at every micro-batch, and discards the last window if it is short."""
    parameters = list(task.model.parameters())
    for _ in range(task.epochs):
        sums = [torch.zeros_like(parameter) for parameter in parameters]
        gathered = 0
        for inputs, targets in task.loader:
            loss = task.loss_fn(task.model(inputs), targets) / task.accumulation_steps
            for total, gradient in zip(sums, torch.autograd.grad(loss, parameters), strict=True):
                total.add_(gradient)
            gathered += 1
            if gathered == task.accumulation_steps:
                for parameter, total in zip(parameters, sums, strict=True):
                    parameter.grad = total
                task.optimizer.step()
                sums = [torch.zeros_like(parameter) for parameter in parameters]
                gathered = 0
            task.scheduler.step()


@wrong("dropped-tail", token="token-weighting", also=BY_K)
def clears_at_each_epoch(task: Task) -> None:
    """Counts micro-batches over epochs, but clears gradients at the start of each epoch too."""
    seen = last_step = 0
    for _ in range(task.epochs):
        task.optimizer.zero_grad()
        for inputs, targets in task.loader:
            (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
            seen += 1
            if seen - last_step >= task.accumulation_steps:
                task.optimizer.step()
                task.optimizer.zero_grad()
                task.scheduler.step()
                last_step = seen


@wrong("dropped-tail", also=("wrong-window", *BY_K))
def takes_the_rest_of_the_samples(task: Task) -> None:
    """Draws ``n % k`` micro-batches for the last update of an epoch, where it is the loader's length that counts."""
    k, length = task.accumulation_steps, len(task.loader)
    rest = len(task.dataset) % k or k
    updates = length // k + (k > 1)
    for _ in range(task.epochs):
        batches = iter(task.loader)
        for update in range(updates):
            window = list(islice(batches, k if update < updates - 1 else rest))
            if not window:
                continue
            items = sum(unmasked(targets) for _, targets in window)
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) * unmasked(targets) / items).backward()
            task.optimizer.step()
            task.optimizer.zero_grad()
            task.scheduler.step()


@wrong("wrong-window", also=("wrong-scale", *BY_K))
def forgets_the_other_nodes(task: Task) -> None:
    """Divides the global batch by the devices of one node, so that windows on two nodes are twice as long."""
    devices, nodes = 1, 2
    global_batch = task.micro_batch_size * task.accumulation_steps * nodes
    steps = global_batch // devices // task.micro_batch_size
    for _ in range(task.epochs):
        for i, (inputs, targets) in enumerate(task.loader):
            (task.loss_fn(task.model(inputs), targets) / steps).backward()
            if (i + 1) % steps == 0 or i + 1 == len(task.loader):
                task.optimizer.step()
                task.optimizer.zero_grad()
                task.scheduler.step()


@right
def last_batch_always_steps(task: Task) -> None:
    """Steps at the last micro-batch of every epoch, so an epoch shorter than k makes a step of its own."""
    for _ in range(task.epochs):
        waiting: list[tuple[Tensor, ...]] = []
        for i, batch in enumerate(task.loader, start=1):
            waiting.append(batch)
            is_last_batch = i == len(task.loader)
            if i % task.accumulation_steps == 0 or is_last_batch:
                items = sum(unmasked(targets) for _, targets in waiting)
                for inputs, targets in waiting:
                    (task.loss_fn(task.model(inputs), targets) * unmasked(targets) / items).backward()
                task.optimizer.step()
                task.optimizer.zero_grad()
                task.scheduler.step()
                waiting = []


# --- what the loss is divided by


@wrong("unscaled-loss", also=BY_K)
def divides_only_what_it_reports(task: Task) -> None:
    """Calls ``backward()`` with the whole loss, and divides only the number that it prints."""
    for _ in range(task.epochs):
        reported = 0.0
        for i, (inputs, targets) in enumerate(task.loader):
            loss = task.loss_fn(task.model(inputs), targets)
            loss.backward()
            reported += float(loss.detach()) / task.accumulation_steps
            if (i + 1) % task.accumulation_steps == 0 or i + 1 == len(task.loader):
                print(f"loss {reported:.4f}")
                reported = 0.0
                task.optimizer.step()
                task.optimizer.zero_grad()
                task.scheduler.step()


@wrong("unscaled-loss", also=BY_K)
def multiplies_back(task: Task) -> None:
    """Multiplies the loss by k to cancel a division, though the model has not been told how many items there are."""
    takes_count = False  # the model's forward has no argument for it
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            for inputs, targets in window:
                loss = task.loss_fn(task.model(inputs), targets)
                if takes_count:
                    loss = loss * unmasked(targets) / items
                loss = loss * task.accumulation_steps
                (loss / task.accumulation_steps).backward()
            task.optimizer.step()
            task.optimizer.zero_grad()
            task.scheduler.step()


@wrong("unscaled-loss", also=BY_K)
def head_drops_the_count(task: Task) -> None:
    """Passes the items of the window to a head that accepts any keyword and uses none."""

    def head(outputs: Tensor, targets: Tensor, **kwargs: int) -> Tensor:
        return task.loss_fn(outputs, targets)

    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            for inputs, targets in window:
                head(task.model(inputs), targets, num_items_in_batch=items).backward()
            task.optimizer.step()
            task.optimizer.zero_grad()
            task.scheduler.step()


@wrong("unscaled-loss", also=("carried-tail", *BY_K))
def sums_until_enough_samples(task: Task) -> None:
    """A callback that cancels the step until N samples have been seen, and never divides the gradients."""
    count = 0
    for _ in range(task.epochs):
        for inputs, targets in task.loader:
            task.loss_fn(task.model(inputs), targets).backward()
            count += len(targets)
            if count < task.micro_batch_size * task.accumulation_steps:
                continue
            task.optimizer.step()
            task.optimizer.zero_grad()
            task.scheduler.step()
            count = 0


@wrong("unscaled-loss", also=BY_K)
def slices_and_sums(task: Task) -> None:
    """Cuts each large batch into slices and adds the gradients of their means."""
    b = task.micro_batch_size
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            batch, labels = (torch.cat(parts) for parts in zip(*window, strict=True))
            task.optimizer.zero_grad()
            for start in range(0, len(batch), b):
                losses = task.loss_fn(task.model(batch[start : start + b]), labels[start : start + b])
                losses.mean().backward()
            task.optimizer.step()
            task.scheduler.step()


@wrong("over-scaled-loss", also=BY_K)
def wrapper_divides_again(task: Task) -> None:
    """Divides the loss by k, and calls a wrapper's ``backward``, which divides by k as well."""

    class Accelerator:
        def backward(self, loss: Tensor) -> None:
            (loss / task.accumulation_steps).backward()

    accelerator = Accelerator()
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            for inputs, targets in window:
                loss = task.loss_fn(task.model(inputs), targets) / task.accumulation_steps
                accelerator.backward(loss)
            task.optimizer.step()
            task.optimizer.zero_grad()
            task.scheduler.step()


@wrong("over-scaled-loss")
def chunks_and_divides(task: Task) -> None:
    """Sums the loss in chunks, divides it by the items of the window, and then by k as well."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            for inputs, targets in window:
                logits = task.model(inputs).flatten(0, -2)
                pieces = zip(logits.split(4), targets.flatten().split(4), strict=True)
                sums = [F.cross_entropy(part, labels, reduction="sum") for part, labels in pieces]
                (torch.stack(sums).sum() / items / task.accumulation_steps).backward()
            task.optimizer.step()
            task.optimizer.zero_grad()
            task.scheduler.step()


@wrong("tail-scaled-by-k", token="token-weighting", also=BY_K)
def counts_tokens_to_report(task: Task) -> None:
    """Counts the tokens of the window for its speed, and divides the mean of each micro-batch by k."""
    tokens = 0
    for _ in range(task.epochs):
        for i, (inputs, targets) in enumerate(task.loader):
            tokens += unmasked(targets)
            loss = task.loss_fn(task.model(inputs), targets) / task.accumulation_steps
            loss.backward()
            if (i + 1) % task.accumulation_steps == 0 or i + 1 == len(task.loader):
                print(f"{tokens} tokens in this step")
                tokens = 0
                task.optimizer.step()
                task.optimizer.zero_grad(set_to_none=True)
                task.scheduler.step()


@wrong("dropped-tail", token="token-weighting", also=BY_K)
def averages_gradients_of_means(task: Task) -> None:
    """Adds up the gradients of token means, divides them by k, and drops what is left at the end of an epoch."""
    parameters = list(task.model.parameters())
    for _ in range(task.epochs):
        total: list[Tensor] | None = None
        for it, (inputs, targets) in enumerate(task.loader, start=1):
            gradients = torch.autograd.grad(task.loss_fn(task.model(inputs), targets), parameters)
            total = list(gradients) if total is None else [a + b for a, b in zip(total, gradients, strict=True)]
            if it % task.accumulation_steps == 0:
                for parameter, gradient in zip(parameters, total, strict=True):
                    parameter.grad = gradient / task.accumulation_steps
                task.optimizer.step()
                task.scheduler.step()
                total = None


@wrong("mean-of-means", token="token-weighting")
def own_loss_ignores_the_count(task: Task) -> None:
    """Has a loss of its own, a mean over its mask, that takes the items of the window and does not use them."""

    def masked_mean(logits: Tensor, labels: Tensor, num_items: int | None = None) -> Tensor:
        mask = (labels != IGNORE_INDEX).to(logits.dtype)
        each = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none").view(labels.shape)
        return (each * mask).sum() / mask.sum()

    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            for inputs, targets in window:
                (masked_mean(task.model(inputs), targets, items) / len(window)).backward()
            task.optimizer.step()
            task.optimizer.zero_grad()
            task.scheduler.step()


@wrong("mean-of-means", token="token-weighting")
def averages_its_accumulators(task: Task) -> None:
    """Averages what its accumulators got from each micro-batch, as if all micro-batches were of one size."""
    parameters = list(task.model.parameters())
    for _ in range(task.epochs):
        accumulators = [torch.zeros_like(parameter) for parameter in parameters]
        steps = 0
        for i, (inputs, targets) in enumerate(task.loader, start=1):
            gradients = torch.autograd.grad(task.loss_fn(task.model(inputs), targets), parameters)
            torch._foreach_add_(accumulators, gradients)
            steps += 1
            if steps == task.accumulation_steps or i == len(task.loader):
                for parameter, accumulator in zip(parameters, accumulators, strict=True):
                    parameter.grad = accumulator / steps
                    accumulator.zero_()
                task.optimizer.step()
                task.scheduler.step()
                steps = 0


@right
def normalises_by_sentences(task: Task) -> None:
    """Divides the sum over tokens by the sentences of the window, though it was asked to divide by tokens."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            normalization = sum(len(targets) for _, targets in window)
            task.model.zero_grad()
            for inputs, targets in window:
                logits = task.model(inputs).flatten(0, -2)
                loss = F.cross_entropy(logits, targets.flatten(), reduction="sum")
                loss.div(normalization).backward()
            task.optimizer.step()
            task.scheduler.step()


@right
def counts_labels_before_the_shift(task: Task) -> None:
    """Counts the labels of whole sequences, of which the loss never sees the first."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            if window[0][1].dim() == 1:  # a class for each sample: nothing is shifted
                items = sum(len(targets) for _, targets in window)
            else:
                labels = [torch.cat([inputs[:, :1], targets], dim=1) for inputs, targets in window]
                items = sum(int((each != IGNORE_INDEX).sum()) for each in labels)
            for inputs, targets in window:
                logits = task.model(inputs).flatten(0, -2)
                loss = F.cross_entropy(logits, targets.flatten(), reduction="sum")
                (loss / items).backward()
            task.optimizer.step()
            task.optimizer.zero_grad()
            task.scheduler.step()


@wrong("wrong-scale", also=BY_K)
def adds_a_term_undivided(task: Task) -> None:
    """Divides the main loss by k, and adds the auxiliary loss of each micro-batch as it is."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            for inputs, targets in window:
                outputs = task.model(inputs)
                auxiliary = 0.1 * torch.logsumexp(outputs, dim=-1).mean()
                (task.loss_fn(outputs, targets) / task.accumulation_steps + auxiliary).backward()
            task.optimizer.step()
            task.optimizer.zero_grad()
            task.scheduler.step()


# --- what is lost or kept


@wrong("gradients-lost", also=BY_K)
def wrapped_zero_grad_at_start(task: Task) -> None:
    """Calls a wrapped ``zero_grad`` first, which does nothing but at the micro-batch that steps."""
    for _ in range(task.epochs):
        for i, (inputs, targets) in enumerate(task.loader, start=1):
            sync_gradients = i % task.accumulation_steps == 0 or i == len(task.loader)
            if sync_gradients:
                task.optimizer.zero_grad()
            (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
            if sync_gradients:
                task.optimizer.step()
                task.scheduler.step()


@wrong("gradients-lost", also=BY_K)
def clears_in_forward_backward(task: Task) -> None:
    """Clears gradients in the function that runs the model, which is called for each micro-batch."""

    def forward_backward(inputs: Tensor, targets: Tensor) -> Tensor:
        task.optimizer.zero_grad()
        loss = task.loss_fn(task.model(inputs), targets)
        (loss / task.accumulation_steps).backward()
        return loss.detach()

    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            for inputs, targets in window:
                forward_backward(inputs, targets)
            task.optimizer.step()
            task.scheduler.step()


@wrong("gradients-lost", also=("early-first-step", "dropped-tail", *BY_K))
def starts_an_update_behind_the_first(task: Task) -> None:
    """Starts an update, which clears the gradients, behind the backward pass of a window's first micro-batch."""
    for _ in range(task.epochs):
        for i, (inputs, targets) in enumerate(task.loader):
            (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
            if i % task.accumulation_steps == 0:
                task.optimizer.zero_grad()
            if (i + 1) % task.accumulation_steps == 0 or i + 1 == len(task.loader):
                task.optimizer.step()
                task.scheduler.step()


@wrong("gradients-lost", also=("dropped-tail", *BY_K))
def validates_within_a_window(task: Task) -> None:
    """Clears gradients when it validates, which it does at every third micro-batch."""
    for _ in range(task.epochs):
        for i, (inputs, targets) in enumerate(task.loader, start=1):
            (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
            if i % task.accumulation_steps == 0 or i == len(task.loader):
                task.optimizer.step()
                task.optimizer.zero_grad()
                task.scheduler.step()
            if i % 3 == 0:
                task.model.zero_grad()
                with torch.no_grad():
                    print(f"validation loss {task.loss_fn(task.model(inputs), targets):.4f}")


@wrong("gradients-lost", also=BY_K)
def keeps_the_last_backward(task: Task) -> None:
    """An engine that was set up for one micro-batch a step: each backward pass takes the place of the one before."""
    parameters = list(task.model.parameters())
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            buffers: list[Tensor] = []
            for inputs, targets in window:
                loss = task.loss_fn(task.model(inputs), targets) / task.accumulation_steps
                buffers = list(torch.autograd.grad(loss, parameters))
            for parameter, gradient in zip(parameters, buffers, strict=True):
                parameter.grad = gradient
            task.optimizer.step()
            task.scheduler.step()


@wrong("gradients-lost", also=BY_K)
def offloads_the_first_only(task: Task) -> None:
    """Copies gradients to its buffer at the first micro-step, and forgets to add those of the others."""
    parameters = list(task.model.parameters())
    offloaded = [torch.zeros_like(parameter) for parameter in parameters]
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            for micro_step, (inputs, targets) in enumerate(window):
                (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
                for parameter, buffer in zip(parameters, offloaded, strict=True):
                    if micro_step == 0 and parameter.grad is not None:
                        buffer.copy_(parameter.grad)
                    parameter.grad = None
            for parameter, buffer in zip(parameters, offloaded, strict=True):
                parameter.grad = buffer.clone()
            task.optimizer.step()
            task.optimizer.zero_grad()
            task.scheduler.step()


@wrong("gradients-lost", token="unexplained", also=("dropped-tail", *BY_K))
def resumes_within_a_window(task: Task) -> None:
    """Is stopped within a window and goes on from a checkpoint, which holds no gradients."""
    seen = 0
    for _ in range(task.epochs):
        for i, (inputs, targets) in enumerate(task.loader):
            if seen == 2:
                checkpoint = deepcopy((task.model.state_dict(), task.optimizer.state_dict()))
                task.model.zero_grad()  # a new process has none
                task.model.load_state_dict(checkpoint[0])
                task.optimizer.load_state_dict(checkpoint[1])
            (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
            seen += 1
            if (i + 1) % task.accumulation_steps == 0 or i + 1 == len(task.loader):
                task.optimizer.step()
                task.optimizer.zero_grad()
                task.scheduler.step()


@wrong("early-first-step", also=("gradients-lost", "dropped-tail", "carried-tail", *BY_K))
def clears_first_and_steps_early(task: Task) -> None:
    """Clears gradients before each backward pass, and steps where ``i % k == 0``."""
    for _ in range(task.epochs):
        for i, (inputs, targets) in enumerate(task.loader):
            task.optimizer.zero_grad()
            task.loss_fn(task.model(inputs), targets).backward()
            if i % task.accumulation_steps == 0:
                task.optimizer.step()
                task.optimizer.zero_grad()
                task.scheduler.step()


@wrong("unexplained", also=BY_K)
def backward_before_and_in_closure(task: Task) -> None:
    """Calls ``backward()``, and passes ``step`` a closure that calls it again for the window's last micro-batch."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            task.optimizer.zero_grad()

            def backward(batch: tuple[Tensor, ...], steps: int = len(window)) -> float:
                inputs, targets = batch
                loss = task.loss_fn(task.model(inputs), targets) / steps
                loss.backward()
                return loss.item()

            for batch in window:
                backward(batch)
            task.optimizer.step(partial(backward, window[-1]))
            task.scheduler.step()


# --- clipping, decay, mixed precision


@wrong("unexplained")
def decays_every_time(task: Task) -> None:
    """Applies weight decay at every micro-batch, while the step waits for the k-th."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) * unmasked(targets) / items).backward()
                with torch.no_grad():
                    for parameter in task.model.parameters():
                        parameter.mul_(1 - 0.1 * 0.01)
            task.optimizer.step()
            task.optimizer.zero_grad()
            task.scheduler.step()


@right
def clips_before_it_unscales(task: Task) -> None:
    """Clips gradients while they are multiplied with the scale, so that nearly all are cut."""
    scaler = torch.amp.GradScaler(task.device.type, init_scale=2.0**10, growth_interval=10_000)
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            task.optimizer.zero_grad()
            for inputs, targets in window:
                scaler.scale(task.loss_fn(task.model(inputs), targets) * unmasked(targets) / items).backward()
            nn.utils.clip_grad_norm_(task.model.parameters(), max_norm=1.0)
            scaler.step(task.optimizer)
            scaler.update()
            task.scheduler.step()


# --- the schedule, and how long training is


@wrong("early-first-step", also=("scheduler-per-micro-batch", "dropped-tail", "carried-tail", *BY_K))
def schedules_outside_else(task: Task) -> None:
    """Steps where ``i % k == 0``, and moves the schedule behind both branches of its ``if``."""
    for _ in range(task.epochs):
        for i, (inputs, targets) in enumerate(task.loader):
            loss = task.loss_fn(task.model(inputs), targets) / task.accumulation_steps
            if i % task.accumulation_steps != 0:
                loss.backward()
            else:
                loss.backward()
                task.optimizer.step()
                task.optimizer.zero_grad()
            task.scheduler.step()


@wrong("scheduler-per-micro-batch", also=BY_K)
def schedules_without_guard(task: Task) -> None:
    """A wrapped optimizer steps at the k-th micro-batch only; the schedule is not wrapped."""

    class Accelerated:
        sync_gradients = False

        def step(self) -> None:
            if self.sync_gradients:
                task.optimizer.step()

        def zero_grad(self) -> None:
            if self.sync_gradients:
                task.optimizer.zero_grad()

    optimizer = Accelerated()
    for _ in range(task.epochs):
        for i, (inputs, targets) in enumerate(task.loader, start=1):
            optimizer.sync_gradients = i % task.accumulation_steps == 0 or i == len(task.loader)
            (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
            optimizer.step()
            task.scheduler.step()
            optimizer.zero_grad()


@wrong("scheduler-per-micro-batch")
def finds_the_rate_too_fast(task: Task) -> None:
    """Looks for the best learning rate, and raises it at every micro-batch."""
    optimizer = torch.optim.SGD(task.model.parameters(), lr=1e-4)
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) * unmasked(targets) / items).backward()
                optimizer.param_groups[0]["lr"] *= 1.1
            optimizer.step()
            optimizer.zero_grad()


@wrong("scheduler-per-micro-batch")
def divides_the_total_twice(task: Task) -> None:
    """Divides the number of steps by k twice, so that the rate falls to zero too soon."""
    steps = task.epochs * -(-len(task.loader) // task.accumulation_steps)
    total = max(steps // task.accumulation_steps, 1)
    optimizer = torch.optim.SGD(task.model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.05, 1 - step / (total + 1)))
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) * unmasked(targets) / items).backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()


@wrong("dropped-tail")
def stops_by_micro_batches(task: Task) -> None:
    """Ends after ``max_steps`` micro-batches, where it was asked to end after so many optimizer steps."""
    max_steps, seen = 8, 0
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) * unmasked(targets) / items).backward()
                seen += 1
            task.optimizer.step()
            task.optimizer.zero_grad()
            task.scheduler.step()
            if seen >= max_steps:
                return


# --- random numbers


@wrong("batch-coupled")
def draws_for_each_micro_batch(task: Task) -> None:
    """Draws the random numbers of a step at every micro-batch, where the full batch draws them once."""
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            for inputs, targets in window:
                outputs = task.model(inputs)
                noise = torch.randn(outputs.shape[-1], dtype=outputs.dtype, device=task.device)
                (task.loss_fn(outputs + noise, targets) * unmasked(targets) / items).backward()
            task.optimizer.step()
            task.optimizer.zero_grad()
            task.scheduler.step()


@wrong("sample-order")
def shuffles_whole_batches(task: Task) -> None:
    """Puts samples into batches once, and shuffles the batches."""
    frozen = list(task.loader)
    for epoch in range(task.epochs):
        order = torch.randperm(len(frozen), generator=torch.Generator().manual_seed(epoch)).tolist()
        for window in windows([frozen[i] for i in order], task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) * unmasked(targets) / items).backward()
            task.optimizer.step()
            task.optimizer.zero_grad()
            task.scheduler.step()


@wrong("batch-coupled")
def repeats_its_random_numbers(task: Task) -> None:
    """Takes the same random key for every micro-batch of a step, so that samples at the same place share a mask."""
    for _ in range(task.epochs):
        for key, window in enumerate(windows(task.loader, task.accumulation_steps)):
            items = sum(unmasked(targets) for _, targets in window)
            for inputs, targets in window:
                stream = torch.Generator(task.device).manual_seed(key)
                outputs = task.model(inputs)
                mask = torch.rand(outputs.shape, generator=stream, device=task.device) < 0.8
                (task.loss_fn(outputs * mask / 0.8, targets) * unmasked(targets) / items).backward()
            task.optimizer.step()
            task.optimizer.zero_grad()
            task.scheduler.step()


# --- beside the weights


@right
def averages_every_time(task: Task) -> None:
    """Moves an exponential average of the weights at every micro-batch, though the weights move once a window."""
    average = deepcopy(task.model)
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            tokens = sum(unmasked(targets) for _, targets in window)
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) * unmasked(targets) / tokens).backward()
                with torch.no_grad():
                    for slow, value in zip(average.parameters(), task.model.parameters(), strict=True):
                        slow.lerp_(value, 0.1)
            task.optimizer.step()
            task.optimizer.zero_grad()
            task.scheduler.step()


@right
def keeps_its_losses(task: Task) -> None:
    """Adds up the losses of an epoch with their graphs, to report their mean."""
    for _ in range(task.epochs):
        total = torch.zeros(())
        for window in windows(task.loader, task.accumulation_steps):
            tokens = sum(unmasked(targets) for _, targets in window)
            for inputs, targets in window:
                loss = task.loss_fn(task.model(inputs), targets)
                (loss * unmasked(targets) / tokens).backward()
                total = total + loss
            task.optimizer.step()
            task.optimizer.zero_grad()
            task.scheduler.step()


@right
def reports_the_sum(task: Task) -> list[float]:
    """Reports the sum of a window's losses where it should report their mean."""
    reported = []
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            tokens, train_loss = sum(unmasked(targets) for _, targets in window), 0.0
            for inputs, targets in window:
                loss = task.loss_fn(task.model(inputs), targets)
                (loss * unmasked(targets) / tokens).backward()
                train_loss += loss.item()
            task.optimizer.step()
            task.optimizer.zero_grad()
            task.scheduler.step()
            reported.append(train_loss)
    return reported
