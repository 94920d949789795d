"""Contribution matrices of the published loops, in exact fractions: worked out from their rules, not by running them.

A matrix has a row for every optimizer step, and in each row a weight for every sample of the data set: the factor
before the gradient of that sample's summed loss (for token objectives, of the sum over its unmasked tokens).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from accumcheck.task import Sizes

Matrix = list[list[Fraction]]


@dataclass(frozen=True)
class Place:
    """A micro-batch within its epoch and its window."""

    index: int
    micro_batches: int  # of the epoch
    steps: int  # k
    samples: int
    of_samples: int  # of the window
    units: int
    of_units: int

    @property
    def ends_window(self) -> bool:
        """Whether k micro-batches, or the last ones of the epoch, are through."""
        return (self.index + 1) % self.steps == 0 or self.index + 1 == self.micro_batches


# By loop: whether it steps after a micro-batch, and the factor before the micro-batch's mean loss.
RULES: dict[str, tuple[Callable[[Place], bool], Callable[[Place], Fraction]]] = {
    "full_batch": (lambda _: True, lambda _: Fraction(1)),
    "accumulate_samples": (lambda at: at.ends_window, lambda at: Fraction(at.samples, at.of_samples)),
    "accumulate_tokens": (lambda at: at.ends_window, lambda at: Fraction(at.units, at.of_units)),
    "published_fix": (lambda at: at.ends_window, lambda at: Fraction(1, at.steps)),
    "published_fix_undivided": (lambda at: at.ends_window, lambda _: Fraction(1)),
    "early_first_step": (lambda at: at.index % at.steps == 0, lambda at: Fraction(1, at.steps)),
}


def expected(loop: str, sizes: Sizes, units: Sequence[int] | None = None) -> Matrix:
    """The matrix of a loop in ``accumcheck.corpus.published``, by its name; ValueError for an unknown name.

    ``units`` are the units that each sample holds, one or its unmasked tokens.

    >>> for row in expected("published_fix", Sizes(samples=3, accumulation_steps=2, epochs=1)):
    ...     print(*row)
    1/2 1/2 0
    0 0 1/2
    """
    if loop not in RULES:
        raise ValueError(f"no expected matrix for loop {loop!r}: choose one of {', '.join(RULES)}")
    steps_here, factor = RULES[loop]
    units = [1] * sizes.samples if units is None else units
    b, k = sizes.micro_batch_size, sizes.accumulation_steps
    micro_batches = [range(start, min(start + b, sizes.samples)) for start in range(0, sizes.samples, b)]
    matrix: Matrix = []
    row = [Fraction(0)] * sizes.samples
    for _ in range(sizes.epochs):
        for index, micro_batch in enumerate(micro_batches):
            first = index - index % k
            window = [i for batch in micro_batches[first : first + k] for i in batch]
            count, of_count = sum(units[i] for i in micro_batch), sum(units[i] for i in window)
            at = Place(index, len(micro_batches), k, len(micro_batch), len(window), count, of_count)
            for i in micro_batch:
                row[i] += factor(at) / count
            if steps_here(at):
                matrix.append(row)
                row = [Fraction(0)] * sizes.samples
    return matrix
