"""What a probe may overlook."""

import copy
from itertools import islice

import torch
from torch.func import functional_call


def windows(task):
    for _ in range(task.epochs):
        batches = iter(task.loader)
        while window := list(islice(batches, task.accumulation_steps)):
            yield window, sum(len(y) for _, y in window)


def lbfgs(task):
    """LBFGS, all of the window at every evaluation. Right."""
    opt = torch.optim.LBFGS(task.model.parameters(), lr=0.1, max_iter=3)
    for window, n in windows(task):

        def closure():
            opt.zero_grad()
            total = 0.0
            for x, y in window:
                loss = task.loss_fn(task.model(x), y) * len(y) / n
                loss.backward()
                total += loss.item()
            return total

        opt.step(closure)


def lbfgs_per_micro_batch(task):
    """LBFGS steps at every micro-batch."""
    opt = torch.optim.LBFGS(task.model.parameters(), lr=0.1, max_iter=3)
    for _ in range(task.epochs):
        for x, y in task.loader:

            def closure():
                opt.zero_grad()
                loss = task.loss_fn(task.model(x), y)
                loss.backward()
                return loss

            opt.step(closure)


def closure_once(task):
    """SGD with a closure over the window. Right."""
    for window, n in windows(task):

        def closure():
            task.optimizer.zero_grad()
            for x, y in window:
                (task.loss_fn(task.model(x), y) * len(y) / n).backward()

        task.optimizer.step(closure)
        task.scheduler.step()


def closure_of_last(task):
    """The closure sees the last micro-batch of the window alone."""
    k = task.accumulation_steps
    for _ in range(task.epochs):
        for i, (x, y) in enumerate(task.loader):

            def closure():
                task.optimizer.zero_grad()
                loss = task.loss_fn(task.model(x), y)
                loss.backward()
                return loss

            if (i + 1) % k == 0 or i + 1 == len(task.loader):
                task.optimizer.step(closure)
                task.scheduler.step()


def masters_per_micro_batch(task):
    """The optimizer owns copies and steps at every micro-batch."""
    params = list(task.model.parameters())
    masters = [p.detach().clone().requires_grad_() for p in params]
    opt = torch.optim.SGD(masters, lr=0.1)
    for window, n in windows(task):
        for x, y in window:
            (task.loss_fn(task.model(x), y) * len(y) / n).backward()
            for m, p in zip(masters, params):
                m.grad, p.grad = p.grad, None
            opt.step()
            with torch.no_grad():
                for m, p in zip(masters, params):
                    p.copy_(m)


def scaler(task):
    """GradScaler for CUDA, as people write it; clip and step once a window. Right."""
    scaler = torch.amp.GradScaler("cuda")
    for window, n in windows(task):
        for x, y in window:
            scaler.scale(task.loss_fn(task.model(x), y) * len(y) / n).backward()
        scaler.unscale_(task.optimizer)
        torch.nn.utils.clip_grad_norm_(task.model.parameters(), 1.0)
        scaler.step(task.optimizer)
        scaler.update()
        task.optimizer.zero_grad()
        task.scheduler.step()


def scaler_clips_scaled(task):
    """Clips before unscaling, at every micro-batch."""
    scaler = torch.amp.GradScaler("cuda")
    for window, n in windows(task):
        for x, y in window:
            scaler.scale(task.loss_fn(task.model(x), y) * len(y) / n).backward()
            torch.nn.utils.clip_grad_norm_(task.model.parameters(), 1.0)
        scaler.step(task.optimizer)
        scaler.update()
        task.optimizer.zero_grad()


def scaler_unscales_often(task):
    """Unscales and updates the scale at every micro-batch: earlier micro-batches are unscaled again."""
    scaler = torch.amp.GradScaler("cuda")
    for window, n in windows(task):
        for x, y in window:
            scaler.scale(task.loss_fn(task.model(x), y) * len(y) / n).backward()
            scaler.unscale_(task.optimizer)
            scaler.update()
        scaler.step(task.optimizer)
        scaler.update()
        task.optimizer.zero_grad()


