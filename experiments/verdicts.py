"""Verdicts for ``probe_cost``: every loop that the project has, with the cause that is to be named first."""

from __future__ import annotations

import random
from typing import Any

from experiments import trainparity_case
from experiments.bench import Row
from harness.bugs import SAMPLE_BUGS, TOKEN_BUGS
from harness.search import judge_exactly
from harness.styles import STYLES
from harness.task import OBJECTIVES, Loop, LoopError, Objective, Sizes


def wrong_loops() -> list[tuple[str, Objective, str]]:
    """(loop, objective, root cause) of every wrong loop in ``harness.bugs``."""
    found: list[tuple[Objective, dict[str, tuple[Loop, ...]]]] = [("sample", SAMPLE_BUGS), ("token", TOKEN_BUGS)]
    return [
        (getattr(loop, "__name__", ""), objective, cause)
        for objective, by_cause in found
        for cause, loops in by_cause.items()
        for loop in loops
    ]


def all_loops() -> list[tuple[str, Objective, str]]:
    """(loop, objective, root cause or "equivalent") of every loop there is, each once."""
    known = {(loop, objective): expected for loop, objective, expected in wrong_loops()}
    for objective in OBJECTIVES:
        sample = objective == "sample"
        due = {
            **dict.fromkeys(STYLES, "equivalent"),
            "full_batch": "step-per-micro-batch",
            "accumulate_samples": "equivalent" if sample else "token-weighting",
            "accumulate_tokens": "equivalent",
            "published_fix": "tail-scaled-by-k" if sample else "token-weighting",
            "published_fix_undivided": "unscaled-loss",
            "early_first_step": "early-first-step",
        }
        known |= {(loop, objective): expected for loop, expected in due.items()}
    return [(loop, objective, expected) for (loop, objective), expected in known.items()]


def _cause(loop: str, objective: Objective, **options: Any) -> str:
    """The root cause that is named first, or "equivalent"."""
    try:
        outcome = judge_exactly(trainparity_case.BY_NAME[loop], objective, **options)
    except LoopError as error:
        return error.finding or f"error: {error}"
    return outcome.findings[0].id if outcome.findings else outcome.verdict


def find_bug(loop: str, objective: Objective, expected: str, parity: bool) -> list[Row]:
    """What both say of a wrong loop: its cause at the default sizes, and trainparity's outcome."""
    other = trainparity_case.check(loop, objective) if parity else {}
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
