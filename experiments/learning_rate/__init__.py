"""Claim: the learning rate may have to be adjusted, as accumulation changes the effective batch size N = b·k.

``python -m experiments learning_rate``

A small MLP learns handwritten digits from a fixed number of samples (epochs), with a constant learning rate from a
grid, at micro-batches of 8 and growing k. The best rate at every N is compared with three rules that start from the
best rate at k = 1: none; linear (Goyal et al., "Accurate, Large Minibatch SGD", arXiv:1706.02677); and square root
(Krizhevsky, "One weird trick for parallelizing convolutional neural networks", arXiv:1404.5997, as what theory
suggests; for Adam, Malladi et al., "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms", arXiv:2205.10287,
who scale betas and epsilon as well, which is not done here). Loss is the mean cross-entropy on held-out digits after
the last update; a seed is an initialisation and a split of the data. Intervals are 95 % bootstrap intervals over seeds.
Runs are of full batches, as accumulation is the same training; two loops are shown beside them, the correct one as a
check, and ``batch_idx % k == 0``, which here makes as many updates: the first with 1/k of one micro-batch, and none
with the last k - 1. Not shown: warm-up, decay, momentum, large models, a fixed number of updates.
"""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from accumcheck.corpus import data, models
from accumcheck.corpus.published import LOOPS
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch.optim import SGD, AdamW
from torch.utils.data import TensorDataset

from experiments.lab import look
from experiments.lab.runner import Bench, Row
from experiments.learning_rate.rules import interval, summary_of
from experiments.learning_rate.stack import losses, stacked_task

BATCH = 8
SAMPLES = 1024  # every N divides it, so that tails play no part
OPTIMIZERS = {"sgd": SGD, "adamw": AdamW}
RATES = {"sgd": range(-6, 11), "adamw": range(-17, 0)}  # powers of √2, so that all three rules stay on the grid
BUG, CHECK = (16, 64), (16,)  # accumulation steps at which these two loops are run
TITLES = {"sgd": "SGD", "adamw": "AdamW"}
LOOKS: dict[str, dict[str, Any]] = {
    "none": {"color": "#56B4E9", "linestyle": "--", "label": "no scaling"},
    "sqrt": {"color": "#882255", "linestyle": "-.", "label": "square root of N"},
    "linear": {"color": "#777777", "linestyle": ":", "linewidth": 2, "label": "linear in N"},
}


def run(bench: Bench) -> pd.DataFrame:
    """A row for every optimizer, loop, N, rate and seed."""
    steps = (1, 8, 64) if bench.quick else (1, 2, 4, 8, 16, 32, 64)
    loops = [("full_batch", BATCH * k, 1) for k in steps]
    loops += [("early_first_step", BATCH, k) for k in BUG if not bench.quick or k == 64]
    loops += [("accumulate_samples", BATCH, k) for k in CHECK if not bench.quick]
    size = {"seeds": 2 if bench.quick else 12 if bench.full else 6, "epochs": 1 if bench.quick else 5}
    cases = [
        {"optimizer": optimizer, "loop": loop, "b": b, "k": k, **size}
        for optimizer in OPTIMIZERS
        for loop, b, k in loops
    ]
    return pd.DataFrame(bench.map(measure, cases))


def measure(optimizer: str, loop: str, b: int, k: int, seeds: int, epochs: int) -> list[Row]:
    """Train at all rates and seeds together."""
    splits = [data.digits(1797, seed).tensors for seed in range(seeds)]
    train = [TensorDataset(inputs[:SAMPLES].float(), targets[:SAMPLES]) for inputs, targets in splits]
    inputs, targets = (torch.stack([split[part][SAMPLES:] for split in splits], dim=1) for part in (0, 1))
    rates = [2 ** (power / 2) for power in RATES[optimizer]]
    make = OPTIMIZERS[optimizer]
    task = stacked_task(models.mlp, train, make, rates, micro_batch_size=b, accumulation_steps=k, epochs=epochs)
    updates: list[None] = []
    task.optimizer.register_step_post_hook(lambda *_: updates.append(None))
    LOOPS[loop](task)
    with torch.no_grad():
        held_out = losses(task.model(inputs.float()), targets).tolist()
        learned = losses(task.model(task.dataset.tensors[0]), task.dataset.tensors[1]).tolist()
    case = {"optimizer": optimizer, "loop": loop, "N": b * k, "b": b, "k": k, "updates": len(updates)}
    pairs = [(rate, seed) for rate in rates for seed in range(seeds)]
    return [
        {**case, "rate": rate, "seed": seed, "loss": loss, "train_loss": train_loss}
        for (rate, seed), loss, train_loss in zip(pairs, held_out, learned, strict=True)
    ]


