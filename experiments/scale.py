"""Claim: comparing in lockstep costs hardly more than the two runs that it compares.

``python -m experiments scale`` (``--full`` adds GPT-2 small with 124 M parameters, and takes medians of five)

Wall time of training in lockstep against the two bare loops one after the other, and peak memory against one bare run
(the larger, with full batches), each in a fresh process, medians of three. Building models and reading data is not
timed. Memory is the growth of the process's peak resident set over what it held before the models were built.
"""

from __future__ import annotations

import os
import time
from functools import partial
from typing import Any

import pandas as pd
import torch
from accumcheck.corpus.data import text_windows
from accumcheck.corpus.models import GPT
from accumcheck.corpus.published import accumulate_samples, full_batch
from accumcheck.task import Sizes
from accumcheck.training.lockstep import Run, lockstep
from accumcheck.training.problem import Case, Problem
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.lab import look
from experiments.lab.resident import peak_megabytes
from experiments.lab.runner import Bench, Row

BATCH, STEPS, CONTEXT = 2, 4, 64
KINDS = ("full batch", "accumulation", "lockstep")
# (GPT size, optimizer, optimizer steps)
SETTINGS = [
    *(("1M", "adamw", steps) for steps in (2, 4, 8, 16, 32)),
    *((size, optimizer, 8) for optimizer in ("adamw", "sgd") for size in ("10k", "100k", "1M", "10M")),
]


def run(bench: Bench) -> pd.DataFrame:
    """A row for every setting and repetition."""
    settings, repetitions = list(dict.fromkeys(SETTINGS)), 5 if bench.full else 3
    if bench.quick:
        settings, repetitions = [("10k", "adamw", 8), ("1M", "adamw", 2)], 1
    if bench.full:
        settings += [("124M", "adamw", 2)]
    cases = [
        {"size": size, "optimizer": optimizer, "steps": steps, "kind": kind, "repetition": repetition}
        for repetition in range(repetitions)
        for size, optimizer, steps in settings
        for kind in KINDS
    ]
    frame = pd.DataFrame(bench.map(measure, cases, alone=True))
    wide = frame.pivot_table(index=["size", "parameters", "optimizer", "steps", "repetition"], columns="kind")
    pair = wide["seconds", "full batch"] + wide["seconds", "accumulation"]
    ratios = pd.DataFrame(
        {
            "pair_seconds": pair,
            "lockstep_seconds": wide["seconds", "lockstep"],
            "time_ratio": wide["seconds", "lockstep"] / pair,
            "bare_megabytes": wide["megabytes", "full batch"],
            "lockstep_megabytes": wide["megabytes", "lockstep"],
            "memory_ratio": wide["megabytes", "lockstep"] / wide["megabytes", "full batch"],
        }
    )
    return ratios.reset_index().sort_values(["optimizer", "parameters", "steps", "repetition"])


def measure(size: str, optimizer: str, steps: int, kind: str, repetition: int) -> list[Row]:
    """Time and peak memory of one run, in a process of its own and on all cores."""
    torch.set_num_threads(os.cpu_count() or 1)
    warm = _case("10k", optimizer, 1)
    lockstep(Run(full_batch, warm.full_batch().task()), Run(accumulate_samples, warm.task()))
    case = _case(size, optimizer, steps)
    held = peak_megabytes()
    tasks = {"full batch": [case.full_batch().task()], "accumulation": [case.task()]}.get(
        kind, [case.full_batch().task(), case.task()]
    )
    started = time.perf_counter()
    if kind == "lockstep":
        lockstep(Run(full_batch, tasks[0]), Run(accumulate_samples, tasks[1]))
    else:
        {"full batch": full_batch, "accumulation": accumulate_samples}[kind](tasks[0])
    seconds = time.perf_counter() - started
    parameters = sum(parameter.numel() for parameter in tasks[0].model.parameters())
    return [
        {
            "size": size,
            "parameters": parameters,
            "optimizer": optimizer,
            "steps": steps,
            "repetition": repetition,
            "kind": kind,
            "seconds": seconds,
            "megabytes": peak_megabytes() - held,
        }
    ]


def _case(size: str, optimizer: str, steps: int) -> Case:
    context = min(CONTEXT, 32) if size == "10k" else CONTEXT
    problem = Problem(f"gpt-{size}", partial(GPT, size), partial(text_windows, context=context))
    sizes = Sizes(BATCH * STEPS * steps, BATCH, STEPS, epochs=1)
    return Case(problem, sizes, optimizer, "float32")


