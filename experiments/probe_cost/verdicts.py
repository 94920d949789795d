"""Verdicts for ``probe_cost``: every loop that the project has, with the cause that is to be named first."""

from __future__ import annotations

import random
from typing import Any

from accumcheck.corpus import published, right, wrong
from accumcheck.corpus.expectations import cases_of
from accumcheck.explaining.judge import judge_exactly
from accumcheck.task import LoopError, Objective, Sizes, name_of

from experiments.lab import trainparity
from experiments.lab.runner import Row


def wrong_loops() -> list[tuple[str, Objective, str]]:
    """(loop, objective, root cause) of every wrong loop in ``accumcheck.corpus``."""
    return [case for case in all_loops() if case[2] != "equivalent"]


def all_loops() -> list[tuple[str, Objective, str]]:
    """(loop, objective, root cause or "equivalent") of every loop there is, for every objective that it is for."""
    cases = cases_of(published, right, wrong)
    return [(name_of(loop), objective, finding or "equivalent") for loop, objective, finding in cases]


def _cause(loop: str, objective: Objective, **options: Any) -> str:
    """The root cause that is named first, or "equivalent"."""
    try:
        outcome = judge_exactly(trainparity.BY_NAME[loop], objective, **options)
    except LoopError as error:
        return error.finding or f"error: {error}"
    return outcome.findings[0].id if outcome.findings else str(outcome.verdict)


def find_bug(loop: str, objective: Objective, expected: str, parity: bool) -> list[Row]:
    """What both say of a wrong loop: its cause at the default sizes, and trainparity's outcome."""
    other = trainparity.check(loop, objective) if parity else {}
    ours = _cause(loop, objective)
    return [{"loop": loop, "objective": objective, "expected": expected, "accumcheck": ours, **other}]


def judge(loop: str, objective: Objective, expected: str, start: int, count: int) -> list[Row]:
    """Count right verdicts from random sizes and seeds, and list the others."""
    wrong = []
    for number in range(start, start + count):
        draw = random.Random(f"{loop} {objective} {number}").randint
        sizes, seed = Sizes(draw(1, 40), draw(1, 5), draw(2, 9), draw(1, 4)), draw(0, 10**6)
        found = _cause(loop, objective, sizes=[sizes], seed=seed)
        if found != expected:
            wrong.append(f"{found} at {sizes}, seed {seed}")
    counts = {"verdicts": count, "right": count - len(wrong), "wrong": "; ".join(wrong)}
    return [{"loop": loop, "objective": objective, "expected": expected, **counts}]