def scaler_grows(task):
    """The scale grows at every micro-batch, within windows."""
    scale = 1024.0
    for window, n in windows(task):
        for x, y in window:
            (scale * task.loss_fn(task.model(x), y) * len(y) / n).backward()
            scale *= 2
        for p in task.model.parameters():
            p.grad /= scale
        task.optimizer.step()
        task.optimizer.zero_grad()


def scaler_of_cpu(task):
    """torch.amp.GradScaler("cpu"). Right."""
    scaler = torch.amp.GradScaler("cpu")
    for window, n in windows(task):
        for x, y in window:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = task.loss_fn(task.model(x), y) * len(y) / n
            scaler.scale(loss).backward()
        scaler.step(task.optimizer)
        scaler.update()
        task.optimizer.zero_grad()
        task.scheduler.step()


def skips_nan(task):
    """A micro-batch whose loss is not finite is left out, where a full batch would be left out altogether."""
    for window, n in windows(task):
        for x, y in window:
            loss = task.loss_fn(task.model(x), y) * len(y) / n
            if not torch.isfinite(loss):
                continue
            loss.backward()
        task.optimizer.step()
        task.optimizer.zero_grad()


def skips_nan_windows(task):
    """An update whose gradient is not finite is left out: the window, as a full batch. Right."""
    for window, n in windows(task):
        for x, y in window:
            (task.loss_fn(task.model(x), y) * len(y) / n).backward()
        norm = torch.nn.utils.clip_grad_norm_(task.model.parameters(), 1.0)
        if torch.isfinite(norm):
            task.optimizer.step()
        task.optimizer.zero_grad()


def by_hand(task):
    """p.data -= lr * p.grad, once a window. Right."""
    for window, n in windows(task):
        for x, y in window:
            (task.loss_fn(task.model(x), y) * len(y) / n).backward()
        for p in task.model.parameters():
            p.data -= 0.1 * p.grad
            p.grad = None


def by_hand_per_micro_batch(task):
    """p.data -= lr * p.grad at every micro-batch."""
    for window, n in windows(task):
        for x, y in window:
            (task.loss_fn(task.model(x), y) * len(y) / n).backward()
            for p in task.model.parameters():
                p.data -= 0.1 * p.grad
                p.grad = None


def by_hand_too(task):
    """The optimizer steps once a window, and a step by hand comes at every micro-batch."""
    for window, n in windows(task):
        for x, y in window:
            (task.loss_fn(task.model(x), y) * len(y) / n).backward()
            with torch.no_grad():
                for p in task.model.parameters():
                    p -= 1e-3 * p.grad
        task.optimizer.step()
        task.optimizer.zero_grad()
        task.scheduler.step()


