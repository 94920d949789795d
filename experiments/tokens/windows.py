"""Windows of real text whose micro-batches hold as many tokens as asked for, and what their gradients scatter."""

from __future__ import annotations

from collections.abc import Callable

import torch
from accumcheck.task import IGNORE_INDEX, Sizes, Task, as_loader, cross_entropy, unmasked
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import TensorDataset

STEPS, BATCH = 8, 4  # k, and lines in a micro-batch


def masked(lines: TensorDataset, spread: float, masking: str, seed: int) -> TensorDataset:
    """Lines with (1 + spread) / 2 of their tokens in half of a window's micro-batches, (1 − spread) / 2 in the rest."""
    inputs, targets = lines.tensors
    context = targets.shape[1]
    generator = torch.Generator().manual_seed(seed)
    windows = len(targets) // (STEPS * BATCH)
    places = torch.rand(windows, STEPS, generator=generator).argsort(dim=1)
    signs = torch.where(places < STEPS // 2, 1, -1).repeat_interleave(BATCH)
    kept = (context / 2 * (1 + spread * signs)).round()
    order = torch.arange(context).expand(targets.shape)
    if masking == "random":
        order = torch.rand(targets.shape, generator=generator).argsort(dim=1)
    return TensorDataset(inputs, targets.masked_fill((order >= kept[:, None]).to(targets.device), IGNORE_INDEX))


def moments(model: nn.Module, dataset: TensorDataset) -> tuple[float, float]:
    """‖G‖² and S, without bias, from micro-batches of equally many tokens."""
    gradients = gradients_of(model, dataset)  # windows, micro-batches, parameters
    means = gradients.mean(dim=1)
    count = float(token_counts(dataset, BATCH).mean())
    per_micro_batch = float((gradients - means[:, None]).square().sum()) / (len(means) * (STEPS - 1))
    return float(means.square().sum()) / len(means) - per_micro_batch / STEPS, per_micro_batch * count


def gradients_of(model: nn.Module, dataset: TensorDataset) -> Tensor:
    """The gradient of each micro-batch's token mean: (windows, micro-batches, parameters)."""
    parameters = list(model.parameters())
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(cross_entropy(model(inputs), targets), parameters)])
        for inputs, targets in as_loader(dataset, BATCH)
    ]
    by_window: Tensor = torch.stack(rows).unflatten(0, (-1, STEPS))
    return by_window


def token_counts(dataset: TensorDataset, batch: int) -> Tensor:
    """Unmasked tokens of each micro-batch: (windows, micro-batches)."""
    counts = [unmasked(targets) for _, targets in as_loader(dataset, batch)]
    return torch.tensor(counts, dtype=torch.float64).view(-1, STEPS)


def task_of(model: nn.Module, dataset: TensorDataset, sizes: Sizes, optimizer: Callable[..., Optimizer]) -> Task:
    """A task with a token mean and a constant learning rate."""
    made = optimizer(model.parameters())
    constant = LambdaLR(made, lambda _: 1.0)
    device = dataset.tensors[0].device
    return Task.build(model, made, cross_entropy, dataset, sizes, scheduler=constant, device=device)
