"""Claim: a tolerance of 16 times the measured noise floor raises no false alarm and misses no bug.

``python -m experiments tolerance``

At least 1,000 random cases (model, optimizer, dtype, n, b, k, seed). In each, the correct loop and the wrong ones are
compared with the full batch; recorded is how far the worst tensor lies above its noise floor, in decades. A false alarm
is a correct loop beyond the tolerance, a missed bug a wrong loop within it that is not called inconclusive. Whether a
loop is wrong on a case is decided by its contribution matrix, in exact fractions. The floor is also taken from
permuted or perturbed runs alone, to see what each adds. Two of the problems are already trained, and one of those reads
whole numbers: there a gradient is what is left of large terms that cancel (not in bfloat16, in which such a model no
longer moves). BatchNorm is left out: no loop is right for it.
"""

from __future__ import annotations

import math
import random
from typing import Any

import pandas as pd
from accumcheck.corpus.problems import PROBLEMS
from accumcheck.corpus.published import LOOPS, full_batch
from accumcheck.programs.simulate import window_mean
from accumcheck.task import Sizes, unmasked
from accumcheck.training.lockstep import Run, lockstep
from accumcheck.training.problem import DTYPES, OPTIMIZERS, Case
from accumcheck.training.tolerance import SAFETY, judge, neutral_runs
from matplotlib.figure import Figure

from experiments.lab import look
from experiments.lab.oracle import expected
from experiments.lab.runner import Bench, Row
from experiments.tolerance.trained import TRAINED

WRONG = ("published_fix", "published_fix_undivided", "early_first_step", "accumulate_samples", "accumulate_tokens")
FLOORS = {"all": slice(None), "permuted only": slice(0, None, 2), "perturbed only": slice(1, None, 2)}


def run(bench: Bench) -> pd.DataFrame:
    """A row for every case, loop and way to take the floor."""
    count = 30 if bench.quick else 1200
    return pd.DataFrame(bench.map(measure, [{"seed": seed, "device": bench.device} for seed in range(count)]))


def random_case(seed: int, device: str = "cpu") -> Case:
    """The case that a seed stands for; small enough for a thousand of them."""
    draw = random.Random(seed)
    batch, steps = draw.randint(1, 3), draw.randint(2, 8)
    sizes = Sizes(draw.randint(1, 2 * batch * steps), batch, steps, epochs=draw.choice([1, 1, 2]))
    dtype = draw.choice([*DTYPES])
    fresh = [problem for name, problem in PROBLEMS.items() if name != "cnn-batchnorm"]
    problem = draw.choice(fresh if dtype == "bfloat16" else [*fresh, *TRAINED])
    return Case(problem, sizes, draw.choice([*OPTIMIZERS]), dtype, seed, device)


def measure(seed: int, device: str) -> list[Row]:
    """Compare all loops on one case; ``above_floor`` is in decades, the verdict is the harness's own."""
    case = random_case(seed, device)
    units = None
    if case.problem.objective == "token":
        units = [unmasked(targets) for targets in case.dataset().tensors[1]]
    due = window_mean(case.sizes, units)
    correct = f"accumulate_{case.problem.objective}s"
    names = [correct, *(name for name in WRONG if name != correct and expected(name, case.sizes, units) != due)]
    neutral = neutral_runs(case, full_batch)
    trajectories = lockstep(
        Run(full_batch, case.full_batch().task()), *(Run(LOOPS[n], case.task()) for n in names), *neutral, state=True
    )
    rows = []
    for name, trajectory in zip(names, trajectories[: len(names)], strict=True):
        for floor, chosen in FLOORS.items():
            comparison = judge(case, trajectory, trajectories[len(names) :][chosen])
            rows.append(
                {
                    "seed": seed,
                    "problem": str(case.problem),
                    "optimizer": case.optimizer,
                    "dtype": case.dtype,
                    "n": case.sizes.samples,
                    "b": case.sizes.micro_batch_size,
                    "k": case.sizes.accumulation_steps,
                    "loop": "correct" if name == correct else name,
                    "floor": floor,
                    "verdict": comparison.verdict,
                    "error": max(comparison.error(pair.step) for pair in trajectory.pairs),
                    "above_floor": min(comparison.margin + math.log10(SAFETY), 99.0),
                }
            )
    return rows


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """By dtype and way to take the floor: cases, false alarms, missed bugs, and the worst of each kind in decades."""
    correct = frame["loop"] == "correct"
    missed = ~correct & (frame["verdict"] == "equivalent")
    groups = frame.assign(
        false_alarms=correct & (frame["verdict"] == "diverges"),
        missed_bugs=missed,
        inconclusive=frame["verdict"] == "inconclusive",
        smallest_error=frame["error"].where(~correct),
        highest_honest=frame["above_floor"].where(correct),
        lowest_bug=frame["above_floor"].where(~correct),
        cases=correct,
        bugs=~correct,
    ).groupby(["dtype", "floor"], sort=False)
    sums = groups[["cases", "bugs", "false_alarms", "missed_bugs", "inconclusive"]].sum()
    worst = groups.agg({"highest_honest": "max", "lowest_bug": "min", "smallest_error": "min"})
    return sums.join(worst).reset_index()


