"""What one term of a loss sent into an optimizer's updates, by micro-batch: the contribution matrix of a real run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from statistics import median

from accumcheck.numbers import close
from accumcheck.programs.rules import Part as Held
from accumcheck.programs.rules import Shape
from accumcheck.scripts.batches import NO_LOADER
from accumcheck.scripts.log import Batch, Law, Log, Part, Pass, Update

Row = Mapping[int, float]
NEAR = 1e-3  # relative; how close a factor must be to a number to be taken for it


@dataclass(frozen=True)
class Micro:
    """A micro-batch: its epoch, its place there, its rows, and the units that a law counts in it."""

    epoch: int
    place: int
    rows: int
    units: float


@dataclass(frozen=True)
class Table:
    """``rows[s][m]`` is the factor before the mean loss of micro-batch m in update s; ``micros`` are in order.

    ``lengths`` are the micro-batches that each epoch should use; ``whole`` tells whether the last epoch was seen to its
    end. ``inside`` tells whether the units of each micro-batch weigh the same. The first ``skipped`` micro-batches of
    the run, a multiple of k, were passed over, as by a run that goes on from a checkpoint.
    """

    term: str
    law: Law
    k: int
    micros: tuple[Micro, ...]
    lengths: tuple[int, ...]
    whole: bool
    rows: tuple[Row, ...]
    inside: bool
    per_row: float  # units in a row, where all have as many; else 0
    reduction: str
    passes: tuple[float, ...]  # the total weight of each pass, as it was sent
    counts: tuple[tuple[float, ...], ...]  # of each micro-batch, what its loss may be divided by
    skipped: int = 0
    known: bool = False  # this run trained with the skipped ones before, by another optimizer

    @cached_property
    def batch(self) -> int:
        """The usual number of rows in a micro-batch."""
        return Counter(micro.rows for micro in self.micros).most_common(1)[0][0]

    @cached_property
    def shape(self) -> Shape | None:
        """As sizes, where all epochs have as many micro-batches, the last one aside if it was not seen to its end."""
        full = self.lengths[:-1] if len(self.lengths) > 1 and not self.whole else self.lengths
        if len(set(full)) != 1 or self.lengths[-1] > full[0]:
            return None
        last = next((m.rows for m in reversed(self.micros) if m.place == full[0] - 1), self.batch)
        n = (full[0] - 1) * self.batch + min(last, self.batch)
        return Shape(n, self.batch, self.k, len(self.lengths))

    @cached_property
    def windows(self) -> list[tuple[int, ...]]:
        """The micro-batches of each update that should be made, without those that the run has not come to or skips."""
        found, start = [], 0
        for epoch, length in enumerate(self.lengths):
            for first in range(0, length, self.k):
                window = tuple(range(start + first, start + min(first + self.k, length)))
                last = epoch == len(self.lengths) - 1 and first + self.k >= length
                if not (last and not self.whole and len(window) < self.k):
                    found.append(window)
            start += length
        return found[self.skipped // self.k :]

    def share(self, window: Sequence[int]) -> dict[int, float]:
        """The factors that a window's micro-batches should have."""
        total = sum(self.micros[m].units for m in window)
        return {m: self.micros[m].units / total for m in window if self.micros[m].units} if total else {}

    @cached_property
    def compared(self) -> tuple[list[Row], list[Row]]:
        """The rows, a factor of the objective apart, and those that they should be."""
        base = self.base or 1.0
        natural = base if not any(close(abs(base), f, NEAR) for f in (self.k, 1 / self.k)) else 1.0
        rows: list[Row] = [{m: f / natural for m, f in row.items()} for row in self.rows if row]
        return rows, [self.share(window) for window in self.windows]

    @cached_property
    def base(self) -> float | None:
        """What full windows weigh in all, where they weigh the same."""
        due = {window for window in self.windows if len(window) == self.k}
        found = [sum(row.values()) for row in self.rows if tuple(sorted(row)) in due]
        if not found:
            found = [sum(row.values()) for row in self.rows if len(row) == self.k]
        return median(found) if found else None

    @cached_property
    def constant(self) -> float | None:
        """What every unit weighs, if this is one number in the whole run: that of a sum."""
        each = [factor / self.micros[m].units for row in self.rows for m, factor in row.items() if self.micros[m].units]
        return each[0] if each and all(close(e, each[0], NEAR) for e in each) else None

    @cached_property
    def _scale(self) -> int:
        # Units are whole numbers, unless classes have weights.
        return 1 if all(each.units == round(each.units) for each in self.micros) else 10**6

    def held(self, m: int) -> list[Held]:
        """What the weight of a micro-batch may depend on."""
        micro = self.micros[m]
        first = m - micro.place % self.k
        length = self.lengths[micro.epoch]
        window = range(first, min(first + self.k, m - micro.place + length))
        shape = self.shape or Shape(length * self.batch, self.batch, self.k, len(self.lengths))
        scale = self._scale
        return [
            Held(
                micro.rows, round(micro.units * scale), sum(self.micros[w].rows for w in window),
                round(sum(self.micros[w].units for w in window) * scale), len(window), micro.place % self.k,
                length, shape,
            )
        ]  # fmt: skip


