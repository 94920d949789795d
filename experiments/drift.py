"""Claim: "batch 1 with 8 accumulation steps equals batch 8", over a whole training run. True up to amplified rounding.

``python -m experiments drift``

A small GPT on real text trains freely, without re-synchronisation, for 64 steps: the correct loop, and the loop that
does not divide its loss by k = 4, against the full batch. Shown is how far the runs are apart, relative to how far the
full-batch run has moved. The key bias of attention is shown on its own: softmax ignores it, so its true gradient is
zero and what the buffers hold is rounding. SGD multiplies that by the learning rate. Adam divides it by its own size,
which makes steps as large as any other out of it; no fixed tolerance can tell this from a bug, the measured one does.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from accumcheck.check import compare
from accumcheck.corpus.problems import PROBLEMS
from accumcheck.corpus.published import accumulate_samples, published_fix_undivided
from accumcheck.task import Sizes
from accumcheck.training.problem import DTYPES, Case
from matplotlib.figure import Figure

from experiments.lab import look
from experiments.lab.runner import Bench, Row

LOOPS = {"correct": accumulate_samples, "published_fix_undivided": published_fix_undivided}
SHOWN = "float32"
OPTIMIZERS = {"sgd": "SGD", "adamw": "AdamW"}


def run(bench: Bench) -> pd.DataFrame:
    """A row for every optimizer, dtype, loop, part of the model and optimizer step."""
    epochs = 4 if bench.quick else 16
    cases = [
        {"optimizer": optimizer, "dtype": dtype, "epochs": epochs, "device": bench.device}
        for optimizer in OPTIMIZERS
        for dtype in DTYPES
    ]
    return pd.DataFrame(bench.map(measure, cases))


def measure(optimizer: str, dtype: str, epochs: int, device: str) -> list[Row]:
    """Train freely and compare displacements from the start, key bias and all other tensors apart."""
    sizes = Sizes(samples=32, micro_batch_size=2, accumulation_steps=4, epochs=epochs)
    case = Case(PROBLEMS["gpt-windows"], sizes, optimizer, dtype, device=device)
    rows = []
    for loop, comparison in zip(LOOPS, compare(case, *LOOPS.values(), resynchronise=False), strict=True):
        for pair in comparison.trajectory.pairs:
            moved = [e for e in comparison.excesses if e.step == pair.step and e.kind == "displacement"]
            whole = math.hypot(*(e.difference.reference for e in moved))
            for part in ("key bias", "other tensors"):
                chosen = [e for e in moved if e.tensor.endswith("key.bias") == (part == "key bias")]
                rows.append(
                    {
                        "optimizer": optimizer,
                        "dtype": dtype,
                        "loop": loop,
                        "part": part,
                        "step": pair.step + 1,
                        "error": math.hypot(*(e.difference.distance for e in chosen)) / whole,
                        "tolerance": math.hypot(*(e.tolerance for e in chosen)) / whole,
                        "distance": math.hypot(*(e.difference.distance for e in chosen)),
                    }
                )
    return rows


def summarise(frame: pd.DataFrame) -> dict[str, Any]:
    """After the last step: the error of each loop and part by optimizer and dtype."""
    last = frame[frame["step"] == frame["step"].max()]
    numbers: dict[str, Any] = {"steps": int(frame["step"].max())}
    for (optimizer, dtype), part in last.groupby(["optimizer", "dtype"], sort=False):
        error = part.set_index(["loop", "part"])["error"]
        numbers.setdefault(str(optimizer), {})[str(dtype)] = {
            "correct_error": float(error["correct", "other tensors"]),
            "correct_key_bias_error": float(error["correct", "key bias"]),
            "undivided_error": float(error["published_fix_undivided", "other tensors"]),
        }
    numbers["finding"] = (
        f"after {numbers['steps']} steps in float32 a loss that is not divided by k has moved the model by "
        f"{numbers['sgd']['float32']['undivided_error']:.0%} under SGD, by "
        f"{numbers['adamw']['float32']['undivided_error']:.1e} under AdamW; the correct loop's key bias by "
        f"{numbers['adamw']['float32']['correct_key_bias_error']:.1e}"
    )
    return numbers


def check(numbers: dict[str, Any]) -> None:
    """The correct loop drifts by rounding; the undivided loss shows under SGD, and Adam hides its scale."""
    for optimizer in OPTIMIZERS:
        assert numbers[optimizer]["float64"]["correct_error"] < 1e-14, f"the correct loop drifts under {optimizer}"
        assert numbers[optimizer]["float32"]["correct_error"] < 1e-5, f"the correct loop drifts under {optimizer}"
    assert numbers["sgd"]["float32"]["undivided_error"] > 0.5, "an undivided loss does not show under SGD"
    assert numbers["adamw"]["float32"]["undivided_error"] < 1e-3, "Adam does not hide the scale"
    key_bias = numbers["adamw"]["float32"]["correct_key_bias_error"]
    assert key_bias > 100 * numbers["adamw"]["float32"]["correct_error"], "Adam does not magnify rounding"


def plot(frame: pd.DataFrame) -> Figure:
    """Error against step in one dtype, a panel for each optimizer, with the numbers of the last step."""
    figure, axes = look.panels(1, len(OPTIMIZERS), height=4.0, sharey=True)
    frame = frame[frame["dtype"] == SHOWN]
    positive = frame.loc[frame["error"] > 0, "error"]
    lowest, last = positive.min() / 5, int(frame["step"].max())
    key_bias = {"color": "#000000", "marker": "x", "linestyle": (0, (1, 1)), "label": "correct loop, key bias alone"}
    names = {"correct": "correct loop", "published_fix_undivided": "bug: loss not divided by k"}
    for axis, (optimizer, title) in zip(axes[0], OPTIMIZERS.items(), strict=True):
        part = frame[frame["optimizer"] == optimizer]
        others, bias = (part[part["part"] == which] for which in ("other tensors", "key bias"))
        band = others[others["loop"] == "correct"]
        axis.fill_between(band["step"], lowest, band["tolerance"], **look.NOISE)
        bias = bias[bias["loop"] == "correct"]
        drawn = [
            (others[others["loop"] == loop], {**look.LOOPS[loop], "label": f"{name}, all but the key bias"})
            for loop, name in names.items()
        ]
        if (bias["error"] > 0).any():
            limit = {"color": "#777777", "linewidth": 1, "label": "what rounding explains in the key bias"}
            axis.plot(bias["step"], bias["tolerance"].clip(lower=lowest), **limit)
            drawn.append((bias, key_bias))
        else:
            axis.text(last, lowest * 1.6, "key bias: no error at all", fontsize=8.5, ha="right")
        for line, style in drawn:
            axis.plot(line["step"], line["error"].clip(lower=lowest), markevery=9, markersize=5, **style)
            end = line.loc[line["step"] == last, "error"].item()
            told = look.percent(end) if end > 0.01 else look.power(end)
            axis.annotate(told, (last, end), (6, 0), textcoords="offset points", va="center", fontsize=9.5)
        axis.set(title=f"{title}, {SHOWN}", yscale="log", ylim=(lowest, 10), xlim=(0, last * 1.22))
    look.labels(axes, x="optimizer step", y="distance / whole movement")
    numbers = summarise(frame)["adamw"][SHOWN]
    ratio = numbers["correct_key_bias_error"] / numbers["undivided_error"]
    look.title(
        figure,
        f"Adam hides the bug, and cries wolf: one tensor of the correct loop ends {ratio:.0f} times as far off as the "
        "whole rest of the model under the bug",
        f"A small GPT on real text, k = 4, {last} free steps. The key bias of attention has a true gradient of zero: "
        "Adam makes steps out of its rounding.",
    )
    look.legend(figure, *axes[0], columns=2)
    return figure
