"""At the edge of what is looked at. `core` is right; each function changes one thing."""

from itertools import islice

import torch
from torch.nn import functional as F


def core(
    task,
    *,
    out=lambda o: o,
    loss=lambda part, n, y, count: part * len(y) / n,
    each=lambda: None,
    before=lambda: None,
    after=lambda: None,
    epoch=lambda e: None,
):
    for e in range(task.epochs):
        epoch(e)
        batches = iter(task.loader)
        while window := list(islice(batches, task.accumulation_steps)):
            n = sum(len(y) for _, y in window)
            for x, y in window:
                loss(task.loss_fn(out(task.model(x)), y), n, y, len(window)).backward()
                each()
            before()
            task.optimizer.step()
            task.optimizer.zero_grad()
            task.scheduler.step()
            after()


def weights(task):
    return list(task.model.parameters())


def freezes_first(task):
    """The first parameter is frozen throughout. Right."""
    weights(task)[0].requires_grad_(False)
    core(task)


def unfreezes(task):
    """Biases are trained from the second epoch on (gradual unfreezing). Right."""

    def epoch(e):
        for p in weights(task):
            if p.ndim == 1:
                p.requires_grad_(e > 0)

    core(task, epoch=epoch)


def freezes_after(task):
    """Matrices are frozen from the second epoch on. Right."""

    def epoch(e):
        for p in weights(task):
            if p.ndim > 1:
                p.requires_grad_(e == 0)

    core(task, epoch=epoch)


def toggles(task):
    """requires_grad goes on and off by micro-batches: biases miss every second one."""
    seen = [0]

    def each():
        seen[0] += 1
        for p in weights(task):
            if p.ndim == 1:
                p.requires_grad_(seen[0] % 2 == 0)

    core(task, each=each)


def alternates(task):
    """Matrices and biases are trained in turn, one update each, by two optimizers. Right."""
    a = torch.optim.SGD([p for p in weights(task) if p.ndim > 1], lr=0.1)
    b = torch.optim.SGD([p for p in weights(task) if p.ndim == 1], lr=0.1)
    turn = 0
    for _ in range(task.epochs):
        batches = iter(task.loader)
        while window := list(islice(batches, task.accumulation_steps)):
            n = sum(len(y) for _, y in window)
            for x, y in window:
                (task.loss_fn(task.model(x), y) * len(y) / n).backward()
            (a, b)[turn % 2].step()
            a.zero_grad()
            b.zero_grad()
            turn += 1


def penalty_once(task):
    """A penalty on the parameters, over the count of the window's micro-batches. Right."""
    core(
        task, loss=lambda part, n, y, count: part * len(y) / n + 0.1 * sum((p**2).sum() for p in weights(task)) / count
    )


def penalty_shared(task):
    """loss + penalty, times len(y) / n: the shares add up to 1. Right."""
    core(task, loss=lambda part, n, y, count: (part + 0.1 * sum((p**2).sum() for p in weights(task))) * len(y) / n)


def penalty_l1(task):
    """An L1 penalty in every micro-batch, undivided."""
    core(task, loss=lambda part, n, y, count: part * len(y) / n + 0.01 * sum(p.abs().sum() for p in weights(task)))


def penalty_tail(task):
    """The penalty is divided by k, in short windows too."""
    k = task.accumulation_steps
    core(task, loss=lambda part, n, y, count: part * len(y) / n + 0.1 * sum((p**2).sum() for p in weights(task)) / k)


def decays_per_step(task):
    """Parameters shrink by hand once an update. Right."""

    def after():
        with torch.no_grad():
            for p in weights(task):
                p.mul_(0.999)

    core(task, after=after)


def clamps_per_step(task):
    """Parameters are clamped after every update. Right."""

    def after():
        with torch.no_grad():
            for p in weights(task):
                p.clamp_(-0.05, 0.05)

    core(task, after=after)


def shrinks_per_micro_batch(task):
    """Soft thresholding (a proximal step) at every micro-batch: k times too much."""

    def each():
        with torch.no_grad():
            for p in weights(task):
                p.copy_(F.softshrink(p, 1e-3))

    core(task, each=each)


def normalises_per_micro_batch(task):
    """Gradients are set to length 1 after each micro-batch."""

    def each():
        norm = torch.stack([p.grad.norm() for p in weights(task)]).norm()
        for p in weights(task):
            p.grad /= norm + 1e-12

    core(task, each=each)


def normalises_per_step(task):
    """Gradients are set to length 1 before each step. Right."""

    def before():
        norm = torch.stack([p.grad.norm() for p in weights(task)]).norm()
        for p in weights(task):
            p.grad /= norm + 1e-12

    core(task, before=before)


def signs_per_step(task):
    """signSGD: the sign of the window's gradient. Right."""

    def before():
        for p in weights(task):
            p.grad.sign_()

    core(task, before=before)


def signs_per_micro_batch(task):
    """The sign of the partial sum, after each micro-batch."""

    def each():
        for p in weights(task):
            p.grad.sign_()

    core(task, each=each)


