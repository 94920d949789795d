"""Claim: what needs no torch answers at once, and a check takes little longer than importing torch and one step.

``python -m experiments start_up``

Whole commands, by turns: ``--help`` and ``recipe``; a Python that imports torch and makes one optimizer step, which
imports torch's compiler; and ``accumcheck check`` of a right loop and of a wrong one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from experiments.lab import look
from experiments.lab.runner import Bench, Row

STEP = (
    "import torch; x = torch.nn.Linear(2, 2); o = torch.optim.SGD(x.parameters(), lr=0.1);"
    "x(torch.ones(1, 2)).sum().backward(); o.step()"
)
COMMANDS = {
    "--help": ["-m", "accumcheck", "--help"],
    "recipe": ["-m", "accumcheck", "recipe"],
    "torch and one step": ["-c", STEP],
    "check of a right loop": ["-m", "accumcheck", "check", "accumcheck.corpus.published:accumulate_tokens"],
    "check of a wrong loop": ["-m", "accumcheck", "check", "accumcheck.corpus.published:published_fix"],
}
LIGHT = ("--help", "recipe")
BASE = "torch and one step"


def run(bench: Bench) -> pd.DataFrame:
    """A row for every command and repetition; the commands of a repetition run one after the other."""
    names = LIGHT if bench.quick else tuple(COMMANDS)
    cases: list[Row] = [{"repetition": i, "names": names} for i in range(1 if bench.quick else 5)]
    return pd.DataFrame(bench.map(measure, cases, alone=True))


def measure(repetition: int, names: tuple[str, ...]) -> list[Row]:
    """Seconds of each command."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    rows: list[Row] = []
    with TemporaryDirectory() as folder:  # of compiled modules, which are kept after any installation
        environment["PYTHONPYCACHEPREFIX"] = folder
        for counts in (False, True):  # the first round writes them
            for name in names:
                start = time.perf_counter()
                subprocess.run([sys.executable, *COMMANDS[name]], check=False, capture_output=True, env=environment)
                if counts:
                    rows.append({"command": name, "repetition": repetition, "seconds": time.perf_counter() - start})
    return rows


def summarise(frame: pd.DataFrame) -> dict[str, Any]:
    """Medians; ratios are those of pairs in one repetition."""
    by_name = frame.pivot_table(index="repetition", columns="command", values="seconds")
    numbers: dict[str, Any] = {"seconds": by_name.median().round(3).to_dict()}
    numbers["light"] = float(by_name[[name for name in LIGHT if name in by_name]].median().max())
    if BASE in by_name:
        checks = by_name[[name for name in COMMANDS if name.startswith("check")]]
        numbers["ratio"] = float(checks.div(by_name[BASE], axis=0).median().max())
        numbers["finding"] = (
            f"help and recipe take {numbers['light']:.2f} s; a check takes {numbers['ratio']:.2f} times as long as a "
            f"Python that imports torch and makes one step ({by_name[BASE].median():.1f} s)"
        )
    else:
        numbers["finding"] = f"help and recipe take {numbers['light']:.2f} s"
    return numbers


def check(numbers: dict[str, Any]) -> None:
    """At once, and a third more than torch itself."""
    assert numbers["light"] < 0.3, f"help takes {numbers['light']:.2f} s"
    assert numbers["ratio"] <= 1.35, f"a check takes {numbers['ratio']:.2f} times as long as torch and one step"


def plot(frame: pd.DataFrame) -> Figure:
    """Seconds of each command."""
    figure, axes = look.panels(1, 1, width=6.4, height=3.2)
    axis = axes[0][0]
    for place, (_, each) in enumerate(frame.groupby("command", sort=False)["seconds"]):
        axis.plot(each, [place] * len(each), "o", color=look.INK, alpha=0.5, markersize=5)
        axis.annotate(f"{each.median():.2g} s", (each.max(), place), (8, -3), textcoords="offset points")
    names = list(dict.fromkeys(frame["command"]))
    axis.set_yticks(range(len(names)), names)
    axis.set(xlabel="seconds, whole command")
    axis.set_xlim(0, frame["seconds"].max() * 1.15)
    axis.invert_yaxis()
    look.title(figure, "A check takes little longer than torch takes to start")
    return figure
