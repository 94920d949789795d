"""Claim: correct accumulation differs from the full batch by rounding alone, wrong loops by whole factors.

``python -m experiments error_by_step``

A small GPT on real text, 29 samples in micro-batches of 2 with 4 accumulation steps, so that every epoch ends in a tail
of 5 samples. Each step starts from the same state in both runs. Shown is the relative error of the gradient that each
update is made with, over the measured tolerance. Not shown: drift, which is the subject of ``drift``.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from accumcheck.check import compare
from accumcheck.corpus.problems import PROBLEMS
from accumcheck.task import Sizes
from accumcheck.training.problem import DTYPES, Case
from matplotlib.figure import Figure

from experiments.lab import look
from experiments.lab.comparison import LOOPS, tolerance_at
from experiments.lab.runner import Bench, Row

SIZES = Sizes(samples=29, micro_batch_size=2, accumulation_steps=4, epochs=3)


def run(bench: Bench) -> pd.DataFrame:
    """A row for every dtype, loop and optimizer step."""
    return pd.DataFrame(bench.map(measure, [{"dtype": dtype, "device": bench.device} for dtype in DTYPES]))


def measure(dtype: str, device: str) -> list[Row]:
    """Compare all loops in one dtype."""
    case = Case(PROBLEMS["gpt-windows"], SIZES, "sgd", dtype, device=device)
    return [
        {
            "dtype": dtype,
            "loop": loop,
            "step": step,
            "window": window,
            "error": comparison.error(step),
            "tolerance": tolerance_at(comparison, step),
            "ratio": comparison.ratio(step),
        }
        for loop, comparison in zip(LOOPS, compare(case, *LOOPS.values()), strict=True)
        for step, window in enumerate(SIZES.window_lengths())
    ]


def summarise(frame: pd.DataFrame) -> dict[str, Any]:
    """By dtype: the largest error of the correct loop, the smallest of a wrong one at the tail, and its ratio."""
    numbers: dict[str, Any] = {"n": SIZES.samples, "b": SIZES.micro_batch_size, "k": SIZES.accumulation_steps}
    for dtype, part in frame.groupby("dtype", sort=False):
        tail = part["window"] == part["window"].min()
        published = part[(part["loop"] == "published_fix") & tail]
        undivided = part[(part["loop"] == "published_fix_undivided") & ~tail]
        numbers[str(dtype)] = {
            "correct_error": float(part.loc[part["loop"] == "correct", "error"].max()),
            "tolerance": float(part["tolerance"].max()),
            "published_tail_error": float(published["error"].min()),
            "published_tail_ratio": float(published["ratio"].mean()),
            "published_full_error": float(part.loc[(part["loop"] == "published_fix") & ~tail, "error"].max()),
            "undivided_ratio": float(undivided["ratio"].mean()),
            "early_first_ratio": float(part.loc[(part["loop"] == "early_first_step"), "ratio"].iloc[0]),
        }
    double = numbers["float64"]
    numbers["finding"] = (
        f"in float64 the correct loop is within {double['correct_error']:.1e} of the full batch; at a tail "
        f"the published fix steps with {double['published_tail_ratio']:.2f} times the gradient that is due"
    )
    return numbers


def check(numbers: dict[str, Any]) -> None:
    """The correct loop errs by rounding in every dtype, the published fix at tails, the undivided loss everywhere."""
    for dtype in DTYPES:
        found = numbers[dtype]
        assert found["correct_error"] < found["tolerance"], f"the correct loop is beyond the tolerance in {dtype}"
        assert found["published_full_error"] < found["tolerance"], f"the fix errs in full windows in {dtype}"
        assert found["published_tail_error"] > 0.2, f"the fix does not err at tails in {dtype}"
        assert abs(found["undivided_ratio"] - numbers["k"]) < 0.01, f"an undivided loss is not k times it in {dtype}"
        assert found["early_first_ratio"] < 1 / numbers["k"], f"the bug's first update is not short in {dtype}"
    assert numbers["float64"]["correct_error"] < 1e-14, "the correct loop errs by more than rounding"


def plot(frame: pd.DataFrame) -> Figure:
    """Error against step, a panel per dtype; tails are marked above it."""
    figure, axes = look.panels(1, 3, height=3.9, sharex=True, sharey=True)
    lowest = frame.loc[frame["error"] > 0, "error"].min() / 20
    for axis, dtype in zip(axes[0], DTYPES, strict=True):
        part = frame[frame["dtype"] == dtype]
        line = part[part["loop"] == "correct"]
        look.zones(axis, line["step"], line["tolerance"], dtype, lowest)
        look.points(axis, part, "step", LOOPS, lowest, apart=0.16)
        for step in line.loc[line["window"] == line["window"].min(), "step"]:
            axis.annotate("tail", (step, 12), ha="center", va="center", fontsize=8.5)
        axis.set(title=dtype, xticks=range(0, len(line), 2), ylim=(lowest, 40))
    look.labels(axes, x="optimizer step", y="error of the gradient, relative")
    numbers = summarise(frame)
    ratio = pd.Series([numbers[dtype]["published_tail_ratio"] for dtype in DTYPES]).mean()
    right = all(numbers[dtype]["correct_error"] < numbers[dtype]["tolerance"] for dtype in DTYPES)
    look.title(
        figure,
        ("Correct accumulation differs from the full batch by rounding alone; " if right else "")
        + f"in each tail the published fix makes its update with {ratio:.2f} times the gradient",
        f"A small GPT on real text, {SIZES.samples} samples in micro-batches of {SIZES.micro_batch_size}, "
        f"k = {SIZES.accumulation_steps}; the tail of each epoch has {min(SIZES.window_lengths())} samples.",
    )
    look.legend(figure, axes[0, 0])
    return figure
