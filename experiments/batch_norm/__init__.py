"""Claim: BatchNorm needs care under accumulation. True: no momentum mends its gradient, nor its variance, exactly.

``python -m experiments batch_norm``

A small CNN on digits, batches of N = 64 in k micro-batches of N/k, in float64. At each of eight optimizer steps of
full-batch training, copies of the model see the same batch whole and in k parts; compared are their gradients and the
running mean and variance of both BatchNorm layers, which have settled before. Gradients come from the statistics of
the micro-batch, whatever the momentum is: BatchNorm trains on batches of N/k. Running statistics, from r₀ with momentum
m, at one step:

- the full batch leaves (1−m)·r₀ + m·μ; k micro-batches leave (1−m)ᵏ·r₀ + Σⱼ m(1−m)ᵏ⁻ʲ·μⱼ: the past counts less
- m' = 1 − (1−m)^(1/k) gives the past its weight 1−m back, and the μⱼ weights that sum up to m; but the last weighs more
- m'ⱼ = (m/k) / (1−m + j·m/k), one for each micro-batch j, gives all of them m/k: the running mean of the first layer is
  exact. Later layers are not, as their inputs were normalised by other statistics.
- The variance is not, in any layer. Of the squares about the mean of N, Σ(x−μ)² = Σⱼ[Σ(x−μⱼ)² + Mⱼ(μⱼ−μ)²], no
  micro-batch sees the last term, how their means differ. To divide by Mⱼ−1 makes up for it on average if all M values
  are independent, but the pixels of an image are not: see ``predicted_bias``. And it is right on average only.

GroupNorm, LayerNorm and a frozen BatchNorm (evaluation mode, weights trained) are what must show nothing but rounding.
Not shown: synchronised BatchNorm, several devices.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from accumcheck.corpus.data import digits
from accumcheck.task import cross_entropy
from accumcheck.training.tolerance import SAFETY
from matplotlib.figure import Figure
from torch import Tensor
from torch.optim import SGD

from experiments.batch_norm.norms import (
    BATCH_NORMS,
    MOMENTUM,
    NORMS,
    STEPS,
    N,
    accumulate,
    build,
    predicted_bias,
    settle,
)
from experiments.lab import look
from experiments.lab.runner import Bench, Row

LOOKS: dict[str, dict[str, Any]] = {
    "BatchNorm": {"color": "#D55E00", "marker": "o", "linestyle": "-", "label": "BatchNorm, its momentum as it is"},
    "momentum rescaled": {
        "color": "#E69F00",
        "marker": "s",
        "linestyle": "--",
        "label": "BatchNorm, a smaller momentum for all micro-batches",
    },
    "momentum by micro-batch": {
        "color": "#0072B2",
        "marker": "D",
        "linestyle": "-",
        "label": "BatchNorm, a momentum for each micro-batch",
    },
}
ANY = {"color": "#000000", "marker": "X", "linestyle": "-", "label": "BatchNorm, any momentum"}
OTHERS = {"color": "#009E73", "marker": "^", "linestyle": "-.", "label": "GroupNorm, LayerNorm, frozen BatchNorm"}
LOWEST = 1e-17  # errors of 0 are drawn here


def run(bench: Bench) -> pd.DataFrame:
    """A row for every norm, k, seed, optimizer step and compared quantity; settled statistics have no step."""
    seeds = range(2 if bench.quick else 20 if bench.full else 5)
    steps = 2 if bench.quick else 8
    cases = [{"norm": norm, "seed": seed, "steps": steps, "device": bench.device} for norm in NORMS for seed in seeds]
    return pd.DataFrame(bench.map(measure, cases))


def measure(norm: str, seed: int, steps: int, device: str) -> list[Row]:
    """Train on full batches; before each step, accumulate from the same state, and compare."""
    inputs, targets = (t.to(device) for t in digits(steps * N, seed).tensors)
    model = build(norm, seed, inputs)
    optimizer = SGD(model.parameters(), lr=0.1)
    rows = []
    for step, batch in enumerate(zip(inputs.split(N), targets.split(N), strict=True)):
        other = torch.randperm(N, generator=torch.Generator().manual_seed(step)).to(device)
        full = accumulate(model, batch, 1, norm)
        neutral = accumulate(model, (batch[0][other], batch[1][other]), 1, norm)
        noise = {quantity: _distance(neutral[quantity], value) for quantity, value in full.items()}
        for k in STEPS:
            for quantity, value in accumulate(model, batch, k, norm).items():
                row = {"norm": norm, "k": k, "seed": seed, "step": step, "quantity": quantity}
                rows.append(row | {"error": _distance(value, full[quantity]), "noise": noise[quantity]})
        optimizer.zero_grad()
        cross_entropy(model(batch[0]), batch[1]).backward()
        optimizer.step()
    if norm not in BATCH_NORMS:
        return rows
    full = settle(model, inputs, 1, norm)
    for k in STEPS:
        found = settle(model, inputs, k, norm)
        for quantity in ("mean, layer 1", "variance, layer 1"):
            row = {"norm": norm, "k": k, "seed": seed, "quantity": f"settled {quantity}"}
            row["error"] = _distance(found[quantity], full[quantity])
            if "variance" in quantity:
                row["bias"] = (found[quantity].sum() / full[quantity].sum() - 1).item()
                row["predicted"] = predicted_bias(model, inputs, k)
            rows.append(row)
    return rows


def summarise(frame: pd.DataFrame) -> dict[str, Any]:
    """By norm and k: mean errors of gradient and statistics; the settled variance's bias, measured and predicted."""
    errors = frame.groupby(["norm", "quantity", "k"])["error"].mean()
    exact = frame[frame["norm"].isin(NORMS[3:])]
    floor = frame.loc[frame["quantity"] == "gradient", "noise"].max()
    tolerance = SAFETY * floor
    differs = frame["norm"].isin(BATCH_NORMS) & (frame["quantity"] == "gradient")
    numbers: dict[str, Any] = {
        "claim": "BatchNorm layers need care about how their statistics are computed when gradients are accumulated",
        "verdict": "true" if frame.loc[differs, "error"].min() > tolerance >= exact["error"].max() else "false",
        "N": N,
        "momentum": MOMENTUM,
        "noise": float(floor),
        "largest_error_without_batch_statistics": float(exact["error"].max()),
    }
    for norm in NORMS:
        found = errors[norm]
        numbers[norm] = {
            quantity: {f"k{k}": float(error) for k, error in found[quantity].items()}
            for quantity in dict.fromkeys(found.index.get_level_values("quantity"))
        }
    settled = (
        frame[frame["quantity"] == "settled variance, layer 1"].groupby(["norm", "k"])[["bias", "predicted"]].mean()
    )
    numbers["settled_variance_bias"] = {
        norm: {f"k{k}": row.to_dict() for k, row in settled.loc[norm].iterrows()} for norm in BATCH_NORMS
    }
    k = f"k{STEPS[-1]}"
    plain, rescaled, scheduled = (numbers[norm] for norm in BATCH_NORMS)
    numbers["finding"] = (
        f"with k = {STEPS[-1]} at N = {N} BatchNorm's gradient is {plain['gradient'][k]:.0%} off under any momentum, "
        f"its running mean {plain['mean, layer 1'][k]:.1%}, {rescaled['mean, layer 1'][k]:.0e} if momentum is rescaled "
        f"and {scheduled['mean, layer 1'][k]:.0e} if it is set by micro-batch; its running variance is "
        f"{plain['variance, layer 1'][k]:.1%}, {rescaled['variance, layer 1'][k]:.0e} and "
        f"{scheduled['variance, layer 1'][k]:.0e} off; norms without batch statistics differ by "
        f"{numbers['largest_error_without_batch_statistics']:.0e} at most"
    )
    return numbers


