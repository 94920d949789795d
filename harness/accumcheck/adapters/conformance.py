"""What a framework does with each part of gradient accumulation, next to full-batch training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from math import log
from typing import Any

from accumcheck.adapters import Adapter
from accumcheck.numbers import exact
from accumcheck.probing.reading import Reading, Row
from accumcheck.probing.run import HIGH, RATE
from accumcheck.programs.simulate import window_mean
from accumcheck.task import DECAY, Sizes

FULL = Sizes(samples=16, micro_batch_size=2, accumulation_steps=4)
TAIL = Sizes(samples=11, micro_batch_size=1, accumulation_steps=4)  # two windows, and a tail of 3 micro-batches
SHORT = Sizes(samples=7, micro_batch_size=2, accumulation_steps=4)  # one window of 2 + 2 + 2 + 1 samples
TOKENS = Sizes(samples=8, micro_batch_size=1, accumulation_steps=4, epochs=1)
COLUMNS = {
    "full window": "the weight of each sample of a full window",
    "tail": "the weight of each sample of a window with 3 of 4 micro-batches",
    "leftover": "what happens at the end of an epoch to micro-batches that fill no window",
    "short last micro-batch": "the weight of the only sample of a micro-batch beside those of two samples",
    "tokens": "micro-batches with unequally many tokens, relative to the mean over the window's tokens",
    "schedule": "learning-rate steps for each optimizer step",
    "clipping": "the norm that is clipped",
    "last window": "micro-batches that fill no window at the end of training",
}
PRECISION = 1e-6
MARKS = {"equal": "=", "policy": "o", "differs": "x", "none": "."}
LEGEND = "= as full-batch training   o a policy of its own   x different   . cannot be seen"


@dataclass(frozen=True)
class Cell:
    """One behaviour: ``text`` says what it is, ``kind`` is "equal", "policy", "differs" or "none" (nothing to see)."""

    text: str
    kind: str = "differs"

    def __str__(self) -> str:
        return self.text


EQUAL, OWN_STEP = Cell("equal", "equal"), Cell("own step", "equal")
STREAM, DROPPED = Cell("stream", "policy"), Cell("dropped", "policy")


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
        """Plain values, for JSON."""
        adapter = self.adapter
        named = {"name": adapter.id, "framework": adapter.framework, "setting": adapter.setting}
        found = {column: {"kind": cell.kind, "text": cell.text} for column, cell in self.cells.items()}
        return {**named, "version": adapter.version, "loop": adapter.target, "cells": found}


def conformance(adapter: Adapter) -> Conformance:
    """Read all columns off one adapter; LoopError if its framework is missing or fails.

    >>> from accumcheck.adapters import ADAPTERS
    >>> row = conformance(ADAPTERS[-1])
    >>> print(row.cells["tail"], "|", row.cells["leftover"], "|", row.cells["full window"])
    1/4 for 1/3 | own step | equal
    """
    full, tail = adapter.read(FULL), adapter.read(TAIL)
    cells = {
        "full window": _full_window(full),
        **_tail(tail),
        "short last micro-batch": _short(adapter.read(SHORT)),
        "tokens": _tokens(adapter.read(TOKENS, "token")),
        "schedule": _schedule(full, adapter.read(FULL.full_batch())),
        "clipping": _clipping(adapter),
    }
    return Conformance(adapter, {column: cells[column] for column in COLUMNS}, tail)


def _full_window(reading: Reading) -> Cell:
    """The first update, against the first window."""
    if not reading.matrix:
        return Cell("no step")
    row, b, k = reading.matrix[0], FULL.micro_batch_size, FULL.accumulation_steps
    there = sorted({i // b + 1 for i in _support(row)})
    if there != list(range(1, k + 1)):
        return Cell(f"only micro-batch {', '.join(map(str, there))} of {k}")
    return _window_of(row, range(b * k))


def _tail(reading: Reading) -> dict[str, Cell]:
    """Three columns: the weights in the first epoch's tail, what becomes of it, and the same at the end of training."""
    matrix, big = reading.matrix, TAIL.effective_batch_size
    full = TAIL.samples - TAIL.samples % big
    tail = range(full, TAIL.samples)
    steps = [row for row in matrix if _support(row) & set(tail)]
    if not steps:
        return dict.fromkeys(("tail", "leftover", "last window"), DROPPED)
    windows = [set(range(start, start + big)) for start in range(0, full, big)]
    aligned = all(_support(row) <= window for row, window in zip(matrix, windows, strict=False))
    row = steps[0]
    others = _support(row) - set(tail)
    cell = _window_of(row, tail)
    if not aligned:
        cell, leftover = Cell("windows are shifted"), Cell("joins the next epoch")
    elif not others and len(steps) > TAIL.epochs:
        cell = leftover = Cell(f"split over {len(steps) // TAIL.epochs} steps")
    elif not others:
        leftover = OWN_STEP
    elif _streams(row):
        cell = leftover = STREAM
    else:
        weights = str(exact(row[tail[0]])) if cell == EQUAL else cell.text
        cell = Cell(f"{weights}, with {len(others)} others")
        leftover = Cell(f"joins the next window: {len(_support(row))} for {big}")
    last = [row for row in matrix if row[tail[-1]]]
    end = DROPPED if len(last) < TAIL.epochs else STREAM if _streams(last[-1]) else _window_of(last[-1], tail)
    return {"tail": cell, "leftover": leftover, "last window": end}


