"""Claim: k accumulated micro-batches equal one k times as large. For token means, true if all hold equally many tokens.

``python -m experiments tokens``

A small GPT on lines of real text, windows of 8 micro-batches. Tokens are masked so that half of a window's
micro-batches hold t(1 + c) tokens and half t(1 − c): the total stays, and the coefficient of variation (CV) of the
counts is c. Masked are random tokens, or those at the end of each line, as by padding; and lines of unequal length are
taken as they are. The loop in which micro-batches weigh alike is compared with the token mean, before and after some
training.

Theory: the micro-batches' mean gradients g_j, of t_j tokens each and T together, weigh 1/k where t_j / T is due, so
error = ‖Σ (1/k − t_j/T) g_j‖ / ‖Σ (t_j/T) g_j‖. Assume g_j = G + noise, where G does not depend on the count and the
noise is that of t_j independent tokens, E‖noise‖² = S / t_j. Weights of the difference add up to 0, so G drops out:

    E‖difference‖² = S Σ (1/k − t_j/T)² / t_j = (S/T) (A/H − 1),    E‖token mean‖² = ‖G‖² + S/T,

A and H the arithmetic and harmonic means of the counts. Here A/H − 1 = CV² / (1 − CV²), and for any counts it is about
CV² where that is small: the error is CV times the root of the noise's share of the window's gradient, which grows
in training. G and S are estimated at equal counts, nothing is fitted. Masked line ends break the assumption: the
first tokens of a line have another mean gradient than all.
"""

from __future__ import annotations

import math
from copy import deepcopy
from functools import partial
from typing import Any

import pandas as pd
import torch
from accumcheck.corpus.data import text_lines
from accumcheck.corpus.models import GPT
from accumcheck.corpus.published import accumulate_samples, accumulate_tokens, full_batch
from accumcheck.task import IGNORE_INDEX, Sizes
from accumcheck.training.lockstep import Run, lockstep
from accumcheck.training.problem import seeded
from matplotlib.figure import Figure
from torch import nn
from torch.optim import SGD, AdamW
from torch.utils.data import TensorDataset

from experiments.lab import look
from experiments.lab.runner import Bench, Row
from experiments.tokens.windows import BATCH, STEPS, masked, moments, task_of, token_counts

SPREADS = (0.0, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 7 / 8)
EPOCHS_BEFORE: tuple[int, ...] = (0, 1)  # of training with the token mean
LINES = 4096  # to train on, and as many others to measure on
LOOKS: dict[str, dict[str, Any]] = {
    "random": {"marker": "D", "color": look.LOOPS["accumulate_samples"]["color"], "label": "random tokens masked"},
    "line ends": {
        "marker": "o",
        "color": "#0072B2",
        "markerfacecolor": "white",
        "label": "ends of lines masked, as by padding",
    },
    "as they are": {"marker": "x", "color": "#D55E00", "label": "lines as they are, 1, 2 or 4 to a micro-batch"},
}


def run(bench: Bench) -> pd.DataFrame:
    """A row for every stage of training, masking and spread of counts, averaged over windows."""
    epochs, windows, seeds = EPOCHS_BEFORE, 12, 1
    if bench.quick:
        epochs, windows = EPOCHS_BEFORE[:1], 2
    if bench.full:
        epochs, windows, seeds = (*EPOCHS_BEFORE, 3), 24, 3
    cases = [
        {"epochs": many, "windows": windows, "seed": seed, "device": bench.device}
        for many in sorted(epochs, reverse=True)  # the longest first, so that no worker is left with it
        for seed in range(seeds)
    ]
    frame = pd.DataFrame(bench.map(measure, cases))
    return frame.sort_values("epochs", kind="stable", ignore_index=True)