def check(numbers: dict[str, Any]) -> None:
    """BatchNorm's gradient changes at every k, and nothing does without batch statistics."""
    assert numbers["verdict"] == "true", numbers["verdict"]
    assert numbers["largest_error_without_batch_statistics"] < 1e-12, "a norm without batch statistics differs"
    assert min(numbers["BatchNorm"]["gradient"].values()) > 1e-2, "BatchNorm's gradient hardly changes"


def plot(frame: pd.DataFrame) -> Figure:
    """Error against k: of the gradient, and of the first layer's running statistics by momentum."""
    panels = {"gradient": "gradient", "mean, layer 1": "running mean", "variance, layer 1": "running variance"}
    figure, axes = look.panels(1, 3, height=3.5, sharex=True, sharey=True)
    mean = frame.groupby(["quantity", "norm", "k"])["error"].mean()
    for axis, (quantity, title) in zip(axes[0], panels.items(), strict=True):
        noise = frame.loc[frame["quantity"] == quantity, "noise"].max()
        axis.axhspan(LOWEST, max(SAFETY * noise, 2 * LOWEST), **look.NOISE)
        errors = mean[quantity]
        drawn = [(errors[norm], style) for norm, style in LOOKS.items()]
        if quantity == "gradient":  # three lines that lie on each other, and three at the noise
            widest = errors.loc[[*BATCH_NORMS]].groupby("k").agg(["min", "max"])
            if (widest["max"] / widest["min"] < 1.001).all():
                drawn = [(errors["BatchNorm"], ANY)]
            drawn.append((errors.loc[[norm for norm in NORMS if norm not in BATCH_NORMS]].groupby("k").max(), OTHERS))
        for line, style in drawn:
            axis.plot(line.index, line.clip(lower=LOWEST * 1.5), markersize=5, **style)
        axis.set(xscale="log", yscale="log", ylim=(LOWEST, 10), title=title)
        axis.set_xticks(STEPS, [str(k) for k in STEPS])
        axis.minorticks_off()
    look.labels(axes, x=f"micro-batches k, of N = {N} samples", y="relative error")
    numbers, k = summarise(frame), f"k{STEPS[-1]}"
    exact = numbers["largest_error_without_batch_statistics"] < 1e-12
    look.title(
        figure,
        f"In {STEPS[-1]} micro-batches BatchNorm's gradient is {look.percent(numbers['BatchNorm']['gradient'][k])} off"
        + ", and no momentum repairs it" * (numbers["verdict"] == "true")
        + "; GroupNorm and LayerNorm do not care" * exact,
        "A small CNN on digits, float64; statistics are those of the first layer. Each micro-batch is normalised by "
        "its own "
        "statistics.",
    )
    look.legend(figure, *axes[0], columns=2)
    return figure


def _distance(found: Tensor, reference: Tensor) -> float:
    return float((found - reference).norm() / reference.norm())