def _streams(row: Row) -> bool:
    """Whether a window is full, of micro-batches that weigh the same."""
    big = TAIL.effective_batch_size
    return len(_support(row)) == big and all(_close(row[i], 1 / big) for i in _support(row))


def _window_of(row: Row, window: Sequence[int]) -> Cell:
    due = Fraction(1, len(window))
    return EQUAL if all(_close(row[i], float(due)) for i in window) else Cell(f"{_weight(row, window)} for {due}")


def _short(reading: Reading) -> Cell:
    """The first update that the last sample is in."""
    last, due = SHORT.samples - 1, Fraction(1, SHORT.samples)
    row = next((row for row in reading.matrix if row[last]), None)
    if row is None:
        return DROPPED
    return EQUAL if _close(row[last], float(due)) else Cell(f"{exact(row[last])} for {due}")


def _tokens(reading: Reading) -> Cell:
    """Weights in the first update relative to those due, over the samples of its window."""
    if not reading.matrix:
        return Cell("no step")
    due = window_mean(TOKENS, reading.units)[0]
    ratios = [weight / float(wanted) for weight, wanted in zip(reading.matrix[0], due, strict=True) if wanted]
    low, high = min(ratios), max(ratios)
    if _close(low, 1) and _close(high, 1):
        return EQUAL
    return Cell(f"{exact(low)} to {exact(high)} ×")


def _schedule(reading: Reading, own: Reading) -> Cell:
    """How far the learning rate moves from update to update, against the loop's own full batch."""
    if reading.learning_rates == own.learning_rates:
        return EQUAL
    places = [round(log(rate / RATE) / log(DECAY)) for rate in reading.learning_rates]
    moves = sorted({after - before for before, after in pairwise(places)})
    return Cell(f"moves {' or '.join(map(str, moves))} steps per update")


def _clipping(adapter: Adapter) -> Cell:
    """At large gradients the gradient must come out as the loop's own full batch has it, clipped once."""
    if not adapter.clips:
        return Cell("no setting", "none")
    once = replace(FULL, epochs=1)
    ours = adapter.read(once, gain=HIGH, max_norm=1.0).matrix
    theirs = adapter.read(once.full_batch(), gain=HIGH, max_norm=1.0).matrix
    if len(ours) == len(theirs) and all(
        _close(a, b) for row, other in zip(ours, theirs, strict=True) for a, b in zip(row, other, strict=True)
    ):
        return EQUAL
    if [_support(row) for row in ours] != [_support(row) for row in theirs]:
        return Cell("see full window", "none")
    return Cell(f"{max(ours[0]) / max(theirs[0]):.3g} × the clipped full batch")


def _weight(row: Row, window: Sequence[int]) -> str:
    """The weights that occur among these samples."""
    return " and ".join(dict.fromkeys(str(exact(row[i])) for i in window))


def _support(row: Row) -> set[int]:
    return {i for i, weight in enumerate(row) if weight}


def _close(a: float, b: float) -> bool:
    return abs(a - b) <= PRECISION * max(abs(a), abs(b))
