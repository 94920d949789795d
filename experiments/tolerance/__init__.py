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
import textwrap
from typing import Any

import pandas as pd
from accumcheck.corpus.problems import PROBLEMS
from accumcheck.corpus.published import LOOPS, full_batch
from accumcheck.programs.simulate import window_mean
from accumcheck.task import Sizes, unmasked
from accumcheck.training.lockstep import Run, lockstep
from accumcheck.training.problem import DTYPES, OPTIMIZERS, Case
from accumcheck.training.tolerance import SAFETY, judge, neutral_runs
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from experiments.lab import look
from experiments.lab.oracle import expected
from experiments.lab.runner import Bench, Row
from experiments.tolerance.trained import TRAINED

WRONG = ("published_fix", "published_fix_undivided", "early_first_step", "accumulate_samples", "accumulate_tokens")
EXACT = -4.0  # decades; where loops that agree to the last digit stand
DOUBTFUL: dict[str, Any] = {
    "marker": "x",
    "color": look.INK,
    "alpha": 0.6,
    "markeredgewidth": 0.7,
    "label": "inconclusive: no verdict",
}
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
    figure, axes = look.panels(1, 3, height=3.7, sharex=True, sharey=True)
    line, furthest = math.log10(SAFETY), frame["above_floor"].max()
    names = {loop: "\n".join(textwrap.wrap(style["label"], 23)) for loop, style in look.LOOPS.items()}
    for axis, dtype in zip(axes[0], DTYPES, strict=True):
        part = frame[frame["dtype"] == dtype]
        axis.axvspan(EXACT - 0.7, line, **look.NOISE)
        for row, (loop, style) in enumerate(look.LOOPS.items()):
            for called in (True, False):
                dots = part[(part["loop"] == loop) & ((part["verdict"] != "inconclusive") == called)]
                scatter = (dots["seed"] * 0.6180339887) % 1 - 0.5  # the same for every run, and even
                marks = {"marker": ".", "color": style["color"], "alpha": 0.5} if called else DOUBTFUL
                x = dots["above_floor"].clip(lower=EXACT)
                axis.plot(x, row + 0.6 * scatter, linestyle="", markersize=4, rasterized=True, **marks)
        axis.axvline(line, color="black", linewidth=1.2)
        ticks = [0, 5, 10, 15]
        axis.set_xticks([EXACT, *ticks], ["exact", *(f"$10^{{{tick}}}$" if tick else "1" for tick in ticks)])
        axis.set(title=f"{dtype}\n{_doubtful(part)}", xlim=(EXACT - 0.7, furthest + 0.5))
        axis.title.set_fontsize(9.5)
        axis.set_yticks(range(len(names)), list(names.values()), fontsize=9)
        axis.set_ylim(len(names) - 0.5, -0.6)
    look.labels(axes, x="distance / measured noise")
    rows = table(frame)
    false_alarms, missed = int(rows["false_alarms"].sum()), int(rows["missed_bugs"].sum())
    blind = [dtype for dtype in DTYPES if (frame[frame["dtype"] == dtype].pipe(_called_right) == 0)]
    look.title(
        figure,
        f"{_none(false_alarms)} false alarm{'s' * (false_alarms > 1)} and {_none(missed).lower()} missed "
        f"bug{'s' * (missed > 1)} in {frame['seed'].nunique():,} random cases"
        + (f"; in {' and '.join(blind)} no loop can be called right" if blind else ""),
        f"A dot is the worst tensor of one loop on one case. Black line: the tolerance, {SAFETY:.0f} × the measured "
        "noise. Inconclusive: the "
        "difference is too near to rounding, or rounding could hide a small bug.",
    )
    handles: list[Artist] = [Line2D([], [], linestyle="", markersize=5, **DOUBTFUL)]
    handles.append(Patch(**look.NOISE))
    look.legend(figure, handles=handles, columns=2)
    return figure


def _none(count: int) -> str:
    return f"{count:,}" if count else "No"


def _called_right(part: pd.DataFrame) -> int:
    return int((part["verdict"] == "equivalent").sum())


def _doubtful(part: pd.DataFrame) -> str:
    """How many right and wrong loops got no verdict."""
    doubtful, right = part["verdict"] == "inconclusive", part["loop"] == "correct"
    if not doubtful.any():
        return "inconclusive:\nnone"
    told = [
        f"{'all ' if count == of else f'{count:,} of '}{of:,} {name}"
        for name, which in (("right", right), ("wrong", ~right))
        for count, of in [(int((doubtful & which).sum()), int(which.sum()))]
        if count
    ]
    return "inconclusive:\n" + ", ".join(told)
