"""What ranks send into each update, put together: one reading of them all, and what it is if shares are even."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.diagnose import EXACT, TINY, Suspicion
from harness.probe import Contribution, Reading, exact
from harness.task import Sizes

MEANS = {"sample": "mean-of-means", "token": "token-weighting"}

Shares = list[dict[int, float]]  # of one micro-batch: on each rank, weights by sample


@dataclass(frozen=True)
class RankSizes(Sizes):
    """Sizes of all ranks together: ``micro_batch_size`` is the global micro-batch's, b·R.

    >>> str(RankSizes(samples=7, micro_batch_size=4, ranks=2))
    'n=7, b=2 on each of 2 ranks, k=1, epochs=2'
    """

    ranks: int = 1

    def __str__(self) -> str:
        b = f"{self.micro_batch_size // self.ranks} on each of {self.ranks} ranks"
        return f"n={self.samples}, b={b}, k={self.accumulation_steps}, epochs={self.epochs}"

    @classmethod
    def of(cls, sizes: Sizes, ranks: int) -> RankSizes:
        """From sizes whose micro-batch is a rank's."""
        return cls(sizes.samples, sizes.micro_batch_size * ranks, sizes.accumulation_steps, sizes.epochs, ranks)


def total(reading: Reading) -> float:
    """The weight of all units in the first update, 1 where this is a mean; 0 without an update."""
    rows = reading.matrix[:1]
    return sum(weight * units for row in rows for weight, units in zip(row, reading.units, strict=True))


def joined(readings: Sequence[Reading]) -> Reading:
    """The ranks' common matrix, with contributions by global micro-batch, as the exchange over ranks takes them.

    That is a mean, as DDP's; or a sum, where the first update is one.
    """
    ranks, first = len(readings), readings[0]
    whole = [_whole(step, shares) for step, shares in _micro_batches(readings)]
    sent = sum(
        weight * first.units[i] for c in whole if c.step == 0 for i, weight in zip(c.samples, c.weights, strict=True)
    )
    divisor = 1.0 if close(sent, total(first)) else float(ranks)
    whole = [replace(c, weights=tuple(weight / divisor for weight in c.weights)) for c in whole]
    dtypes = frozenset(dtype for reading in readings for dtype in reading.dtypes)
    return replace(first, sizes=RankSizes.of(first.sizes, ranks), contributions=whole, dtypes=dtypes)


def scaled(reading: Reading, factor: float) -> Reading:
    """A reading whose gradients are so many times as large."""
    return replace(
        reading,
        matrix=[[factor * weight for weight in row] for row in reading.matrix],
        shared=[[factor * value for value in row] for row in reading.shared],
        implied=[[factor * value for value in row] for row in reading.implied],
        contributions=[
            replace(c, weights=tuple(factor * weight for weight in c.weights)) for c in reading.contributions
        ],
    )


def evened(reading: Reading, readings: Sequence[Reading]) -> tuple[Reading, Suspicion | None]:
    """As if every unit weighed what is due, where it weighs by how much its rank holds; and where this shows first.

    ``reading`` is what ``readings`` are together. A mean over ranks of their own means weighs all ranks alike: in each
    micro-batch, or in each window.
    """
    parts, units = _micro_batches(readings), reading.units
    factors = [_factors(shares, units) for _, shares in parts]
    groups: list[tuple[int, Shares]] = parts
    if any(each is None for each in factors):
        groups = _by_step(parts)
        of_step = {step: _factors(shares, units) for step, shares in groups}
        factors = [of_step[step] for step, _ in parts]
    known = [each for each in factors if each is not None]
    if len(known) < len(parts) or all(close(factor, 1.0) for each in known for factor in each):
        return reading, None
    by_sample = [
        {sample: factor for share, factor in zip(shares, each, strict=True) for sample in share}
        for (_, shares), each in zip(parts, known, strict=True)
    ]
    contributions = [
        replace(c, weights=tuple(w * of[i] for i, w in zip(c.samples, c.weights, strict=True)))
        for c, of in zip(reading.contributions, by_sample, strict=True)
    ]
    last = [1.0] * len(units)  # the factor of each sample's last contribution
    matrix, place = [], 0
    for step, row in enumerate(reading.matrix):
        while place < len(parts) and parts[place][0] <= step:
            for sample, factor in by_sample[place].items():
                last[sample] = factor
            place += 1
        matrix.append([weight * factor for weight, factor in zip(row, last, strict=True)])
    found = next(f for step, shares in groups if (f := _unfair(step, shares, reading, groups is parts)))
    return replace(reading, matrix=matrix, contributions=contributions), found


