"""Clipping of large gradients, in numbers: the one thing about a program that depends on more than weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Clipper:
    """A rule of the clip slot with its limit, on the probe's model with parameters of zero.

    ``own[i]`` is the squared norm of what sample i sends into its own parameters at a weight of 1, ``shared[i]`` what
    it sends into the shared one; ``gain`` multiplies both. ``largest`` and ``others`` are the sizes of the elements
    of a row of its gradient: one is the largest, ``count`` are others.
    """

    rule: str
    limit: float
    gain: float
    own: Sequence[float]
    shared: Sequence[Sequence[float]]
    largest: float = 1.0
    others: float = 0.0
    count: int = 0

    def norm(self, weights: Sequence[float]) -> float:
        """Of the gradient in which samples have these weights."""
        total = sum(w * w * square for w, square in zip(weights, self.own, strict=True))
        if self.shared:
            for column in zip(*self.shared, strict=True):
                total += sum(w * each for w, each in zip(weights, column, strict=True)) ** 2
        return self.gain * math.sqrt(total)

    def factor(self, moment: str, weights: Sequence[float]) -> float:
        """What the gradient is multiplied with at this moment, if the rule clips its norm then."""
        if moment != self.rule:
            return 1.0
        # As torch.nn.utils.clip_grad_norm_ has it.
        return min(1.0, self.limit / (self.norm(weights) + 1e-6))

    def element(self, weight: float) -> float:
        """The weight that is left where each element is cut off at the limit."""
        if not self.rule.startswith("value"):
            return weight
        size = abs(weight) * self.gain
        left = self.largest * min(self.largest * size, self.limit) + self.count * self.others * min(
            self.others * size, self.limit
        )
        whole = self.largest**2 + self.count * self.others**2
        return math.copysign(left / whole / self.gain, weight)
