"""The pytest plugin: a list of loops becomes tests.

    @pytest.mark.accumcheck(loops=[train, other], objectives=["sample", "token"])
    def test_equivalence(accumcheck_report):
        assert accumcheck_report, str(accumcheck_report)

makes ``test_equivalence[train-sample]`` and so on. A whole script is run as it is:

    def test_training(accumcheck_run):
        report = accumcheck_run("train.py", "--grad-accum", "4", samples=31)
        assert report, str(report)

It imports nothing heavy until such a test runs.
"""

from __future__ import annotations

from typing import Any

import pytest

ID, EXPECTED, FIXTURE = "accumcheck", "accumcheck_xfail", "accumcheck_report"


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers."""
    config.addinivalue_line(
        "markers",
        f"{ID}(loops, objectives=['sample'], **options): run the test once for each loop and objective; options go to "
        "accumcheck.check_equivalence.",
    )
    config.addinivalue_line("markers", f"{EXPECTED}(reason): this loop is known to diverge, for the reason given.")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of every loop and objective."""
    marker = metafunc.definition.get_closest_marker(ID)
    if marker is None:
        return
    if FIXTURE not in metafunc.fixturenames:
        if marker in metafunc.definition.own_markers:
            raise pytest.UsageError(f"{metafunc.function.__name__} is marked {ID}, but does not take {FIXTURE}")
        return  # another test of a class or module that is marked as a whole
    loops = marker.kwargs.get("loops") or (marker.args[0] if marker.args else None)
    objectives = marker.kwargs.get("objectives", ["sample"])
    if not isinstance(loops, list | tuple) or not loops:
        raise pytest.UsageError(f"pytest.mark.accumcheck needs a list of loops, got loops={loops!r}")
    unknown = [objective for objective in objectives if objective not in ("sample", "token")]
    if isinstance(objectives, str) or unknown or not objectives:
        raise pytest.UsageError(f"objectives must be a list of 'sample' and 'token', got {objectives!r}")
    metafunc.parametrize(
        FIXTURE,
        [_case(loop, objective) for loop in loops for objective in objectives],
        indirect=True,
    )


def _case(loop: Any, objective: str) -> Any:
    """One parameter set, with its id and its expected failure."""
    marks: list[Any] = []
    name = None
    if hasattr(loop, "values") and hasattr(loop, "marks"):  # pytest.param(loop, marks=..., id=...)
        name = loop.id
        for mark in loop.marks:
            if mark.name != EXPECTED:
                marks.append(mark)
                continue
            reason = mark.kwargs.get("reason") or (mark.args[0] if mark.args else "")
            if not str(reason).strip():
                raise pytest.UsageError(f"pytest.mark.{EXPECTED} needs a written reason, got {reason!r}")
            marks.append(pytest.mark.xfail(reason=reason, strict=True, raises=AssertionError))
        (loop,) = loop.values
    if not callable(loop):
        raise pytest.UsageError(f"a loop is a function of one argument, def train(task): ..., got {loop!r}")
    name = name or getattr(loop, "__name__", type(loop).__name__)
    return pytest.param((loop, objective), marks=marks, id=f"{name}-{objective}")


@pytest.fixture
def accumcheck_report(request: pytest.FixtureRequest) -> Any:
    """The report on one loop; true only if it is equivalent. For tests under ``pytest.mark.accumcheck``."""
    from accumcheck.check import check_equivalence  # noqa: PLC0415 - silent, and free, until used
    from accumcheck.task import LoopError  # noqa: PLC0415

    if not hasattr(request, "param"):
        raise pytest.UsageError("accumcheck_report needs @pytest.mark.accumcheck(loops=[...]) on its test")
    loop, objective = request.param
    marker = request.node.get_closest_marker(ID)
    options = {k: v for k, v in marker.kwargs.items() if k not in ("loops", "objectives")} if marker else {}
    try:
        return check_equivalence(loop, objective=objective, **options)
    except LoopError as error:
        failure = str(error)
    pytest.fail(failure, pytrace=False)  # outside of the handler, which would show the loop's whole traceback


class Run:
    """The report on one run of a script; true only if it is equivalent. ``object`` is its JSON form."""

    def __init__(self, result: dict[str, Any]) -> None:
        self.object: dict[str, Any] = result["object"]
        self._text: str = result["text"]

    def __bool__(self) -> bool:
        return bool(self.object["verdict"] == "equivalent")

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"<Report on {self.object['loop']}: {self.object['verdict']}>"


@pytest.fixture
def accumcheck_run() -> Any:
    """Runs a script in a process of its own: ``accumcheck_run(script, *arguments, **options)`` returns its report.

    The options are those of ``accumcheck.audit``; a script that fails fails the test.
    """
    from accumcheck.scripts.launch import run  # noqa: PLC0415 - silent, and free, until used

    known = ("module", "accumulation_steps", "objective", "samples", "updates", "ranks")

    def run_script(script: str, *arguments: str, **options: Any) -> Run:
        if unknown := sorted(set(options) - set(known)):
            raise pytest.UsageError(f"accumcheck_run has no option {unknown[0]!r}: choose from {', '.join(known)}")
        result = run(script, arguments, {**dict.fromkeys(known), "figure": None, "width": 80, **options})
        if result is None:
            pytest.skip("rank 0 of torchrun judges the script")
        found = Run(result)
        if found.object["verdict"] == "error":
            pytest.fail(str(found), pytrace=False)
        return found

    return run_script
