"""The look of every figure: one colour, marker and name for each loop, safe for the colour-blind, legible at 700 px.

A figure has its finding as a title. Under ``narrow()`` the same plot function draws for a phone: its panels stand in
one column, and titles and legends break earlier.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.artist import Artist
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
# Of cells that say what a framework does: as full-batch training, by another policy, or nothing to see.
CELLS = {"equal": "#DDEEF8", "policy": "#FFF2CC", "none": "#F2F2F2"}
SIGNS = {"equal": "=", "policy": "≈", "differs": "≠"}
INK, FAINT = "#222222", "#555555"
NAMED, FOUND = "#0072B2", "#8CC3E6"  # bugs, by what was said of them
NOISE: dict[str, Any] = {
    "color": "#999999",
    "alpha": 0.35,
    "linewidth": 0,
    "label": "rounding: 16 × the measured noise",
}
DOUBT: dict[str, Any] = {"color": "#999999", "alpha": 0.13, "linewidth": 0, "label": "too small to call: inconclusive"}
SMALLEST = 8  # points; text smaller than that cannot be read at 700 px
WIDE, NARROW = 9.0, 4.2  # inches
_narrow = ContextVar("narrow", default=False)


@contextmanager
def narrow() -> Iterator[None]:
    """Draw for a narrow screen."""
    token = _narrow.set(True)
    try:
        yield
    finally:
        _narrow.reset(token)


def is_narrow() -> bool:
    """Whether figures are drawn for a narrow screen."""
    return _narrow.get()


def panels(
    rows: int,
    columns: int,
    *,
    width: float = WIDE,
    height: float = 3.4,
    sharex: bool | str = False,
    sharey: bool | str = False,
    width_ratios: Sequence[float] | None = None,
) -> tuple[Figure, Any]:
    """A figure of ``rows`` × ``columns`` axes (always a 2-d array), ``height`` inches a row.

    Under ``narrow()`` they stand in one column, row after row, but in the array they have the same places.
    """
    down, across, ratios = (rows * columns, 1, None) if is_narrow() else (rows, columns, width_ratios)
    if is_narrow() and down > 1:
        height = min(height, 3.0)
    figure = Figure(figsize=(NARROW if is_narrow() else width, height * down), layout="constrained")
    shared: dict[str, Any] = {"sharex": sharex, "sharey": sharey} if not is_narrow() else {}
    with mpl.rc_context({"font.size": 10}):
        axes = figure.subplots(down, across, squeeze=False, width_ratios=ratios, **shared).reshape(rows, columns)
    if is_narrow():  # matplotlib would share, and hide labels, by the place that a panel has now
        for place, axis in np.ndenumerate(axes):
            for share, how in ((axis.sharex, sharex), (axis.sharey, sharey)):
                row, column = {"row": (place[0], 0), "col": (0, place[1])}.get(str(how), (0, 0))
                if how and axes[row, column] is not axis:
                    share(axes[row, column])
    for axis in axes.flat:
        axis.grid(True, which="major", color="#dddddd", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def title(figure: Figure, finding: str, about: str = "") -> None:
    """What the figure shows, as a sentence above all panels; ``about``, smaller, names model, data and sizes."""
    letters = (39, 57) if is_narrow() else (86, 124)
    lines = [_balanced(text, width) for text, width in zip((finding, about), letters, strict=True)]
    tall = (0.215 if not is_narrow() else 0.2, 0.165)  # inches a line
    heights = [len(part) * each for part, each in zip(lines, tall, strict=True)]
    space = sum(heights) + 0.16
    whole = figure.get_figheight() + space
    figure.set_figheight(whole)
    engine: Any = figure.get_layout_engine()
    engine.set(rect=(0, 0, 1, 1 - space / whole))
    top = 1 - 0.05 / whole
    styles: tuple[dict[str, Any], ...] = (
        {"fontsize": 11 if is_narrow() else 12.5, "fontweight": "bold", "color": INK},
        {"fontsize": 9, "color": FAINT},
    )
    for part, high, style in zip(lines, heights, styles, strict=True):
        if part:
            place = 0.08 / figure.get_figwidth()
            figure.text(place, top, "\n".join(part), ha="left", va="top", linespacing=1.18, **style)
        top -= (high + 0.02) / whole


def _balanced(text: str, width: int) -> list[str]:
    """Lines of at most ``width`` letters, as few as can be, and about equally long."""
    lines = textwrap.wrap(text, width, break_on_hyphens=False)
    while len(shorter := textwrap.wrap(text, width - 1, break_on_hyphens=False)) == len(lines) > 1:
        lines, width = shorter, width - 1
    return lines


def labels(axes: Any, *, x: str = "", y: str = "") -> None:
    """The same label for all panels: once, at the edge, or for each of them where they stand in one column."""
    for axis in axes.flat if is_narrow() else axes[-1]:
        axis.set_xlabel(x or axis.get_xlabel())
    for axis in axes.flat if is_narrow() else axes[:, 0]:
        axis.set_ylabel(y or axis.get_ylabel())


def percent(share: float, digits: int = 0) -> str:
    r"""A share in percent.

    >>> percent(0.095, digits=1)
    '9.5\xa0%'
    """
    return f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def signed(cell: Any) -> str:
    """What a cell says, behind its sign.

    >>> signed({"kind": "differs", "text": "1/4 for 1/3"}), signed({"kind": "equal", "text": "equal"})
    ('≠ 1/4 for 1/3', '=')
    """
    return "=" if cell["text"] == "equal" else f"{SIGNS.get(cell['kind'], '')} {cell['text']}".strip()


def power(number: float) -> str:
    """A small number in plain digits and a power of ten.

    >>> power(0.000126)
    '1.3 · 10⁻⁴'
    """
    digits, exponent = f"{number:.1e}".split("e")
    return f"{digits} · 10{str(int(exponent)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def zones(axis: Axes, x: Iterable[float], tolerance: Any, dtype: str, lowest: float) -> None:
    """Below: what rounding explains. Above it: what is too small to call, as it may be a rare jump of rounding."""
    places, tolerance = list(x), np.asarray(tolerance, dtype=float)
    axis.fill_between(places, lowest, tolerance, **NOISE)
    doubt = math.sqrt(torch.finfo(getattr(torch, dtype)).eps)
    if doubt > tolerance.max():
        axis.fill_between(places, tolerance, doubt, **DOUBT)


def points(axis: Axes, frame: pd.DataFrame, x: str, loops: Iterable[str], lowest: float, *, apart: float = 0.0) -> None:
    """Errors against ``x`` as points, each loop ``apart`` from the one before; those below ``lowest`` stand there."""
    chosen = list(loops)
    for place, loop in enumerate(chosen):
        line = frame[frame["loop"] == loop]
        at = line[x] + apart * (place - (len(chosen) - 1) / 2)
        style = {**LOOPS[loop], "linestyle": ""}
        axis.plot(at, line["error"].clip(lower=lowest * 1.3), markersize=4.5, **style)
    axis.set_yscale("log")


def legend(figure: Figure, *axes: Axes, columns: int = 3, handles: Sequence[Artist] | None = None) -> None:
    """One legend for the whole figure, below it, of these panels' labels or of ``handles``."""
    found: dict[str, Any] = {str(handle.get_label()): handle for handle in handles or ()}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(
        list(found.values()),
        list(found),
        loc="outside lower center",
        ncols=1 if is_narrow() else columns,
        frameon=False,
        fontsize=9.5,
    )
