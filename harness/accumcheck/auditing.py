"""A whole script, as it is: ``audit("train.py", ["--grad-accum", "4"])`` runs it and judges the run that it made.

The script runs in this process, once, with its own model and data; nothing that it computes is changed.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accumcheck import text, widget
from accumcheck.programs.rules import Program, Shape
from accumcheck.report import finding_as_dict, versions
from accumcheck.scripts import join
from accumcheck.scripts.execute import execute
from accumcheck.scripts.explain import ENDED, Judged, Judgement, judge
from accumcheck.scripts.hints import named
from accumcheck.scripts.launch import failed
from accumcheck.scripts.log import Log
from accumcheck.scripts.table import Table
from accumcheck.scripts.watch import Observer, note_hints, observing
from accumcheck.task import OBJECTIVES, Objective


@dataclass(frozen=True, repr=False)
class ScriptReport:
    """The verdict on one run of a script; true only if all its weights are those of full-batch training.

    ``error`` says how the script failed, if it did; then ``judgement`` is of what was seen until then.
    """

    script: str
    judgement: Judgement
    error: str | None = None

    def __bool__(self) -> bool:
        return self.verdict == "equivalent"

    def __repr__(self) -> str:
        return f"<ScriptReport on {self.script}: {self.verdict}>"

    @property
    def verdict(self) -> str:
        """``equivalent``, ``diverges``, ``inconclusive``, or ``error`` where the script failed or did not train."""
        return "error" if self.failure else self.judgement.verdict

    @property
    def failure(self) -> str | None:
        """Why there is no verdict."""
        if self.error:
            return f"the script failed: {self.error}"
        return None if self.judgement.optimizers else self.judgement.nothing

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        judged = self.judgement
        findings = [
            finding_as_dict(f) | {"message": text.script_message(f), "where": text.place_of(f, judged.sites)}
            for f in judged.findings
        ]
        program = next((each.program for each in judged.optimizers if each.program), None)
        return {
            "loop": self.script,
            "verdict": self.verdict,
            "objectives": {},
            "findings": findings,
            "program": program and program.as_dict(),
            "counterexample": None,
            "matrix": None,
            "error": self.failure,
            "versions": versions(),
            "run": {
                "accumulation_steps": judged.k,
                "accumulation_steps_from": judged.source,
                "optimizers": [
                    {"name": each.name, "verdict": each.verdict, "updates": each.updates} for each in judged.optimizers
                ],
                "not_judged": judged.reasons,
                "taken_for_granted": judged.premises,
                "not_seen": judged.unseen,
            },
        }

    def __str__(self) -> str:
        return self.text()

    def text(self, width: int = text.WIDTH) -> str:
        """The report in words, in lines of at most so many characters."""
        return "\n".join(text.script_lines(self.script, self.judgement, self.failure, width))


def audit(
    script: str,
    arguments: Sequence[str] = (),
    *,
    module: bool = False,
    accumulation_steps: int | None = None,
    objective: Objective | None = None,
    samples: int | None = None,
    updates: int | None = None,
) -> ScriptReport:
    """Run a script in this process and judge the run.

    ``accumulation_steps`` is told where the script's own setting for it is not found; ``objective`` (``"sample"`` or
    ``"token"``) where it is not clear what the loss averages over. ``samples`` shortens data sets of known length, so
    that a tail shows soon; ``updates`` ends the script after so many.

    Raises ValueError for arguments that make no sense. A script that fails gives a report that says so.
    """
    if objective not in (None, *OBJECTIVES):
        raise ValueError(f"objective must be 'sample' or 'token', got {objective!r}")
    for name, value in (("accumulation_steps", accumulation_steps), ("samples", samples), ("updates", updates)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    if not module and not os.path.isfile(script):
        raise ValueError(f"there is no script {script!r}")
    observer = Observer(limit=updates)
    error = _run(observer, script, arguments, module=module, samples=samples)
    return ScriptReport(" ".join([script, *arguments]), judge(observer.log, accumulation_steps, objective), error)


def _run(observer: Observer, script: str, arguments: Sequence[str], *, module: bool, samples: int | None) -> str | None:
    with observing(observer, samples):
        error, names = execute(script, arguments, module=module)
    note_hints(observer.log, named(names, "variable"))
    return error


def main() -> None:
    """Audit what the first argument asks for, and write the report to a file: the other end of ``scripts.launch``."""
    request = json.loads(sys.argv[1])
    process = os.getpid()
    rank = int(os.environ["RANK"]) if request["folder"] else 0
    observer = Observer(limit=request["updates"], several=bool(request["folder"]))

    def report(error: str | None) -> None:
        if os.getpid() != process:
            return  # a process that the script has forked
        try:
            _write(observer.log, error, request, rank)
        except Exception as failure:  # noqa: BLE001, RUF100 - else it would look as if the script had failed
            traceback.print_exc()
            said = f"accumcheck itself failed, with {type(failure).__name__}: {failure}; please report it"
            _put(failed(request["name"], said), request)

    def enough() -> None:
        observer.log.facts[ENDED] += 1
        if observer.log.facts[ENDED] > STUBBORN:  # the script goes on, whatever is raised
            report(None)
            with suppress(ValueError, OSError):
                sys.stdout.flush()
            os._exit(0)

    observer.enough = enough
    error = _run(
        observer, request["script"], request["arguments"], module=request["module"], samples=request["samples"]
    )
    report(error)
    with suppress(ValueError, OSError):  # the script may have closed it
        sys.stdout.flush()
    if rank and error:
        Path(request["folder"], f"error-{rank}").write_text(f"the script failed: on rank {rank}, {error}")
        os._exit(1)  # so that torchrun ends the others, who may wait for this one
    if threading.active_count() > 1 or os.getpid() != process:
        os._exit(0)  # threads that the script has left behind would keep the process


STUBBORN = 3  # times that a script may go on after it was to end


def _write(log: Log, error: str | None, request: dict[str, Any], rank: int) -> None:
    """Judge what was seen and write the report; of several ranks, those behind the first leave what they saw to it."""
    if request["folder"]:
        folder = Path(request["folder"])
        log.error = error
        if rank:
            join.save(log, folder / f"rank-{rank}")
            return
        log, error = join.gathered(log, folder, int(os.environ["WORLD_SIZE"]))
    found = ScriptReport(request["name"], judge(log, request["accumulation_steps"], request["objective"]), error)
    if request["figure"] and found.judgement.optimizers:
        from accumcheck.figures import draw_script, save  # noqa: PLC0415 - needs matplotlib

        if (figure := draw_script(found.judgement, found.script)) is not None:
            save(figure, request["figure"])
    if request.get("html") and found.judgement.optimizers:
        widget.save(_page(found), request["html"])
    _put({"object": found.as_dict(), "text": found.text(request["width"])}, request)


SET = "The figure below is set to the rules of your script, with as short a last window, in fewer samples."
AS_READ = "The factors of the micro-batches' losses stand below as they were read, beside what they should be."
NO_RULES = "No known rules were found that make these factors. "
NOT_READ = "There is no figure, as the factors of the micro-batches' losses are not known."
MOST = 8  # accumulation steps in the figure


def _page(found: ScriptReport) -> str:
    """The report, with the widget set to the script's program where there is one, else with what was read."""
    judged = found.judgement
    each = next((e for e in judged.optimizers if e.findings), judged.optimizers[0])
    table = each.tables[0] if each.tables else None
    if table is None:
        return widget.page(found.script, found.text(), NOT_READ)
    matrices = _matrices(each, table)
    program = each.program or (Program() if each.verdict == "equivalent" else None)
    unshown = any(f.id in ("clipped-per-micro-batch", "unsynchronised-replicas") for f in each.findings)
    if program is None or unshown or program.rule("clip").law or program.rule("ranks").law:
        return widget.page(found.script, found.text(), NO_RULES * (program is None) + AS_READ, matrices=matrices)
    return widget.page(found.script, found.text(), SET, widget.State(program, _small(table)), matrices)


