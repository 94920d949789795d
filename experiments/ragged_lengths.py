"""Claim: the published fix handles the tail. True only of data set lengths that N divides; all others show its teeth.

``python -m experiments ragged_lengths``

Data set lengths n = 1 … 3N for micro-batches of 2 and 4 accumulation steps, N = 8, two epochs of a small GPT on real
text in float64. Shown is the largest relative error of the gradient at any optimizer step.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from accumcheck.check import compare
from accumcheck.corpus.problems import PROBLEMS
from accumcheck.task import Sizes
from accumcheck.training.problem import Case
from matplotlib.figure import Figure

from experiments.lab import look
from experiments.lab.comparison import LOOPS, tolerance_at
from experiments.lab.runner import Bench, Row

BATCH, STEPS = 2, 4
N = BATCH * STEPS


def run(bench: Bench) -> pd.DataFrame:
    """A row for every length and loop."""
    lengths = range(1, 3 * N + 1, 3 if bench.quick else 1)
    return pd.DataFrame(bench.map(measure, [{"n": n, "device": bench.device} for n in lengths]))


def measure(n: int, device: str) -> list[Row]:
    """Compare all loops at one length."""
    case = Case(PROBLEMS["gpt-windows"], Sizes(n, BATCH, STEPS), device=device)
    steps = range(len(case.sizes.window_lengths()))
    return [
        {
            "n": n,
            "loop": loop,
            "error": max(comparison.error(pair.step) for pair in comparison.trajectory.pairs),
            "tolerance": max(tolerance_at(comparison, step) for step in steps),
            "verdict": comparison.verdict,
        }
        for loop, comparison in zip(LOOPS, compare(case, *LOOPS.values()), strict=True)
    ]


def summarise(frame: pd.DataFrame) -> dict[str, Any]:
    """For each loop, at how many lengths it is equivalent, and the range of its errors where it is not."""
    numbers: dict[str, Any] = {"N": N, "b": BATCH, "k": STEPS, "lengths": int(frame["n"].nunique())}
    for loop, part in frame.groupby("loop", sort=False):
        equivalent = part["verdict"] == "equivalent"
        numbers[str(loop)] = {
            "equivalent_at": part.loc[equivalent, "n"].astype(int).tolist(),
            "equivalent": int(equivalent.sum()),
            "largest_error": float(part["error"].max()),
            "smallest_wrong_error": None if equivalent.all() else float(part.loc[~equivalent, "error"].min()),
        }
    numbers["finding"] = (
        f"of {numbers['lengths']} lengths the correct loop is equivalent at {numbers['correct']['equivalent']}, "
        f"the published fix at {numbers['published_fix']['equivalent_at']}"
    )
    return numbers


def check(numbers: dict[str, Any]) -> None:
    """The correct loop is equivalent at every length, the published fix at the multiples of N alone."""
    every = range(1, 3 * numbers["N"] + 1)
    even = [n for n in every if not Sizes(n, numbers["N"]).is_ragged]
    assert numbers["correct"]["equivalent_at"] == [*every], "the correct loop is not equivalent at every length"
    assert numbers["published_fix"]["equivalent_at"] == even, "the fix is not equivalent at the multiples of N alone"
    assert numbers["early_first_step"]["equivalent_at"] == [], "the bug is equivalent somewhere"


def plot(frame: pd.DataFrame) -> Figure:
    """Error against length; the lengths that N divides are marked."""
    figure, axes = look.panels(1, 1, height=4.2)
    axis, longest = axes[0, 0], int(frame["n"].max())
    lowest = frame.loc[frame["error"] > 0, "error"].min() / 20
    band = frame[frame["loop"] == "correct"]
    look.zones(axis, band["n"], band["tolerance"], "float64", lowest)
    look.points(axis, frame, "n", LOOPS, lowest, apart=0.17)
    for n in range(N, longest + 1, N):
        axis.axvline(n, color="#333333", linewidth=1.2, linestyle=(0, (2, 2)), zorder=0)
    axis.set(ylim=(lowest, 20), xlim=(0.2, longest + 0.8))
    axis.set(xticks=range(1, longest + 1) if not look.is_narrow() else range(4, longest + 1, 4))
    axis.set_xlabel(f"samples in the data set; dotted: multiples of {N}")
    axis.set_ylabel("largest relative error")
    numbers = summarise(frame)
    one = [n for n in numbers["published_fix_undivided"]["equivalent_at"] if n <= BATCH]
    about = (
        f"A small GPT on real text, float64, micro-batches of {BATCH}, k = {STEPS}, two epochs; errors of 0 stand "
        "at the lower edge."
    )
    if one:
        about += f" Up to n = {max(one)} there is one micro-batch, and nothing to divide."
    look.title(
        figure,
        f"The published fix is right at {numbers['published_fix']['equivalent']} of {numbers['lengths']} data set "
        f"lengths, the multiples of {N}; correct accumulation at "
        f"{_all(numbers['correct']['equivalent'], numbers['lengths'])}",
        about,
    )
    look.legend(figure, axis)
    return figure


def _all(some: int, of: int) -> str:
    return f"all {of}" if some == of else str(some)
