"""All readings of a loop at one size, and whether they are those of full-batch training.

A loop is right if its matrices are the window mean, or those of its own run without accumulation where this trains by
windows under one convention: then the loop may clip, sum, or treat tails in another way on purpose.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import torch

from accumcheck.numbers import EXACT, ROUNDED, close, same
from accumcheck.probing.model import MATRIX, SHARED, SLOPES, VECTOR
from accumcheck.probing.reading import Matrix, Reading
from accumcheck.programs.rules import Shape
from accumcheck.programs.simulate import CONVENTIONS, Units, conventions, windows_by
from accumcheck.programs.simulate import window_mean as exact_mean
from accumcheck.task import Sizes

TURNED = 0.05  # of a gradient of length 1; a window's other samples turn it by far more than bfloat16 does
Reference = Literal["mean", "own"]


@dataclass(frozen=True)
class Pair:
    """A loop's run with micro-batches, and its own run without accumulation; None where that fails."""

    ours: Reading
    own: Reading | None

    @cached_property
    def looks(self) -> bool:
        """Whether the order is what the model saw, as what loaders drew makes no windows of the own run."""
        if self.own is None or not self.own.looked:
            return False
        drawn = Units(self.own.units, self.own.orders)
        seen = Units(self.own.units, self.own.looked)
        matrix = self.own.matrix
        return not _conventions(matrix, self.own.sizes, drawn) and bool(_conventions(matrix, self.own.sizes, seen))

    @cached_property
    def orders(self) -> tuple[tuple[int, ...], ...]:
        """The order in which samples are drawn in full batches, by epoch; none if it is the data set's."""
        reading = self.own if self.own is not None else self.ours
        return reading.looked if self.looks else reading.orders

    @property
    def our_orders(self) -> tuple[tuple[int, ...], ...]:
        """The same in micro-batches."""
        return self.ours.looked if self.looks else self.ours.orders

    @cached_property
    def units(self) -> Units:
        """For the own run."""
        return Units(self.ours.units, self.orders)

    @cached_property
    def our_units(self) -> Units:
        """For the run with micro-batches, which may draw in another order, or not to the end of an epoch."""
        known = self.orders
        orders = self.our_orders
        if not orders and not known:
            return self.units
        n = self.units.length
        whole = tuple(o if len(o) >= n or e >= len(known) else known[e] for e, o in enumerate(orders))
        return Units(self.ours.units, whole or known)

    @cached_property
    def shape(self) -> Shape:
        """Sizes of the run with micro-batches; n is what is drawn in an epoch."""
        sizes = self.ours.sizes
        ranks = getattr(sizes, "ranks", 1)
        b = sizes.micro_batch_size // ranks
        shape = Shape(self.units.length, b, sizes.accumulation_steps, sizes.epochs, ranks)
        return shape._replace(epochs=self._epochs(shape))

    def _epochs(self, shape: Shape) -> int:
        """A loop may have its own number of epochs, or of updates; then as many as its own run goes through."""
        windows = -(-shape.n // shape.big) if shape.n else 1
        made = len(self.own.matrix) if self.own is not None else 0
        if made <= windows * shape.epochs:
            return shape.epochs
        epochs = -(-made // windows)
        longer = shape.full_batch()._replace(epochs=epochs)
        assert self.own is not None
        return epochs if conventions(self.own.matrix, longer, self.units) else shape.epochs

    @cached_property
    def mean(self) -> Matrix:
        """The window mean."""
        return _mean(self.shape, self.units)

    def due(self, kind: str, reference: Reference) -> Matrix:
        """The weights that full-batch training has for a kind of parameter."""
        if reference == "own" and self.own is not None:
            return self.own.matrices.get(kind, [])
        return self.mean

    @cached_property
    def conventions(self) -> set[str]:
        """Under which the own run trains by windows, for every kind of parameter."""
        if self.own is None:
            return set()
        found = set(CONVENTIONS)
        for matrix in self.own.matrices.values():
            found &= conventions(matrix, self.shape.full_batch(), self.units)
        return found

    def equals(self, reference: Reference) -> bool:
        """Whether all kinds of parameters are updated as by the reference, with the same settings."""
        return not any(self.differing(reference)) and self.same_kinds and self.shared_is_right(reference)

    def differing(self, reference: Reference) -> Iterator[str]:
        """The kinds of parameters whose weights are not those of the reference."""
        for kind, matrix in self.ours.matrices.items():
            if not same(matrix, self.due(kind, reference)):
                yield kind

    @property
    def same_kinds(self) -> bool:
        """Whether both runs train the same parameters; an own run that makes no update does not tell."""
        return self.own is None or not self.own.trained or self.ours.trained == self.own.trained

    def shared_is_right(self, reference: Reference) -> bool:
        """Whether the parameter that all samples share got what the weights of its samples make of it."""
        if SHARED not in self.ours.trained:
            return True
        if reference == "own" and self.own is not None:
            return same(self.ours.shared, self.own.shared, sums=True)
        if self.ours.matrices:
            return consistent(self.ours)
        return same(self.ours.shared, self.ours.implied(self.mean), sums=True)

    def is_own(self) -> bool:
        """Whether both runs make the same updates, whatever these are."""
        return (
            self.own is not None
            and self.same_kinds
            and self.settings_differ is None
            and all(same(m, self.own.matrices.get(kind, [])) for kind, m in self.ours.matrices.items())
            and same(self.ours.shared, self.own.shared, sums=True)
        )

    @cached_property
    def settings_differ(self) -> tuple[str, int, str, float, float] | None:
        """The first update whose parameter group has another number than in the own run: kind, update, name, values."""
        if self.own is None:
            return None
        for kind, ours in self.ours.settings.items():
            for step, (mine, theirs) in enumerate(zip(ours, self.own.settings.get(kind, []), strict=False)):
                for name in mine.keys() & theirs.keys():
                    if not close(mine[name], theirs[name]):
                        return kind, step, name, mine[name], theirs[name]
        return None

    @cached_property
    def moved_differs(self) -> int | None:
        """The first update before which the parameters were changed in another way than in the own run."""
        if self.own is None:
            return None
        pairs = zip(self.ours.facts.moved, self.own.facts.moved, strict=False)
        return next((s for s, (a, b) in enumerate(pairs) if not close(a, b, 1e-4)), None)

    @cached_property
    def coupled(self) -> list[int]:
        """Samples whose gradient points elsewhere in micro-batches than in full batches."""
        return self.turned()

    def turned(self, first: int = 0) -> list[int]:
        """The same from update ``first`` on."""
        if self.own is None or MATRIX not in self.ours.gradients or MATRIX not in self.own.gradients:
            return []
        if min(len(each.gradients[MATRIX]) for each in (self.ours, self.own)) <= first:
            return []
        ours, theirs = (directions(each.gradients[MATRIX][first:], len(each.units)) for each in (self.ours, self.own))
        there = (ours.norm(dim=1) > 0) & (theirs.norm(dim=1) > 0)
        found: list[int] = (((ours - theirs).norm(dim=1) > TURNED) & there).nonzero().flatten().tolist()
        return found


def _conventions(matrix: Matrix, sizes: Sizes, units: Units) -> set[str]:
    return conventions(matrix, Shape(units.length, sizes.micro_batch_size, 1, sizes.epochs), units)


@lru_cache(maxsize=512)
def _mean(shape: Shape, units: Units) -> Matrix:
    return [[float(weight) for weight in row] for row in exact_mean(shape, units)]


def consistent(reading: Reading, relative: float = EXACT) -> bool:
    """Whether what all samples share got the sum of what went into the samples' own parameters.

    Logits are sums of own and shared parameters, so this holds for every loss.
    """
    if SHARED not in reading.gradients or not reading.matrices:
        return True
    shared = reading.gradients[SHARED]
    width = shared.shape[1]
    sums = {
        MATRIX: lambda found: (found.view(len(found), -1, width).sum(dim=1), shared),
        VECTOR: lambda found: (found.sum(dim=1, keepdim=True), shared @ SLOPES[:, None]),
    }
    for kind in reading.matrices:
        implied, got = sums[kind](reading.gradients[kind])
        if same(implied.tolist(), got.tolist(), relative, sums=True):
            return True
    return False


def directions(gradients: torch.Tensor, samples: int) -> torch.Tensor:
    """The first gradient that each sample gets, at length 1; from (updates, elements)."""
    if not len(gradients):
        return gradients.new_zeros(samples, gradients.shape[1] // samples)
    blocks = gradients.view(len(gradients), samples, -1)
    norms = blocks.norm(dim=2)
    first = (norms > 0).double().argmax(dim=0)
    each = torch.arange(samples)
    found: torch.Tensor = blocks[first, each] / norms[first, each].clamp(min=1e-300)[:, None]
    return found


@dataclass(frozen=True)
class Evidence:
    """The readings at one size, with small and with large gradients. At large ones fewer epochs may do."""

    small: Pair
    large: Pair

    @property
    def sizes(self) -> Sizes:
        """Of the run with micro-batches."""
        return self.small.ours.sizes

    @property
    def pairs(self) -> tuple[Pair, Pair]:
        """Both."""
        return self.small, self.large

    def equals(self, reference: Reference) -> bool:
        """Whether this size shows no difference from the reference."""
        return self.is_dead or (
            all(pair.equals(reference) for pair in self.pairs)
            and all(pair.settings_differ is None for pair in self.pairs)
            and not any(pair.coupled for pair in self.pairs)
        )

    @property
    def is_dead(self) -> bool:
        """Whether nothing went into any update, in neither run: two dead runs agree, which proves nothing."""
        readings = [reading for pair in self.pairs for reading in (pair.ours, pair.own) if reading is not None]
        return all(reading.is_dead or not any(reading.settings.values()) for reading in readings) and any(
            reading.is_dead for reading in readings
        )


def common_convention(evidence: Sequence[Evidence]) -> str | None:
    """The one convention by which the own run trains by windows at all sizes."""
    found = set(CONVENTIONS)
    for each in evidence:
        for pair in each.pairs:
            found &= pair.conventions
        if each.small.own is not None and not consistent(each.small.own, ROUNDED):
            return None
    return next((name for name in CONVENTIONS if name in found), None)


def reference_of(evidence: Sequence[Evidence], convention: str | None) -> Reference:
    """What the loop is compared with: the one that it equals, else its own run where this is valid."""
    if all(each.equals("mean") for each in evidence):
        return "mean"
    return "own" if convention else "mean"


def convention_of_ours(evidence: Sequence[Evidence], factor: float = 1.0) -> str | None:
    """Full-batch training under another convention that the matrices equal at all sizes, or are ``factor`` times."""
    for name in CONVENTIONS:
        if all(_is_mean_by(each.small, name, factor) for each in evidence):
            return name
    return None


def _is_mean_by(pair: Pair, convention: str, factor: float) -> bool:
    units = pair.our_units
    windows = windows_by(convention, pair.shape.full_batch(), units)
    rows = []
    for window in windows:
        total = sum(units.units[i] for i in window)
        if not total:  # samples that the loop never draws
            return False
        rows.append([factor * window.count(i) / total for i in range(len(units.units))])
    whole = [row for row, window in zip(rows, windows, strict=True) if len(window) == pair.shape.big]
    ours = pair.ours.matrix
    return same(ours, rows) or (convention == "stream" and same(ours, whole))
