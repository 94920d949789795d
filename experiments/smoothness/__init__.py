"""Claim: the training curve looks more jumpy as accumulation makes updates rarer. True of what is logged, not of k.

``python -m experiments smoothness``

Small models train by SGD in one pass over real data, a GPT on text and an MLP on digits, accumulated by the correct
loop. One training is recorded in three ways: the loss of every micro-batch, the loss of the last micro-batch before
each update, and the mean over each window. Jumpiness is the root mean square difference of neighbouring points, over
√2 (von Neumann, "Distribution of the ratio of the mean square successive difference to the variance", 1941): it leaves
out a slow trend and is the standard deviation for pure noise. A point that averages m samples has variance σ²/m around
the expected loss, so theory says √(σ²/m + c²), where c is the jumpiness of the expected loss itself. Both are measured
on held-out samples at the parameters of each update; in one pass every sample is new, and nothing is fitted. Not
shown: momentum, decay, smoothing by a logger.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

from experiments.lab import look
from experiments.lab.runner import Bench, Row
from experiments.smoothness.log import train

N, BATCH = 32, 4  # N is fixed while b varies, BATCH while k varies
SAMPLES = 1536
RATE = 0.1
PARTS = {"smoothness": "jumpiness", "smoothness_curve": "curve"}  # by the tables that they are written to
SHOWN = {"problem": "gpt-windows", "b": BATCH, "k": N // BATCH, "rate": "same", "seed": 0}
RECORDINGS: dict[str, dict[str, Any]] = {
    "micro-batch": {"color": "#888888", "marker": "s", "label": "every micro-batch"},
    "last micro-batch": {"color": "#882255", "marker": "^", "label": "last micro-batch before an update"},
    "window": {"color": look.LOOPS["correct"]["color"], "marker": "o", "label": "mean over the window"},
}


def run(bench: Bench) -> pd.DataFrame:
    """Rows of two parts: ``jumpiness`` of every training and recording, ``curve`` with the points of one training."""
    steps = (1, 8) if bench.quick else (1, 2, 4, 8, 16)
    batches = (4, 32) if bench.quick else (1, 2, 4, 8, 16, 32)
    mlp = [(BATCH, k, rate) for k in steps for rate in ("same", "scaled") if k > 1 or rate == "same"]
    mlp += [(b, N // b, "same") for b in batches if b != BATCH]
    gpt = mlp if bench.full else [(BATCH, N // BATCH, "same"), (N, 1, "same")]
    seeds = {"mlp": 2 if bench.quick else 5, "gpt-windows": 3 if bench.full else 1}
    cases = [
        {"problem": problem, "b": b, "k": k, "rate": rate, "seed": seed, "samples": 512 if bench.quick else SAMPLES}
        for problem, sizes in (("gpt-windows", gpt), ("mlp", mlp))
        for b, k, rate in sizes
        for seed in range(seeds[problem])
    ]
    return pd.DataFrame(bench.map(measure, cases))


def measure(problem: str, b: int, k: int, rate: str, seed: int, samples: int) -> list[Row]:
    """Jumpiness of one training in every recording, and its points if it is the one that is shown."""
    case = {"problem": problem, "b": b, "k": k, "rate": rate, "seed": seed}
    log = train(problem, b, k, RATE * (k if rate == "scaled" else 1), seed, samples)
    rows = [{"part": "jumpiness", **case, **jumps} for jumps in log.jumps()]
    if case == SHOWN:
        for recording, points in {**log.recordings(), "expected loss": torch.tensor(log.curve)}.items():
            places = samples * torch.arange(1, len(points) + 1) / len(points)
            for seen, loss in zip(places.tolist(), points.tolist(), strict=True):
                rows.append({"part": "curve", **case, "recording": recording, "seen": seen, "loss": loss})
    return rows


def tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Jumpiness of every training, and the points of the one that is shown."""
    return {title: frame[frame["part"] == part].dropna(axis=1).drop(columns="part") for title, part in PARTS.items()}


