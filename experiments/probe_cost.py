"""Claim: a probe costs at most half more than the loop that it watches, and a verdict is one of seconds, and right.

``python -m experiments probe_cost`` (``--full`` asks for 500 verdicts on each loop)

Times of one probe, of verdicts on both objectives and of the command, next to those of trainparity where it is
installed (``pip install trainparity==0.1.0``; otherwise its part is left out), each in a process of its own; which
wrong loops each of the two finds; and how often verdicts from random sizes and seeds name the root cause first.
"""

from __future__ import annotations

import importlib
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from experiments import style, trainparity_case
from experiments.bench import ROOT, Bench, Row
from experiments.verdicts import all_loops, find_bug, judge, wrong_loops
from harness.diagnose import Suspicion, diagnose
from harness.loops import LOOPS, published_fix
from harness.probe import TIME_LIMIT, ProbeModel, probe
from harness.search import Prober, judge_exactly
from harness.task import OBJECTIVES, Loop, Sizes, Task

SIZES = Sizes(samples=24, micro_batch_size=2, accumulation_steps=4, epochs=2)
GROWTH: dict[str, tuple[tuple[int, ...], dict[str, int]]] = {  # the size that grows, its values, and the others
    "n": ((16, 32, 64, 128, 256, 512), {"b": 2, "k": 4}),
    "b": ((1, 2, 4, 8, 16, 32, 64), {"n": 256, "k": 4}),
    "k": ((1, 2, 4, 8, 16, 32, 64), {"n": 256, "b": 2}),
}
TIMED = ("published_fix", "accumulate_tokens")  # a wrong loop, and one that is right for both objectives
TABLES = {
    "probe_cost": ["part", "subject", "repetition", "n", "b", "k", "seconds"],
    "probe_cost_bugs": ["expected", "loop", "objective", "accumcheck", "trainparity", "trainparity_phase"],
    "probe_cost_verdicts": ["loop", "objective", "expected", "verdicts", "right", "wrong"],
}
FIRST = """
import time
from harness.loops import LOOPS
from harness.search import judge_exactly
started = time.perf_counter()
for objective in ("sample", "token"):
    judge_exactly(LOOPS[{loop!r}], objective)
print(time.perf_counter() - started)
"""


def run(bench: Bench) -> pd.DataFrame:
    """A row for every measurement; ``part`` says of what."""
    loops = TIMED[:1] if bench.quick else TIMED
    repetitions, verdicts = (1, 2) if bench.quick else (3, 500 if bench.full else 10)
    parity = trainparity_case.installed()
    if not parity:
        warnings.warn("trainparity is not there, so its part is left out; pip install trainparity==0.1.0", stacklevel=2)
    timings: list[Row] = [{"part": "probe", "repetition": i} for i in range(repetitions)]
    timings += [{"part": "growth", "size": size, "rounds": 2 if bench.quick else 12} for size in GROWTH]
    for part in ("verdict", "first verdict", "command"):
        timings += [{"part": part, "loop": loop, "repetition": i} for i in range(repetitions) for loop in loops]
    if parity and not bench.quick:
        timings += [{"part": "trainparity", "repetition": i} for i in range(repetitions)]
    bugs: list[Row] = [
        {"part": "bug", "loop": loop, "objective": objective, "expected": expected, "parity": parity}
        for loop, objective, expected in wrong_loops()
    ]
    chunk = 10  # verdicts that are resumed together
    judged: list[Row] = [
        {"part": "judged", "loop": loop, "objective": objective, "expected": expected, "start": start, "count": count}
        for start in range(0, verdicts, chunk)
        for count in [min(chunk, verdicts - start)]
        for loop, objective, expected in all_loops()
    ]
    if bench.quick:
        bugs, judged = bugs[5:6], judged[::12]
    rows = bench.map(measure, timings, alone=True) + bench.map(measure, [*bugs, *judged])
    return pd.DataFrame(rows)


def measure(part: str, **options: Any) -> list[Row]:
    """Rows of one part."""
    parts: dict[str, Callable[..., list[Row]]] = {
        "probe": _probe,
        "growth": _growth,
        "verdict": _verdict,
        "first verdict": lambda loop, **_: _process(loop, "-c", FIRST.format(loop=loop), printed=True),
        "command": lambda loop, **_: _process(
            loop, "-m", "harness.cli", "check", f"harness/loops.py:{loop}", "--objective", "both", "--json"
        ),
        "trainparity": _trainparity,
        "bug": find_bug,
        "judged": judge,
    }
    return [{"part": part, "repetition": options.get("repetition", 0), **row} for row in parts[part](**options)]


