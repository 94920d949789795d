"""What a framework does with each part of gradient accumulation, next to full-batch training.

Cells are made from readings, as verdicts are: whether one differs, and by which finding, says the diagnosis of the
sizes that belong to its column; its words are the weights in the update that it is about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from math import log
from typing import Any

from accumcheck.adapters import Adapter
from accumcheck.explaining.diagnose import Diagnosis
from accumcheck.explaining.evidence import Evidence, Pair, convention_of_ours
from accumcheck.numbers import close, exact, same
from accumcheck.probing.reading import Reading, Row
from accumcheck.probing.run import HIGH, LOW
from accumcheck.programs.simulate import window_mean
from accumcheck.task import DECAY, Objective, Sizes

FULL = Sizes(samples=16, micro_batch_size=2, accumulation_steps=4)
TAIL = Sizes(samples=11, micro_batch_size=1, accumulation_steps=4)  # two windows, and a tail of 3 micro-batches
LATE = Sizes(samples=7, micro_batch_size=1, accumulation_steps=4)  # one window: some loops split only this tail
SHORT = Sizes(samples=7, micro_batch_size=2, accumulation_steps=4)  # one window of 2 + 2 + 2 + 1 samples
TOKENS = Sizes(samples=8, micro_batch_size=1, accumulation_steps=4, epochs=1)
COLUMNS = {
    "full window": "the weight of each sample of a full window",
    "tail": "the weight of each sample of a window with 3 of 4 micro-batches",
    "leftover": "what happens at the end of an epoch to micro-batches that fill no window",
    "short last micro-batch": "the weight of the only sample of a micro-batch beside those of two samples",
    "tokens": "micro-batches with unequally many tokens, relative to the mean over the window's tokens",
    "schedule": "learning-rate steps for each optimizer step, by the framework's own means",
    "clipping": "the norm that is clipped, by the framework's own means",
    "last window": "micro-batches that fill no window at the end of training",
}
MARKS = {"equal": "=", "policy": "o", "differs": "x", "none": "."}
LEGEND = "= as full-batch training   o another policy   x different   . does not occur, or yours to write"
APART = ("scheduler-per-micro-batch", "clipped-per-micro-batch")  # columns of their own


@dataclass(frozen=True)
class Cell:
    """One behaviour: ``text`` says what it is; ``kind`` is "equal", "policy" (another convention for what fills no
    window), "differs", or "none" (it does not occur, or is left to you); ``finding`` is the id of what differs."""

    text: str
    kind: str = "differs"
    finding: str = ""

    def __str__(self) -> str:
        return self.text


DESIGN = "as without accumulation"  # a loop that sums, say, whatever k is
EQUAL, OWN_STEP = Cell("equal", "equal"), Cell("own step", "equal")
AT_FIRST, OTHER_UPDATES = "at first ", "moves at other updates"  # of a column that spoils every update otherwise
ABSENT, YOURS = Cell("does not occur", "none"), Cell("yours to write", "none")


@dataclass(frozen=True)
class Conformance:
    """A row of the matrix: one adapter, its cell in every column, and its reading at ``TAIL``."""

    adapter: Adapter
    cells: dict[str, Cell]
    tail: Reading

    def as_texts(self) -> tuple[str, str, str]:
        """Three texts: the framework, the columns in which it equals full-batch training, and what the others are."""
        adapter = self.adapter
        equal = [column for column, cell in self.cells.items() if cell.kind == "equal"]
        others = [f"{column}: {cell}" for column, cell in self.cells.items() if cell.kind != "equal"]
        return f"{adapter.framework} ({adapter.release})\n{adapter.setting}", ", ".join(equal), "\n".join(others)

    def marks(self) -> list[str]:
        """A mark for each column: equal, a policy of its own, different, or nothing to see."""
        return [MARKS[cell.kind] for cell in self.cells.values()]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; ``tail`` are the weights at ``TAIL``, a row for each update."""
        adapter = self.adapter
        named = {"name": adapter.id, "framework": adapter.framework, "setting": adapter.setting}
        found = {c: {"kind": v.kind, "text": v.text, "finding": v.finding} for c, v in self.cells.items()}
        return {
            **named,
            "release": adapter.release,
            "version": adapter.version,
            "loop": adapter.target,
            "cells": found,
            "tail": self.tail.matrix,
        }


