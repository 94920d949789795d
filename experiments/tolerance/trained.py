"""Problems whose models are trained already: there a gradient is what is left of large terms that cancel."""

from __future__ import annotations

from functools import cache

import torch
from accumcheck.corpus import models
from accumcheck.corpus.data import digits
from accumcheck.training.problem import Problem, seeded
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset


def trained_mlp(seed: int = 0) -> nn.Module:
    """An MLP that has learnt its digits, so that the gradient is a small difference of large terms."""
    model = models.mlp()
    model.load_state_dict(_trained(seed))
    return model


@cache
def _trained(seed: int) -> dict[str, Tensor]:
    model, (inputs, targets) = seeded(models.mlp, seed), digits(1797).tensors
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(300):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs.float()), targets).backward()
        optimizer.step()
    return model.state_dict()


def whole_digits(samples: int, seed: int = 0) -> TensorDataset:
    """Digits as whole numbers, which no perturbation of the inputs moves."""
    inputs, targets = digits(samples, seed).tensors
    return TensorDataset((inputs * 8 + 8).round().long(), targets)


def trained_on_whole_digits() -> nn.Module:
    """The trained MLP behind a cast."""
    return nn.Sequential(Scale(), trained_mlp())


class Scale(nn.Module):
    """Whole numbers in 0 … 16 to [−1, 1], in the dtype of the layers that follow."""

    unit: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("unit", torch.tensor(0.125))

    def forward(self, inputs: Tensor) -> Tensor:
        """Any shape in and out."""
        scaled: Tensor = inputs * self.unit - 1
        return scaled


TRAINED = (
    Problem("mlp-trained", trained_mlp, digits),
    Problem("mlp-trained-whole-numbers", trained_on_whole_digits, whole_digits),
)