def summarise(frame: pd.DataFrame) -> dict[str, Any]:
    """By optimizer: best rate and loss at every N, what each rule costs there, and what the other loops change."""
    size = frame.groupby("optimizer").agg({"seed": "nunique", "updates": "max"}).iloc[0]
    numbers: dict[str, Any] = {"b": BATCH, "n": SAMPLES, "seeds": int(size["seed"]), "updates": int(size["updates"])}
    for optimizer, part in frame.groupby("optimizer", sort=False):
        numbers[str(optimizer)] = summary_of(part)
    sgd, adamw = numbers["sgd"], numbers["adamw"]
    last = max(sgd["by_N"], key=int)
    numbers |= {
        "claim": "accumulation changes the effective batch size, so the learning rate may have to be adjusted",
        "verdict": "true under conditions",
        "conditions": "N = b·k changes and the number of samples seen is fixed; the same N has the same best rate",
        "largest_N": int(last),
        "finding": (
            f"from N = {BATCH} to {last} at a fixed number of samples the best rate of AdamW grows as N to the power "
            f"{interval(adamw['exponent'])}, that of SGD {sgd['growth']:.1f}-fold at most; not adjusting it costs "
            f"{adamw['by_N'][last]['none']['cost'][0]:.1f} times the loss under AdamW and "
            f"{sgd['by_N'][last]['none']['cost'][0]:.1f} times under SGD, the linear rule at least "
            f"{adamw['by_N'][last]['linear']['cost'][0]:.0f} and {sgd['by_N'][last]['linear']['cost'][0]:.0f} times"
        ),
    }
    return numbers


def check(numbers: dict[str, Any]) -> None:
    """Under Adam the best rate grows as the square root; both other rules cost; the correct loop changes nothing."""
    assert numbers["seeds"] >= 5, "too few seeds"
    assert numbers["verdict"] == "true under conditions", numbers["verdict"]
    _, low, high = numbers["adamw"]["exponent"]
    assert 0.25 < low < high < 0.75, f"the best rate grows as N to the power {low} to {high}"
    for optimizer in OPTIMIZERS:
        found = numbers[optimizer]
        assert not any(entry["at_edge"] for entry in found["by_N"].values()), f"{optimizer}: the grid is too narrow"
        assert found["by_N"]["512"]["none"]["cost"][1] > 1.2, f"{optimizer}: to leave the rate alone costs nothing"
        assert found["by_N"]["512"]["linear"]["cost"][1] > 10, f"{optimizer}: the linear rule costs little"
        same = found["accumulate_samples"]["128"]
        assert same["largest_difference"] < 1e-3, f"{optimizer}: correct accumulation trains otherwise"
        assert same["rate_ratio"] == [1, 1, 1], f"{optimizer}: correct accumulation wants another rate"