def summarise(frame: pd.DataFrame) -> dict[str, Any]:
    """The table's rows with the floor from all neutral runs, and the number of cases."""
    frame = frame[frame["floor"] == "all"]
    rows = table(frame).drop(columns="floor").round(4).to_dict("records")
    numbers: dict[str, Any] = {str(row.pop("dtype")): row for row in rows}
    false_alarms, missed = (sum(row[key] for row in rows) for key in ("false_alarms", "missed_bugs"))
    finding = (
        f"{len(frame)} verdicts on {frame['seed'].nunique()} cases: {false_alarms} false alarms, {missed} missed bugs"
    )
    return {"finding": finding, "safety": SAFETY, "cases": int(frame["seed"].nunique()), **numbers}


def check(numbers: dict[str, Any]) -> None:
    """A thousand cases without a false alarm or a missed bug, and room below the least of the bugs."""
    assert numbers["cases"] >= 1000, f"{numbers['cases']} cases are too few"
    for dtype in DTYPES:
        for mistake in ("false_alarms", "missed_bugs"):
            assert numbers[dtype][mistake] == 0, f"{numbers[dtype][mistake]} {mistake} in {dtype}"
    for dtype, decades in (("float64", 9), ("float32", 2)):
        assert numbers[dtype]["lowest_bug"] >= decades, f"a bug is less than {decades} decades off in {dtype}"


def plot(frame: pd.DataFrame) -> Figure:
    """Decades above the floor, a dot for every case, a row for every loop, a panel per dtype."""
    frame = frame[frame["floor"] == "all"]
    figure, axes = look.panels(1, 3, height=3.6, sharey=True)
    for axis, dtype in zip(axes[0], DTYPES, strict=True):
        part = frame[frame["dtype"] == dtype]
        for row, (loop, style) in enumerate(look.LOOPS.items()):
            dots = part[part["loop"] == loop]
            scatter = (dots["seed"] * 0.6180339887) % 1 - 0.5  # the same for every run, and even
            axis.plot(
                dots["above_floor"].clip(lower=-1.5),
                row + 0.6 * scatter,
                ".",
                rasterized=True,
                color=style["color"],
                markersize=4,
                alpha=0.5,
            )
        axis.axvline(math.log10(SAFETY), color="black", linewidth=1.2)
        axis.annotate(
            "tolerance", (math.log10(SAFETY), -0.75), (4, 0), textcoords="offset points", fontsize=8, va="center"
        )
        axis.set(title=dtype, xlim=(-1.9, max(3.2, part["above_floor"].max() + 0.5)))
    figure.supxlabel("worst distance in decades above its noise floor (exact agreement: left edge)", fontsize=10)
    axes[0, 0].set_yticks(range(len(look.LOOPS)), [style["label"] for style in look.LOOPS.values()])
    axes[0, 0].set_ylim(len(look.LOOPS) - 0.5, -1)
    return figure
