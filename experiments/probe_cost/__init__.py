"""Claim: a probe costs at most half more than the loop that it watches, and a verdict is one of seconds, and right.

``python -m experiments probe_cost`` (``--full`` asks for 500 verdicts on each loop)

Times of one probe, of verdicts on both objectives and of the command, next to those of trainparity where it is
installed (``pip install trainparity==0.1.0``; otherwise its part is left out), each in a process of its own; which
wrong loops each of the two finds; and how often verdicts from random sizes and seeds name the root cause first.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Callable
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from experiments.lab import look, trainparity
from experiments.lab.runner import Bench, Row
from experiments.probe_cost.timings import (
    FIRST,
    GROWTH,
    TIMED,
    time_of_growth,
    time_of_probe,
    time_of_process,
    time_of_trainparity,
    time_of_verdict,
)
from experiments.probe_cost.verdicts import all_loops, find_bug, judge, wrong_loops

VERDICT, COMMAND = ("verdict", f"{TIMED[0]}, both objectives"), ("command", TIMED[0])
WORDS = {  # what is drawn, in plain words
    ("probe", "loop"): "the loop alone",
    ("probe", "probe"): "the loop, watched by a probe",
    ("verdict", f"{TIMED[0]}, one size"): "a verdict at one size",
    ("verdict", f"{TIMED[0]}, sample"): "a verdict, one objective",
    VERDICT: "a verdict, both objectives",
    COMMAND: "the command accumcheck check, from start to end",
    ("trainparity", "check"): "a check of trainparity 0.1.0",
}
SIZES = {"n": "samples n", "b": "micro-batch size b", "k": "accumulation steps k"}
TABLES = {
    "probe_cost": ["part", "subject", "repetition", "n", "b", "k", "seconds"],
    "probe_cost_bugs": ["expected", "loop", "objective", "accumcheck", "trainparity", "trainparity_phase"],
    "probe_cost_verdicts": ["loop", "objective", "expected", "verdicts", "right", "wrong"],
}


def run(bench: Bench) -> pd.DataFrame:
    """A row for every measurement; ``part`` says of what."""
    loops = TIMED[:1] if bench.quick else TIMED
    repetitions, verdicts = (1, 2) if bench.quick else (3, 500 if bench.full else 10)
    parity = trainparity.installed()
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
        "probe": time_of_probe,
        "growth": time_of_growth,
        "verdict": time_of_verdict,
        "first verdict": lambda loop, **_: time_of_process(loop, "-c", FIRST.format(loop=loop), printed=True),
        "command": lambda loop, **_: time_of_process(
            loop,
            "-m",
            "accumcheck.cli",
            "check",
            f"harness/accumcheck/corpus/published.py:{loop}",
            "--objective",
            "both",
            "--json",
        ),
        "trainparity": time_of_trainparity,
        "bug": find_bug,
        "judged": judge,
    }
    return [{"part": part, "repetition": options.get("repetition", 0), **row} for row in parts[part](**options)]


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


def check(numbers: dict[str, Any]) -> None:
    """A probe costs half more than the loop at most, and every verdict and every cause is right."""
    assert numbers["probe_ratio"] <= 1.5, f"a probe takes {numbers['probe_ratio']} times the loop's time"
    assert numbers["right"] == numbers["verdicts"], f"wrong verdicts: {numbers['not_right']}"
    assert numbers["named_by_accumcheck"] == numbers["bugs"], "a wrong loop's cause is not named"


def _rounded(numbers: Any) -> Any:
    if isinstance(numbers, dict):
        return {name: _rounded(value) for name, value in numbers.items()}
    return float(f"{numbers:.4g}") if isinstance(numbers, float) else numbers


def from_tables(read: Callable[[str], pd.DataFrame]) -> pd.DataFrame:
    """What is drawn: the times."""
    return read("probe_cost")


def plot(frame: pd.DataFrame) -> Figure:
    """How long things take, and how many times as long as the loop a probe takes, against each of the three sizes."""
    figure, axes = look.panels(1, 2, height=3.5, width_ratios=(3, 2))
    times, growth = axes[0]
    timed = frame.groupby(["part", "subject"])["seconds"]
    found = {words: timed.get_group(key) for key, words in WORDS.items() if key in timed.groups}
    for place, seconds in enumerate(found.values()):
        times.plot([seconds.min(), seconds.max()], [place, place], color=look.INK, linewidth=1)
        times.plot([seconds.median()], [place], "o", color="#0072B2", markersize=7)
        told = f"{seconds.median():.2g} s" if seconds.median() >= 0.1 else f"{seconds.median() * 1e3:.2g} ms"
        times.annotate(told, (seconds.max(), place), (8, 0), textcoords="offset points", va="center", fontsize=9)
    times.set_yticks(range(len(found)), ["\n".join(textwrap.wrap(words, 24)) for words in found], fontsize=9)
    times.set(xscale="log", xlabel="seconds, median of the runs", ylim=(len(found) - 0.5, -0.5))
    times.set_xlim(right=6 * max(seconds.max() for seconds in found.values()))
    grown = frame[frame["part"] == "growth"]
    for (size, (values, _)), color, marker in zip(
        GROWTH.items(), ("#0072B2", "#D55E00", "#009E73"), "osD", strict=True
    ):
        probe, loop = (
            grown[grown["subject"] == f"{what} by {size}"].groupby(size)["seconds"].median()
            for what in ("probe", "loop")
        )
        ratio = (probe / loop).reindex(values)
        growth.plot(ratio.index, ratio, color=color, marker=marker, label=SIZES[size])
    growth.axhline(1, color="#333333", linewidth=1.2, linestyle=(0, (2, 2)), zorder=0)
    growth.set_xscale("log", base=2)
    growth.set_xticks([1, 4, 16, 64, 256], ["1", "4", "16", "64", "256"])
    growth.set(
        xlabel="the size that grows", ylabel="probe / the loop alone", ylim=(0.9, 1.4 * growth.get_ylim()[1] - 0.4)
    )
    growth.legend(loc="upper right", frameon=False, fontsize=9)
    both, command = (timed.get_group(key).median() for key in (VERDICT, COMMAND))
    probed = timed.get_group(("probe", "probe")).median() / timed.get_group(("probe", "loop")).median()
    look.title(
        figure,
        f"A verdict takes {both:.1f} s, the command {command:.0f} s with its start; a probe takes {probed:.1f} times "
        "the "
        "loop's time",
        "Published loops and a tiny model, on one machine; each time is of a fresh process or a median of runs.",
    )
    return figure