def _micro_batches(readings: Sequence[Reading]) -> list[tuple[int, Shares]]:
    """Step, and what each rank sends into it; by the order in which ranks go through their micro-batches."""
    found: dict[tuple[int, int], Shares] = {}
    for rank, reading in enumerate(readings):
        places: Counter[int] = Counter()
        for contribution in reading.contributions:
            shares = found.setdefault((contribution.step, places[contribution.step]), [{} for _ in readings])
            shares[rank] = dict(zip(contribution.samples, contribution.weights, strict=True))
            places[contribution.step] += 1
    return [(step, found[step, place]) for step, place in sorted(found)]


def _by_step(parts: list[tuple[int, Shares]]) -> list[tuple[int, Shares]]:
    found: dict[int, Shares] = {}
    for step, shares in parts:
        for total, share in zip(found.setdefault(step, [{} for _ in shares]), shares, strict=True):
            _add(total, share)
    return list(found.items())


def _whole(step: int, shares: Shares) -> Contribution:
    total: dict[int, float] = {}
    for share in shares:
        _add(total, share)
    samples = sorted(total)
    return Contribution(step, tuple(samples), tuple(total[sample] for sample in samples))


def _add(total: dict[int, float], share: dict[int, float]) -> None:
    for sample, weight in share.items():
        total[sample] = total.get(sample, 0.0) + weight


def _factors(shares: Shares, units: Sequence[int]) -> list[float] | None:
    """What makes units of all ranks weigh the same, if ranks weigh by what they hold, all alike, or by samples."""
    sums = [sum(weight * units[i] for i, weight in share.items()) for share in shares]
    held = [sum(units[i] for i in share) for share in shares]
    if not all(sums):
        return None
    for scheme in (held, [1] * len(shares), [len(share) for share in shares]):
        per = [total / by for total, by in zip(sums, scheme, strict=True)]
        if all(close(each, per[0]) for each in per):
            fair = sum(sums) / sum(held)
            return [fair * count / total for total, count in zip(sums, held, strict=True)]
    return None


def _unfair(step: int, shares: Shares, reading: Reading, in_micro_batch: bool) -> Suspicion | None:
    """The witness: two ranks whose units weigh differently."""
    factors = _factors(shares, reading.units)
    if factors is None or all(close(factor, 1.0) for factor in factors):
        return None
    high, low = factors.index(min(factors)), factors.index(max(factors))
    held = [sum(reading.units[i] for i in share) for share in shares]
    place = min(shares[0]) // reading.sizes.micro_batch_size
    what = f"{reading.objective}s"
    where = f"micro-batch {place}" if in_micro_batch else "the window"
    text = (
        f"of {where}, rank {high} holds {held[high]} and rank {low} holds {held[low]} {what}, of which each has "
        f"{exact(factors[high] / factors[low])} of the weight: a mean over ranks is no mean over {what}; "
        f"divide by the window's {what} on all ranks, and multiply by the world size"
    )
    applied = step if step < len(reading.matrix) else None
    return Suspicion((MEANS[reading.objective],), text, applied, tuple(sorted(shares[high])), 1 / factors[high])


def close(a: float, b: float, size: float = 0.0) -> bool:
    """Whether two numbers are equal up to rounding; ``size`` is that of terms which may have cancelled out."""
    return math.isclose(a, b, rel_tol=EXACT, abs_tol=EXACT * size + TINY)
