"""Differences between trainings that share a seed, with the interval that Student's t gives them over seeds."""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np
import pandas as pd

ROUNDING = 1e-4  # of a loss, an accuracy or a ratio: what is nearer to nothing than this is never said to differ
DIFFERS, SAME, UNKNOWN = "differs", "no difference seen", "one seed"
DIFFERENCES = ("train_loss", "held_out_loss", "accuracy", "early_accuracy")
RATIOS = ("logged_loss", "first_loss", "norm", "first_norm", "tail_norm")


def paired(found: pd.Series[float], base: pd.Series[float], *, ratio: bool = False) -> dict[str, Any]:
    """The mean of differences, or the geometric mean of ratios, with its 95 % interval and a verdict.

    Both are by seed. A seed at which one of both is not finite is left out, and counted as lost.

    >>> one, other = pd.Series([1.1, 1.2, 1.3]), pd.Series([1.0, 1.1, 1.2])
    >>> paired(one, other)["verdict"]
    'differs'
    """
    pair = found.to_numpy(float), base.to_numpy(float)
    values = np.log(pair[0] / pair[1]) if ratio else pair[0] - pair[1]
    kept = values[np.isfinite(values)]
    mean, half = (float(kept.mean()), half_width(kept)) if len(kept) else (0.0, None)
    low, high = (mean, mean) if half is None else (mean - half, mean + half)
    differs = (low > 0 or high < 0) and abs(mean) > ROUNDING
    verdict = UNKNOWN if half is None else DIFFERS if differs else SAME
    ends = [math.exp(value) for value in (mean, low, high)] if ratio else [mean, low, high]
    names = ("mean", "low", "high")
    return {**dict(zip(names, ends, strict=True)), "verdict": verdict, "lost": len(values) - len(kept)}


def half_width(values: np.ndarray[Any, Any]) -> float | None:
    """Half of the 95 % interval of a mean; None if it has fewer than two values."""
    if len(values) < 2:
        return None
    quantile = importlib.import_module("scipy.stats").t.ppf(0.975, len(values) - 1)
    return float(quantile * values.std(ddof=1) / math.sqrt(len(values)))


def compared(runs: pd.DataFrame, base: str) -> dict[str, dict[str, Any]]:
    """By variant and measure: how all runs of one setting differ from those of the variant ``base``."""
    by_variant = {str(name): part.set_index("seed") for name, part in runs.groupby("variant", sort=False)}
    rows = {}
    for variant, part in by_variant.items():
        if variant != base:
            reference = by_variant[base].loc[part.index]
            rows[variant] = {
                **{name: paired(part[name], reference[name]) for name in DIFFERENCES},
                **{f"{name}_ratio": paired(part[name], reference[name], ratio=True) for name in RATIOS},
            }
    return rows
