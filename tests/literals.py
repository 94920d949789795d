"""Matrices as short strings: ``1/4*4 0*3 / 0*4 1/3*3`` has two rows, in which numbers repeat."""

from fractions import Fraction

TOKENS = (1, 2, 4, 3, 1, 2, 3, 4)  # unmasked ones, of each sample


def row(text: str) -> list[Fraction]:
    found: list[Fraction] = []
    for part in text.split():
        weight, _, times = part.partition("*")
        found += [Fraction(weight)] * int(times or 1)
    return found


def rows(text: str) -> list[list[Fraction]]:
    return [row(each) for each in text.split(" / ")] if text else []


def floats(text: str) -> list[list[float]]:
    return [[float(weight) for weight in each] for each in rows(text)]