def table_of(
    term: str, law: Law, k: int, passes: Mapping[int, Pass], updates: Sequence[Update], log: Log
) -> Table | str:
    """The table of a term, or why there is none."""
    parts = {n: [p for p in each.parts if p.term == term] for n, each in passes.items()}
    flat = [p for each in parts.values() for p in each]
    if not any(p.sure for p in flat) and len({p.batch for p in flat}) < len(flat):
        parts = _as_stream(parts)  # of noise, say: it came from no loader
    batches = sorted({p.batch for each in parts.values() for p in each}, key=lambda b: b.number)
    layout = _layout(batches, k, log)
    if isinstance(layout, str):
        return layout
    keys, lengths, whole, rows, (skipped, known) = layout
    if skipped % k:
        return f"its first {skipped} micro-batches are skipped, which is no multiple of k = {k}: run it from the start"
    counts = {keys[batch]: batch.counts for batch in batches}
    if any(p.hidden for p in flat) and (len(set(rows.values())) > 1 or len(set(counts.values())) > 1):
        return "the loss is computed where its terms are not seen, and micro-batches differ in size"
    units: dict[int, float] = {}
    inside, per_row = True, set()
    for each in parts.values():
        for part in each:
            m = keys[part.batch]
            units[m] = max(units.get(m, 0.0), _units(part, law))
            inside &= _even(part, law)
            per_row |= {round(u, 6) for u in part.units if u}
    total = sum(lengths)
    starts = [sum(lengths[:epoch]) for epoch in range(len(lengths))]
    usual = Counter(units.values()).most_common(1)[0][0]
    micros = [
        Micro(epoch, m - start, rows.get(m, 1), units.get(m, usual))
        for epoch, start in enumerate(starts)
        for m in range(start, start + lengths[epoch])
    ]
    assert len(micros) == total
    made = []
    for update in updates:
        row: dict[int, float] = {}
        for number, factor in update.factors.items():
            for part in parts.get(number, ()):
                m = keys[part.batch]
                row[m] = row.get(m, 0.0) + factor * part.total
        made.append({m: factor for m, factor in row.items() if factor})
    reductions = Counter(p.reduction for each in parts.values() for p in each)
    return Table(
        term, law, k, tuple(micros), tuple(lengths), whole, tuple(made), inside,
        per_row.pop() if len(per_row) == 1 else 0.0, reductions.most_common(1)[0][0],
        tuple(p.total for each in parts.values() for p in each), tuple(counts.get(m, ()) for m in range(total)),
        skipped, known,
    )  # fmt: skip


