"""Random edits of right loops, judged by accumcheck and by the oracle at the same sizes.

``python -m experiments.reliability.edits NUMBER ...`` shows one of them.
"""

from __future__ import annotations

import ast
import difflib
import random
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from accumcheck.explaining.judge import judge_exactly
from accumcheck.task import Loop, LoopError, Objective, Sizes, name_of
from accumcheck.watching.process import preserved

from experiments.lab.runner import Row
from experiments.reliability import oracle
from experiments.reliability.right import counts_of, written
from experiments.reliability.sources import Edit, compiled, edited, edits_of, tree_of

KNOWN: dict[tuple[str, str], str] = {
    (
        "trains_biases_only",
        "in 1",
    ): "it freezes one parameter after the other, and trains the rest each time; the probe "
    "reads what all samples share by the parameters that are frozen later, and calls its own run inconsistent",
}
"""Loops and edits that the oracle judges in another way, and why."""
LIMIT = 5.0  # seconds for one run
LEFT_OUT = ("scales_losses", "compiles_the_model")  # bfloat16 for its own part; slow


@lru_cache(maxsize=1)
def edits() -> list[tuple[Callable[..., Any], Objective, Edit]]:
    """Every edit of every right loop under every objective that this is right for, in random order."""
    found = [
        (loop, objective, edit)
        for loop, objective in written()
        if name_of(loop) not in LEFT_OUT
        for edit in edits_of(loop)
    ]
    random.Random(0).shuffle(found)
    return found


def loop_of(number: int) -> tuple[Loop, Objective, Edit, str]:
    """An edited loop, its objective, the edit, and the lines that it changes."""
    original, objective, edit = edits()[number]
    tree = edited(tree_of(original), edit)
    before, after = (ast.unparse(ast.fix_missing_locations(each)).splitlines() for each in (tree_of(original), tree))
    changed = [line for line in difflib.unified_diff(before, after, n=0, lineterm="") if not line.startswith("@@")][2:]
    return compiled(tree, original, f"edit {number}"), objective, edit, "\n".join(changed)


def sizes_of(number: int) -> list[Sizes]:
    """Windows that are full, a tail with a short micro-batch, and fewer samples than N; two or three epochs."""
    draw = random.Random(f"sizes {number}")
    b, k = draw.randint(1, 3), draw.randint(2, 4)
    big = b * k
    even = Sizes(2 * big, b, k, 2)
    b, k = draw.randint(2, 3), draw.randint(2, 4)
    ragged = Sizes(b * k + draw.randint(1, b * k - 1), b, k, draw.randint(2, 3))
    b, k = draw.randint(1, 2), draw.randint(3, 5)
    return [even, ragged, Sizes(draw.randint(1, b * k - 1), b, k, 2)]


def measure(start: int, count: int) -> list[Row]:
    """Rows of so many edits."""
    return [_measure(number) for number in range(start, min(start + count, len(edits())))]


def verdict_of(loop: Loop, objective: Objective, sizes: list[Sizes], seed: int) -> tuple[str, str]:
    """What accumcheck says, and of what."""
    try:
        outcome = judge_exactly(loop, objective, sizes=sizes, search=False, seed=seed, time_limit=LIMIT)
    except LoopError as error:
        return "refused", str(error)
    except Exception as error:
        return "crash", f"{type(error).__name__}: {error}"
    said = [finding.id for finding in outcome.findings] or [*outcome.reasons, outcome.convention or ""]
    return str(outcome.verdict), ", ".join(said)


def _measure(number: int) -> Row:
    loop, objective, edit, changed = loop_of(number)
    sizes = sizes_of(number)
    with preserved():
        theirs = oracle.judge(loop, sizes, counts_of(objective, sizes, number), number)
    verdict, said = verdict_of(loop, objective, sizes, seed=number)
    row: Row = {
        "part": "edits",
        "name": edit.kind,
        "objective": objective,
        "how": theirs.verdict,
        "outcome": verdict,
    }
    if (verdict, theirs.verdict) in AGREE or verdict == "refused":
        return row
    where = name_of(edits()[number][0])
    return row | {"note": f"edit {number} of {where}, {edit}: {said or 'nothing'}; oracle: {theirs.why}\n{changed}"}


AGREE = {("equivalent", "same"), ("diverges", "differs"), ("diverges", "no update")}


def is_known(note: str) -> bool:
    """Whether a note is of an edit that is explained."""
    return any(f" of {loop}, {edit}: " in note for loop, edit in KNOWN)


def main() -> None:
    """Show an edit, and what both say of it."""
    for number in map(int, sys.argv[1:]):
        loop, objective, edit, changed = loop_of(number)
        sizes = sizes_of(number)
        print(number, name_of(edits()[number][0]), objective, edit, *sizes, sep=", ")
        print(changed)
        print(oracle.judge(loop, sizes, counts_of(objective, sizes, number), number))
        print(*verdict_of(loop, objective, sizes, seed=number))


if __name__ == "__main__":
    main()
