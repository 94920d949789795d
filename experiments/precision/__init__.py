"""Claim: gradients accumulated in the dtype of the parameters lose precision as k grows; in float32 they do not.

``python -m experiments precision`` (``--full`` uses a GPT of 1 M parameters)

A small GPT on real text whose parameters are bfloat16 numbers, so that every dtype starts from the same ones. Gradients
are accumulated by autograd, at fixed N and at fixed b = 1, and compared with a float64 full batch. The error has two
parts. One is in the micro-batches' own gradients, which kernels compute; a hook adds them up in float64. The other is
made by the buffer: rounding a sum to nearest errs by up to half the spacing of numbers around it, so by
spacing / √12 in the mean of squares, and over k micro-batches these errors add up as independent ones do, until
additions below half the spacing are lost. In bfloat16 the spacing is up to 2⁻⁷ of a number. Public threads on it:
https://github.com/pytorch/pytorch/issues/106395 and https://github.com/deepspeedai/DeepSpeed/issues/1800.
Not shown: how training ends; stochastic rounding; GPU kernels.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.lab import look
from experiments.lab.runner import Bench
from experiments.precision.arms import ARMS, BRAIN, HALF, measure

LOOKS: dict[str, dict[str, Any]] = {
    "bfloat16": {"color": "#D55E00", "marker": "v", "linestyle": "-", "label": "all in bfloat16"},
    "bfloat16, float32 buffer": {
        "color": "#009E73",
        "marker": "D",
        "linestyle": "-",
        "label": "bfloat16, but summed in float32",
    },
    "autocast bfloat16": {"color": "#E69F00", "marker": "s", "linestyle": "--", "label": "autocast to bfloat16"},
    "autocast float16": {"color": "#CC79A7", "marker": "^", "linestyle": "-.", "label": "autocast to float16"},
    "autocast float16, divided once": {
        "color": "#000000",
        "marker": "x",
        "linestyle": ":",
        "label": "float16, divided by k at the end",
    },
    "autocast float16, loss scaled": {
        "color": "#56B4E9",
        "marker": "P",
        "linestyle": "-",
        "label": "float16 with a gradient scaler",
    },
    "float32": {"color": "#0072B2", "marker": "o", "linestyle": "-", "label": "all in float32"},
}
PARTS = ("kernel_error", "buffer_error", "predicted_buffer_error", "lost_additions")
WEIGHTS_K = 16
SMALL = 2.0**-8  # the weight of the loss that the summary speaks about


def run(bench: Bench) -> pd.DataFrame:
    """A row for every arm, number of samples, micro-batch size and weight of the loss."""
    steps, total, largest = ((1, 3, 16), 16, -8) if bench.quick else ((1, 3, 10, 32, 100, 256), 256, -20)
    size = "1M" if bench.full else "10k"
    sizes = [(k, 1) for k in steps] + [(total, b) for b in (total, total // 4, total // 16, 4, 1)]
    cases = [(arm, n, b, 0) for arm in ARMS for n, b in dict.fromkeys(sizes) if arm in LOOKS or n // b <= 32]
    float16 = [name for name, arm in ARMS.items() if arm.autocast == HALF]
    cases += [(arm, total, total // WEIGHTS_K, exponent) for arm in float16 for exponent in range(-4, largest - 1, -4)]
    names = ("arm", "n", "b", "weight")
    return pd.DataFrame(bench.map(measure, [dict(zip(names, case, strict=True), size=size) for case in cases]))


def summarise(frame: pd.DataFrame) -> dict[str, Any]:
    """By arm: errors in both series, and for the longest the two parts, theory's value and the additions lost."""
    plain = frame[frame["weight"] == 1]
    total = int(plain["n"].max())
    numbers: dict[str, Any] = {
        "claim": "gradients accumulated in the parameters' dtype lose precision as k grows; in float32 they do not",
        "n": total,
        "unit_roundoff_bfloat16": torch.finfo(BRAIN).eps / 2,
    }
    for arm, part in plain.groupby("arm", sort=False):
        growing = part[part["b"] == 1].set_index("k")
        fixed = part[part["n"] == total].set_index("k")
        longest = growing.to_dict("index")[growing.index.max()]
        numbers[str(arm)] = {
            "error_by_k_at_b_1": {str(k): float(error) for k, error in growing["error"].sort_index().items()},
            "error_by_k_at_fixed_n": {str(k): float(error) for k, error in fixed["error"].sort_index().items()},
            **{part: longest[part] for part in PARTS},
        }

    narrow, wide = (numbers[arm] for arm in ("bfloat16", "bfloat16, float32 buffer"))
    grown, steady = (_growth(arm["error_by_k_at_b_1"]) for arm in (narrow, wide))
    at_fixed_n = {int(k): error for k, error in narrow["error_by_k_at_fixed_n"].items()}
    numbers |= {"growth_bfloat16": grown, "growth_float32_buffer": steady}
    numbers["best_k_bfloat16_at_fixed_n"] = best = min(at_fixed_n, key=at_fixed_n.__getitem__)
    if grown <= 1 or steady > 1:
        numbers["verdict"] = "false"
    else:
        numbers["verdict"] = "true" if best == 1 else "true under conditions"
    theory = plain[(plain["arm"] == "bfloat16") & (plain["k"] > 1)]
    ratio = theory["buffer_error"] / theory["predicted_buffer_error"]
    numbers["buffer_error_over_theory"] = [float(ratio.min()), float(ratio.max())]
    smallest = frame[frame["weight"] == SMALL].set_index("arm")
    numbers["small_gradients"] = {
        "weight": SMALL,
        **{str(arm): {"error": float(row["error"]), "zeros": float(row["zeros"])} for arm, row in smallest.iterrows()},
    }
    numbers["finding"] = (
        f"from k = 1 to {total} at b = 1 the gradient's error grows {grown:.1f}-fold, to "
        f"{narrow['error_by_k_at_b_1'][str(total)]:.2%}, if buffers are bfloat16 as the parameters ("
        f"{narrow['lost_additions']:.0%} of additions change nothing), and becomes {steady:.2f} times what it was if "
        f"they are float32; at N = {total} kernels sum in bfloat16 too, so that errors are {at_fixed_n[1]:.2%} for the "
        f"full batch, {at_fixed_n[best]:.2%} at k = {best} and {at_fixed_n[total]:.2%} at k = {total}"
    )
    return numbers


