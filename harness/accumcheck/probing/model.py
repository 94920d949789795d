"""The probe's model and data: every sample (for token objectives, every token) owns its own parameters.

The data is the sample's number, so a block of the gradient is one sample's contribution and nothing else. Each kind of
parameter that loops treat apart carries it: a matrix, a vector named ``bias``; and all samples share one vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from accumcheck.task import IGNORE_INDEX, Objective, unmasked

CLASSES = 8  # softmax of zeros is 1/8, which is exact
TOKENS = 4  # the longest sample
Point = Literal["zero", "other", "start"]  # "start" is where runs to the other point begin
MATRIX, VECTOR, SHARED = KINDS = ("embedding.weight", "head.bias", "norm.weight")
SLOPES = torch.tensor([1.0, -1.0] * (CLASSES // 2), dtype=torch.float64)  # of the logits over a bias


class _Head(nn.Module):
    def __init__(self, rows: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(rows, dtype=torch.float64))


class _Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(CLASSES, dtype=torch.float64))


class ProbeModel(nn.Module):
    """Row i of ``embedding.weight`` and of ``head.bias`` is all that the output for input i depends on, but for
    ``norm.weight``, which all outputs share. ``gain`` scales all gradients."""

    def __init__(self, rows: int, gain: float) -> None:
        super().__init__()
        self.gain = gain
        # Given weights, as drawing them would move the caller's random stream.
        self.embedding = nn.Embedding(rows, CLASSES, _weight=torch.zeros(rows, CLASSES, dtype=torch.float64))
        self.head, self.norm = _Head(rows), _Norm()
        self.looks: list[Tensor] = []  # the inputs of forward passes that record gradients
        self.slopes: Tensor
        self.register_buffer("slopes", SLOPES.clone(), persistent=False)

    def __len__(self) -> int:
        # What torch.compile returns has no truth value unless the model has a length.
        return len(KINDS)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (batch, classes) for rows (batch,), or (batch, time, classes) for rows (batch, time)."""
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self.looks.append(inputs)
        rows = inputs.long()
        own = F.embedding(rows, self.embedding.weight) + F.embedding(rows, self.head.bias[:, None]) * self.slopes
        return self.gain * (own + self.norm.weight)


@dataclass(frozen=True)
class Samples:
    """The probe's data: ``inputs`` are row numbers, (n,) or for tokens (n, TOKENS), and so are ``targets``."""

    inputs: Tensor
    targets: Tensor
    objective: Objective

    @classmethod
    def draw(cls, samples: int, objective: Objective, seed: int) -> Samples:
        """Random targets; for tokens of unequal lengths, the rest masked."""
        generator = torch.Generator().manual_seed(seed)
        if objective == "sample":
            return cls(torch.arange(samples), torch.randint(CLASSES, (samples,), generator=generator), objective)
        inputs = torch.arange(samples * TOKENS).view(samples, TOKENS)
        targets = torch.randint(CLASSES, (samples, TOKENS), generator=generator)
        # Neighbours never have equally many tokens, so that even micro-batches of one sample differ.
        steps = torch.randint(1, TOKENS, (samples,), generator=generator)
        lengths = steps.cumsum(dim=0) % TOKENS + 1
        targets[torch.arange(TOKENS) >= lengths[:, None]] = IGNORE_INDEX
        return cls(inputs, targets, objective)

    @property
    def units(self) -> tuple[int, ...]:
        """Samples, or unmasked tokens, that each sample holds."""
        if self.objective == "sample":
            return (1,) * len(self.targets)
        return tuple(unmasked(row) for row in self.targets)

    def point(self, where: Point) -> dict[str, Tensor]:
        """The parameters at which every update is judged, by name."""
        rows = self.targets.numel()
        shapes = {MATRIX: (rows, CLASSES), VECTOR: (rows,), SHARED: (CLASSES,)}
        if where == "zero":
            return {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}
        generator = torch.Generator().manual_seed(20 if where == "other" else 21)
        return {n: torch.rand(s, dtype=torch.float64, generator=generator) - 0.5 for n, s in shapes.items()}

    def responses(self, point: dict[str, Tensor], gain: float = 1.0) -> Tensor:
        """The gradient of each row's own cross-entropy over its logits, softmax − one-hot; zero for masked rows."""
        targets = self.targets.flatten()
        kept = targets != IGNORE_INDEX
        logits = gain * (point[MATRIX] + point[VECTOR][:, None] * SLOPES + point[SHARED])
        found = logits.softmax(dim=1) - F.one_hot(targets.where(kept, 0), CLASSES).double()
        return found * kept[:, None]
