"""Right loops in all styles, each drawn by a number: none of them should be called wrong.

Loops of the corpus and the recipes are written in other ways that mean the same; programs are every combination of
rules that is right by simulation. Most are judged exactly. Every tenth trains a problem's model, and then optimizer,
dtype and data are drawn too.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import product
from typing import Any

from accumcheck.check import compare
from accumcheck.corpus import published, right
from accumcheck.corpus.expectations import cases_of
from accumcheck.corpus.interpreter import loop_of
from accumcheck.corpus.problems import PROBLEMS
from accumcheck.corpus.published import full_batch
from accumcheck.corpus.recipes import RECIPES, as_loop
from accumcheck.explaining.judge import judge_exactly
from accumcheck.probing.model import Samples
from accumcheck.programs.rules import MEANS, SLOTS, TABLES, Program, Shape
from accumcheck.programs.simulate import Units, equivalent
from accumcheck.task import OBJECTIVES, Loop, LoopError, Objective, Sizes, name_of
from accumcheck.training.problem import DTYPES, OPTIMIZERS, Case

from experiments.lab.runner import Row
from experiments.reliability.sources import compiled, rewritten, tree_of

COMPARED = 10  # every so many-th case trains a model
SIMULATED_AT = ((7, 1, 4, 2), (11, 2, 4, 3), (5, 2, 4, 2), (13, 1, 8, 1), (14, 3, 2, 2))
# What these train with, or which windows they make, is their own: they are compared with their own full batches.
OWN = ("takes_gradients", "two_optimizers", "streams_rows", "drops_the_last_window", "stops_after_three_steps",
       "clips_once", "joins_micro_batches", "evaluates_between_epochs", "schedules_once_an_epoch",
       "trains_biases_only", "shuffles_with_its_own_seed", "scaler_sample", "scaler_token")  # fmt: skip
NOT_COMPARED = ("scales_losses", "compiles_the_model")  # bfloat16 for its own part; slow
LARGEST = {"small": (12, 3, 4, 3), "large": (36, 5, 9, 4)}  # n, b, k, epochs


def draw_sizes(draw: random.Random) -> Sizes:
    """Mostly small ones, where tails and short micro-batches are common."""
    n, b, k, epochs = LARGEST["small" if draw.random() < 0.7 else "large"]
    return Sizes(draw.randint(1, n), draw.randint(1, b), draw.randint(2, k), draw.randint(1, epochs))


def counts_of(objective: Objective, sizes: Sequence[Sizes], seed: int) -> list[tuple[int, ...]]:
    """The tokens of each sample that the probe draws at these sizes; what the oracle's data have too."""
    return [Samples.draw(each.samples, objective, seed).units if objective == "token" else () for each in sizes]


@lru_cache(maxsize=1)
def written() -> list[tuple[Callable[..., Any], Objective]]:
    """The right loops that a person has written, with each objective that they are right for."""
    found = [(loop, objective) for loop, objective, finding in cases_of(published, right) if finding is None]
    return [*found, *((recipe, _of(recipe)) for recipe in RECIPES)]


def _of(recipe: Callable[..., Any]) -> Objective:
    return next(objective for objective in OBJECTIVES if name_of(recipe).endswith(objective))


@lru_cache(maxsize=2)
def programs(objective: Objective) -> list[Program]:
    """Every combination of rules that is right by simulation, at sizes of all kinds."""
    names = {slot: [n for n, rule in TABLES[slot].items() if rule.law in ("", MEANS)] for slot in SLOTS}
    weighed = [
        Program(**dict(zip(("visit", "step", "reset", "scale", "loss"), chosen, strict=True)))
        for chosen in product(*(names[slot] for slot in ("visit", "step", "reset", "scale", "loss")))
    ]
    rest = ("clip", "schedule")
    return [
        Program(**{**{slot: getattr(each, slot) for slot in SLOTS}, **dict(zip(rest, chosen, strict=True))})
        for each in weighed
        if all(equivalent(each, Shape(*shape), _units(shape[0], objective)) for shape in SIMULATED_AT)
        for chosen in product(*(names[slot] for slot in rest))
    ]


