"""What is seen of a training: what it logs at each update, and what it has learnt every few updates."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import fmean

import torch
from accumcheck.task import IGNORE_INDEX, cross_entropy
from torch import nn
from torch.utils.data import TensorDataset

from experiments.lab.runner import Row


@dataclass
class Record:
    """One training. ``model`` is asked for logits after every ``every``-th update, and the last, on both data sets."""

    model: nn.Module
    train: TensorDataset
    held_out: TensorDataset
    every: int
    epochs: int
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    points: list[Row] = field(default_factory=list)

    def update(self, loss: float, norm: float) -> None:
        """An update has been made: the loss and the norm of the gradient as they are logged for it."""
        self.losses.append(loss)
        self.norms.append(norm)
        if len(self.losses) % self.every == 0:
            self._point()

    def _point(self) -> None:
        new = len(self.losses) - (self.points[-1]["update"] if self.points else 0)
        self.points.append(
            {
                "update": len(self.losses),
                "logged_loss": fmean(self.losses[-new:]),
                "norm": geometric_mean(self.norms[-new:]),
                **self.evaluated(),
            }
        )

    def evaluated(self) -> dict[str, float]:
        """Loss on both sets of data, and accuracy on the one that is held out."""
        train, _ = evaluate(self.model, self.train)
        held_out, accuracy = evaluate(self.model, self.held_out)
        return {"train_loss": train, "held_out_loss": held_out, "accuracy": accuracy}

    def rows(self) -> list[Row]:
        """A row for the whole training, and one for every point."""
        if len(self.losses) % self.every:
            self._point()
        last, epoch = -(-len(self.losses) // 10), len(self.losses) // self.epochs
        whole = {
            "updates": len(self.losses),
            "logged_loss": fmean(self.losses[-last:]),
            "first_loss": self.losses[0],
            "norm": geometric_mean(self.norms),
            "first_norm": self.norms[0],
            "tail_norm": geometric_mean(self.norms[epoch - 1 :: epoch]),  # of the last updates of all epochs
            "above_1": fmean(norm > 1 for norm in self.norms),
            "early_accuracy": self.points[min(1, len(self.points) - 1)]["accuracy"],
            **{name: self.points[-1][name] for name in ("train_loss", "held_out_loss", "accuracy")},
        }
        return [{"kind": "run", **whole}, *({"kind": "curve", **point} for point in self.points)]


def geometric_mean(values: list[float]) -> float:
    """Of positive numbers; of ratios, the mean that does not depend on which way round they are taken.

    >>> geometric_mean([1.0, 4.0])
    2.0
    """
    return math.exp(fmean(math.log(max(value, 1e-12)) for value in values))


@torch.no_grad()
def evaluate(model: nn.Module, data: TensorDataset) -> tuple[float, float]:
    """Mean loss over samples or unmasked tokens, and how many of them are predicted."""
    inputs, targets = data.tensors
    outputs = model(inputs)
    known = targets != IGNORE_INDEX
    hits = (outputs.argmax(dim=-1) == targets)[known]
    return cross_entropy(outputs, targets).item(), hits.double().mean().item()
