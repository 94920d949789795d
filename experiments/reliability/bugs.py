"""Every wrong loop of the corpus at random sizes where it shows: it should be found, and its cause named first.

Where a loop shows is decided by the oracle, which trains a network of its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import lru_cache

from accumcheck.corpus import happened, published, wrong
from accumcheck.corpus.expectations import cases_of, expectation_of
from accumcheck.explaining.judge import judge_exactly
from accumcheck.programs.rules import Shape
from accumcheck.task import Loop, LoopError, Objective, Sizes, name_of

from experiments.lab.runner import Row
from experiments.reliability import oracle
from experiments.reliability.right import counts_of
from experiments.reliability.right import draw_sizes as any_sizes

TAILS = ("tail-scaled-by-k", "carried-tail", "dropped-tail", "split-tail")
# Where these show as what they are: elsewhere the numbers that they go by are those of the sizes, or nothing is to see.
WHERE: dict[str, Callable[[Sizes], bool]] = {
    "steps_by_a_constant": lambda sizes: sizes.accumulation_steps != 4,
    "validates_within_a_window": lambda sizes: sizes.accumulation_steps != 3,
    "contrasts_within_the_batch": lambda sizes: sizes.micro_batch_size > 1,
    "steps_when_the_next_begins": lambda sizes: sizes.samples % sizes.effective_batch_size == 0,
    "skips_short_batches": lambda sizes: sizes.samples % sizes.micro_batch_size > 0,
}
TRIES = 200  # sizes at which a bug may hide, one after the other
ANY = 4  # every so many-th size is any at all, where a bug should be found, but several causes may be as right


@lru_cache(maxsize=1)
def bugs() -> list[tuple[Loop, Objective, str]]:
    """(loop, objective, root cause) of every wrong loop."""
    return [(loop, objective, finding) for loop, objective, finding in cases_of(published, wrong, happened) if finding]


def counts(sizes: int) -> list[int]:
    """How many sizes each of ``bugs`` is tried at, if each loop has so many for all its objectives."""
    objectives = [name_of(loop) for loop, *_ in bugs()]
    return [sizes // objectives.count(name) for name in objectives]


def measure(bug: int, start: int, count: int) -> list[Row]:
    """Rows of one bug at so many sizes where it shows."""
    loop, objective, expected = bugs()[bug]
    return [_measure(loop, objective, expected, number) for number in range(start, start + count)]


def draw_sizes(draw: random.Random) -> Sizes:
    """Windows of three micro-batches at the least, one of them full, and epochs that follow one another.

    Elsewhere causes cannot be told apart: with k = 2, k - 1 is 1, and without a full window all is tail.
    """
    b, k = draw.randint(1, 3), draw.randint(3, 6)
    return Sizes(draw.randint(b * k + 1, 3 * b * k), b, k, draw.randint(2, 3))


def _measure(loop: Loop, objective: Objective, expected: str, number: int) -> Row:
    draw = random.Random(f"bug {name_of(loop)} {objective} {number}")
    row: Row = {"part": "bugs", "name": name_of(loop), "objective": objective, "how": expected}
    anywhere = number % ANY == ANY - 1
    for _ in range(TRIES):
        sizes, seed = (any_sizes if anywhere else draw_sizes)(draw), draw.randrange(10**6)
        if not anywhere and not can_be_named(loop, expected, sizes):
            continue
        # Where a micro-batch holds all the data, there is nothing to accumulate.
        if sizes.samples > sizes.micro_batch_size and shows(loop, objective, sizes, seed):
            break
    else:
        return row | {"outcome": "hidden", "note": f"size {number}: shows at none of {TRIES} sizes"}
    try:
        outcome = judge_exactly(loop, objective, sizes=[sizes], search=False, seed=seed)
    except LoopError as error:
        found = error.finding or "error"
        note = "" if found == expected else f"size {number}, {sizes}, seed {seed}: {error}"
    else:
        found = outcome.findings[0].id if outcome.findings else str(outcome.verdict)
        note = f"size {number}, {sizes}, seed {seed}: {found}"
    if found in ("equivalent", "inconclusive", "error"):
        return row | {"outcome": found, "note": note}
    if found == expected or anywhere:
        return row | {"outcome": "found" if anywhere else "named first"}
    also = found in expectation_of(loop).also
    return row | {"outcome": "named as well" if also else "another name", "note": note}


def can_be_named(loop: Loop, expected: str, sizes: Sizes) -> bool:
    """Whether the cause can be told from others at these sizes: one in the tail where there is one."""
    if own := WHERE.get(name_of(loop)):
        return own(sizes)
    shape = Shape.of(sizes)
    return shape.length % shape.k > 0 or expected not in TAILS


def shows(loop: Loop, objective: Objective, sizes: Sizes, seed: int) -> bool:
    """Whether the oracle sees that a loop is not full-batch training at these sizes, or that it does not repeat."""
    return oracle.judge(loop, [sizes], counts_of(objective, [sizes], seed), seed).verdict == "differs"