def summarise(frame: pd.DataFrame) -> dict[str, Any]:
    """How jumpy each recording is at a fixed N and at a fixed b, and how far theory is from it."""
    table = tables(frame)["smoothness"]
    numbers: dict[str, Any] = {
        "N": N,
        "b": BATCH,
        "k": N // BATCH,
        "rate": RATE,
        "samples": int((table["points"] * table["m"]).max()),
    }
    for problem, part in table.groupby("problem", sort=False):
        same = part[part["rate"] == "same"]
        means = same.groupby(["recording", "b", "k"])[["jumpiness", "theory"]].mean()
        jumps: dict[Any, float] = means["jumpiness"].to_dict()
        plain = jumps["window", N, 1]
        at_n = sorted(b for recording, b, k in jumps if recording == "window" and b * k == N)
        numbers[str(problem)] = {
            "seeds": int(part["seed"].nunique()),
            "window": plain,
            # the same training, logged as mean over the window: nothing but rounding may differ
            "window_differs_by": max(abs(jumps["window", b, N // b] / plain - 1) for b in at_n),
            "micro_batch_ratio": {str(b): jumps["micro-batch", b, N // b] / plain for b in at_n},
            "last_micro_batch_ratio": {str(b): jumps["last micro-batch", b, N // b] / plain for b in at_n},
            "noise_ratio": {str(b): math.sqrt(N // b) for b in at_n},
            "theory_off_by": float((means["jumpiness"] / means["theory"] - 1).abs().max()),
        }
    windows = table[(table["problem"] == "mlp") & (table["b"] == BATCH) & (table["recording"] == "window")]
    for rate, part in windows.groupby("rate"):
        by_k = part.groupby("k")[["jumpiness", "theory", "noise", "curve", "final"]].mean()
        numbers["mlp"][f"rate_{rate}"] = {str(k): row for k, row in by_k.to_dict("index").items()}
    once, most = numbers["mlp"]["rate_same"]["1"]["jumpiness"], max(numbers["mlp"]["rate_same"], key=int)
    smoother = once / numbers["mlp"]["rate_same"][most]["jumpiness"]
    wilder = numbers["mlp"]["rate_scaled"][most]["jumpiness"] / once
    ratio, rounding = numbers["mlp"]["micro_batch_ratio"][str(BATCH)], numbers["mlp"]["window_differs_by"]
    return numbers | {
        "claim": "with accumulation updates are rarer, so the training curve may look more jumpy",
        "verdict": "true under conditions",
        "conditions": "single micro-batches are logged, or the learning rate is raised with k; false of window means",
        "largest_k": int(most),
        "smoother_by": smoother,
        "jumpier_at_raised_rate_by": wilder,
        "finding": (
            f"one training with N = {N} looks {ratio:.1f} times as jumpy as the plain batch when its micro-batches of "
            f"{BATCH} are logged (theory: √{N // BATCH} = {math.sqrt(N // BATCH):.1f}), and just as jumpy, to "
            f"{rounding:.0e}, when windows are; at one rate the curve of windows is {smoother:.1f} times as smooth "
            f"with k = {most} as with k = 1 (averaging alone: {math.sqrt(int(most)):.1f}; the rest: fewer updates "
            f"lead less far, where losses are more alike), at a rate raised {most}-fold {wilder:.1f} times as jumpy"
        ),
    }


def check(numbers: dict[str, Any]) -> None:
    """Windows of one training are alike at every b; micro-batches are jumpier, as noise of fewer samples is."""
    assert numbers["verdict"] == "true under conditions", numbers["verdict"]
    for problem in ("mlp", "gpt-windows"):
        found = numbers[problem]
        assert found["window_differs_by"] < 1e-5, f"{problem}: windows of one training differ"
        for b, ratio in found["micro_batch_ratio"].items():
            assert abs(ratio / found["noise_ratio"][b] - 1) < 0.15, f"{problem}: not as jumpy as theory says at b = {b}"
    assert numbers["smoother_by"] > 4, "rarer updates do not smooth the curve of windows"


def from_tables(read: Callable[[str], pd.DataFrame]) -> pd.DataFrame:
    """The frame: its two parts."""
    return pd.concat([read(title).assign(part=part) for title, part in PARTS.items()], ignore_index=True)


def plot(frame: pd.DataFrame) -> Figure:
    """Above: one training in three recordings. Below: jumpiness at a fixed N, then at a fixed b with two rules."""
    figure, axes = look.panels(2, 3, height=2.9, sharey="row")
    curve, table = (tables(frame)[title] for title in ("smoothness_curve", "smoothness"))
    expected = curve[curve["recording"] == "expected loss"]
    alone = {"color": look.INK, "linewidth": 1.3, "label": "expected loss alone, on held-out samples"}
    for axis, (recording, style) in zip(axes[0], RECORDINGS.items(), strict=True):
        points = curve[curve["recording"] == recording]
        marks = {**style, "markersize": 2 if recording == "micro-batch" else 3.5}
        axis.plot(points["seen"], points["loss"], linewidth=0.9, **marks)
        axis.plot(expected["seen"], expected["loss"], **alone)
        value = table.loc[_is_shown(table) & (table["recording"] == recording), "jumpiness"].item()
        axis.set_title(f"{style['label']}\njumpiness {value:.2f}", fontsize=9.5)
        axis.set(xlabel="samples seen", ylim=(curve["loss"].min() - 0.1, curve["loss"].quantile(0.995) + 0.2))
    mlp = table[table["problem"] == "mlp"]
    fixed_n = mlp[(mlp["b"] * mlp["k"] == N) & (mlp["rate"] == "same")]
    fixed_b = mlp[mlp["b"] == BATCH]
    for axis, part, x, title in (
        (axes[1, 0], fixed_n, "b", f"one training, N = {N}"),
        (axes[1, 1], fixed_b[fixed_b["rate"] == "same"], "k", f"b = {BATCH}, rate {RATE}"),
        (axes[1, 2], fixed_b[(fixed_b["rate"] == "scaled") | (fixed_b["k"] == 1)], "k", f"b = {BATCH}, rate {RATE}·k"),
    ):
        for recording, style in RECORDINGS.items():
            values = part[part["recording"] == recording].groupby(x)
            jumps, theory = values["jumpiness"].agg(["mean", "min", "max"]), values["theory"].mean()
            ends = [jumps["mean"] - jumps["min"], jumps["max"] - jumps["mean"]]
            wide = {"linewidth": 5, "alpha": 0.35} if recording == "micro-batch" else {"linewidth": 1.2}
            axis.plot(theory.index, theory, color=style["color"], **wide)
            hollow = {"markerfacecolor": "none", "markersize": 9} if recording == "last micro-batch" else {}
            axis.errorbar(
                jumps.index, jumps["mean"], ends, linestyle="none", capsize=2, **{"markersize": 5, **style, **hollow}
            )
        own = part[part["recording"] == "window"].groupby(x)["curve"].mean()
        axis.plot(own.index, own, **alone)
        axis.set(yscale="log", ylim=(0.008, 5), title=title)
        axis.set_yticks([0.01, 0.1, 1], ["0.01", "0.1", "1"])
        axis.title.set_fontsize(10)
        axis.set_xlabel("samples b in a micro-batch" if x == "b" else "micro-batches k in an update")
        axis.set_xscale("log", base=2)
        axis.set_xticks(jumps.index, [str(value) for value in jumps.index])
    for row, label in zip(axes, ("GPT on text: loss, in nats", "MLP on digits: jumpiness"), strict=True):
        for axis in row[: None if look.is_narrow() else 1]:
            axis.set_ylabel(label)
    mine = summarise(frame)["mlp"]
    same = mine["window_differs_by"] < 1e-3
    look.title(
        figure,
        (
            "Accumulation does not make training noisier, logging does: "
            if same
            else "What is logged makes curves jumpy: "
        )
        + f"every micro-batch of {BATCH} looks {mine['micro_batch_ratio'][str(BATCH)]:.1f} times as jumpy as the "
        f"batch of {N}" + (", the mean of a window does not" if same else ""),
        f"Above: one training, b = {BATCH}, k = {N // BATCH}. Jumpiness: the typical step from one point to the "
        "next, over "
        "√2. Coloured lines below: theory, nothing fitted.",
    )
    look.legend(figure, axes[1, 0], columns=2)
    return figure


def _is_shown(table: pd.DataFrame) -> Any:
    return (table[list(SHOWN)] == pd.Series(SHOWN)).all(axis=1)