def noise_per_step(task):
    """Noise of one size is added to the gradient before each step. Right: both draw the same."""

    def before():
        for p in weights(task):
            p.grad += 1e-3 * torch.randn_like(p)

    core(task, before=before)


def noise_per_micro_batch(task):
    """Noise of one size is added after each micro-batch: it grows with k."""

    def each():
        for p in weights(task):
            p.grad += 1e-3 * torch.randn_like(p)

    core(task, each=each)


def clips(task):
    """Clipped once an update. Right."""
    core(task, before=lambda: torch.nn.utils.clip_grad_norm_(weights(task), 1.0))


def clips_value(task):
    """Clipped by value once an update. Right."""
    core(task, before=lambda: torch.nn.utils.clip_grad_value_(weights(task), 0.5))


def clips_often(task):
    """Clipped by norm after each micro-batch."""
    core(task, each=lambda: torch.nn.utils.clip_grad_norm_(weights(task), 1.0))


def clips_value_often(task):
    """Clipped by value after each micro-batch."""
    core(task, each=lambda: torch.nn.utils.clip_grad_value_(weights(task), 0.5))


def clips_biases_often(task):
    """Only biases are clipped after each micro-batch."""
    core(task, each=lambda: torch.nn.utils.clip_grad_norm_([p for p in weights(task) if p.ndim == 1], 1.0))


def clips_each(task):
    """Every parameter is clipped by its own norm, once an update. Right."""

    def before():
        for p in weights(task):
            torch.nn.utils.clip_grad_norm_([p], 1.0)

    core(task, before=before)


def clips_loss(task):
    """The loss of a micro-batch is clamped at 1: what is above has no gradient. Its own run clamps the window's mean."""
    core(task, loss=lambda part, n, y, count: part.clamp(max=1.0) * len(y) / n + 0 * part)


def clips_per_sample(task):
    """Per-sample gradients, each clipped (DP-SGD without noise), summed over the window. Right."""
    params = weights(task)
    for _ in range(task.epochs):
        batches = iter(task.loader)
        while window := list(islice(batches, task.accumulation_steps)):
            n = sum(len(y) for _, y in window)
            sums = [torch.zeros_like(p) for p in params]
            for x, y in window:
                for i in range(len(y)):
                    grads = torch.autograd.grad(task.loss_fn(task.model(x[i : i + 1]), y[i : i + 1]), params)
                    norm = torch.stack([g.norm() for g in grads]).norm()
                    for s, g in zip(sums, grads):
                        s += g * (1.0 / (norm + 1e-6)).clamp(max=1.0)
            for p, s in zip(params, sums):
                p.grad = s / n
            task.optimizer.step()
            task.scheduler.step()


def batch_norm_by_hand(task):
    """Outputs are normalised over the micro-batch."""
    core(task, out=lambda o: (o - o.mean(0)) / (o.var(0, unbiased=False) + 1e-5).sqrt())


def centres(task):
    """The micro-batch's mean output is subtracted."""
    core(task, out=lambda o: o - 0.5 * o.mean(0, keepdim=True))


def relative_loss(task):
    """loss / loss.detach(): the weight depends on the micro-batch's own loss."""
    core(task, loss=lambda part, n, y, count: part / part.detach() * len(y) / n)


def variance_loss(task):
    """The variance of outputs over the micro-batch is part of the loss."""

    def run():
        for _ in range(task.epochs):
            batches = iter(task.loader)
            while window := list(islice(batches, task.accumulation_steps)):
                n = sum(len(y) for _, y in window)
                for x, y in window:
                    o = task.model(x).flatten(0, -2)
                    ((task.loss_fn(o, y.flatten()) + o.var(0, unbiased=False).sum()) * len(y) / n).backward()
                task.optimizer.step()
                task.optimizer.zero_grad()

    run()


def supervised_contrastive(task):
    """Samples of one class attract each other in the micro-batch, beside cross-entropy."""
    for _ in range(task.epochs):
        batches = iter(task.loader)
        while window := list(islice(batches, task.accumulation_steps)):
            n = sum(len(y) for _, y in window)
            for x, y in window:
                o = task.model(x)
                f = F.normalize(o.flatten(1) + 1.0, dim=1)
                same = (f @ f.t() * (y.view(len(y), -1)[:, :1] == y.view(len(y), -1)[:, :1].t())).mean()
                ((task.loss_fn(o, y) - same) * len(y) / n).backward()
            task.optimizer.step()
            task.optimizer.zero_grad()


def dropout(task):
    """Dropout on the logits, inside of the loop: the masks are other ones, in law the same."""
    core(task, out=lambda o: F.dropout(o, 0.1))


def sorted_by_loss(task):
    """The window's micro-batches are trained in the order of their losses. Right: a sum has no order."""
    for _ in range(task.epochs):
        batches = iter(task.loader)
        while window := list(islice(batches, task.accumulation_steps)):
            n = sum(len(y) for _, y in window)
            with torch.no_grad():
                window.sort(key=lambda xy: -float(task.loss_fn(task.model(xy[0]), xy[1])))
            for x, y in window:
                (task.loss_fn(task.model(x), y) * len(y) / n).backward()
            task.optimizer.step()
            task.optimizer.zero_grad()
            task.scheduler.step()
