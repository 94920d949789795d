"""When two numbers count as equal, and which fraction a number is."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

EXACT = 1e-6  # relative; a loop may compute its loss in float32
ROUNDED = 2.0**-6  # relative; twice the unit in the last place of bfloat16
TINY = 1e-12  # a weight that is rounding


def close(a: float, b: float, relative: float = EXACT, size: float = 0.0) -> bool:
    """Whether two numbers are equal up to rounding; ``size`` is that of terms which may have cancelled out.

    >>> close(1 / 3, 0.33333334), close(1.0, 1.001)
    (True, False)
    """
    return abs(a - b) <= relative * max(abs(a), abs(b), size) + TINY


def same(
    ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]], relative: float = EXACT, *, sums: bool = False
) -> bool:
    """Whether two matrices are equal; with ``sums`` their numbers are sums whose terms may have cancelled out."""
    if len(ours) != len(theirs):
        return False
    for row, other in zip(ours, theirs, strict=True):
        size = max(map(abs, [*row, *other]), default=0.0) if sums else 0.0
        if not all(close(a, b, relative, size) for a, b in zip(row, other, strict=True)):
            return False
    return True


def exact(weight: float) -> Fraction | float:
    """The fraction that a weight is, to the precision of float64, else of float32; else the weight itself.

    >>> print(exact(1 / 3), exact(0.1428571492433548), exact(0.7310585786300049))
    1/3 1/7 0.7310585786300049
    """
    for denominator, precision in ((10_000, 1e-13), (300, 2e-7)):
        fraction = Fraction(weight).limit_denominator(denominator)
        if abs(weight - fraction) <= precision * abs(weight):
            return fraction
    return weight