def measure(epochs: int, windows: int, seed: int, device: str) -> list[Row]:
    """All maskings and spreads at one stage of training."""
    inputs, targets = (tensor.to(device) for tensor in text_lines(2 * LINES, seed).tensors)
    model = seeded(GPT, seed).to(device, torch.float64)
    if epochs:
        train = TensorDataset(inputs[LINES:], targets[LINES:])
        full_batch(task_of(model, train, Sizes(LINES, STEPS * BATCH, 1, epochs), partial(AdamW, lr=5e-3)))
    inputs, targets = inputs[:LINES], targets[:LINES]
    whole = (targets != IGNORE_INDEX).all(dim=1)
    lines = TensorDataset(*(tensor[whole][: windows * STEPS * BATCH] for tensor in (inputs, targets)))
    rows = []
    for masking in ("random", "line ends"):
        equal = masked(lines, 0.0, masking, seed)
        signal, noise = moments(model, equal)
        for spread in SPREADS:
            dataset = masked(lines, spread, masking, seed)
            rows.append({"masking": masking, "b": BATCH, **compared(model, dataset, BATCH, signal, noise)})
    for batch in (1, 2, BATCH):
        dataset = TensorDataset(*(tensor[: windows * STEPS * batch] for tensor in (inputs, targets)))
        rows.append({"masking": "as they are", "b": batch, **compared(model, dataset, batch, signal, noise)})
    return [{"epochs": epochs, "seed": seed, **row} for row in rows]


def compared(model: nn.Module, dataset: TensorDataset, batch: int, signal: float, noise: float) -> Row:
    """The measured error of micro-batches that weigh alike, and that of theory; roots of mean squares over windows."""
    counts = token_counts(dataset, batch)
    mean, total = counts.mean(dim=1), counts.sum(dim=1)
    excess = mean * (1 / counts).mean(dim=1) - 1
    share = noise / total.mean() / (signal + noise / total.mean())
    sizes = Sizes(len(dataset), batch, STEPS, 1)
    # At so small a rate all windows are taken at one point.
    tasks = [task_of(deepcopy(model), dataset, sizes, partial(SGD, lr=1e-9)) for _ in range(2)]
    [found] = lockstep(Run(accumulate_tokens, tasks[0]), Run(accumulate_samples, tasks[1]))
    squares = {
        norm: sum(getattr(difference, norm) ** 2 for pair in found.pairs for difference in pair.gradient.values())
        for norm in ("distance", "reference")
    }
    return {
        "tokens": float(total.mean()),
        "cv": float((counts.std(dim=1, correction=0) / mean).square().mean().sqrt()),
        "excess": float(excess.mean()),
        "noise_share": float(share),
        "error": math.sqrt(squares["distance"] / squares["reference"]),
        "theory": math.sqrt(float((noise / total * excess).mean()) / float((signal + noise / total).mean())),
    }


def summarise(frame: pd.DataFrame) -> dict[str, Any]:
    """By stage of training: errors by masking and spread, over theory, and the noise's share of the gradient."""
    equal = frame["cv"] < 1e-9
    numbers: dict[str, Any] = {"k": STEPS, "b": BATCH, "equal_counts_error": float(frame.loc[equal, "error"].max())}
    for epochs, stage in frame.groupby("epochs"):
        designed = stage[stage["masking"] == "random"]
        half = stage[stage["cv"].sub(0.5).abs() < 1e-9].groupby("masking")
        natural = stage[stage["masking"] == "as they are"].groupby("b")[["cv", "error", "theory"]].mean()
        numbers[f"epochs{epochs}"] = {
            "noise_share": float(designed["noise_share"].mean()),
            "error_at_half": {str(name).replace(" ", "_"): float(part["error"].mean()) for name, part in half},
            "theory_at_half": {str(name).replace(" ", "_"): float(part["theory"].mean()) for name, part in half},
            "lines_as_they_are": {f"b{b}": values for b, values in natural.to_dict("index").items()},
        }
    for name, part in frame[~equal].groupby("masking"):
        ratio = part["error"] / part["theory"]
        numbers[f"over_theory_{str(name).replace(' ', '_')}"] = [float(ratio.min()), float(ratio.max())]
    first, last = (numbers[f"epochs{epochs}"] for epochs in (frame["epochs"].min(), frame["epochs"].max()))
    low, high = numbers["over_theory_random"]
    wrong = frame.loc[~equal, "error"] > 1e-3
    numbers["claim"] = f"accumulating {STEPS} micro-batches is the same as training with a batch {STEPS} times as large"
    same = numbers["equal_counts_error"] < 1e-9
    numbers["verdict"] = "true" if not wrong.any() else "true under conditions" if same else "false"
    numbers["finding"] = (
        f"micro-batches that weigh alike give the token mean if all hold equally many tokens (error "
        f"{numbers['equal_counts_error']:.1g}); at a CV of 0.5 the gradient is off by "
        f"{first['error_at_half']['random']:.0%} at first and {last['error_at_half']['random']:.0%} after "
        f"training (epochs: {frame['epochs'].max()}), {low:.2f} to {high:.2f} times what theory gives for random masks"
    )
    return numbers


