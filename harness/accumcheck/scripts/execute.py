"""Runs a script in this process as ``python script.py ARGUMENTS`` would."""

from __future__ import annotations

import os
import runpy
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class EnoughError(BaseException):
    """As many updates as were asked for have been seen."""


@contextmanager
def _as_called(script: str, arguments: Sequence[str], *, module: bool) -> Iterator[None]:
    kept = sys.argv, list(sys.path)
    sys.argv = [script, *arguments]
    if not sys.flags.safe_path:
        sys.path.insert(0, os.getcwd() if module else os.path.dirname(os.path.realpath(script)))
    try:
        yield
    finally:
        sys.argv, sys.path[:] = kept


def start(script: str, arguments: Sequence[str], *, module: bool = False) -> dict[str, Any]:
    """Run a script, or a module as ``python -m`` does; its global names. What it raises is passed on."""
    with _as_called(script, arguments, module=module):
        return runpy.run_module(script, run_name="__main__", alter_sys=True) if module else _run_file(script)


def execute(script: str, arguments: Sequence[str], *, module: bool = False) -> tuple[str | None, dict[str, Any]]:
    """As ``start``; what went wrong, if anything, and the global names.

    An error of the script is printed with its traceback, as Python does.
    """
    found: dict[str, Any] = {}
    try:
        found = start(script, arguments, module=module)
    except EnoughError:
        return None, found
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
        return (f"it exited with status {error.code!r}" if error.code not in (None, 0) else None), found
    except KeyboardInterrupt:
        return "it was interrupted", found
    except BaseException as error:
        _show(error)
        return f"it raised {type(error).__name__}: {error}", found
    return None, found


def _show(error: BaseException) -> None:
    """Print an error as Python does, without the frames between it and the script."""
    trace = error.__traceback__
    own = (str(Path(__file__)), runpy.__file__, "<frozen runpy>")
    while trace is not None and trace.tb_frame.f_code.co_filename in own:
        trace = trace.tb_next
    traceback.print_exception(type(error), error, trace)


def _run_file(script: str) -> dict[str, Any]:
    """As ``runpy.run_path``, with a module in sys.modules that stays: pickled classes and dataclasses look there."""
    import types  # noqa: PLC0415

    module = types.ModuleType("__main__")
    module.__file__ = script
    module.__builtins__ = __builtins__  # type: ignore[attr-defined]
    kept = sys.modules["__main__"]
    sys.modules["__main__"] = module
    try:
        exec(compile(Path(script).read_bytes(), script, "exec"), module.__dict__)
    finally:
        sys.modules["__main__"] = kept
    return vars(module)
