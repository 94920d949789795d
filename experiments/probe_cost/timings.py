"""How long things take: a probe and the loop alone, verdicts, the command, and trainparity."""

from __future__ import annotations

import importlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from accumcheck.corpus.published import LOOPS, published_fix
from accumcheck.explaining.diagnose import Diagnosis
from accumcheck.explaining.finding import Finding
from accumcheck.explaining.judge import Prober, judge_exactly
from accumcheck.probing.run import Setup, probe
from accumcheck.task import OBJECTIVES, Loop, Sizes, Task

from experiments.lab.runner import ROOT, Row

SIZES = Sizes(samples=24, micro_batch_size=2, accumulation_steps=4, epochs=2)
GROWTH: dict[str, tuple[tuple[int, ...], dict[str, int]]] = {  # the size that grows, its values, and the others
    "n": ((16, 32, 64, 128, 256, 512), {"b": 2, "k": 4}),
    "b": ((1, 2, 4, 8, 16, 32, 64), {"n": 256, "k": 4}),
    "k": ((1, 2, 4, 8, 16, 32, 64), {"n": 256, "b": 2}),
}
TIMED = ("published_fix", "accumulate_tokens")  # a wrong loop, and one that is right for both objectives
FIRST = """
import time
from accumcheck.corpus.published import LOOPS
from accumcheck.explaining.judge import judge_exactly
started = time.perf_counter()
for objective in ("sample", "token"):
    judge_exactly(LOOPS[{loop!r}], objective)
print(time.perf_counter() - started)
"""


def _pair(sizes: Sizes, rounds: int) -> dict[str, float]:
    """Median seconds of the probe, and of the loop alone on a task like the probe's, one after the other."""
    seconds: dict[str, list[float]] = {"loop": [], "probe": []}
    for _ in range(rounds):
        tasks: list[Task] = []
        probe(tasks.append, sizes)
        seconds["loop"].append(_seconds(published_fix, tasks[0]))
        seconds["probe"].append(_seconds(probe, published_fix, sizes))
    return {name: statistics.median(values[rounds // 10 :]) for name, values in seconds.items()}


def time_of_probe(repetition: int) -> list[Row]:
    """On one thread, as probes run; the loop alone is slower on more, if other processes keep the cores busy."""
    return [{"subject": name, "seconds": seconds} for name, seconds in _pair(SIZES, 100).items()]


def time_of_growth(size: str, rounds: int) -> list[Row]:
    """The same as one of the sizes grows."""
    values, others = GROWTH[size]
    rows = []
    for value in values:
        of: dict[str, int] = {**others, size: value}
        pair = _pair(Sizes(of["n"], of["b"], of["k"], epochs=2), rounds)
        rows += [{"subject": f"{name} by {size}", **of, "seconds": seconds} for name, seconds in pair.items()]
    return rows


def time_of_verdict(loop: str, repetition: int) -> list[Row]:
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


def _one_size(train: Loop) -> list[Finding]:
    return Diagnosis((Prober(train, Setup())(SIZES),), "sample", "mean").findings


def time_of_process(subject: str, *arguments: str, printed: bool = False) -> list[Row]:
    """The time that a whole Python process takes, or that it prints."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode not in (0, 1) or not done.stdout.strip():
        raise RuntimeError(f"{' '.join(arguments)} ended with status {done.returncode}: {done.stderr.strip()[-500:]}")
    return [{"subject": subject, "seconds": float(done.stdout) if printed else seconds}]


def time_of_trainparity(repetition: int) -> list[Row]:
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

    rows = time_of_process("quickstart", "-m", "trainparity.quickstarts.accumulation")
    return [*rows, {"subject": "check", "seconds": _seconds(check)}]


def _seconds(call: Callable[..., object], *arguments: object) -> float:
    started = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - started
