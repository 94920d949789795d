"""Claim: watching a script costs a few milliseconds a micro-batch, and hardly any memory, however long it runs.

``python -m experiments watching``

A loop over micro-batches of four sequences trains GPTs of five sizes with AdamW, bare and as ``accumcheck run`` watches
it, by turns in one process: medians over micro-batches of five rounds. Memory is the growth of the peak resident set
over what was held before, each kind in a process of its own; and how it grows from 1,000 to 5,000 micro-batches of the
smallest model, for what a long run leaves behind.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from typing import Any

import pandas as pd
import torch
from accumcheck.corpus.data import text_windows
from accumcheck.corpus.models import GPT
from accumcheck.scripts.watch import Observer, observing
from matplotlib.figure import Figure
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from experiments.lab import look
from experiments.lab.resident import peak_megabytes
from experiments.lab.runner import Bench, Row

BATCH, STEPS, CONTEXT = 4, 4, 64
SIZES = ("10k", "100k", "1M", "10M")
LENGTHY = 20  # milliseconds
LONG = (1_000, 5_000)
ROUNDS = 5


def run(bench: Bench) -> pd.DataFrame:
    """A row for every size, kind and repetition; and for every length of a long run."""
    sizes, micro_batches, repetitions = (("10k",), 8, 1) if bench.quick else (SIZES, 24, 3)
    cases: list[Row] = [
        {"part": "time", "size": size, "watched": True, "micro_batches": micro_batches, "repetition": repetition}
        for repetition in range(repetitions)
        for size in sizes
    ]
    cases += [
        {"part": "memory", "size": size, "watched": watched, "micro_batches": micro_batches, "repetition": 0}
        for size in sizes
        for watched in (False, True)
    ]
    cases += [
        {"part": "length", "size": "10k", "watched": watched, "micro_batches": many, "repetition": 0}
        for many in ((16, 32) if bench.quick else LONG)
        for watched in (False, True)
    ]
    return pd.DataFrame(bench.map(measure, cases, alone=True))


def measure(part: str, size: str, watched: bool, micro_batches: int, repetition: int) -> list[Row]:
    """One setting, in a process of its own and on all cores."""
    torch.set_num_threads(os.cpu_count() or 1)
    context = 32 if size == "10k" else CONTEXT
    data = text_windows(BATCH * micro_batches if part != "length" else BATCH * 64, 0, context=context)
    row: Row = {
        "part": part,
        "size": size,
        "watched": watched,
        "micro_batches": micro_batches,
        "repetition": repetition,
    }
    if part == "time":
        bare, seen = [], []
        for _ in range(ROUNDS):
            bare += _train(size, data, micro_batches, watched=False)
            seen += _train(size, data, micro_batches, watched=True)
        row["bare_ms"], row["ms"] = 1000 * statistics.median(bare), 1000 * statistics.median(seen)
        return [row | {"parameters": _parameters(size)}]
    _train("10k", text_windows(BATCH * 4, 0, context=32), 8, watched=watched)
    held = peak_megabytes()
    _train(size, data, micro_batches, watched=watched)
    return [row | {"megabytes": peak_megabytes() - held, "parameters": _parameters(size)}]


def _parameters(size: str) -> int:
    return sum(parameter.numel() for parameter in GPT(size).parameters())


def _train(size: str, data: Any, micro_batches: int, *, watched: bool) -> list[float]:
    """Seconds of each micro-batch."""
    torch.manual_seed(0)
    model = GPT(size)
    taken: list[float] = []
    with observing(Observer()) if watched else contextlib.nullcontext():
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        while len(taken) < micro_batches:
            started = time.perf_counter()
            for i, (inputs, targets) in enumerate(DataLoader(data, batch_size=BATCH)):
                (cross_entropy(model(inputs).flatten(0, 1), targets.flatten()) / STEPS).backward()
                if (i + 1) % STEPS == 0:
                    optimizer.step()
                    optimizer.zero_grad()
                now = time.perf_counter()
                taken.append(now - started)
                started = now
                if len(taken) == micro_batches:
                    break
    return taken[STEPS:]


def summarise(frame: pd.DataFrame) -> dict[str, Any]:
    """Ratios of time where a micro-batch takes long, what each costs, and memory."""
    times = frame[frame["part"] == "time"].groupby(["size", "parameters"], sort=False)[["bare_ms", "ms"]].median()
    times["ratio"] = times["ms"] / times["bare_ms"]
    long = times[times["bare_ms"] >= LENGTHY]
    memory = frame[frame["part"] == "memory"].pivot_table(index="size", columns="watched", values="megabytes")
    more = memory[True] - memory[False]
    length = frame[frame["part"] == "length"].pivot_table(index="micro_batches", columns="watched", values="megabytes")
    extra = length[True] - length[False]
    numbers: dict[str, Any] = {
        "settings": times.round(3).reset_index().to_dict("records"),
        "largest_ratio": float((long if len(long) else times)["ratio"].max()),
        "largest_cost_ms": float((times["ms"] - times["bare_ms"]).max()),
        "megabytes": float(more.max()),
        "megabytes_of_4000_micro_batches": float(extra.iloc[-1] - extra.iloc[0]),
    }
    numbers["finding"] = (
        f"where a micro-batch takes {LENGTHY} ms or more, it takes {numbers['largest_ratio']:.2f} times as long; "
        f"watching costs at most {numbers['largest_cost_ms']:.1f} ms a micro-batch and {numbers['megabytes']:.0f} MB, "
        f"and 4,000 micro-batches more add {numbers['megabytes_of_4000_micro_batches']:.0f} MB"
    )
    return numbers


def check(numbers: dict[str, Any]) -> None:
    """A few milliseconds, so at most a tenth where a micro-batch takes long; and 50 MB more, however long the run."""
    assert numbers["largest_ratio"] <= 1.10, f"watching makes it {numbers['largest_ratio']:.3f} times as long"
    assert numbers["largest_cost_ms"] <= 15, f"watching costs {numbers['largest_cost_ms']:.1f} ms a micro-batch"
    assert numbers["megabytes"] <= 50, f"watching takes {numbers['megabytes']:.0f} MB"
    assert numbers["megabytes_of_4000_micro_batches"] <= 50, "memory grows with the length of a run"


def plot(frame: pd.DataFrame) -> Figure:
    """Time of a micro-batch, watched over bare, by the size of the model."""
    figure, axes = look.panels(1, 1, width=6.4, height=3.6)
    axis = axes[0][0]
    times = frame[frame["part"] == "time"]
    ratio = (times["ms"] / times["bare_ms"]).groupby(times["parameters"])
    middle = ratio.median()
    axis.errorbar(
        middle.index,
        middle,
        [middle - ratio.min(), ratio.max() - middle],
        marker="o",
        capsize=3,
        label="watched / bare",
    )
    bare = times["bare_ms"].groupby(times["parameters"]).median()
    for parameters, value, milliseconds in zip(middle.index, middle, bare, strict=True):
        place = {"textcoords": "offset points", "xytext": (6, 6), "fontsize": 9}
        axis.annotate(f"{milliseconds:.0f} ms", (parameters, value), **place)
    axis.axhline(1.1, color=look.INK, linewidth=1, linestyle=(0, (2, 2)))
    axis.set(xscale="log", xlabel="parameters of the GPT")
    axis.set_ylabel("time of a micro-batch, watched / bare")
    axis.set_ylim(bottom=0.9)
    axis.margins(x=0.1)
    numbers = summarise(frame)
    look.title(
        figure,
        f"Watching a script costs {numbers['largest_cost_ms']:.1f} ms a micro-batch or less, in the median",
        "A small GPT on the CPU; beside each point, what a micro-batch takes without accumcheck.",
    )
    return figure
