"""Claim: some bugs of gradient accumulation that were reported pass all tests in use today; each test misses many.

``python -m experiments detection``

Rows are the bugs of ``accumcheck.corpus.catalogue`` and, as a control, loops that are right. Columns are ways of
testing, each rebuilt in a few lines after its public description (see ``methods``), and accumcheck's own: ``check`` on
the loop alone (with ``--ranks`` or ``--checks`` where the bug is one of these) and ``run`` on a script around it. A bug
is *found* by a way of testing that fails on it, and *named* where the root cause is named first; else it is *missed*,
or accumcheck says that it cannot tell. What cannot be tried says so: a whole script is no function, and ranks need
processes. trainparity is not tried on right loops. A comparison with a loop that is written by hand fails on many right
loops: where tokens differ, that loop has the bug itself, and it neither clips nor has a closure.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
from accumcheck.auditing import audit
from accumcheck.check import check_equivalence, check_replicas
from accumcheck.corpus import published, right
from accumcheck.corpus.catalogue import Bug, bugs, loop_of, script_of
from accumcheck.corpus.expectations import cases_of
from accumcheck.corpus.problems import PROBLEMS
from accumcheck.task import Loop, LoopError, Objective
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from experiments.detection.methods import METHODS
from experiments.lab import look, trainparity
from experiments.lab.runner import Bench, Row

SCRIPT = Path(__file__).parent / "script.py"
OURS = ("check", "run")
COLUMNS = {
    "losses": "loss curves within 0.01",
    "parameters": "parameters after AdamW",
    "steps": "steps counted",
    "changed": "weights changed",
    "gradients": "gradients, by hand",
    "update": "one update",
    "trainparity": "trainparity",
    "check": "accumcheck check",
    "run": "accumcheck run",
}
SAYS = {
    "named": ("found, and named", look.NAMED),
    "found": ("found", look.FOUND),
    "inconclusive": ("inconclusive, with the reason", "#c9bfe0"),
    "missed": ("missed", "#E69F00"),
    "not tried": ("cannot be tried", "#eeeeee"),
}
SHARES = [SAYS["not tried"], ("finds none", SAYS["missed"][1]), ("some", "#F7E3B0"), ("all", SAYS["found"][1])]
BESIDE = "(weights are right)"
KNOWN = {
    "drops_the_last_window": "it does so without accumulation too, which one run does not show",
}
"""Right loops that ``run`` calls wrong, and why."""
CAUGHT = {"found", "named"}


def run(bench: Bench) -> pd.DataFrame:
    """A row for every bug or right loop, and way of testing."""
    parity = trainparity.installed()
    if not parity:
        warnings.warn("trainparity is not there, so its part is left out; pip install trainparity==0.1.0", stacklevel=2)
    names = [f"bug {name}" for name in bugs()]
    names += [f"right {module}:{loop} {objective}" for module, loop, objective in right_loops()]
    if bench.quick:
        names = [names[i] for i in range(0, len(names), 24)]
    parity = parity and not bench.quick
    return pd.DataFrame(
        bench.map(measure, [{"name": name, "parity": parity and name.startswith("bug")} for name in names])
    )


def right_loops() -> list[tuple[str, str, Objective]]:
    """(module, loop, objective) of the loops that are right."""
    return [
        (loop.__module__.rpartition(".")[2], loop.__name__, objective)
        for loop, objective, finding in cases_of(published, right)
        if finding is None
    ]


def measure(name: str, parity: bool) -> list[Row]:
    """All ways of testing, tried on one bug or right loop."""
    kind, _, rest = name.partition(" ")
    if kind == "right":
        runs, _, objective = rest.partition(" ")
        bug = Bug(
            rest, runs, "", "", "", "token" if objective == "token" else "sample", ("always",), "", "it is right", ()
        )
    else:
        bug = bugs()[rest]
    of = {
        "bug": bug.id,
        "kind": kind,
        "finding": bug.finding,
        "objective": bug.objective,
        "shows": ", ".join(bug.shows),
    }
    return [{**of, "method": method, "outcome": outcome(bug, method, parity)} for method in COLUMNS]


def outcome(bug: Bug, method: str, parity: bool) -> str:
    """What one way of testing says of a bug: named, found, missed or not tried."""
    ranks = "ranks" in bug.shows
    if method == "run":
        return "not tried" if ranks else _of_run(bug)
    if bug.is_script or (ranks and method != "check"):
        return "not tried"
    if method == "check":
        return _of_check(bug, ranks)
    loop = loop_of(bug)
    if method == "trainparity":
        return _of_parity(loop, bug.objective) if parity else "not tried"
    return _found(lambda: METHODS[method](loop, problem_of(bug)))


def problem_of(bug: Bug) -> str:
    """The problem of the corpus on which a bug can show."""
    if bug.seen_by == "problem":
        return "cnn-batchnorm"
    return "mlp" if bug.objective == "sample" else "gpt-lines"


def _found(fails: Callable[[], bool]) -> str:
    try:
        return "found" if fails() else "missed"
    except Exception:  # a loop that raises does not pass, whoever tests it
        return "found"


def _of_parity(loop: Loop, objective: Objective) -> str:
    return _found(lambda: trainparity.check(loop.__name__, objective)["trainparity"] != "PASS")


def _of_check(bug: Bug, ranks: bool) -> str:
    target = f"accumcheck.corpus.{bug.runs}"
    model = PROBLEMS[problem_of(bug)] if bug.seen_by == "problem" else None
    try:
        if ranks:
            report = check_replicas(target, 2, objective=bug.objective)
        else:
            report = check_equivalence(loop_of(bug), objective=bug.objective, checks=bool(bug.beside), problem=model)
    except LoopError as error:
        return "named" if error.finding == bug.finding else "found"
    if bug.beside and any(each.name == bug.beside and each.status == "failed" for each in report.checks or ()):
        return "named"
    return _told(str(report.verdict), [finding.id for finding in report.findings], bug)


def _of_run(bug: Bug) -> str:
    path, arguments = script_of(bug) if bug.is_script else (SCRIPT, [bug.runs, problem_of(bug)])
    with redirect_stdout(StringIO()):
        report = audit(str(path), arguments)
    return _told(report.verdict, [finding.id for finding in report.judgement.findings], bug)


def _told(verdict: str, findings: list[str], bug: Bug) -> str:
    if verdict == "inconclusive":
        return "inconclusive"
    if verdict != "diverges":
        return "missed"
    return "named" if findings[:1] == [bug.finding] else "found"


def summarise(frame: pd.DataFrame) -> dict[str, Any]:
    """For each way of testing, how many bugs it finds and names, of how many that it can be tried on."""
    wrong, fine = (_table(frame, kind) for kind in ("bug", "right"))
    methods: dict[str, dict[str, int]] = {}
    for method in COLUMNS:
        outcomes = [row[method] for row in wrong.values() if row[method] != "not tried"]
        control = [row[method] for row in fine.values() if row[method] != "not tried"]
        methods[method] = {
            "tried": len(outcomes),
            "found": sum(each in CAUGHT for each in outcomes),
            "named": outcomes.count("named"),
            "right": len(control),
            "false_alarms": sum(each in CAUGHT for each in control),
        }
    usual = {name: [row[method] for method in METHODS] for name, row in wrong.items()}
    tried = [name for name, outcomes in usual.items() if set(outcomes) != {"not tried"}]
    ours = [name for name, row in wrong.items() if any(row[method] in CAUGHT for method in OURS)]
    missed = sorted(name for name in tried if not CAUGHT & set(usual[name]))
    best = max(METHODS, key=lambda method: methods[method]["found"])
    return {
        "bugs": len(wrong),
        "right": len(fine),
        "methods": methods,
        "usual_tried": len(tried),
        "usual_all_miss": missed,
        "ours": len(ours),
        "ours_miss": sorted(set(wrong) - set(ours)),
        "alarms": sorted(name for name, row in fine.items() if row["run"] in CAUGHT),
        "best": best,
        "best_says": COLUMNS[best],
        "finding": (
            f"of {len(wrong)} reported bugs accumcheck finds {len(ours)}; of the {len(tried)} that are loops of one "
            f"process the usual tests all miss {len(missed)}, and the best of them, {COLUMNS[best]}, finds "
            f"{methods[best]['found']}"
        ),
    }


def _table(frame: pd.DataFrame, kind: str) -> dict[str, dict[str, str]]:
    """What each way of testing says of each bug, or right loop."""
    table: dict[str, dict[str, str]] = {}
    for row in frame[frame["kind"] == kind].to_dict("records"):
        table.setdefault(str(row["bug"]), {})[str(row["method"])] = str(row["outcome"])
    return table


def _findings(frame: pd.DataFrame) -> dict[str, str]:
    """The root cause of each bug, for the headings of rows."""
    wrong = frame[frame["kind"] == "bug"].fillna("")
    return {str(bug): str(finding) or BESIDE for bug, finding in zip(wrong["bug"], wrong["finding"], strict=True)}


def check(numbers: dict[str, Any]) -> None:
    """accumcheck finds more than any other way, and calls no right loop wrong, but for those with a reason."""
    methods = numbers["methods"]
    ours = max(methods[name]["found"] for name in OURS)
    others = max(each["found"] for name, each in methods.items() if name not in OURS)
    assert ours > others, f"another way finds {others} bugs, accumcheck {ours}"
    unknown = [name for name in numbers["alarms"] if name.partition(" ")[0].partition(":")[2] not in KNOWN]
    assert not methods["check"]["false_alarms"], "check calls a right loop wrong"
    assert unknown == [], f"run calls right loops wrong: {unknown}"
    assert numbers["usual_all_miss"], "the usual tests miss nothing"


def plot(frame: pd.DataFrame) -> Figure:
    """A row for each root cause, a column for each way of testing: how many of its bugs are found."""
    numbers = summarise(frame)
    table, findings = _table(frame, "bug"), _findings(frame)
    rows: dict[str, list[dict[str, str]]] = {}
    for name, row in table.items():
        rows.setdefault(findings[name], []).append(row)
    narrow = look.is_narrow()
    left, size = (0.4, 8.0) if narrow else (0.29, 8.5)
    figure, axes = look.panels(1, 1, height=0.23 * (len(rows) + 9))
    axis, width = axes[0, 0], (1 - left) / len(COLUMNS)
    _heads(axis, numbers, left, width, size)
    for place, (finding, bugs_of) in enumerate(rows.items()):
        top = 9.3 + place
        axis.text(0, top + 0.5, finding, fontsize=size, va="center")
        for column, method in enumerate(COLUMNS):
            outcomes = [row[method] for row in bugs_of if row[method] != "not tried"]
            found = sum(each in CAUGHT for each in outcomes)
            color = SHARES[0 if not outcomes else 1 if not found else 2 if found < len(outcomes) else 3][1]
            corner = (left + column * width + 0.002, top + 0.05)
            axis.add_patch(Rectangle(corner, width - 0.004, 0.9, facecolor=color, edgecolor="none"))
            text = f"{found}/{len(outcomes)}" if outcomes else ""
            middle = left + (column + 0.5) * width
            axis.text(middle, top + 0.5, text, fontsize=size, color=look.INK, ha="center", va="center")
    axis.set(xlim=(0, 1.03), ylim=(9.3 + len(rows), 0))
    axis.set_axis_off()
    _titled(figure, numbers)
    _legend(figure, SHARES)
    return figure


def figures(frame: pd.DataFrame) -> dict[str, Figure]:
    """A row for each bug."""
    numbers = summarise(frame)
    table, findings = _table(frame, "bug"), _findings(frame)
    letters, left, size = (26, 0.47, 8.0) if look.is_narrow() else (40, 0.34, 8.0)
    lines: list[tuple[str, str]] = []
    for name in table:
        if not lines or lines[-1][1] != findings[name]:
            lines.append(("", findings[name]))
        lines.append((name, findings[name]))
    figure, axes = look.panels(1, 1, height=0.155 * (len(lines) + 12.4))
    axis, width = axes[0, 0], (1 - left) / len(COLUMNS)
    _heads(axis, numbers, left, width, size + 0.5, high=12.9)
    for row, (name, finding) in enumerate(lines):
        top = 13.2 + row
        if not name:
            axis.text(0, top + 0.6, finding, fontsize=size + 0.5, fontweight="bold", va="center")
            continue
        shown = name if len(name) <= letters else name[: letters - 1] + "…"
        axis.text(0.01, top + 0.5, shown, fontsize=size, va="center")
        for column, method in enumerate(COLUMNS):
            corner = (left + column * width + 0.002, top + 0.06)
            color = SAYS[table[name][method]][1]
            axis.add_patch(Rectangle(corner, width - 0.004, 0.88, facecolor=color, edgecolor="none"))
    axis.set(xlim=(0, 1.03), ylim=(13.2 + len(lines), 0))
    axis.set_axis_off()
    _titled(figure, numbers)
    _legend(figure, list(SAYS.values()))
    return {"detection_bugs": figure}


def _heads(axis: Axes, numbers: dict[str, Any], left: float, width: float, size: float, high: float = 9.0) -> None:
    """The names of the columns, and how many bugs each finds, above row ``high``."""
    line = high / 9
    axis.text(0, high - 2.6 * line, "bugs found", fontsize=size, fontweight="bold", va="center")
    axis.text(
        0,
        high - 1.6 * line,
        "of" if look.is_narrow() else "of those it can be tried on",
        fontsize=size,
        color=look.FAINT,
        va="center",
    )
    axis.text(
        0,
        high - 0.6 * line,
        "right ones failed" if look.is_narrow() else f"of {numbers['right']} right loops, fails",
        fontsize=size,
        va="center",
    )
    for column, (method, words) in enumerate(COLUMNS.items()):
        middle, told = left + (column + 0.5) * width, numbers["methods"][method]
        weight = "bold" if method in OURS else "normal"
        place: dict[str, Any] = {"rotation": 90, "va": "bottom", "ha": "center", "linespacing": 1.0}
        axis.text(middle, high - 3.4 * line, textwrap.fill(words, 16), fontsize=size, fontweight=weight, **place)
        failed = f"{told['false_alarms']}" if told["right"] else "–"
        for up, text, color, bold in (
            (2.6, f"{told['found']}", look.INK, "bold"),
            (1.6, f"{told['tried']}", look.FAINT, "normal"),
            (0.6, failed, look.INK, "normal"),
        ):
            style: dict[str, Any] = {"fontsize": size, "color": color, "fontweight": bold}
            axis.text(middle, high - up * line, text, ha="center", va="center", **style)


def _titled(figure: Figure, numbers: dict[str, Any]) -> None:
    alarms = [numbers["methods"][name]["false_alarms"] for name in OURS]
    about = (
        f"Each bug as a small loop or script. Of {numbers['right']} right loops check calls {alarms[0] or 'none'} "
        f"wrong, and run {alarms[1] or 'none'}."
    )
    look.title(
        figure,
        f"{len(numbers['usual_all_miss'])} of {numbers['usual_tried']} reported bugs pass all the usual tests; "
        f"accumcheck finds {numbers['ours']} of {numbers['bugs']}",
        about,
    )


def _legend(figure: Figure, says: Sequence[tuple[str, str]]) -> None:
    patches = [Patch(facecolor=color, label=text) for text, color in says]
    columns = 2 if look.is_narrow() else len(says)
    figure.legend(handles=patches, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