def check(numbers: dict[str, Any]) -> None:
    """The error of bfloat16 buffers grows with k, and that of float32 buffers shrinks."""
    assert numbers["verdict"] == "true under conditions", numbers["verdict"]
    assert numbers["growth_bfloat16"] > 4, "bfloat16 buffers hardly lose precision"
    assert numbers["growth_float32_buffer"] < 1, "float32 buffers lose precision"


def _growth(errors: dict[str, float]) -> float:
    """The error at the largest k over that at k = 1."""
    return errors[max(errors, key=int)] / errors["1"]


def plot(frame: pd.DataFrame) -> Figure:
    """Error against k at fixed b and at fixed N, and against the weight of the loss."""
    plain = frame[frame["weight"] == 1]
    total = int(plain["n"].max())
    figure, axes = look.panels(1, 3, height=3.7, sharey=True)
    growing, fixed, small = axes[0]
    for arm, style in LOOKS.items():
        _line(growing, plain[(plain["arm"] == arm) & (plain["b"] == 1)], "k", style)
        _line(fixed, plain[(plain["arm"] == arm) & (plain["n"] == total)], "k", style)
        if "float16" in arm and "bfloat16" not in arm:
            _line(
                small, frame[(frame["arm"] == arm) & (frame["n"] == total) & (frame["k"] == WEIGHTS_K)], "weight", style
            )
    theory = plain[(plain["arm"] == "bfloat16") & (plain["b"] == 1) & (plain["k"] > 1)].sort_values("k")
    grey = {"color": "#777777", "linewidth": 5, "alpha": 0.35, "zorder": 0}
    growing.plot(theory["k"], theory["predicted_buffer_error"], label="theory for a sum in bfloat16", **grey)
    for axis, chosen in ((growing, plain["b"] == 1), (fixed, plain["n"] == total)):
        ticks = sorted(int(k) for k in plain.loc[chosen & (plain["arm"] == "bfloat16"), "k"].unique())
        axis.set_xticks(ticks, [str(k) for k in ticks])
        axis.set(xlabel="micro-batches k in an update")
    growing.set_title("micro-batches of 1 sample", fontsize=10.5)
    fixed.set_title(f"always {total} samples in an update", fontsize=10.5)
    exponents = (-20, -12, -4)
    small.set_xticks([2.0**exponent for exponent in exponents], [f"$2^{{{exponent}}}$" for exponent in exponents])
    small.set_xlim(2.0**-21, 2)
    small.set(xlabel="factor on the loss")
    small.set_title(f"small gradients, k = {WEIGHTS_K}", fontsize=10.5)
    look.labels(axes, y="error of the gradient, relative")
    narrow, wide = (
        plain[(plain["arm"] == arm) & (plain["b"] == 1) & (plain["k"] == total)]["error"].item()
        for arm in ("bfloat16", "bfloat16, float32 buffer")
    )
    look.title(
        figure,
        f"To sum {total} gradients in bfloat16 costs {look.percent(narrow, 1)} of the gradient, in a float32 buffer "
        f"{look.percent(wide, 2)}",
        "A small GPT on real text, beside a float64 full batch. Last panel: where the loss is small, gradients in "
        "float16 become zero unless it is scaled up.",
    )
    look.legend(figure, growing, columns=3)
    return figure


def _line(axis: Axes, rows: pd.DataFrame, x: str, style: dict[str, Any]) -> None:
    rows = rows.sort_values(x)
    axis.plot(rows[x], rows["error"], markersize=5, **style)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