def averages(task):
    """An average of the weights for evaluation, updated once an update. Right."""
    ema = torch.optim.swa_utils.AveragedModel(task.model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    for window, n in windows(task):
        for x, y in window:
            (task.loss_fn(task.model(x), y) * len(y) / n).backward()
        task.optimizer.step()
        task.optimizer.zero_grad()
        task.scheduler.step()
        ema.update_parameters(task.model)


def lookahead(task):
    """Lookahead: every three updates, the slow weights move half of the way, and the model is put there. Right."""
    slow, steps = [p.detach().clone() for p in task.model.parameters()], 0
    for window, n in windows(task):
        for x, y in window:
            (task.loss_fn(task.model(x), y) * len(y) / n).backward()
        task.optimizer.step()
        task.optimizer.zero_grad()
        task.scheduler.step()
        steps += 1
        if steps % 3 == 0:
            with torch.no_grad():
                for s, p in zip(slow, task.model.parameters()):
                    s.lerp_(p, 0.5)
                    p.copy_(s)


def lookahead_by_micro_batches(task):
    """Lookahead that counts micro-batches."""
    slow, seen = [p.detach().clone() for p in task.model.parameters()], 0
    for window, n in windows(task):
        for x, y in window:
            (task.loss_fn(task.model(x), y) * len(y) / n).backward()
            seen += 1
            if seen % 3 == 0:
                with torch.no_grad():
                    for s, p in zip(slow, task.model.parameters()):
                        s.lerp_(p, 0.5)
                        p.copy_(s)
        task.optimizer.step()
        task.optimizer.zero_grad()
        task.scheduler.step()


def pulls_to_start(task):
    """A pull towards the first weights (L2-SP) at every micro-batch, undivided."""
    first = [p.detach().clone() for p in task.model.parameters()]
    for window, n in windows(task):
        for x, y in window:
            pull = sum((p - f).pow(2).sum() for p, f in zip(task.model.parameters(), first))
            (task.loss_fn(task.model(x), y) * len(y) / n + 0.01 * pull).backward()
        task.optimizer.step()
        task.optimizer.zero_grad()
        task.scheduler.step()


def functional(task):
    """functional_call on a dict of the parameters, gradients by autograd.grad. Right."""
    params = dict(task.model.named_parameters())
    for window, n in windows(task):
        for x, y in window:
            loss = task.loss_fn(functional_call(task.model, params, (x,)), y) * len(y) / n
            for p, g in zip(params.values(), torch.autograd.grad(loss, list(params.values()))):
                p.grad = g if p.grad is None else p.grad + g
        task.optimizer.step()
        task.optimizer.zero_grad()
        task.scheduler.step()


def functional_overwrites(task):
    """autograd.grad, and p.grad = g: only the last micro-batch of a window counts."""
    params = list(task.model.parameters())
    for window, n in windows(task):
        for x, y in window:
            loss = task.loss_fn(task.model(x), y) * len(y) / n
            for p, g in zip(params, torch.autograd.grad(loss, params)):
                p.grad = g
        task.optimizer.step()
        task.optimizer.zero_grad()
        task.scheduler.step()


def compiled_step(task):
    """A compiled forward and loss (eager backend), tail divided by k."""
    loss_of = torch.compile(lambda x, y: task.loss_fn(task.model(x), y), backend="eager")
    for window, n in windows(task):
        for x, y in window:
            (loss_of(x, y) / task.accumulation_steps).backward()
        task.optimizer.step()
        task.optimizer.zero_grad()
        task.scheduler.step()


def trains_a_copy(task):
    """Trains a copy and loads it back at the end. Right, but the optimizer is the copy's."""
    model = copy.deepcopy(task.model)
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    for window, n in windows(task):
        for x, y in window:
            (task.loss_fn(model(x), y) * len(y) / n).backward()
        opt.step()
        opt.zero_grad()
    task.model.load_state_dict(model.state_dict())


def hooks_step(task):
    """Each parameter has an optimizer of its own that steps in a hook after its gradient is accumulated: at every micro-batch."""
    opts = {p: torch.optim.SGD([p], lr=0.1) for p in task.model.parameters()}

    def hook(p):
        opts[p].step()
        opts[p].zero_grad()

    handles = [p.register_post_accumulate_grad_hook(hook) for p in opts]
    for window, n in windows(task):
        for x, y in window:
            (task.loss_fn(task.model(x), y) * len(y) / n).backward()
    for h in handles:
        h.remove()


def momentum_by_hand(task):
    """Momentum kept by hand in a buffer, once an update, given to the optimizer as its gradient. Right."""
    params = list(task.model.parameters())
    buffers = [torch.zeros_like(p) for p in params]
    for window, n in windows(task):
        for x, y in window:
            (task.loss_fn(task.model(x), y) * len(y) / n).backward()
        for p, v in zip(params, buffers):
            v.mul_(0.9).add_(p.grad)
            p.grad = v.clone()
        task.optimizer.step()
        task.optimizer.zero_grad()


def momentum_per_micro_batch(task):
    """Momentum by hand decays at every micro-batch."""
    params = list(task.model.parameters())
    buffers = [torch.zeros_like(p) for p in params]
    for window, n in windows(task):
        for x, y in window:
            (task.loss_fn(task.model(x), y) * len(y) / n).backward()
            for p, v in zip(params, buffers):
                v.mul_(0.9).add_(p.grad)
                p.grad = None
        for p, v in zip(params, buffers):
            p.grad = v.clone()
        task.optimizer.step()
        task.optimizer.zero_grad()
