"""What is expected of a loop that ships, said by a decorator on the loop.

>>> @wrong("early-first-step")
... def mine(task): ...
>>> expected(mine, "token")
'early-first-step'
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import TypeVar, overload

from accumcheck.programs.laws import LAWS
from accumcheck.task import OBJECTIVES, Loop, Objective, name_of

BY_K = ("tail-scaled-by-k", "mean-of-means", "token-weighting")  # what a loop that divides by k does as well
SAME = "the same"
AnyLoop = TypeVar("AnyLoop", bound=Loop)


@dataclass(frozen=True)
class Expectation:
    """The finding to name first for each objective, None where the loop is right; ``also`` may stand behind it."""

    first: dict[Objective, str | None]
    also: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in (*self.first.values(), *self.also):
            if name is not None and name not in LAWS:
                raise ValueError(f"no finding {name!r}: choose one of {', '.join(LAWS)}")


def wrong(sample: str | None, *, token: str | None = SAME, also: Iterable[str] = ()) -> Callable[[AnyLoop], AnyLoop]:
    """Wrong, by the finding that is its root cause: for means over samples, and over tokens; None where it is right."""
    return _expecting(Expectation({"sample": sample, "token": sample if token == SAME else token}, tuple(also)))


@overload
def right(loop: AnyLoop, /) -> AnyLoop: ...
@overload
def right(*objectives: Objective, otherwise: str | None = None) -> Callable[[AnyLoop], AnyLoop]: ...
def right(*objectives: object, otherwise: str | None = None) -> object:
    """Right, for these objectives or for both; ``otherwise`` for the other one, without which it is not for it."""
    if objectives and callable(objectives[0]):
        return right(*OBJECTIVES)(objectives[0])
    for objective in objectives:
        if objective not in OBJECTIVES:
            raise ValueError(f"no objective {objective!r}: choose one of {', '.join(OBJECTIVES)}")
    first = {each: None if each in objectives else otherwise for each in OBJECTIVES if each in objectives or otherwise}
    return _expecting(Expectation(first))


def _expecting(expectation: Expectation) -> Callable[[AnyLoop], AnyLoop]:
    def mark(loop: AnyLoop) -> AnyLoop:
        loop.expectation = expectation  # type: ignore[attr-defined]
        return loop

    return mark


def expectation_of(loop: Loop) -> Expectation:
    """All that is expected of a loop. Raises ValueError if it has no decorator."""
    found = getattr(loop, "expectation", None)
    if not isinstance(found, Expectation):
        raise ValueError(f"nothing is expected of {name_of(loop)!r}: write @right or @wrong(...) above it")
    return found


def expected(loop: Loop, objective: Objective) -> str | None:
    """The finding to name first, None for a loop that is right. Raises ValueError if it is not for this objective."""
    first = expectation_of(loop).first
    if objective not in first:
        raise ValueError(f"{name_of(loop)!r} is for the objective {', '.join(first)}, not for {objective!r}")
    return first[objective]


def loops_of(*modules: ModuleType) -> dict[str, Loop]:
    """The loops with a decorator that these modules define, by name."""
    return {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if isinstance(getattr(value, "expectation", None), Expectation) and value.__module__ == module.__name__
    }


def cases_of(*modules: ModuleType) -> list[tuple[Loop, Objective, str | None]]:
    """(loop, objective, what is expected of it) for every loop of these modules and every objective that it is for."""
    return [
        (loop, objective, finding)
        for loop in loops_of(*modules).values()
        for objective, finding in expectation_of(loop).first.items()
    ]
