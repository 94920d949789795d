"""What one run of a loop showed: for each kind of parameter, which sample went into which update, with what weight."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property

import torch
from torch import Tensor

from accumcheck.numbers import exact
from accumcheck.probing.model import MATRIX, SHARED, VECTOR
from accumcheck.task import Objective, Sizes

Row = list[float]
Matrix = list[Row]
Settings = dict[str, float]  # the numbers of a parameter group, lr among them


@dataclass(frozen=True)
class Facts:
    """What happened beside the updates, and may keep them from being judged.

    ``evaluations`` is the most often that an optimizer called a closure in one step; ``strangers`` counts steps of
    optimizers that hold none of the model's parameters; ``moved`` holds, for each update, how far the parameters were
    then from where the step before had left them; ``backward`` tells whether any gradient reached the model, and
    ``before`` how many backward passes did so before the first update.
    """

    evaluations: int = 0
    strangers: int = 0
    moved: tuple[float, ...] = ()
    backward: bool = True
    before: int = 0


@dataclass
class Reading:
    """``matrices[kind][s][i]`` is the weight with which sample i went into update s of that kind of parameter: the
    factor before the gradient of its summed loss. A kind that no update had a gradient for is not there.

    ``settings[kind][s]`` are the numbers of its parameter group then. ``shared[s]`` is the gradient of the parameter
    that all samples share, and ``responses`` (samples, classes) what each sample's unit weight sends into it.
    ``gradients`` are those of each kind, (updates, elements). ``orders`` are the samples of each epoch as they were
    drawn, none where this is the data set's order; ``looked`` are they as the model saw them. ``random_draws`` counts,
    by operation, what drew from torch's global stream. ``sites`` are the lines of the loop that call ``backward``,
    ``step`` and ``zero_grad``.
    """

    loop: str
    objective: Objective
    sizes: Sizes
    units: tuple[int, ...]
    matrices: dict[str, Matrix]
    settings: dict[str, list[Settings]]
    shared: Matrix = field(default_factory=list)
    responses: Tensor = field(default_factory=lambda: torch.zeros(0))
    gradients: dict[str, Tensor] = field(default_factory=dict)
    orders: tuple[tuple[int, ...], ...] = ()
    looked: tuple[tuple[int, ...], ...] = ()
    passes: int = 0
    random_draws: dict[str, int] = field(default_factory=dict)
    dtypes: frozenset[torch.dtype] = frozenset()
    facts: Facts = Facts()
    sites: dict[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The kind that speaks for the loop: the matrix, where it is trained."""
        return MATRIX if MATRIX in self.matrices or not self.matrices else VECTOR

    @property
    def matrix(self) -> Matrix:
        """Of that kind."""
        return self.matrices.get(self.kind, [])

    @property
    def learning_rates(self) -> list[float]:
        """Of that kind, one for each update."""
        return [each.get("lr", 0.0) for each in self.settings.get(self.kind, [])]

    @property
    def trained(self) -> frozenset[str]:
        """The kinds of parameters that were updated."""
        return frozenset(self.settings)

    def implied(self, matrix: Matrix) -> Matrix:
        """What the shared parameter's gradient is if a matrix holds for it."""
        if not matrix:
            return []
        found: Matrix = (torch.tensor(matrix, dtype=torch.float64) @ self.responses).tolist()
        return found

    @cached_property
    def exact(self) -> list[list[Fraction | float]]:
        """The matrix with each weight as the fraction that it is, where it is one."""
        return [[exact(weight) for weight in row] for row in self.matrix]

    @property
    def is_dead(self) -> bool:
        """Whether updates were made, and no backward pass sent anything into them."""
        sent = self.facts.backward or any(gradient.any() for gradient in self.gradients.values())
        return any(self.settings.values()) and not sent


__all__ = ["MATRIX", "SHARED", "VECTOR", "Facts", "Matrix", "Reading", "Row", "Settings"]
