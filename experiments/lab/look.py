"""The look of every figure: one colour, marker and name for each loop, safe for the colour-blind, legible at 700 px."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito, "Color Universal Design", 2008; marker and dash tell the loops apart without colour.
LOOPS: dict[str, dict[str, Any]] = {
    "correct": {"color": "#0072B2", "marker": "o", "linestyle": "-", "label": "correct accumulation"},
    "published_fix": {"color": "#E69F00", "marker": "s", "linestyle": "--", "label": "published fix, loss / k"},
    "published_fix_undivided": {
        "color": "#CC79A7",
        "marker": "^",
        "linestyle": "-.",
        "label": "published fix, loss not divided",
    },
    "accumulate_samples": {
        "color": "#009E73",
        "marker": "D",
        "linestyle": "-",
        "label": "weighted by samples, tokens unequal",
    },
    "early_first_step": {"color": "#D55E00", "marker": "v", "linestyle": ":", "label": "batch_idx % k == 0"},
}
INK = "#222222"
NOISE: dict[str, Any] = {"color": "#999999", "alpha": 0.35, "linewidth": 0, "label": "noise floor × 16 (tolerance)"}


def panels(rows: int, columns: int, *, width: float = 9.0, height: float = 3.4, **keywords: Any) -> tuple[Figure, Any]:
    """A figure of ``rows`` × ``columns`` axes (always a 2-d array), ``height`` inches a row."""
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    with mpl.rc_context({"font.size": 10}):
        axes = figure.subplots(rows, columns, squeeze=False, **keywords)
    for axis in axes.flat:
        axis.grid(True, which="major", color="#dddddd", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def lines(axis: Axes, frame: pd.DataFrame, x: str, loops: Iterable[str]) -> None:
    """Error against ``x`` for each loop, over the band of the tolerance; an error of 0 is drawn at the lower edge."""
    lowest = frame.loc[frame["error"] > 0, "error"].min() / 5
    band = frame[frame["loop"] == "correct"]
    axis.fill_between(band[x], lowest, band["tolerance"], **NOISE)
    for loop in loops:
        line = frame[frame["loop"] == loop]
        size = 9 if loop == "correct" else 5  # others lie on top of it where they are right
        axis.plot(line[x], line["error"].clip(lower=lowest), markersize=size, **LOOPS[loop])
    axis.set_yscale("log")


def legend(figure: Figure, axis: Axes, *, columns: int = 3) -> None:
    """One legend for the whole figure, below it."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
