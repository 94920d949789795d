"""Only some parameters are treated wrongly: buffers that are not cleared, other rates, a second optimizer."""

from itertools import islice

import torch


def windows(task):
    for _ in range(task.epochs):
        batches = iter(task.loader)
        while window := list(islice(batches, task.accumulation_steps)):
            yield window, sum(len(y) for _, y in window)


def backward(task, window, n):
    for x, y in window:
        (task.loss_fn(task.model(x), y) * len(y) / n).backward()


def forgets_norms(task):
    """Every gradient is cleared but those of parameters whose name has "norm" in it."""
    for window, n in windows(task):
        for name, p in task.model.named_parameters():
            if "norm" not in name:
                p.grad = None
        backward(task, window, n)
        task.optimizer.step()
        task.scheduler.step()


def forgets_embeddings(task):
    """Gradients of embeddings are cleared in a list of modules that misses them."""
    embeddings = {id(p) for m in task.model.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()}
    for window, n in windows(task):
        backward(task, window, n)
        task.optimizer.step()
        task.scheduler.step()
        for p in task.model.parameters():
            if id(p) not in embeddings:
                p.grad.zero_()


def forgets_last(task):
    """params[:-1]: the last parameter is never cleared."""
    params = list(task.model.parameters())
    for window, n in windows(task):
        backward(task, window, n)
        task.optimizer.step()
        task.scheduler.step()
        for p in params[:-1]:
            p.grad = None


def forgets_first(task):
    """params[1:]: the first parameter is never cleared."""
    params = list(task.model.parameters())
    for window, n in windows(task):
        backward(task, window, n)
        task.optimizer.step()
        task.scheduler.step()
        for p in params[1:]:
            p.grad = None


def rate_of_norms(task):
    """The group of one-dimensional "norm" parameters has a rate that grows with k."""
    norms = [p for n, p in task.model.named_parameters() if "norm" in n]
    others = [p for n, p in task.model.named_parameters() if "norm" not in n]
    opt = torch.optim.AdamW(
        [{"params": others}, {"params": norms, "lr": 1e-3 * task.accumulation_steps, "weight_decay": 0.0}], lr=1e-3
    )
    for window, n in windows(task):
        opt.zero_grad()
        backward(task, window, n)
        opt.step()


def clears_one_optimizer(task):
    """Two optimizers; only one of them clears its gradients."""
    params = list(task.model.parameters())
    big = torch.optim.SGD([p for p in params if p.ndim >= 2], lr=0.1)
    small = torch.optim.SGD([p for p in params if p.ndim < 2], lr=0.1)
    for window, n in windows(task):
        big.zero_grad()
        backward(task, window, n)
        big.step()
        small.step()


def second_schedule(task):
    """The second optimizer's scheduler goes by micro-batches."""
    params = list(task.model.parameters())
    big = torch.optim.SGD([p for p in params if p.ndim >= 2], lr=0.1)
    small = torch.optim.SGD([p for p in params if p.ndim < 2], lr=0.1)
    first, second = (torch.optim.lr_scheduler.StepLR(o, 2, gamma=0.5) for o in (big, small))
    for window, n in windows(task):
        for x, y in window:
            (task.loss_fn(task.model(x), y) * len(y) / n).backward()
            second.step()
        for o in (big, small):
            o.step()
            o.zero_grad()
        first.step()


def two_schedules(task):
    """Two optimizers, each with its own scheduler, once a window. Right."""
    params = list(task.model.parameters())
    big = torch.optim.AdamW([p for p in params if p.ndim >= 2], lr=0.1)
    small = torch.optim.SGD([p for p in params if p.ndim < 2], lr=0.1, momentum=0.9)
    schedules = [torch.optim.lr_scheduler.StepLR(o, s, gamma=0.5) for o, s in ((big, 1), (small, 2))]
    for window, n in windows(task):
        backward(task, window, n)
        for o, s in zip((big, small), schedules):
            o.step()
            o.zero_grad()
            s.step()


def decay_by_micro_batches(task):
    """Weight decay is raised after every micro-batch."""
    opt, seen = torch.optim.AdamW(task.model.parameters(), lr=1e-3, weight_decay=0.0), 0
    for window, n in windows(task):
        for x, y in window:
            (task.loss_fn(task.model(x), y) * len(y) / n).backward()
            seen += 1
            for group in opt.param_groups:
                group["weight_decay"] = 0.01 * seen
        opt.step()
        opt.zero_grad()


def betas_by_micro_batches(task):
    """Adam's second beta goes by micro-batches."""
    opt, seen = torch.optim.Adam(task.model.parameters(), lr=1e-3), 0
    for window, n in windows(task):
        for x, y in window:
            (task.loss_fn(task.model(x), y) * len(y) / n).backward()
            seen += 1
            opt.param_groups[0]["betas"] = (0.9, 1 - 1 / (seen + 1))
        opt.step()
        opt.zero_grad()


def betas_by_updates(task):
    """Adam's second beta goes by updates. Right."""
    opt, seen = torch.optim.Adam(task.model.parameters(), lr=1e-3), 0
    for window, n in windows(task):
        backward(task, window, n)
        seen += 1
        opt.param_groups[0]["betas"] = (0.9, 1 - 1 / (seen + 1))
        opt.step()
        opt.zero_grad()


def both_hold_all(task):
    """Two optimizers hold all parameters and step one after the other, once a window. Right."""
    a = torch.optim.SGD(task.model.parameters(), lr=0.1)
    b = torch.optim.Adam(task.model.parameters(), lr=0.01)
    for window, n in windows(task):
        backward(task, window, n)
        a.step()
        b.step()
        a.zero_grad()


def embeddings_by_hand(task):
    """The optimizer holds matrices; biases are updated by hand at every micro-batch."""
    weights = [p for p in task.model.parameters() if p.ndim >= 2]
    biases = [p for p in task.model.parameters() if p.ndim < 2]
    opt = torch.optim.SGD(weights, lr=0.1)
    for window, n in windows(task):
        for x, y in window:
            (task.loss_fn(task.model(x), y) * len(y) / n).backward()
            with torch.no_grad():
                for p in biases:
                    p -= 0.1 * p.grad
                    p.grad = None
        opt.step()
        opt.zero_grad()


def halves_last_window(task):
    """Norm gradients are divided by k once more before the step."""
    for window, n in windows(task):
        task.optimizer.zero_grad()
        backward(task, window, n)
        for name, p in task.model.named_parameters():
            if "norm" in name:
                p.grad /= task.accumulation_steps
        task.optimizer.step()
        task.scheduler.step()
