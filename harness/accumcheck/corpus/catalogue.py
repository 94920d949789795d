"""The catalogue: bugs that people reported, each with a loop or a script that has it, and what sees it.

``catalogue.tsv`` has a row for each bug, in the order of ``LAWS``; those that break no law stand last.

>>> bug = bugs()["gate-true-at-zero"]
>>> bug.finding, bug.threads[0], loop_of(bug).__name__
('early-first-step', 'rasbt/LLMs-from-scratch#299', 'early_first_step')
"""

from __future__ import annotations

import csv
import importlib
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import cast

from accumcheck.programs.laws import LAWS
from accumcheck.task import OBJECTIVES, Loop, Objective

HERE = Path(__file__).parent
SEEN_BY = {
    "check": "accumcheck check, on the loop alone",
    "checks": "accumcheck check --checks, as the weights are right",
    "replicas": "accumcheck check --ranks",
    "run": "accumcheck run, on the whole script",
    "problem": "accumcheck check with a model and data, here those called cnn-batchnorm",
    "": "none of them, for the reason that is given",
}
BESIDE = {"average": "per-step state", "memory": "memory per window", "report": "reported loss"}
SHOWS = (
    "always",
    "tail",
    "short micro-batch",
    "short epoch",
    "several epochs",
    "unequal tokens",
    "clipping",
    "schedule",
    "AMP",
    "bfloat16",
    "ranks",
    "batch statistics",
    "random numbers",
    "several losses",
    "validation",
    "checkpoint",
    "average",
    "report",
    "memory",
)


@dataclass(frozen=True)
class Bug:
    """A bug.

    - ``runs`` is ``module:function`` below accumcheck.corpus, or ``scripts/NAME.py ARGUMENTS`` beside this file
    - ``finding`` is the id in ``LAWS``, empty if it breaks none
    - ``shows`` says what a run must have for it to show
    - ``unseen`` says why ``seen_by`` is empty
    """

    id: str
    runs: str
    wrong: str
    cause: str
    finding: str
    objective: Objective
    shows: tuple[str, ...]
    seen_by: str
    unseen: str
    threads: tuple[str, ...]

    def __post_init__(self) -> None:
        for value, known, what in (
            (self.finding, ("", *LAWS), "finding"),
            (self.objective, OBJECTIVES, "objective"),
            (self.seen_by, SEEN_BY, "tool"),
            *((each, SHOWS, "condition") for each in self.shows),
        ):
            if value not in known:
                raise ValueError(f"{self.id}: no {what} {value!r}: choose one of {', '.join(filter(None, known))}")
        if bool(self.seen_by) == bool(self.unseen):
            raise ValueError(f"{self.id}: say what sees it or why nothing does, one of the two")
        if not self.finding and self.seen_by not in ("", "checks"):
            raise ValueError(f"{self.id}: what {self.seen_by} sees has a finding: choose one of {', '.join(LAWS)}")

    @property
    def beside(self) -> str:
        """The check beside the weights that fails, empty if none does."""
        return next((BESIDE[each] for each in self.shows if each in BESIDE), "") if self.seen_by == "checks" else ""

    @property
    def is_script(self) -> bool:
        """Whether it is a whole script."""
        return self.runs.startswith("scripts/")


@cache
def bugs() -> dict[str, Bug]:
    """All bugs of the catalogue, by id."""
    with (HERE / "catalogue.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return {row["id"]: _bug(row) for row in rows}


def _bug(row: dict[str, str]) -> Bug:
    return Bug(
        id=row["id"],
        runs=row["runs"],
        wrong=row["wrong"],
        cause=row["cause"],
        finding=row["finding"],
        objective=cast(Objective, row["objective"]),  # Bug checks it
        shows=tuple(row["shows"].split(", ")),
        seen_by=row["seen_by"],
        unseen=row["unseen"],
        threads=tuple(row["threads"].split()),
    )


def loop_of(bug: Bug) -> Loop:
    """The loop that has the bug. Raises ValueError for a bug that is a whole script."""
    if bug.is_script:
        raise ValueError(f"{bug.id} is no loop but the script {bug.runs}: take script_of")
    module, _, function = bug.runs.partition(":")
    try:
        loop: Loop = getattr(importlib.import_module(f"accumcheck.corpus.{module}"), function)
    except (ImportError, AttributeError):
        raise ValueError(f"{bug.id}: there is no loop {bug.runs} in accumcheck.corpus") from None
    return loop


def script_of(bug: Bug) -> tuple[Path, list[str]]:
    """The path of the script that has the bug, and its arguments. Raises ValueError for a bug that is a loop."""
    if not bug.is_script:
        raise ValueError(f"{bug.id} is no script but the loop {bug.runs}: take loop_of")
    name, *arguments = shlex.split(bug.runs)
    path = HERE / name
    if not path.is_file():
        raise ValueError(f"{bug.id}: there is no script {path}")
    return path, arguments