def _units(samples: int, objective: Objective) -> Units:
    return Units(tuple(1 if objective == "sample" else 1 + i * i % 5 for i in range(samples)))


def measure(start: int, count: int) -> list[Row]:
    """Rows of so many cases."""
    return [_measure(number) for number in range(start, start + count)]


def _measure(number: int) -> Row:
    draw = random.Random(f"right {number}")
    if number % COMPARED == 0:
        return _compared(number, draw)
    sizes, seed = draw_sizes(draw), draw.randrange(10**6)
    style, loop, objective = _drawn(draw, number, sizes, seed)
    row: Row = {"part": "right", "name": style, "objective": objective, "how": "exact"}
    try:
        outcome = judge_exactly(loop, objective, sizes=[sizes], search=False, seed=seed)
    except LoopError as error:
        return row | {"outcome": "no verdict" if _makes_no_step(error) else "error"} | _noted(number, sizes, error)
    said = outcome.findings[0].id if outcome.findings else outcome.reasons
    return row | {"outcome": outcome.verdict} | (_noted(number, sizes, said) if said else {})


def _noted(number: int, sizes: object, said: object) -> Row:
    return {"note": f"case {number}, {sizes}: {said}"}


def _makes_no_step(error: LoopError) -> bool:
    """Where no window is full, a loop that drops tails makes no step, which is refused and no verdict."""
    return "no torch optimizer that holds task.model's parameters stepped" in str(error)


def _drawn(draw: random.Random, number: int, sizes: Sizes, seed: int) -> tuple[str, Loop, Objective]:
    """A program that is right at these sizes, or a loop that is written in another way, in turns."""
    if number % 2:
        objective = draw.choice(OBJECTIVES)
        units = Units(Samples.draw(sizes.samples, objective, seed).units)
        program = draw.choice(programs(objective))
        while not equivalent(program, Shape.of(sizes), units):  # as where a micro-batch of a whole window is short
            program = draw.choice(programs(objective))
        return "a program", loop_of(program), objective
    original, objective = draw.choice(written())
    tree = rewritten(tree_of(original), draw)
    return name_of(original), compiled(tree, original, f"right {number}"), objective


def _compared(number: int, draw: random.Random) -> Row:
    """A loop that trains a model, on real data."""
    original, objective = draw.choice([each for each in written() if name_of(each[0]) not in NOT_COMPARED])
    loop = as_loop(original) if original in RECIPES else original
    problem = draw.choice([
        p for p in PROBLEMS.values()
        if p.objective == objective and p.name not in ("cnn-batchnorm", "linear")
        and not (p.name.startswith("gpt") and name_of(original) in ("classifies", "sums_losses_of_samples"))
    ])  # fmt: skip
    whole = Sizes(draw.randint(1, 12), draw.randint(1, 3), draw.randint(2, 4), draw.randint(1, 2))
    case = Case(problem, whole, draw.choice([*OPTIMIZERS]), draw.choice([*DTYPES]), draw.randrange(2**16))
    row: Row = {"part": "right", "name": name_of(original), "objective": objective, "how": f"trained, {case.dtype}"}
    reference = loop if name_of(original) in OWN else full_batch
    try:
        verdict = compare(case, loop, reference=reference)[0].verdict
    except LoopError as error:
        none = "never called optimizer.step" in str(error) or _blows_up(case, loop)
        return row | {"outcome": "no verdict" if none else "error"} | _noted(number, case, error)
    return row | {"outcome": verdict} | ({} if verdict == "equivalent" else _noted(number, case, verdict))


def _blows_up(case: Case, loop: Loop) -> bool:
    """Whether training ends in numbers that are not finite without accumulation too, as where a loss is a large sum."""
    whole = replace(case, sizes=case.sizes.full_batch())
    try:
        compare(whole, loop, reference=loop)
    except LoopError as error:
        return "lower the learning rate" in str(error)
    return False