def plot(frame: pd.DataFrame) -> Figure:
    """Above, the best rate and the rules' rates against N; below, what a rule costs; a column per optimizer."""
    figure, axes = look.panels(2, 2, height=2.9, sharex=True)
    found = {str(optimizer): summary_of(part) for optimizer, part in frame.groupby("optimizer", sort=False)}
    for column, (optimizer, summary) in zip(axes.T, found.items(), strict=True):
        best, costs = column
        numbers, bug = summary["by_N"], summary["early_first_step"]
        sizes = [int(N) for N in numbers]
        for rule, style in LOOKS.items():
            best.plot(sizes, [entry[rule]["rate"] for entry in numbers.values()], **style)
            costs.plot(sizes, [entry[rule]["cost"][0] for entry in numbers.values()], **style)
            _, least, most = zip(*(entry[rule]["cost"] for entry in numbers.values()), strict=True)
            costs.fill_between(sizes, least, most, color=style["color"], alpha=0.15, linewidth=0)
        _errorbar(best, sizes, [entry["rate"] for entry in numbers.values()], look.LOOPS["correct"], "best rate")
        hollow = {**look.LOOPS["early_first_step"], "markerfacecolor": "none", "markersize": 9}
        _errorbar(best, [int(N) for N in bug], [entry["rate"] for entry in bug.values()], hollow)
        top = max(entry["rate"][2] for entry in numbers.values())
        low = min(entry["rate"][1] for entry in numbers.values()) / 1.6
        best.set_yscale("log", base=2)
        ticks = [2.0**power for power in range(-20, 20) if low <= 2.0**power <= top * 6]
        best.set(yticks=ticks, yticklabels=[f"{tick:.2g}" for tick in ticks], ylim=(low, top * 6))
        best.set_title(f"{TITLES[optimizer]}: best learning rate", fontsize=11)
        best.set_xscale("log", base=2)
        best.set_xticks(sizes, [str(N) for N in sizes])
        costs.set(yscale="log", ylim=(0.8, 1000), yticks=[1, 10, 100, 1000], yticklabels=["1", "10", "100", "1000"])
        costs.set_title(f"{TITLES[optimizer]}: what a rule costs", fontsize=11)
    look.labels(axes, x=f"samples in an update, N = {BATCH}·k")
    for row, label in zip(axes, ("learning rate", "loss / least loss"), strict=True):
        for axis in row[: None if look.is_narrow() else 1]:
            axis.set_ylabel(label)
    adamw = found["adamw"]["by_N"]
    last = max(adamw, key=int)
    none, root, linear = (adamw[last][rule]["cost"][0] for rule in ("none", "sqrt", "linear"))
    look.title(
        figure,
        f"With a batch {int(last) // BATCH} times as large, "
        + (
            "scale AdamW's rate by the square root: the"
            if root < min(none, linear)
            else f"AdamW's rate by the square root costs {root:.1f} times the least loss, the"
        )
        + f" old rate costs {none:.1f} times the loss, the linear rule {linear:.0f} times",
        f"An MLP on handwritten digits, {SAMPLES} samples, {int(frame['updates'].max()) * BATCH // SAMPLES} epochs, "
        "loss on "
        "held-out digits. Bars and bands: 95 % intervals over seeds. A rule starts from the best rate at k = 1.",
    )
    look.legend(figure, axes[0, 0])
    return figure


def figures(frame: pd.DataFrame) -> dict[str, Figure]:
    """Loss against learning rate, a line for every N."""
    figure, axes = look.panels(1, 2, height=3.6, sharey=True)
    full = frame[frame["loop"] == "full_batch"]
    rates: dict[str, list[float]] = {}
    for axis, (optimizer, part) in zip(axes[0], full.groupby("optimizer", sort=False), strict=True):
        sizes = sorted(part["N"].unique())
        for place, N in enumerate(sizes):  # noqa: N806
            loss = part[part["N"] == N].groupby("rate")["loss"].mean()
            rates.setdefault(str(optimizer), []).append(float(loss.idxmin()))
            color = mpl.colormaps["viridis"](0.8 * place / max(len(sizes) - 1, 1))
            axis.plot(loss.index, loss, color=color, marker="osD^vPX"[place % 7], markersize=4, label=f"N = {N}")
        axis.set(title=TITLES[str(optimizer)], yscale="log", ylim=(0.07, 20))
        learning = part.loc[part["loss"] < 20, "rate"]
        axis.set_xlim(learning.min() / 1.2, learning.max() * 1.2)
        axis.set_xscale("log", base=2)
    look.labels(axes, x="learning rate", y="held-out loss, in nats")
    first, last = rates["adamw"][0], rates["adamw"][-1]
    look.title(
        figure,
        f"From {full['N'].min()} to {full['N'].max()} samples in an update, the best rate of AdamW goes from "
        f"{first:.2g} "
        f"to {last:.2g}",
        f"An MLP on handwritten digits, {SAMPLES} samples, mean over seeds.",
    )
    look.legend(figure, axes[0, 0], columns=7)
    return {"learning_rate_curves": figure}


def _errorbar(axis: Axes, sizes: list[Any], values: list[list[float]], style: dict[str, Any], label: str = "") -> None:
    """Values with their 95 % intervals, in a loop's style."""
    best, low, high = (np.array(part) for part in zip(*values, strict=True))
    label = label or f"best rate with {style['label']}"
    ends = np.clip([best - low, high - best], 0, None)  # an interval of resamples need not contain the value
    axis.errorbar(sizes, best, ends, **{**style, "linestyle": "none", "capsize": 3, "label": label})
