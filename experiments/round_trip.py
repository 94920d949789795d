"""Claim: a loop of any two bugs in the tables is read as it is simulated, and the program is found again.

``python -m experiments round_trip`` (``--full`` takes every program of up to two edits, about an hour on two cores)

Every choice of at most two rules for visits, steps, resets and weights that are not the usual ones is a program. An
interpreter trains it as a real loop, the probe reads it at five sizes with and without accumulation, and the search
names a program for what was read. That one must make the same matrices with no more wrong rules. How long the search
takes is measured at its second call in a process, in CPU time.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pandas as pd
from accumcheck.corpus.interpreter import loop_of
from accumcheck.explaining.fit import Case, fit, makes
from accumcheck.numbers import same
from accumcheck.probing.run import probe
from accumcheck.programs.rules import RIGHT, TABLES, Program, Shape
from accumcheck.programs.simulate import Units, simulate
from accumcheck.task import OBJECTIVES, Objective, Sizes
from matplotlib.figure import Figure

from experiments.lab import look
from experiments.lab.runner import Bench, Row

SIZES = (Sizes(7, 1, 4), Sizes(11, 2, 4, 3), Sizes(7, 2, 4), Sizes(13, 1, 8), Sizes(14, 1, 4))
EDITED = ("visit", "step", "reset", "scale")
CHUNK = 25  # programs that are resumed together
SAMPLED = 750


def edits(count: int) -> Iterator[Program]:
    """Programs with so many rules that are not the usual ones, each in a slot of its own."""
    rules = [(slot, name) for slot in EDITED for name in TABLES[slot] if name != RIGHT[slot]]
    for chosen in combinations(rules, count):
        if len({slot for slot, _ in chosen}) == count:
            yield Program(**dict(chosen))


def programs(count: int | None) -> list[Program]:
    """All of up to two edits, or all of one and so many of two."""
    double = list(edits(2))
    return [Program(), *edits(1), *(double if count is None else random.Random(0).sample(double, count))]


def run(bench: Bench) -> pd.DataFrame:
    """A row for every program and objective."""
    count = None if bench.full else 5 if bench.quick else SAMPLED
    chosen = programs(count)
    if bench.quick:
        chosen = chosen[-5:]
    cases = [
        {"start": start, "stop": min(start + CHUNK, len(chosen)), "count": count, "objective": objective}
        for start in range(0, len(chosen), CHUNK)
        for objective in OBJECTIVES
    ]
    if bench.quick:
        cases = [{**case, "start": len(programs(count)) - 5, "stop": len(programs(count))} for case in cases]
    return pd.DataFrame(bench.map(measure, cases))


def measure(start: int, stop: int, count: int | None, objective: Objective) -> list[Row]:
    """Rows of some programs."""
    return [_measure(program, objective) for program in programs(count)[start:stop]]


def _measure(program: Program, objective: Objective) -> Row:
    loop, cases, simulated = loop_of(program), [], True
    for sizes in SIZES:
        for each in (sizes, sizes.full_batch()):
            reading = probe(loop, each, objective)
            units = Units(reading.units)
            cases.append(Case.of(Shape.of(each), units, reading.matrix))
            due = [[float(w) for w in row] for row in simulate(program, Shape.of(each), units) if any(row)]
            simulated &= same([row for row in reading.matrix if any(row)], due)
    row: Row = {
        "program": str(program) or "right",
        "edits": sum(getattr(program, slot) != RIGHT[slot] for slot in EDITED),
        "objective": objective,
        "simulated": simulated,
        "found": "no update",
        "milliseconds": 0.0,
    }
    if any(case.rows for case in cases):
        fit(cases, objective)
        started = time.process_time()
        found = fit(cases, objective)
        row["milliseconds"] = 1000 * (time.process_time() - started)
        again = found is not None and found.cost[0] <= program.cost[0] and all(makes(found, each) for each in cases)
        row["found"] = "same" if found == program else "as good" if again else "not found"
    return row


def summarise(frame: pd.DataFrame) -> dict[str, Any]:
    """How many programs were read as simulated and found again, and what finding them took."""
    numbers: dict[str, Any] = {
        "programs": int(frame["program"].nunique()),
        "cases": len(frame),
        "all": len(programs(None)),
        "not_simulated": sorted(frame.loc[~frame["simulated"], "program"].unique()),
        "not_found": sorted(frame.loc[frame["found"] == "not found", "program"].unique()),
        "found": {name: int(count) for name, count in frame["found"].value_counts().items()},
        "median_ms": float(frame["milliseconds"].median()),
        "below_50_ms": float((frame["milliseconds"] <= 50).mean()),
        "longest_ms": float(frame["milliseconds"].max()),
    }
    numbers["finding"] = (
        f"of {numbers['programs']} programs of up to two edits (of {numbers['all']}), under both objectives, "
        f"{len(numbers['not_simulated'])} are read otherwise than simulated and {len(numbers['not_found'])} are not "
        f"found again; finding one takes {numbers['median_ms']:.0f} ms in the median"
    )
    return numbers


def check(numbers: dict[str, Any]) -> None:
    """All are read as simulated and found again; the search is short."""
    assert numbers["programs"] >= SAMPLED, "too few programs"
    assert numbers["not_simulated"] == [], f"not as simulated: {numbers['not_simulated'][:3]}"
    assert numbers["not_found"] == [], f"not found again: {numbers['not_found'][:3]}"
    assert numbers["median_ms"] <= 50, f"a search takes {numbers['median_ms']} ms"


def plot(frame: pd.DataFrame) -> Figure:
    """How long the search for a program takes."""
    figure, axes = look.panels(1, 1, width=6.4, height=3.6)
    axis = axes[0][0]
    for edited, part in frame[frame["milliseconds"] > 0].groupby("edits"):
        times = part["milliseconds"].sort_values()
        share = [(i + 1) / len(times) for i in range(len(times))]
        axis.plot(times, share, label=f"{edited} edit{'s' * (edited != 1)}")
    axis.axvline(50, color=look.INK, linewidth=1, linestyle=(0, (2, 2)))
    axis.set(xscale="log", ylim=(0, 1.02))
    axis.set(xlabel="milliseconds of one search", ylabel="share of the programs")
    axis.legend(frameon=False, fontsize=9)
    numbers = summarise(frame)
    look.title(
        figure,
        f"{numbers['below_50_ms']:.0%} of programs are found again within 50 ms",
        f"{numbers['programs']:,} loops of up to two edits; {len(numbers['not_found'])} were not found.",
    )
    return figure