def conformance(adapter: Adapter) -> Conformance:
    """Read all columns off one adapter; LoopError if its framework is missing or fails.

    >>> from accumcheck.adapters import ADAPTERS
    >>> row = conformance(ADAPTERS[-1])
    >>> print(row.cells["tail"], "|", row.cells["leftover"], "|", row.cells["full window"])
    1/4 for 1/3 | own step | equal
    """
    full, tail, late, short = (evidence(adapter, each) for each in (FULL, TAIL, LATE, SHORT))
    cells = {
        "full window": _full_window(full),
        **_tail([tail, late]),
        "short last micro-batch": _short(short),
        "tokens": _tokens(evidence(adapter, TOKENS, "token")),
        "schedule": _schedule(full.small),
        "clipping": _clipping(adapter, full.small),
    }
    cells |= dict.fromkeys(adapter.yours, YOURS) | {column: ABSENT for column, _ in adapter.absent}
    return Conformance(adapter, {column: cells[column] for column in COLUMNS}, tail.small.ours)


def evidence(adapter: Adapter, sizes: Sizes, objective: Objective = "sample") -> Evidence:
    """What the adapter does with micro-batches and in full batches, at gradients that no clipping reaches."""
    pair = Pair(adapter.read(sizes, objective), adapter.read(sizes.full_batch(), objective))
    return Evidence(pair, pair)


def _finding(read: Sequence[Evidence], objective: Objective = "sample") -> str:
    """The id of the root cause at these sizes; empty where weights are those of full-batch training."""
    if not all(each.small.ours.matrix for each in read):  # two loops that never step agree, which says nothing
        return "unexplained"
    found = Diagnosis(tuple(read), objective, "mean").findings
    return next((f.id for f in found if f.id not in APART), "")


def _as_own(read: Sequence[Evidence]) -> bool:
    """Whether a loop that is none of full-batch training makes the same updates without accumulation."""
    return all(e.small.own is not None and same(e.small.ours.matrix, e.small.own.matrix) for e in read)


