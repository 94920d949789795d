"""Several forward passes for one micro-batch, and passes that do not train."""

import copy
from itertools import islice

import torch
from torch.nn import functional as F


def windows(task):
    for _ in range(task.epochs):
        batches = iter(task.loader)
        while window := list(islice(batches, task.accumulation_steps)):
            yield window, sum(len(y) for _, y in window)


def finish(task):
    task.optimizer.step()
    task.optimizer.zero_grad()
    task.scheduler.step()


def perturb(task, rho=0.05):
    with torch.no_grad():
        grads = [p.grad for p in task.model.parameters()]
        norm = torch.stack([g.norm() for g in grads]).norm() + 1e-12
        moves = [rho * g / norm for g in grads]
        for p, move in zip(task.model.parameters(), moves):
            p.add_(move)
            p.grad = None
    return moves


def restore(task, moves):
    with torch.no_grad():
        for p, move in zip(task.model.parameters(), moves):
            p.sub_(move)


def sam(task):
    """SAM with one perturbation a window. Right."""
    for window, n in windows(task):
        for x, y in window:
            (task.loss_fn(task.model(x), y) * len(y) / n).backward()
        moves = perturb(task)
        for x, y in window:
            (task.loss_fn(task.model(x), y) * len(y) / n).backward()
        restore(task, moves)
        finish(task)


def sam_per_micro_batch(task):
    """SAM with a perturbation of its own for each micro-batch: not what a full batch does."""
    params = list(task.model.parameters())
    for window, n in windows(task):
        sums = [torch.zeros_like(p) for p in params]
        for x, y in window:
            task.loss_fn(task.model(x), y).backward()
            moves = perturb(task)
            (task.loss_fn(task.model(x), y) * len(y) / n).backward()
            restore(task, moves)
            for s, p in zip(sums, params):
                s.add_(p.grad)
                p.grad = None
        for s, p in zip(sums, params):
            p.grad = s
        finish(task)


def r_drop(task):
    """Two passes, cross-entropy and a symmetric KL, weighted by samples. Right."""
    for window, n in windows(task):
        for x, y in window:
            a, b = task.model(x), task.model(x)
            p, q = F.log_softmax(a, -1), F.log_softmax(b, -1)
            kl = (
                F.kl_div(p, q, log_target=True, reduction="none") + F.kl_div(q, p, log_target=True, reduction="none")
            ).sum(-1)
            ce = 0.5 * (task.loss_fn(a, y) + task.loss_fn(b, y))
            ((ce + 0.25 * kl.mean()) * len(y) / n).backward()
        finish(task)


def r_drop_two_backwards(task):
    """Two passes with a backward each, divided by k and not by 2k: twice the mean, without accumulation too; short tails by k."""
    k = task.accumulation_steps
    for window, n in windows(task):
        for x, y in window:
            for _ in range(2):
                (task.loss_fn(task.model(x), y) / k).backward()
        finish(task)


def gradient_penalty(task):
    """A penalty on each sample's gradient over its logits (double backward), weighted by samples. Right."""
    for window, n in windows(task):
        for x, y in window:
            out = task.model(x)
            loss = task.loss_fn(out, y) * len(y)
            (g,) = torch.autograd.grad(loss, out, create_graph=True)
            ((loss + 0.1 * g.pow(2).sum()) / n).backward()
        finish(task)


def gradient_penalty_of_batch(task):
    """The penalty is on the norm of a micro-batch's parameter gradient: it couples samples."""
    params = list(task.model.parameters())
    for window, n in windows(task):
        for x, y in window:
            loss = task.loss_fn(task.model(x), y)
            grads = torch.autograd.grad(loss, params, create_graph=True)
            ((loss + 10.0 * sum(g.pow(2).sum() for g in grads)) * len(y) / n).backward()
        finish(task)


