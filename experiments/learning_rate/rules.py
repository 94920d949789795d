"""Best learning rates by effective batch size with their intervals, and what rules that scale the rate cost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

RULES = {"none": 0, "sqrt": 1, "linear": 2}  # powers of √2 that N·2 adds to the rate
RESAMPLES = 500
KEPT = 1.1  # a rule keeps a loss that it raises by no more than a tenth


def summary_of(part: pd.DataFrame) -> dict[str, Any]:
    """The numbers of one optimizer."""
    rates = np.sort(part["rate"].unique())
    full = _resampled(part, "full_batch")
    base, by_n = min(full), {}
    learned = _resampled(part, "full_batch", "train_loss")
    places = {N: _best(cube) for N, cube in full.items()}  # (1 + RESAMPLES,) places on the grid
    for N, cube in full.items():  # noqa: N806
        least = np.take_along_axis(cube, places[N][:, None], 1)[:, 0]
        by_n[str(N)] = {
            "rate": _with_interval(rates[places[N]]),
            "loss": _with_interval(least),
            "rate_by_train_loss": _with_interval(rates[_best(learned[N])]),
            "at_edge": bool(places[N][0] in (0, len(rates) - 1)),
        }
        for rule, power in RULES.items():
            # A rate above the grid counts as its highest: what it costs is a lower bound.
            place = np.minimum(places[base] + power * round(np.log2(N / base)), len(rates) - 1)
            cost = np.take_along_axis(cube, place[:, None], 1)[:, 0] / least
            by_n[str(N)][rule] = {"rate": float(rates[place[0]]), "cost": _with_interval(cost)}
    logs = np.log2(list(full))
    exponent = np.polyfit(logs, np.log2(rates[np.array([places[N] for N in full])]), 1)[0]
    low = {N: cube[0, 2 * round(np.log2(N / base))] / full[base][0, 0] for N, cube in full.items()}
    other: dict[str, Any] = {}
    for loop in ("accumulate_samples", "early_first_step"):
        for N, cube in _resampled(part, loop).items():  # noqa: N806
            place, due = _best(cube), places[N]
            below = slice(0, int(due[0]) + 1)
            other.setdefault(loop, {})[str(N)] = {
                "rate": _with_interval(rates[place]),
                "rate_ratio": _with_interval(rates[place] / rates[due]),
                "cost": _with_interval(cube.min(axis=1) / full[N].min(axis=1)),
                "largest_difference": float(np.abs(cube[0, below] / full[N][0, below] - 1).max()),
                "updates": int(part.loc[(part["loop"] == loop) & (part["N"] == N), "updates"].iloc[0]),
            }
    return {
        "by_N": by_n,
        "exponent": _with_interval(exponent),
        "growth": float(max(rates[place[0]] for place in places.values()) / rates[places[base][0]]),
        "linear_from_lowest": {"rate": float(rates[0]), "ratio": {str(N): float(ratio) for N, ratio in low.items()}},
        "linear_from_lowest_keeps_to": max(N for N in low if all(low[M] <= KEPT for M in low if M <= N)),
        **other,
    }


def _resampled(part: pd.DataFrame, loop: str, value: str = "loss") -> dict[int, Any]:
    """For every N the mean loss (1 + RESAMPLES, rates): over all seeds, and over seeds drawn with replacement."""
    cubes = {}
    for N, rows in part[part["loop"] == loop].groupby("N"):  # noqa: N806
        loss = rows.pivot(index="rate", columns="seed", values=value).to_numpy()
        seeds = loss.shape[1]
        drawn = np.random.default_rng(0).integers(seeds, size=(RESAMPLES, seeds))  # the same draws at every N
        cubes[int(str(N))] = loss[:, np.vstack([np.arange(seeds), drawn])].mean(axis=2).T
    return cubes


def _best(cube: Any) -> Any:
    return cube.argmin(axis=1)


def _with_interval(values: Any) -> list[float]:
    """[value, lower end, upper end] of a statistic whose first entry is the value and the others resamples."""
    return [float(values[0]), *(float(end) for end in np.quantile(values[1:], [0.025, 0.975]))]


def interval(values: list[float]) -> str:
    """A value with its interval, as a sentence has it."""
    return f"{values[0]:.2f} ({values[1]:.2f} to {values[2]:.2f})"
