"""What a script calls its accumulation steps: arguments and variables that are named for them, and keep their value."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import FrameType

KNOWN = ("gradient_accumulation_steps", "accumulate_grad_batches", "accumulation_steps", "accum_steps")
HOLDERS = frozenset((
    "self", "args", "cfg", "config", "conf", "hparams", "opt", "opts", "options", "params", "trainer", "training_args",
    "accelerator", "settings", "hp",
))  # fmt: skip
SHORT = frozenset(("k", "K"))


def named(values: Mapping[str, object], what: str) -> Iterator[tuple[str, int]]:
    """Whole numbers above 0 that are named for accumulation steps; one called k too, which may be something else."""
    for name, value in values.items():
        told = isinstance(name, str) and ("accum" in name.lower() or name in SHORT)
        if told and isinstance(value, int) and not isinstance(value, bool) and value > 0:
            yield f"{what} {name}", value


def around(depth: int = 40) -> Iterator[tuple[str, int]]:
    """Those in the functions that are running, and in the objects that these take their settings from."""
    frame: FrameType | None = inspect.currentframe()
    while frame is not None and depth:
        frame, depth = frame.f_back, depth - 1
        if frame is None or frame.f_globals.get("__name__", "").startswith("accumcheck."):
            continue
        values = _locals(frame)
        yield from named(values, "variable")
        for name in HOLDERS & values.keys():
            yield from _of(values[name], 2)


def _locals(frame: FrameType) -> dict[str, object]:
    """A copy of its variables; none is kept alive longer than it would be."""
    snapshot = frame.f_locals
    values = dict(snapshot)
    if frame.f_code.co_flags & inspect.CO_OPTIMIZED:
        with suppress(Exception):  # up to Python 3.12 this is a copy that the frame holds on to
            snapshot.clear()
    return values


def _of(value: object, depth: int) -> Iterator[tuple[str, int]]:
    with suppress(Exception):
        inner = value if isinstance(value, Mapping) else vars(value)
        yield from named(inner, "setting")
        for name in KNOWN:
            with suppress(Exception):
                if name not in inner and isinstance(found := getattr(value, name), int):
                    yield f"setting {name}", found
        if depth > 1:
            for name in HOLDERS & inner.keys():
                yield from _of(inner[name], depth - 1)