def mixup(task):
    """Targets are mixed with those of the same micro-batch in reverse: samples are coupled."""
    for window, n in windows(task):
        for x, y in window:
            out = task.model(x)
            loss = 0.7 * task.loss_fn(out, y) + 0.3 * task.loss_fn(out, y.flip(0))
            (loss * len(y) / n).backward()
        finish(task)


def mixes_outputs(task):
    """Outputs are mixed with those of the same micro-batch in reverse."""
    for window, n in windows(task):
        for x, y in window:
            out = task.model(x)
            mixed = 0.7 * out + 0.3 * out.flip(0)
            (task.loss_fn(mixed, y) * len(y) / n).backward()
        finish(task)


def frozen_teacher(task):
    """A frozen copy teaches under no_grad, softly. Right."""
    teacher = copy.deepcopy(task.model).eval().requires_grad_(False)
    for window, n in windows(task):
        for x, y in window:
            out = task.model(x)
            with torch.no_grad():
                soft = teacher(x).softmax(-1)
            kl = -(soft * out.log_softmax(-1)).sum(-1).mean()
            ((0.5 * task.loss_fn(out, y) + 0.5 * kl) * len(y) / n).backward()
        finish(task)


def mean_teacher(task):
    """The teacher is a moving average of the student, updated after every update. Right."""
    teacher = copy.deepcopy(task.model).requires_grad_(False)
    for window, n in windows(task):
        for x, y in window:
            out = task.model(x)
            with torch.no_grad():
                soft = teacher(x).softmax(-1)
            kl = -(soft * out.log_softmax(-1)).sum(-1).mean()
            ((task.loss_fn(out, y) + kl) * len(y) / n).backward()
        finish(task)
        with torch.no_grad():
            for t, p in zip(teacher.parameters(), task.model.parameters()):
                t.lerp_(p, 0.1)


def mean_teacher_per_micro_batch(task):
    """The teacher moves after every micro-batch, so k times as fast."""
    teacher = copy.deepcopy(task.model).requires_grad_(False)
    for window, n in windows(task):
        for x, y in window:
            out = task.model(x)
            with torch.no_grad():
                soft = teacher(x).softmax(-1)
            kl = -(soft * out.log_softmax(-1)).sum(-1).mean()
            ((task.loss_fn(out, y) + kl) * len(y) / n).backward()
            with torch.no_grad():
                for t, p in zip(teacher.parameters(), task.model.parameters()):
                    t.lerp_(p, 0.1)
        finish(task)


def evaluates(task):
    """After every update the whole data set is evaluated under no_grad, with the same loader, in the middle of an epoch. Right."""
    for window, n in windows(task):
        for x, y in window:
            (task.loss_fn(task.model(x), y) * len(y) / n).backward()
        finish(task)
        task.model.eval()
        with torch.no_grad():
            sum(task.loss_fn(task.model(x), y) * len(y) for x, y in task.loader) / len(task.dataset)
        task.model.train()


def evaluates_shuffled(task):
    """Trains on a shuffled loader of its own; evaluates on another loader after each update. Right."""
    train = torch.utils.data.DataLoader(
        task.dataset, task.micro_batch_size, shuffle=True, generator=torch.Generator().manual_seed(3)
    )
    held = torch.utils.data.DataLoader(task.dataset, 3)
    for _ in range(task.epochs):
        batches = iter(train)
        while window := list(islice(batches, task.accumulation_steps)):
            n = sum(len(y) for _, y in window)
            for x, y in window:
                (task.loss_fn(task.model(x), y) * len(y) / n).backward()
            finish(task)
            with torch.no_grad():
                for x, y in held:
                    task.loss_fn(task.model(x), y)


def evaluation_clears(task):
    """Evaluation after the first micro-batch of a window clears the gradients."""
    for window, n in windows(task):
        for j, (x, y) in enumerate(window):
            (task.loss_fn(task.model(x), y) * len(y) / n).backward()
            if j == 0 and len(window) > 1:
                with torch.no_grad():
                    for a, b in task.loader:
                        task.loss_fn(task.model(a), b)
                task.model.zero_grad()
        finish(task)
