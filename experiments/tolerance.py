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
from functools import cache
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from experiments import style
from experiments.bench import Bench, Row
from harness import models
from harness.contributions import expected, window_mean
from harness.data import digits, unmasked
from harness.lockstep import Run, lockstep
from harness.loops import LOOPS, full_batch
from harness.problems import DTYPES, OPTIMIZERS, PROBLEMS, Case, Problem
from harness.task import Sizes
from harness.tolerance import SAFETY, judge, neutral_runs

WRONG = ("published_fix", "published_fix_undivided", "early_first_step", "accumulate_samples", "accumulate_tokens")
FLOORS = {"all": slice(None), "permuted only": slice(0, None, 2), "perturbed only": slice(1, None, 2)}


def trained_mlp(seed: int = 0) -> nn.Module:
    """An MLP that has learnt its digits, so that the gradient is a small difference of large terms."""
    model = models.mlp()
    model.load_state_dict(_trained(seed))
    return model


@cache
def _trained(seed: int) -> dict[str, Tensor]:
    model, (inputs, targets) = models.seeded(models.mlp, seed), digits(1797).tensors
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(300):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs.float()), targets).backward()
        optimizer.step()
    return model.state_dict()


def whole_digits(samples: int, seed: int = 0) -> TensorDataset:
    """Digits as whole numbers, which no perturbation of the inputs moves."""
    inputs, targets = digits(samples, seed).tensors
    return TensorDataset((inputs * 8 + 8).round().long(), targets)


def trained_on_whole_digits() -> nn.Module:
    """The trained MLP behind a cast."""
    return nn.Sequential(Scale(), trained_mlp())


class Scale(nn.Module):
    """Whole numbers in 0 … 16 to [−1, 1], in the dtype of the layers that follow."""

    unit: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("unit", torch.tensor(0.125))

    def forward(self, inputs: Tensor) -> Tensor:
        """Any shape in and out."""
        scaled: Tensor = inputs * self.unit - 1
        return scaled


TRAINED = (
    Problem("mlp-trained", trained_mlp, digits),
    Problem("mlp-trained-whole-numbers", trained_on_whole_digits, whole_digits),
)


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
    neutral = neutral_runs(case)
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


def plot(frame: pd.DataFrame) -> Figure:
    """Decades above the floor, a dot for every case, a row for every loop, a panel per dtype."""
    frame = frame[frame["floor"] == "all"]
    figure, axes = style.panels(1, 3, height=3.6, sharey=True)
    for axis, dtype in zip(axes[0], DTYPES, strict=True):
        part = frame[frame["dtype"] == dtype]
        for row, (loop, look) in enumerate(style.LOOPS.items()):
            dots = part[part["loop"] == loop]
            scatter = (dots["seed"] * 0.6180339887) % 1 - 0.5  # the same for every run, and even
            axis.plot(
                dots["above_floor"].clip(lower=-1.5),
                row + 0.6 * scatter,
                ".",
                rasterized=True,
                color=look["color"],
                markersize=4,
                alpha=0.5,
            )
        axis.axvline(math.log10(SAFETY), color="black", linewidth=1.2)
        axis.annotate(
            "tolerance", (math.log10(SAFETY), -0.75), (4, 0), textcoords="offset points", fontsize=8, va="center"
        )
        axis.set(title=dtype, xlim=(-1.9, max(3.2, part["above_floor"].max() + 0.5)))
    figure.supxlabel("worst distance in decades above its noise floor (exact agreement: left edge)", fontsize=10)
    axes[0, 0].set_yticks(range(len(style.LOOPS)), [look["label"] for look in style.LOOPS.values()])
    axes[0, 0].set_ylim(len(style.LOOPS) - 0.5, -1)
    return figure
