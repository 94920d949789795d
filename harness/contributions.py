"""Contribution matrices in theory: which sample goes into which update of a known loop, and with what weight.

A matrix has a row for every optimizer step, and in each row a weight for every sample of the data set: the factor
before the gradient of that sample's summed loss (for token objectives, of the sum over its unmasked tokens). Two loops
with the same matrix, optimizer and learning rates take the same trajectory in exact arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import islice

from harness.task import Sizes

Matrix = list[list[Fraction]]
Gate = Callable[[int, int], bool]  # (micro-batch index, micro-batches in an epoch) -> does it step here?


def window_mean(sizes: Sizes, units: Sequence[int] | None = None) -> Matrix:
    """The matrix of full-batch training: 1/|window| inside the window and 0 outside.

    ``units`` are the units that each sample holds, one or its unmasked tokens; a window's size counts units.

    >>> for row in window_mean(Sizes(samples=3, accumulation_steps=2, epochs=1)):
    ...     print(*row)
    1/2 1/2 0
    0 0 1
    """
    return _accumulated(sizes.full_batch(), units, lambda *_: True, lambda *_: Fraction(1))


def expected(loop: str, sizes: Sizes, units: Sequence[int] | None = None) -> Matrix:
    """The matrix of a loop in ``harness.loops``, by its name; ValueError for an unknown name.

    >>> for row in expected("published_fix", Sizes(samples=3, accumulation_steps=2, epochs=1)):
    ...     print(*row)
    1/2 1/2 0
    0 0 1/2
    """
    steps = sizes.accumulation_steps

    def boundary(index: int, micro_batches: int) -> bool:
        return (index + 1) % steps == 0 or index + 1 == micro_batches

    gates_and_scales: dict[str, tuple[Gate, Callable[[int, int, int, int], Fraction]]] = {
        "full_batch": (lambda *_: True, lambda *_: Fraction(1)),
        "accumulate_samples": (boundary, lambda samples, of_samples, *_: Fraction(samples, of_samples)),
        "accumulate_tokens": (boundary, lambda _, __, count, of_count: Fraction(count, of_count)),
        "published_fix": (boundary, lambda *_: Fraction(1, steps)),
        "published_fix_undivided": (boundary, lambda *_: Fraction(1)),
        "early_first_step": (lambda index, _: index % steps == 0, lambda *_: Fraction(1, steps)),
    }
    if loop not in gates_and_scales:
        raise ValueError(f"no expected matrix for loop {loop!r}: choose one of {', '.join(gates_and_scales)}")
    return _accumulated(sizes, units, *gates_and_scales[loop])


def _accumulated(
    sizes: Sizes, units: Sequence[int] | None, gate: Gate, scale: Callable[[int, int, int, int], Fraction]
) -> Matrix:
    """Follow a loop that adds ``scale(samples, window's samples, units, window's units)`` micro-batch means."""
    units = [1] * sizes.samples if units is None else units
    source = iter(range(sizes.samples))
    micro_batches = list(iter(lambda: list(islice(source, sizes.micro_batch_size)), []))
    matrix: Matrix = []
    row = [Fraction(0)] * sizes.samples
    for _ in range(sizes.epochs):
        for index, micro_batch in enumerate(micro_batches):
            first = index - index % sizes.accumulation_steps
            window = [i for batch in micro_batches[first : first + sizes.accumulation_steps] for i in batch]
            count, of_count = sum(units[i] for i in micro_batch), sum(units[i] for i in window)
            for i in micro_batch:
                row[i] += scale(len(micro_batch), len(window), count, of_count) / count
            if gate(index, len(micro_batches)):
                matrix.append(row)
                row = [Fraction(0)] * sizes.samples
    return matrix