class _Bare(ProbeModel):
    """The probe's model without the hook on its outputs."""

    def forward(self, inputs: Tensor) -> Tensor:
        return self.gain * (F.embedding(inputs.long(), self.weight) + self.bias)


def _pair(sizes: Sizes, rounds: int) -> dict[str, float]:
    """Median seconds of the probe, and of the loop alone on a task like the probe's, one after the other."""
    seconds: dict[str, list[float]] = {"loop": [], "probe": []}
    for _ in range(rounds):
        tasks: list[Task] = []
        probe(tasks.append, sizes)
        tasks[0].model.__class__ = _Bare
        seconds["loop"].append(_seconds(published_fix, tasks[0]))
        seconds["probe"].append(_seconds(probe, published_fix, sizes))
    return {name: statistics.median(values[rounds // 10 :]) for name, values in seconds.items()}


def _probe(repetition: int) -> list[Row]:
    """On one thread, as probes run; the loop alone is slower on more, if other processes keep the cores busy."""
    return [{"subject": name, "seconds": seconds} for name, seconds in _pair(SIZES, 100).items()]


def _growth(size: str, rounds: int) -> list[Row]:
    values, others = GROWTH[size]
    rows = []
    for value in values:
        of: dict[str, int] = {**others, size: value}
        pair = _pair(Sizes(of["n"], of["b"], of["k"], epochs=2), rounds)
        rows += [{"subject": f"{name} by {size}", **of, "seconds": seconds} for name, seconds in pair.items()]
    return rows


def _verdict(loop: str, repetition: int) -> list[Row]:
    """Medians of 3, after a verdict that warms up: each objective, both, and one size next to its full batch."""
    torch.set_num_threads(os.cpu_count() or 1)
    train = LOOPS[loop]
    judge_exactly(train)
    times: dict[str, float] = {
        objective: statistics.median(_seconds(judge_exactly, train, objective) for _ in range(3))
        for objective in OBJECTIVES
    }
    by_name = {**times, "both objectives": sum(times.values())}
    by_name["one size"] = statistics.median(_seconds(_one_size, train) for _ in range(3))
    return [{"subject": f"{loop}, {name}", "seconds": seconds} for name, seconds in by_name.items()]


def _one_size(train: Loop) -> list[Suspicion]:
    return diagnose(Prober(train, "sample", 0, "cpu", TIME_LIMIT)(SIZES))


def _process(subject: str, *arguments: str, printed: bool = False) -> list[Row]:
    """The time that a whole Python process takes, or that it prints."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode not in (0, 1) or not done.stdout.strip():
        raise RuntimeError(f"{' '.join(arguments)} ended with status {done.returncode}: {done.stderr.strip()[-500:]}")
    return [{"subject": subject, "seconds": float(done.stdout) if printed else seconds}]


def _trainparity(repetition: int) -> list[Row]:
    """The installed quickstart, and the first of its two checks as its module calls it."""
    api = importlib.import_module("trainparity.api")

    def check() -> None:
        result = api.check_accumulation(
            "trainparity.quickstarts.accumulation:Case",
            candidate=api.AccumulationExecutionPlan(2),
            comparison=api.ToleranceComparison(rtol=1e-6, atol=1e-7),
        )
        if result.outcome.value != "PASS":
            raise RuntimeError(f"trainparity's own example does not pass: {result.message}")

    rows = _process("quickstart", "-m", "trainparity.quickstarts.accumulation")
    return [*rows, {"subject": "check", "seconds": _seconds(check)}]


def _seconds(call: Callable[..., object], *arguments: object) -> float:
    started = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - started


def tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Times; which of the wrong loops are found; and verdicts, counted for every loop."""
    parts = {"probe_cost_bugs": frame["part"] == "bug", "probe_cost_verdicts": frame["part"] == "judged"}
    parts["probe_cost"] = ~(parts["probe_cost_bugs"] | parts["probe_cost_verdicts"])
    found = {name: frame.loc[parts[name]].reindex(columns=columns) for name, columns in TABLES.items()}
    verdicts = found["probe_cost_verdicts"].groupby(["loop", "objective", "expected"], sort=False)
    found["probe_cost_verdicts"] = verdicts.agg(
        verdicts=("verdicts", "sum"),
        right=("right", "sum"),
        wrong=("wrong", lambda wrong: "; ".join(filter(None, wrong))),
    ).reset_index()
    found["probe_cost_verdicts"] = found["probe_cost_verdicts"].astype({"verdicts": int, "right": int})
    for size in "nbk":
        found["probe_cost"][size] = found["probe_cost"][size].astype("Int64")
    return found


def summarise(frame: pd.DataFrame) -> dict[str, Any]:
    """Medians over repetitions, the ratios that are asked for, and what was found."""
    found = tables(frame)
    times = found["probe_cost"].groupby(["part", "subject"])["seconds"].median()
    bugs, verdicts = found["probe_cost_bugs"], found["probe_cost_verdicts"]
    wrong = verdicts[verdicts["right"] < verdicts["verdicts"]]
    probed = times["probe"]
    sample, both = (times["verdict"][f"{TIMED[0]}, {name}"] for name in ("sample", "both objectives"))
    numbers: dict[str, Any] = {
        "probe_milliseconds": probed["probe"] * 1e3,
        "loop_milliseconds": probed["loop"] * 1e3,
        "probe_ratio": probed["probe"] / probed["loop"],
        "verdict_seconds": times["verdict"].to_dict(),
        "first_verdict_seconds": times["first verdict"].to_dict(),
        "command_seconds": times["command"].to_dict(),
        "verdicts": int(verdicts["verdicts"].sum()),
        "right": int(verdicts["right"].sum()),
        "not_right": {f"{row.loop}, {row.objective}": row.wrong for row in wrong.itertuples()},
        "bugs": len(bugs),
        "named_by_accumcheck": int((bugs["accumcheck"] == bugs["expected"]).sum()),
        "trainparity": None,
    }
    beside = "trainparity 0.1.0 is not installed, so nothing is compared with it"
    if "trainparity" in times:
        check, quickstart = times["trainparity"]["check"], times["trainparity"]["quickstart"]
        numbers["trainparity"] = {
            "quickstart_seconds": quickstart,
            "check_seconds": check,
            "quickstart_to_command": quickstart / times["command"].max(),
            "check_to_verdict_both_objectives": check / both,
            "check_to_verdict": check / sample,
            "check_to_one_size": check / times["verdict"][f"{TIMED[0]}, one size"],
            "check_to_probe": check / probed["probe"],
            "bugs_found": int((bugs["trainparity"] != "PASS").sum()),
        }
        beside = (
            f"a check of trainparity takes {check / sample:.0f} times a sample verdict's time and "
            f"finds {numbers['trainparity']['bugs_found']} of these loops, on one full window"
        )
    numbers["finding"] = (
        f"a probe takes {numbers['probe_ratio']:.2f} times the loop's time, a verdict on both objectives {both:.2f} s, "
        f"the command {times['command'].max():.1f} s; {numbers['right']} of {numbers['verdicts']} verdicts from random "
        f"sizes are right, {numbers['named_by_accumcheck']} of {len(bugs)} wrong loops get their cause named; {beside}"
    )
    rounded: dict[str, Any] = _rounded(numbers)
    return rounded


def _rounded(numbers: Any) -> Any:
    if isinstance(numbers, dict):
        return {name: _rounded(value) for name, value in numbers.items()}
    return float(f"{numbers:.4g}") if isinstance(numbers, float) else numbers


def plot(frame: pd.DataFrame) -> Figure:
    """One probe's time, and the loop's alone, against each of the three sizes."""
    growth = frame[frame["part"] == "growth"]
    figure, axes = style.panels(1, 3, width=10.0, height=3.6, sharey=True)
    words = {"n": "samples n", "b": "micro-batch size b, in samples", "k": "accumulation steps k"}
    for axis, (size, (values, others)) in zip(axes[0], GROWTH.items(), strict=True):
        for name, label, color, marker in (
            ("probe", "one probe, watching included", "#0072B2", "o"),
            ("loop", "the loop alone", "#D55E00", "s"),
        ):
            line = growth[growth["subject"] == f"{name} by {size}"]
            axis.plot(line[size], line["seconds"] * 1e3, color=color, marker=marker, label=label)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xticks(values, [str(value) for value in values])
        axis.set(xlabel=words[size], title=", ".join(f"{name} = {value}" for name, value in others.items()))
    axes[0, 0].set_ylabel("time of 2 epochs (ms)")
    style.legend(figure, axes[0, 1])
    return figure
