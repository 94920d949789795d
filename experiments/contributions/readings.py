"""Published loops, read by the probe: every weight of every update, and what is left over at the end."""

from __future__ import annotations

from functools import cache

import pandas as pd
from accumcheck.corpus.published import LOOPS
from accumcheck.explaining.fit import Case, fit
from accumcheck.numbers import exact
from accumcheck.probing.run import probe
from accumcheck.programs.rules import Program, Shape
from accumcheck.programs.simulate import Units, leftover, structure
from accumcheck.task import Loop, Sizes, name_of

from experiments.lab.runner import Row

STEPS = 4  # k; micro-batches of one sample, so that samples are micro-batches
EPOCHS = 2
SAME = 1e-9  # probed weights are fractions to the precision of float64


def measure(loop: str, n: int) -> list[Row]:
    """Read one loop at one length, and full-batch training beside it."""
    sizes = Sizes(n, 1, STEPS, EPOCHS)
    reading = probe(LOOPS[loop], sizes.full_batch() if loop == "full_batch" else sizes)
    due = probe(LOOPS["full_batch"], sizes.full_batch()).matrix
    shape, units = Shape.of(reading.sizes), Units(reading.units)
    program = Program() if loop == "full_batch" else program_of(LOOPS[loop])
    found = structure(program.visit, program.step, program.reset, shape)
    epochs = [max(found.visits[visit].epoch for visit in row) for row in found.rows]
    carried = {
        (step, sample)
        for step, row in enumerate(found.rows)
        for visit in row
        if found.visits[visit].epoch < epochs[step]
        for sample in units.at(found.visits[visit].spans)
    }
    rows = [
        {"loop": loop, "n": n, "part": "update", "step": step, "epoch": epochs[step], "sample": sample}
        | {"weight": weight, "due": wanted, "fraction": str(exact(weight)), "carried": (step, sample) in carried}
        for step, (row, due_row) in enumerate(zip(reading.matrix, due, strict=True))
        for sample, (weight, wanted) in enumerate(zip(row, due_row, strict=True))
    ]
    left = leftover(program, shape, units)
    lost = [
        {"loop": loop, "n": n, "part": "lost", "step": len(reading.matrix), "epoch": found.visits[visit].epoch}
        | {"sample": sample, "weight": float(left[sample]), "due": 0.0, "fraction": str(left[sample]), "carried": False}
        for visit in found.left
        for sample in units.at(found.visits[visit].spans)
    ]
    return rows + lost


@cache
def program_of(loop: Loop) -> Program:
    """The program that makes all matrices of a published loop, at lengths that do and do not divide evenly."""
    cases = []
    for n in (7, 8, 9, 11):
        sizes = Sizes(n, 1, STEPS, EPOCHS)
        reading = probe(loop, sizes)
        cases.append(Case.of(Shape.of(sizes), Units(reading.units), reading.matrix))
    found = fit(cases, "sample")
    if found is None:
        raise RuntimeError(f"no program makes the matrices of {name_of(loop)}")
    return found


def by_length(frame: pd.DataFrame) -> pd.DataFrame:
    """A row for every loop and length: what is right of its updates, and what becomes of leftovers."""
    rows = []
    for (loop, n), part in frame.groupby(["loop", "n"], sort=False):
        updates = part[part["part"] == "update"]
        first = updates[updates["step"] == 0]
        rows.append(
            {
                "loop": loop,
                "n": n,
                "updates": updates["step"].nunique(),
                "first_update": int((first["weight"] > 0).sum()),
                "first_update_due": int((first["due"] > 0).sum()),
                "on_time": bool(((updates["weight"] > 0) == (updates["due"] > 0)).all()),
                "equal": bool(right(updates).all()),
                "wrong": int((~right(updates)).sum()),
                "carried": int(updates["carried"].sum()),
                "lost": int((part["part"] == "lost").sum()),
            }
        )
    return pd.DataFrame(rows)


def right(updates: pd.DataFrame) -> pd.Series[bool]:
    """Which weights are those of full-batch training."""
    return (updates["weight"] - updates["due"]).abs() < SAME
