"""A CNN with the norm to be looked at, and what batches leave in it when they come in k micro-batches."""

from __future__ import annotations

import copy

import torch
from accumcheck.corpus.models import cnn
from accumcheck.task import cross_entropy
from accumcheck.training.problem import seeded
from torch import Tensor, nn

N, MOMENTUM = 64, 0.1
STEPS = (2, 4, 8, 16)  # k, at fixed N
PLACES = {1: 8, 4: 4}  # BatchNorm layers of the CNN, and the side of their images
SETTLE = 8  # passes over all batches at fixed weights, for the statistics to settle
BATCH_NORMS = ("BatchNorm", "momentum rescaled", "momentum by micro-batch")
NORMS = (*BATCH_NORMS, "frozen BatchNorm", "GroupNorm", "LayerNorm")


def build(norm: str, seed: int, inputs: Tensor) -> nn.Module:
    """The CNN with this norm in place of BatchNorm, all other weights alike; statistics have settled on the inputs."""
    model = seeded(lambda: cnn("batch"), seed)
    assert isinstance(model, nn.Sequential)
    for place, side in PLACES.items():
        channels = int(model[place].num_features)  # type: ignore[arg-type]
        if norm == "GroupNorm":
            model[place] = nn.GroupNorm(2, channels)
        elif norm == "LayerNorm":
            model[place] = nn.LayerNorm([channels, side, side])
    model.to(inputs)
    with torch.no_grad():
        for batch in inputs.split(N) * SETTLE:
            model(batch)
    if norm == "frozen BatchNorm":
        for place in PLACES:
            model[place].eval()
    return model


def accumulate(model: nn.Module, batch: tuple[Tensor, Tensor], k: int, norm: str) -> dict[str, Tensor]:
    """What a batch, in k micro-batches, leaves in a copy of the model: the gradient and running statistics."""
    model = copy.deepcopy(model)
    assert isinstance(model, nn.Sequential)
    norms = [layer for place in PLACES if isinstance(layer := model[place], nn.BatchNorm2d)]
    model.zero_grad()
    for j, (part, labels) in enumerate(zip(*(tensor.chunk(k) for tensor in batch), strict=True), 1):
        for layer in norms:
            layer.momentum = momentum(norm, j, k)
        (cross_entropy(model(part), labels) / k).backward()
    found = {"gradient": torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])}
    for number, layer in enumerate(norms, 1):
        assert layer.running_mean is not None
        assert layer.running_var is not None
        found |= {f"mean, layer {number}": layer.running_mean, f"variance, layer {number}": layer.running_var}
    return found


@torch.no_grad()
def settle(model: nn.Module, inputs: Tensor, k: int, norm: str) -> dict[str, Tensor]:
    """The first layer's running statistics after many passes over the inputs in k micro-batches, at fixed weights."""
    model = copy.deepcopy(model)
    assert isinstance(model, nn.Sequential)
    layer = model[1]
    assert isinstance(layer, nn.BatchNorm2d)
    for batch in inputs.split(N) * SETTLE:
        for j, part in enumerate(batch.chunk(k), 1):
            layer.momentum = momentum(norm, j, k)
            layer(model[0](part))
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return {"mean, layer 1": layer.running_mean, "variance, layer 1": layer.running_var}


def momentum(norm: str, j: int, k: int) -> float:
    """BatchNorm's momentum at micro-batch j = 1 … k, by the policies that ``batch_norm`` explains."""
    if norm == "momentum rescaled":
        return float(1 - (1 - MOMENTUM) ** (1 / k))
    if norm == "momentum by micro-batch":
        return MOMENTUM / k / (1 - MOMENTUM + j * MOMENTUM / k)
    return MOMENTUM


def predicted_bias(model: nn.Module, inputs: Tensor, k: int) -> float:
    """The relative bias of the first layer's settled variance, over channels, for batches split at random.

    Images of P values each, whose means vary by S²: E[mean of s²ⱼ] − s² = −(k−1)·(P·S² − s²) / (N·P − k). It is 0 if
    all values are independent, as then S² is s²/P.
    """
    assert isinstance(model, nn.Sequential)
    with torch.no_grad():
        values = model[0](inputs).flatten(2).unflatten(0, (-1, N))  # (batches, N, channels, P)
    pixels = values.shape[-1]
    whole = values.movedim(1, 2).flatten(2).var(dim=2)
    lacking = (k - 1) * (pixels * values.mean(dim=3).var(dim=1) - whole) / (N * pixels - k)
    return float(-lacking.sum() / whole.sum())