def _as_stream(parts: dict[int, list[Part]]) -> dict[int, list[Part]]:
    """Passes as they come, without epochs."""
    return {
        number: [replace(p, batch=Batch(number, NO_LOADER, 0, place, len(p.weights))) for p in each]
        for place, (number, each) in enumerate(sorted((n, each) for n, each in parts.items() if each))
    }


def _units(part: Part, law: Law) -> float:
    return float(sum(1 for u in part.units if u)) if law == "sample" else sum(part.units)


def _even(part: Part, law: Law) -> bool:
    """Whether units weigh the same within one micro-batch."""
    there = [(u, w) for u, w in zip(part.units, part.weights, strict=True) if u]
    each = [w for _, w in there] if law == "sample" else [w / u for u, w in there]
    return (law == "sample" or part.even) and all(close(e, each[0], NEAR) for e in each)


Layout = tuple[dict[Batch, int], list[int], bool, dict[int, int], tuple[int, bool]]


def _layout(batches: Sequence[Batch], k: int, log: Log) -> Layout | str:
    """Number of each micro-batch, lengths of epochs, whether the last one is whole, rows by number, what is skipped."""
    passes: dict[tuple[int, int], list[Batch]] = {}
    for batch in batches:
        passes.setdefault((batch.loader, batch.epoch), []).append(batch)
    order = sorted(passes, key=lambda key: passes[key][0].number)
    spans = [(passes[key][0].number, passes[key][-1].number) for key in order]
    if len({loader for loader, _ in order}) > 1 and any(a[1] > b[0] for a, b in pairwise(spans)):
        return "several loaders feed one term of the loss by turns"
    keys: dict[Batch, int] = {}
    rows: dict[int, int] = {}
    lengths: list[int] = []
    whole, start = False, 0
    skipped, seen = _skipped([passes[key] for key in order], log)
    for place, (loader, epoch) in enumerate(order):
        mine = passes[loader, epoch]
        drawn = [b for b in log.batches if b.loader == loader and b.epoch == epoch]
        top = max(b.place for b in mine) + 1
        known = log.loaders.get(loader)
        ended = known is not None and (epoch in known.ends or known.length == top)
        first = 0 if place else skipped
        dense = 2 * len(mine) > len([b for b in drawn if first <= b.place < top])  # else others have other purposes
        if dense:
            length = _length(top, drawn, known.length if known else None, k, ended=ended, last=place == len(order) - 1)
            for batch in drawn:
                rows[start + batch.place] = batch.rows
        else:
            length = len(mine)
        for index, batch in enumerate(sorted(mine, key=lambda b: b.place)):
            keys[batch] = start + (batch.place if dense else index)
            rows[keys[batch]] = batch.rows
        whole = ended or length > top
        lengths.append(length)
        start += length
    return keys, lengths, whole, rows, (skipped, seen)


def _skipped(epochs: Sequence[Sequence[Batch]], log: Log) -> tuple[int, bool]:
    """How many micro-batches the first epoch begins behind, where no others are passed over, as by who goes on from a
    checkpoint; and whether this run trained with just these before.
    """
    low, *later = (min(batch.place for batch in epoch) for epoch in epochs)
    if not low or any(later):
        return 0, False
    first = epochs[0][0]
    top = max(batch.place for batch in epochs[0])
    drawn = [b for b in log.batches if (b.loader, b.epoch) == (first.loader, first.epoch) and low <= b.place <= top]
    if len(drawn) > len(epochs[0]):
        return 0, False
    used = [part.batch for each in log.passes for part in each.parts if part.batch.loader == first.loader]
    before = max((b.key for b in used if b.epoch < first.epoch), default=None)
    return low, before is not None and before[1] + 1 == low


def _length(top: int, drawn: Sequence[Batch], length: int | None, k: int, *, ended: bool, last: bool) -> int:
    """How many micro-batches an epoch should use, of which ``top`` were used or passed over."""
    if ended:
        return max(top, len(drawn))
    # A loop that goes by whole windows leaves an epoch just before its tail.
    if length is not None and 0 < length - top < k and top % k == 0 and not last:
        return length
    return top
