"""Which program is a loop? The one with the fewest wrong rules whose matrices are the loop's at every size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import islice

from accumcheck.numbers import EXACT, close, same
from accumcheck.programs.rules import RIGHT, TABLES, Program, Rule, Shape, Step
from accumcheck.programs.simulate import ADD, SEEN, Structure, Units, ratio, structure, supports, updates


@dataclass(frozen=True)
class Case:
    """A matrix that a program is to make: ``rows`` of floats at these sizes, updates without gradients left out."""

    shape: Shape
    units: Units
    rows: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, shape: Shape, units: Units, rows: Sequence[Sequence[float]]) -> Case:
        """Without the rows of zeros, unless there are no others."""
        full = [tuple(row) for row in rows if any(row)]
        return cls(shape, units, tuple(full or map(tuple, rows)))

    @cached_property
    def supports(self) -> list[frozenset[int]]:
        """The samples of each update that has any."""
        found = [frozenset(i for i, weight in enumerate(row) if weight) for row in self.rows]
        return [each for each in found if each]


def fit(
    cases: Sequence[Case],
    objective: str,
    relative: float = EXACT,
    allowed: Callable[[Program], bool] = lambda _: True,
) -> Program | None:
    """The likeliest program that makes all cases; None if no choice of rules that is ``allowed`` does.

    >>> from accumcheck.programs.simulate import simulate
    >>> shapes, program = [Shape(7, 1, 4, 2), Shape(11, 2, 4, 2)], Program(step="early or end", scale="1/k")
    >>> cases = [Case.of(s, u, simulate(program, s, u)) for s in shapes for u in [Units((1,) * s.n)]]
    >>> fit(cases, "sample") == program
    True
    """
    cases = [each for each in cases if each.rows or each.shape.k > 1]
    order = sorted(cases, key=lambda case: (case.shape.k == 1, -case.shape.length / case.shape.k, case.shape.n))
    if not order or not any(case.rows for case in cases):
        return None
    for programs in (skeletons(), unusual()):
        candidates = [each for each in programs if allowed(each)]
        if best := _likeliest(candidates, order, objective, relative):
            return best
    return None


def _likeliest(candidates: Sequence[Program], cases: Sequence[Case], objective: str, relative: float) -> Program | None:
    best: Program | None = None
    limit = max(len(case.supports) for case in cases)
    known = set()
    for found in candidates:
        if best and found.cost[0] > best.cost[0]:
            break  # candidates come with fewest wrong rules first
        # Cheapest first: how many updates, of which samples, at one size; then at the others.
        if not all(_gathers(found, case, limit) for case in cases):
            continue
        key = tuple(_structure(found, case.shape).key for case in cases)
        if key in known:
            continue
        known.add(key)
        for program in _scaled(found, cases, objective):
            if best is None or program.cost < best.cost:
                best = program if all(makes(program, case, relative) for case in cases) else best
    return best


@lru_cache(maxsize=1)
def skeletons() -> tuple[Program, ...]:
    """All choices of visits, steps and resets, the likeliest first; rare conditions with common visits only."""
    return _sorted(
        Program(visit=visit, step=name, reset=reset)
        for visit in TABLES["visit"]
        for name, rule in TABLES["step"].items()
        for reset in TABLES["reset"]
        if visit in COMMON or not _is_rare(rule)
    )


@lru_cache(maxsize=1)
def unusual() -> tuple[Program, ...]:
    """Rare conditions with the other visits, which are tried last."""
    return _sorted(
        Program(visit=visit, step=name)
        for visit in TABLES["visit"]
        for name, rule in TABLES["step"].items()
        if visit not in COMMON and _is_rare(rule)
    )


COMMON = ("every", "first epoch")


def _is_rare(rule: Rule) -> bool:
    return isinstance(rule, Step) and rule.rare


def _sorted(programs: Iterable[Program]) -> tuple[Program, ...]:
    return tuple(sorted(programs, key=lambda program: program.cost))


def _structure(program: Program, shape: Shape) -> Structure:
    return structure(program.visit, program.step, program.reset, shape)


def _gathers(program: Program, case: Case, limit: int) -> bool:
    """Whether its visits, steps and resets gather just the samples that each update is made of."""
    found = _structure(program, case.shape)
    if not case.supports:
        return len(found.rows) >= len(case.rows) and not any(found.rows)
    if found.made != len(case.supports) and (len(case.supports) != limit or found.made < limit):
        return False
    made_of = supports(found, case.units) if case.units.orders else found.supports
    return made_of[:limit] == case.supports


def _scaled(program: Program, cases: Sequence[Case], objective: str) -> Iterator[Program]:
    """With every choice of weights; of nothing, all weights are the same."""
    alive = any(case.supports for case in cases)
    losses = TABLES["loss"] if objective == "token" and alive else [RIGHT["loss"]]
    ranks = TABLES["ranks"] if any(case.shape.ranks > 1 for case in cases) else [RIGHT["ranks"]]
    for loss in losses:
        for rank in ranks:
            for scale in TABLES["scale"] if alive else [RIGHT["scale"]]:
                yield replace(program, scale=scale, ranks=rank, loss=loss)


def makes(program: Program, case: Case, relative: float = EXACT) -> bool:
    """Whether a program makes a case's matrix; further updates than the case has are not looked at."""
    made = updates(program, _structure(program, case.shape), case.shape, case.units, ratio)
    # Row by row, as most programs that are tried make another first one.
    rows = (row for full, row in made if full or not case.supports)
    return all(same(list(islice(rows, 1)), [wanted], relative) for wanted in case.rows)


def rates_go_by(program: Program, cases: Sequence[tuple[Case, Sequence[float]]], decay: float, first: float) -> str:
    """The rule of the schedule slot by which learning rates go, given those of each case's updates.

    ``cases`` come in pairs, a loop's own full batch behind the loop.
    """
    pairs = list(zip(cases[::2], cases[1::2], strict=True))
    if all(close(a, b) for (_, ours), (_, own) in pairs for a, b in zip(ours, own, strict=False)):
        return "step"
    calls = {rule: [_calls(program, rule, case.shape) for case, _ in cases] for rule in TABLES["schedule"]}
    for rule in ("step", "epoch", "every", "every, behind"):
        made = [
            [first * decay**c for c in each[: len(rates)]] for each, (_, rates) in zip(calls[rule], cases, strict=True)
        ]
        if all(
            len(each) == len(rates) and all(close(*pair) for pair in zip(each, rates, strict=True))
            for each, (_, rates) in zip(made, cases, strict=True)
        ):
            return rule
    # Another schedule by epochs than the task's own: each epoch has one rate, with accumulation and without.
    known: dict[tuple[int, int], float] = {}
    for number, (each, (_, rates)) in enumerate(zip(calls["epoch"], cases, strict=True)):
        for epoch, rate in zip(each, rates, strict=False):
            if not close(known.setdefault((number // 2, epoch), rate), rate):
                return "other"
    return "epoch"


def _calls(program: Program, rule: str, shape: Shape) -> list[int]:
    """How often scheduler.step() was called before each update that has a gradient."""
    found = _structure(program, shape)
    seen, steps, calls = 0, 0, []
    full = iter(found.rows if any(found.rows) else [(0,)] * len(found.rows))
    for event in found.events:
        if event.kind in (ADD, SEEN):
            seen += 1
        elif event.kind == "step":
            if next(full):
                calls.append(
                    {"step": steps, "never": 0, "epoch": event.epoch, "every": seen, "every, behind": seen - 1}.get(
                        rule, 0
                    )
                )
            steps += 1
    return calls