def medians(frame: pd.DataFrame) -> pd.DataFrame:
    """The median repetition of every setting, column by column."""
    keys = ["size", "parameters", "optimizer", "steps"]
    return frame.groupby(keys, sort=False).median().drop(columns="repetition").reset_index()


def summarise(frame: pd.DataFrame) -> dict[str, Any]:
    """The ratios of every setting, and the largest: of time from a million parameters on and for all, of memory where
    the bare run takes ten megabytes or more (below, the allocator's pages outweigh the tensors)."""
    rows = medians(frame).round(3)

    def largest(ratio: str, chosen: pd.Series) -> float:
        return float(rows.loc[chosen if chosen.any() else slice(None), ratio].max())

    numbers = {
        "time_ratio_from_1M": largest("time_ratio", rows["parameters"] >= 1e6),
        "time_ratio": float(rows["time_ratio"].max()),
        "memory_ratio": largest("memory_ratio", rows["bare_megabytes"] >= 10),
    }
    finding = (
        f"lockstep takes up to {numbers['time_ratio_from_1M']:.2f} times the two bare runs' time from a million "
        f"parameters on (smaller: {numbers['time_ratio']:.2f}), and up to {numbers['memory_ratio']:.2f} times one bare "
        "run's memory"
    )
    return {
        "finding": finding,
        **numbers,
        "repetitions": int(frame["repetition"].nunique()),
        "settings": rows.to_dict("records"),
    }


def check(numbers: dict[str, Any]) -> None:
    """Lockstep costs the memory of two runs, and little more than their time."""
    assert numbers["memory_ratio"] <= 2.5, f"lockstep takes {numbers['memory_ratio']} times the memory of one run"
    assert numbers["time_ratio_from_1M"] <= 1.5, f"lockstep takes {numbers['time_ratio_from_1M']} times the time"


def plot(frame: pd.DataFrame) -> Figure:
    """Both ratios against model size, and against the number of steps; bars from the least to the most."""
    figure, axes = look.panels(1, 2, height=3.6, sharey=True)
    by_steps = frame[(frame["size"] == "1M") & (frame["optimizer"] == "adamw")]
    for column, color, marker, label in (
        ("time_ratio", "#0072B2", "o", "time / both bare runs"),
        ("memory_ratio", "#D55E00", "s", "peak memory / one bare run"),
    ):
        for optimizer, dash, name in (("adamw", "-", "AdamW"), ("sgd", "--", "SGD")):
            by_size = frame[(frame["steps"] == 8) & (frame["optimizer"] == optimizer)]
            style = {"color": color, "marker": marker, "linestyle": dash, "capsize": 2, "elinewidth": 0.8}
            if not by_size.empty:
                _bars(axes[0, 0], by_size, "parameters", column, {**style, "label": f"{label}, {name}"})
        _bars(
            axes[0, 1], by_steps, "steps", column, {"color": color, "marker": marker, "capsize": 2, "elinewidth": 0.8}
        )
    for axis in axes[0]:
        axis.axhline(1, color="#333333", linewidth=1.2, linestyle=(0, (2, 2)), zorder=0)
    axes[0, 0].set(xlabel="parameters", xscale="log", title="8 optimizer steps")
    axes[0, 1].set(xlabel="optimizer steps", title="1 M parameters, AdamW")
    axes[0, 1].set_xscale("log", base=2)
    axes[0, 1].set_xticks([2, 4, 8, 16, 32], ["2", "4", "8", "16", "32"])
    look.labels(axes, y="times as much as bare")
    numbers = summarise(frame)
    look.title(
        figure,
        f"To compare in lockstep takes at most {numbers['time_ratio_from_1M']:.2f} times the time of both runs from a "
        f"million parameters on, and {numbers['memory_ratio']:.1f} times the memory of one",
        f"GPTs on real text, medians of {numbers['repetitions']} runs; bars: from the least to the most; dotted: as "
        "much as bare.",
    )
    look.legend(figure, axes[0, 0], columns=2)
    return figure


def _bars(axis: Axes, rows: pd.DataFrame, x: str, column: str, style: dict[str, Any]) -> None:
    found = rows.groupby(x)[column].agg(["median", "min", "max"])
    ends = [found["median"] - found["min"], found["max"] - found["median"]]
    axis.errorbar(found.index, found["median"], ends, **style)