def _full_window(read: Evidence) -> Cell:
    """The first update, against the first window."""
    matrix, finding = read.small.ours.matrix, _finding([read])
    if not finding:
        return EQUAL
    if matrix and _as_own([read]):
        return Cell(DESIGN, "policy", finding)
    if not matrix:
        return Cell("no step", finding=finding)
    row, b, k = matrix[0], FULL.micro_batch_size, FULL.accumulation_steps
    there = sorted({i // b + 1 for i in _support(row)})
    if there != list(range(1, k + 1)):
        own = read.small.own
        if own and any(close(sum(row), sum(own.matrix[0])) and len(_support(row)) == b * k for row in matrix):
            return Cell(f"{AT_FIRST}micro-batch {', '.join(map(str, there))} of {k}", finding=finding)
        return Cell(f"only micro-batch {', '.join(map(str, there))} of {k}", finding=finding)
    return Cell(_weights(row, range(b * k)), finding=finding)


def _tail(read: Sequence[Evidence]) -> dict[str, Cell]:
    """Three columns: the weights in the first epoch's tail, what becomes of it, and the same at the end of training."""
    columns = ("tail", "leftover", "last window")
    finding = _finding(read)
    if not finding:
        return dict(zip(columns, (EQUAL, OWN_STEP, EQUAL), strict=True))
    first = read[0].small.ours.matrix
    convention = convention_of_ours(read, sum(first[0]) if first else 1.0)  # a factor is the full window's affair
    if convention == "dropped" or not any(_of_tail(e) for e in read):
        return dict.fromkeys(columns, Cell("dropped", "policy", "dropped-tail"))
    shown = next((e for e in read if _finding([e]) == finding), read[0])  # where the root cause shows
    matrix, sizes = shown.small.ours.matrix, shown.sizes
    big, tail, steps = sizes.effective_batch_size, _places(sizes), _of_tail(shown)
    end = _end(matrix, sizes, finding)
    if convention == "stream":
        stream = Cell("stream", "policy", "carried-tail")
        return {"tail": stream, "leftover": stream, "last window": end}
    if not _aligned(matrix, sizes):
        shifted = Cell("windows are shifted", finding=finding)
        return {"tail": shifted, "leftover": Cell("joins the next epoch", finding=finding), "last window": end}
    if len(steps) > sizes.epochs and not _support(steps[0]) - set(tail):
        split = Cell(f"split over {len(steps) // sizes.epochs} steps", finding=finding)
        return {"tail": split, "leftover": split, "last window": split if _nothing_lost(matrix, sizes) else end}
    row = steps[0]
    others = _support(row) - set(tail)
    cell = Cell(_weights(row, tail), finding=finding)
    leftover = Cell(f"joins the next window: {len(_support(row))} for {big}", finding=finding) if others else OWN_STEP
    return {"tail": cell, "leftover": leftover, "last window": end}


def _end(matrix: Sequence[Row], sizes: Sizes, finding: str) -> Cell:
    """What becomes of the last epoch's tail."""
    tail = _places(sizes)
    last = [row for row in matrix if row[tail[-1]]]
    if len(last) < sizes.epochs:
        return Cell("dropped", "policy", finding)
    row = last[-1]
    inside = _support(row)
    if _nothing_lost(matrix, sizes) and inside <= set(tail) and all(close(row[i], 1 / len(inside)) for i in inside):
        return EQUAL if inside == set(tail) else OWN_STEP
    big = sizes.effective_batch_size
    if len(_support(row)) == big and all(close(row[i], 1 / big) for i in _support(row)):
        return Cell("stream", "policy", finding)
    return Cell(_weights(row, tail), finding=finding)


def _nothing_lost(matrix: Sequence[Row], sizes: Sizes) -> bool:
    """Whether each sample of the tail is in as many updates as there are epochs."""
    return all(sum(1 for row in matrix if row[i]) >= sizes.epochs for i in _places(sizes))


def _places(sizes: Sizes) -> range:
    """The samples of an epoch that fill no window."""
    return range(sizes.samples - sizes.samples % sizes.effective_batch_size, sizes.samples)


def _of_tail(read: Evidence) -> list[Row]:
    return [row for row in read.small.ours.matrix if _support(row) & set(_places(read.sizes))]


def _aligned(matrix: Sequence[Row], sizes: Sizes) -> bool:
    big = sizes.effective_batch_size
    windows = [set(range(start, start + big)) for start in range(0, sizes.samples - big + 1, big)]
    return all(_support(row) <= window for row, window in zip(matrix, windows, strict=False))


def _short(read: Evidence) -> Cell:
    """The first update that the last sample is in."""
    last, finding = SHORT.samples - 1, _finding([read])
    if not finding:
        return EQUAL
    row = next((row for row in read.small.ours.matrix if row[last]), None)
    if row is None:
        return Cell("dropped", "policy", finding)
    if _as_own([read]):
        return Cell(DESIGN, "policy", finding)
    drawn = round(sum(row) / row[last])
    if drawn > SHORT.effective_batch_size:  # the next epoch's first samples are there as well
        return Cell(f"a window of {drawn} samples for {SHORT.effective_batch_size}", finding=finding)
    return Cell(f"{exact(row[last])} for {Fraction(1, SHORT.samples)}", finding=finding)


def _tokens(read: Evidence) -> Cell:
    """Weights in the first update relative to those that they should be, over the samples of its window.

    A factor that its own full batch has too is taken out: it is no matter of tokens.
    """
    reading, finding = read.small.ours, _finding([read], "token")
    if not finding:
        return EQUAL
    if not reading.matrix:
        return Cell("no step", finding=finding)
    if _as_own([read]):
        return Cell(DESIGN, "policy", finding)
    due = [float(wanted) for wanted in window_mean(TOKENS, reading.units)[0]]
    own = read.small.own.matrix[0] if read.small.own and read.small.own.matrix else due
    factor = sum(own) / sum(due)
    if not same([own], [[factor * wanted for wanted in due]]):
        factor = 1.0
    ratios = [weight / wanted / factor for weight, wanted in zip(reading.matrix[0], due, strict=True) if wanted]
    return Cell(f"{exact(min(ratios))} to {exact(max(ratios))} ×", finding=finding)


def _schedule(pair: Pair) -> Cell:
    """How far the learning rate moves from update to update, against the loop's own full batch."""
    assert pair.own is not None
    rates, own = pair.ours.learning_rates, pair.own.learning_rates
    if rates == own:
        return EQUAL
    finding = "scheduler-per-micro-batch"
    moves, wanted = (
        sorted({round(log(b / a) / log(DECAY), 6) for a, b in pairwise(each)}) for each in (rates, own)
    )  # fmt: skip
    if moves == wanted:
        ahead = log(rates[0] / own[0]) / log(DECAY)
        if close(ahead, 0):
            return Cell(OTHER_UPDATES, finding=finding)
        return Cell(f"{abs(ahead):.3g} of a step {'ahead' if ahead > 0 else 'behind'}", finding=finding)
    return Cell(f"moves {' or '.join(f'{move:.3g}' for move in moves)} steps per update", finding=finding)


def _clipping(adapter: Adapter, bare: Pair) -> Cell:
    """The gradient must come out as the loop's own full batch has it, clipped once: where both norms exceed the limit,
    and where one of them does, if they differ. ``bare`` is what it does where nothing is clipped."""
    if not adapter.clips:
        return Cell("no setting", "none")
    assert bare.own is not None
    once, finding = replace(FULL, epochs=1), "clipped-per-micro-batch"
    if not bare.ours.matrix or _support(bare.ours.matrix[0]) != _support(bare.own.matrix[0]):
        return Cell("see full window", "none")

    def clipped(max_norm: float, gain: float) -> tuple[Reading, ...]:
        return tuple(adapter.read(each, gain=gain, max_norm=max_norm) for each in (once, once.full_batch()))

    ours, own = clipped(1.0, HIGH)
    if not same(ours.matrix, own.matrix):
        return Cell(f"{max(ours.matrix[0]) / max(own.matrix[0]):.3g} × the clipped full batch", finding=finding)
    factor = max(bare.ours.matrix[0]) / max(bare.own.matrix[0])
    if close(factor, 1):
        return EQUAL
    norm = sum(float(gradient[0].pow(2).sum()) for gradient in bare.own.gradients.values()) ** 0.5
    ours, own = clipped(norm * factor**0.5, LOW)
    if same(ours.matrix, own.matrix):
        return EQUAL
    return Cell(f"clips a norm {factor:.3g} × too large", finding="unscaled-loss" if factor > 1 else "over-scaled-loss")


def _weights(row: Row, window: Sequence[int]) -> str:
    """The weights that occur among the samples of a window, what they should be, and how many others are there."""
    there = " and ".join(dict.fromkeys(str(exact(row[i])) for i in window))
    others = len(_support(row) - set(window))
    due = Fraction(1, len(window))
    return (there if there == str(due) else f"{there} for {due}") + f", with {others} other{'s' * (others > 1)}" * bool(
        others
    )


def _support(row: Row) -> set[int]:
    return {i for i, weight in enumerate(row) if weight}