def _small(table: Table) -> Shape:
    """Sizes with two windows in an epoch, the last one as short as the run's, where so many can be seen."""
    k, length = min(table.k, MOST), max(table.lengths)
    tail = min(length % table.k, k - 1)
    short = table.shape is not None and table.shape.n % table.shape.b != 0
    micros = tail if length < table.k else k + (tail or k)
    return Shape(2 * micros - 1, 2, k, 2) if short else Shape(micros, 1, k, 2)


def _matrices(judged: Judged, table: Table) -> list[widget.Matrices]:
    """What the updates around the first wrong one are made of."""
    step = next((f.step for f in judged.findings if f.step is not None), 0)
    first = max(0, step - 1)
    rows, due = ([dict(row) for row in each[first : first + 4]] for each in table.compared)
    micros = sorted({m for row in [*rows, *due] for m in row})[:64]
    columns = [f"{table.micros[m].epoch}:{table.micros[m].place}" for m in micros]
    ours, wanted = ([[round(row.get(m, 0.0), 5) for m in micros] for row in each] for each in (rows, due))
    title = f"updates from {first} on; columns are micro-batches, as epoch:place; k = {table.k}"
    return [widget.Matrices(title, ours, wanted, columns, first)] if micros else []


def _put(result: dict[str, Any], request: dict[str, Any]) -> None:
    """Write what the parent waits for, whole or not at all."""
    path = Path(request["result"])
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result))
    partial.replace(path)