def check(numbers: dict[str, Any]) -> None:
    """No error at equal counts, otherwise that of theory for random masks, and more of it after training."""
    assert numbers["verdict"] == "true under conditions", numbers["verdict"]
    assert numbers["equal_counts_error"] < 1e-9, "equal counts err"
    low, high = numbers["over_theory_random"]
    assert 0.7 < low <= high < 1.3, f"errors are {low} to {high} times those of theory"
    before, after = (numbers[stage]["error_at_half"]["random"] for stage in ("epochs0", "epochs1"))
    assert 0.05 < before < after, "the error does not grow in training"


def plot(frame: pd.DataFrame) -> Figure:
    """Error against the spread of counts, a panel for each stage of training, over the curve of theory."""
    stages = sorted(frame["epochs"].unique())
    figure, axes = look.panels(1, len(stages), height=3.7, sharey=True)
    spread = torch.linspace(0, max(SPREADS), 100)
    for axis, epochs in zip(axes[0], stages, strict=True):
        stage = frame[frame["epochs"] == epochs]
        share = stage.loc[stage["masking"] == "random", "noise_share"].mean()
        curve = share**0.5 * spread / (1 - spread**2).sqrt()
        axis.plot(spread, curve, color=look.INK, linewidth=1.2, label="theory for random masks, nothing fitted")
        for masking, marks in LOOKS.items():
            points = stage[stage["masking"] == masking].groupby("b" if masking == "as they are" else "cv")
            mean = points[["cv", "error"]].mean()
            axis.plot(mean["cv"], mean["error"], linestyle="", **marks)
        trained = f"after {epochs} epoch{'s' if epochs > 1 else ''} of training" if epochs else "before training"
        axis.set_title(f"{trained}\n{look.percent(share)} of the squared gradient is noise", fontsize=10)
        axis.set_xticks([0, 0.25, 0.5, 0.75], ["all equal", "±25 %", "±50 %", "±75 %"])
    look.labels(axes, x="token counts, about their mean", y="error of the gradient, relative")
    numbers = summarise(frame)
    before, after = (numbers[f"epochs{epochs}"]["error_at_half"]["random"] for epochs in (stages[0], stages[-1]))
    exact = numbers["equal_counts_error"] < 1e-9
    look.title(
        figure,
        f"Where token counts differ by ±50 %, micro-batches that weigh alike make the gradient {look.percent(before)} "
        f"wrong before training and {look.percent(after)} after {stages[-1]} epoch{'s' if stages[-1] > 1 else ''}",
        f"A small GPT on lines of real text, windows of {STEPS} micro-batches."
        + " Equal counts: no error." * exact
        + " The more of the gradient is noise, the more wrong weights matter. ±: standard deviation.",
    )
    look.legend(figure, axes[0, 0], columns=2)
    return figure
