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

from accumcheck import widget
from accumcheck.check import check_equivalence, check_replicas
from accumcheck.explaining.evidence import Evidence, Reference
from accumcheck.explaining.finding import Finding
from accumcheck.failure import Failure
from accumcheck.figures import draw, save
from accumcheck.numbers import same
from accumcheck.programs.rules import Program, Shape
from accumcheck.programs.simulate import Units, simulate
from accumcheck.report import Report, coloured, finding_as_dict
from accumcheck.task import Loop, LoopError
from accumcheck.text import micro_batch
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
    html: str | None = None,
    checks: bool = False,
    colour: bool = False,
    width: int = 80,
) -> dict[str, Any]:
    """The verdict on a loop, whatever it does: as ``object``, its JSON form, and as ``text``."""
    try:
        report = _report(target, objective, seed, device, ranks, time_limit, import_limit, checks)
        if figure and (example := report.example):
            cause = report.findings[0].id if report.findings else "equivalent"
            save(draw(example, f"{report.loop}: {cause}", report.reference), figure)
        text = replace(report, loop=target).text(width) + (f"\n  Picture: {figure}" if figure else "")
        if html:
            widget.save(_page(report, target), html)
            text += f"\n  Page: {html}"
        return {"object": _object(report, target), "text": _in_colour(text) if colour else text}
    except (LoopError, ValueError, ImportError, OSError) as error:
        name = getattr(error, "finding", None)
        findings = (finding_as_dict(Finding(name, facts={"text": str(error)})),) if name else ()
        failure = Failure(target, str(error), findings)
    except BaseException as error:  # noqa: BLE001, RUF100 - loops raise KeyboardInterrupt, too
        failure = Failure(target, _unexpected(target, error))
    return {"object": failure.as_dict(), "text": str(failure)}


def _report(
    target: str,
    objective: Any,
    seed: int,
    device: str,
    ranks: int | None,
    time_limit: float,
    import_limit: float,
    checks: bool,
) -> Report:
    if ranks is not None:
        progress.report({"limit": math.inf})  # the ranks have limits of their own
        return check_replicas(target, ranks, objective=objective, seed=seed, time_limit=time_limit)
    with preserved():
        train = _imported(target, import_limit)
    options: dict[str, Any] = {"seed": seed, "device": device, "time_limit": time_limit, "checks": checks}
    return check_equivalence(train, objective=objective, **options)


def _imported(target: str, limit: float) -> Loop:
    try:
        return within(limit, lambda: load(target))
    except TimeUpError:
        where = target.rpartition(":")[0]
        raise LoopError(
            f"importing {where!r} did not end within {limit:g} seconds: "
            "guard what it runs with `if __name__ == '__main__'`, or raise --time-limit"
        ) from None


SET = "The figure below is set to your loop. Choose other rules and sizes, and see which weights change."
NO_RULES = "No known rules were found that make these weights. They stand below as they were read, beside what they "
NO_RULES += "should be."
NOT_SHOWN = "The interactive figure cannot show this loop. Its weights stand below as they were read, beside what they "
NOT_SHOWN += "should be."
ASIDE = " It shows the weights only, not the learning rates."


def _page(report: Report, target: str) -> str:
    """The report, with the widget if that makes the weights that were read at every size, else with these weights."""
    text = replace(report, loop=target).text()
    diverging = [outcome for outcome in report.asked if outcome.findings]
    outcome = next(iter([*diverging, *report.asked]), None)
    if outcome is None or report.example is None:
        return widget.page(target, text, "There is no figure, as no weights were read.")
    program = outcome.program or Program()
    matrices = [_matrices(each, outcome.reference) for each in outcome.evidence or (report.example,)]
    alone = report.ranks in (None, 1) and not program.rule("clip").law
    if not alone or not all(_makes(program, each) for each in outcome.evidence):
        unknown = any(finding.id == "unexplained" for finding in outcome.findings)
        return widget.page(target, text, NO_RULES if unknown else NOT_SHOWN, matrices=matrices)
    seen = report.example.small.ours
    state = widget.State(program, Shape.of(seen.sizes), seen.units if outcome.objective == "token" else ())
    said = SET + (ASIDE if program.rule("schedule").law else "")
    return widget.page(target, text, said, state, [_matrices(report.example, outcome.reference)])


def _makes(program: Program, evidence: Evidence) -> bool:
    """Whether a program makes the weights that were read, of every kind of parameter."""
    pair = evidence.small
    made = simulate(program, Shape.of(pair.ours.sizes), Units(pair.ours.units))
    rows = [[float(weight) for weight in row] for row in made]
    return all(same(matrix, rows) for matrix in pair.ours.matrices.values())


def _matrices(evidence: Evidence, reference: Reference) -> widget.Matrices:
    """The weights of a kind of parameter that differs, where gradients are large if only there."""
    pair, kind = next(
        ((pair, kind) for pair in evidence.pairs for kind in pair.differing(reference)),
        (evidence.small, evidence.small.ours.kind),
    )
    sizes, ours, due = pair.ours.sizes, pair.ours.matrices.get(kind, []), pair.due(kind, reference)
    title = f"{sizes.samples} sample{'s' * (sizes.samples != 1)}, micro-batches of {micro_batch(sizes)}, "
    title += f"k = {sizes.accumulation_steps}, {sizes.epochs} epoch{'s' * (sizes.epochs != 1)}"
    return widget.Matrices(title, ours, due, [str(i) for i in range(sizes.samples)])


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
