"""The process in which loops run. ``accumcheck.isolated`` starts it; it says what it does there as lines of JSON."""

from __future__ import annotations

import ctypes
import io
import json
import math
import os
import signal
import sys
import sysconfig
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from accumcheck.check import check_equivalence, check_replicas
from accumcheck.explaining.finding import Finding
from accumcheck.failure import Failure
from accumcheck.figures import draw, save
from accumcheck.report import Report, coloured, finding_as_dict
from accumcheck.task import Loop, LoopError
from accumcheck.watching import progress
from accumcheck.watching.limits import TimeUpError, within
from accumcheck.watching.parents import end_with
from accumcheck.watching.process import preserved
from accumcheck.watching.targets import load

HERE = Path(__file__).parent
SPECIMENS = (HERE / "corpus", HERE / "adapters")  # loops, not code that judges them
PR_SET_PDEATHSIG = 1


def main() -> None:
    """Judge the loops that the request, the only argument, asks for; a line for every loop, run and verdict."""
    request = json.loads(sys.argv[1])
    _end_with(request["parent"])
    channel = Channel()
    progress.listener = channel.tell
    sys.argv = ["accumcheck", "check", *request["loops"]]
    channel.tell({"ready": True})
    for target in request["loops"]:
        channel.tell({"target": target})
        channel.tell({"result": judge(target, **request["options"])})


class Channel:
    """Lines to the parent, on a copy of standard output; what loops print there goes to standard error instead."""

    def __init__(self) -> None:
        self._process, self._file = os.getpid(), os.dup(1)
        os.dup2(2, 1)
        sys.stdout = sys.stderr

    def tell(self, event: dict[str, Any]) -> None:
        """Write one line; the process ends if nobody reads it, or if it is a copy of the one that judges."""
        if os.getpid() != self._process:  # the loop has forked, and its child has come back out of it
            os._exit(0)
        line = json.dumps(event).encode() + b"\n"
        try:
            while line:
                line = line[os.write(self._file, line) :]
        except OSError:
            os._exit(2)


def judge(
    target: str,
    *,
    objective: Any = "sample",
    seed: int = 0,
    device: str = "cpu",
    ranks: int | None = None,
    time_limit: float = 60.0,
    import_limit: float = 60.0,
    figure: str | None = None,
    colour: bool = False,
    width: int = 80,
) -> dict[str, Any]:
    """The verdict on a loop, whatever it does: as ``object``, its JSON form, and as ``text``."""
    try:
        report = _report(target, objective, seed, device, ranks, time_limit, import_limit)
        if figure and (example := report.example):
            cause = report.findings[0].id if report.findings else "equivalent"
            save(draw(example, f"{report.loop}: {cause}", report.reference), figure)
        text = replace(report, loop=target).text(width) + (f"\n  Picture: {figure}" if figure else "")
        return {"object": _object(report, target), "text": _in_colour(text) if colour else text}
    except (LoopError, ValueError, ImportError, OSError) as error:
        name = getattr(error, "finding", None)
        findings = (finding_as_dict(Finding(name, facts={"text": str(error)})),) if name else ()
        failure = Failure(target, str(error), findings)
    except BaseException as error:  # noqa: BLE001, RUF100 - loops raise KeyboardInterrupt, too
        failure = Failure(target, _unexpected(target, error))
    return {"object": failure.as_dict(), "text": str(failure)}


def _report(
    target: str, objective: Any, seed: int, device: str, ranks: int | None, time_limit: float, import_limit: float
) -> Report:
    if ranks is not None:
        progress.report({"limit": math.inf})  # the ranks have limits of their own
        return check_replicas(target, ranks, objective=objective, seed=seed, time_limit=time_limit)
    with preserved():
        train = _imported(target, import_limit)
    return check_equivalence(train, objective=objective, seed=seed, device=device, time_limit=time_limit)


def _imported(target: str, limit: float) -> Loop:
    try:
        return within(limit, lambda: load(target))
    except TimeUpError:
        where = target.rpartition(":")[0]
        raise LoopError(
            f"importing {where!r} did not end within {limit:g} seconds: "
            "guard what it runs with `if __name__ == '__main__'`, or raise --time-limit"
        ) from None


def _object(report: Report, target: str) -> dict[str, Any]:
    """The JSON form, under the name that the loop was given on the command line."""
    return {**report.as_dict(), "loop": target}


def _in_colour(text: str) -> str:
    try:
        from rich.console import Console  # noqa: PLC0415 - not needed by those who have not installed it
    except ImportError:
        return text
    console = Console(file=io.StringIO(), highlight=False, force_terminal=True)
    console.print(coloured(text), soft_wrap=True, end="")
    shown: str = console.file.getvalue()  # type: ignore[attr-defined]
    return shown


def _unexpected(target: str, error: BaseException) -> str:
    """What was raised, and by whom: by the loop, or by accumcheck itself."""
    said = f"{type(error).__name__}: {error}".rstrip(": ")
    others = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        place = f"{path.name}:{frame.lineno}"
        if HERE in path.parents and not any(each in path.parents for each in SPECIMENS):
            return f"accumcheck itself failed, at {place}, with {said}; there is no verdict, please report it"
        if not any(each in path.parents for each in others):
            return f"{target.rpartition(':')[2]} raised {said}, at {place}; there is no verdict"
    return f"{target.rpartition(':')[2]} raised {said}; there is no verdict"


def _end_with(parent: int) -> None:
    if sys.platform == "linux":  # also where a loop lets no other thread run
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    end_with(parent)
