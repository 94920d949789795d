"""What a check found, as a value: true or false, JSON, a table; ``text`` has its words."""

from __future__ import annotations

import json
import math
import platform
import sys
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch

from accumcheck import text
from accumcheck.checks import Check
from accumcheck.explaining.diagnose import at
from accumcheck.explaining.evidence import Evidence, Reference
from accumcheck.explaining.finding import Finding, Verdict
from accumcheck.explaining.judge import Outcome
from accumcheck.numbers import exact
from accumcheck.programs.listing import fix_of
from accumcheck.programs.rules import Program
from accumcheck.task import Sizes
from accumcheck.training.tolerance import Comparison

Asked = Literal["sample", "token", "both"]


@dataclass(frozen=True, repr=False)
class Report:
    """The verdict on a loop; true only if it is equivalent for the objective that was asked for.

    ``outcomes`` are exact, from probes, one per objective. ``comparisons`` are the runs on a model and data of the
    user's own, and ``model_findings`` what they showed beyond the loop.
    """

    loop: str
    objective: Asked
    outcomes: tuple[Outcome, ...]
    comparisons: tuple[Comparison, ...] = ()
    model_findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    undecided: bool = False  # the model could not be compared; the notes say why
    checks: tuple[Check, ...] | None = None  # of what lies beside the weights, if they were asked for
    ranks: int | None = None  # of a data-parallel run; micro-batch sizes are then those of one rank
    error: str | None = field(default=None, init=False)

    def __bool__(self) -> bool:
        return self.verdict == "equivalent"

    def __repr__(self) -> str:
        return f"<Report on {self.loop}: {self.verdict}>"  # pytest prints it below the text

    @property
    def asked(self) -> tuple[Outcome, ...]:
        """The outcomes that decide the verdict."""
        return tuple(o for o in self.outcomes if self.objective in ("both", o.objective))

    @cached_property
    def verdict(self) -> Verdict:
        """``diverges`` if anything does, else ``inconclusive`` if anything is, else ``equivalent``."""
        verdicts = {outcome.verdict for outcome in self.asked} | {c.verdict for c in self.comparisons}
        if self.undecided:
            verdicts.add("inconclusive")
        if self.model_findings:
            verdicts.add("inconclusive" if self._only_rounded else "diverges")
        for verdict in ("diverges", "inconclusive"):
            if verdict in verdicts:
                return verdict
        return "equivalent"

    @property
    def _only_rounded(self) -> bool:
        return {f.id for f in self.model_findings} == {"low-precision-accumulation"}

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """Of the objective that was asked for, root cause first; then those of the model."""
        by_id = {finding.id: finding for outcome in reversed(self.asked) for finding in outcome.findings}
        names = dict.fromkeys(finding.id for outcome in self.asked for finding in outcome.findings)
        return (*(by_id[name] for name in names), *(f for f in self.model_findings if f.id not in names))

    @property
    def program(self) -> Program | None:
        """What a diverging loop does, where rules say it."""
        return next((o.program for o in self.asked if o.findings and o.program), None)

    @property
    def counterexample(self) -> Sizes | None:
        """The smallest sizes at which the root cause was seen."""
        if not self.probed:
            return None
        sizes = self.probed.sizes
        each = sizes.micro_batch_size // (self.ranks or 1)
        return Sizes(sizes.samples, each, sizes.accumulation_steps, sizes.epochs)

    @property
    def probed(self) -> Evidence | None:
        """The readings at the counterexample."""
        return next((outcome.counterexample for outcome in self.asked if outcome.counterexample), None)

    @property
    def example(self) -> Evidence | None:
        """Readings at sizes that are large enough for a picture."""
        diverging = [outcome for outcome in self.asked if outcome.findings]
        return next((o.example or o.counterexample for o in [*diverging, *self.asked]), None)

    @property
    def reference(self) -> Reference:
        """What the loop was compared with: the window mean, or its own run without accumulation."""
        diverging = [outcome for outcome in self.asked if outcome.findings]
        return next((o.reference for o in [*diverging, *self.asked]), "mean")

    @property
    def margin(self) -> float:
        """Decades between the worst error on the user's model and its tolerance; above 0 it diverges."""
        return max((comparison.margin for comparison in self.comparisons), default=-math.inf)

    def as_dict(self) -> dict[str, Any]:
        """The JSON form; ``error`` is None, as a check that fails is a ``Failure``."""
        return {
            "loop": self.loop,
            "verdict": self.verdict,
            "objectives": {
                o.objective: {"verdict": o.verdict or "error", "findings": [finding_as_dict(f, o) for f in o.findings]}
                for o in self.outcomes
            },
            "findings": [
                finding_as_dict(f, next((o for o in self.asked if f in o.findings), None)) for f in self.findings
            ],
            "program": self.program and self.program.as_dict(),
            "counterexample": sizes_as_dict(self.counterexample),
            "matrix": self._matrix(),
            "error": self.error,
            "versions": versions(),
            **({} if self.checks is None else {"checks": [check.as_dict() for check in self.checks]}),
            **({} if self.ranks is None else {"ranks": self.ranks}),
        }

    def _matrix(self) -> dict[str, Any] | None:
        """Exact weights at the counterexample, a row for each update, and those of full-batch training."""
        if not self.probed:
            return None
        pair = self.probed.small
        due = pair.due(pair.ours.kind, self.reference)
        return {
            "weights": [[str(exact(weight)) for weight in row] for row in pair.ours.matrix],
            "should_be": [[str(exact(weight)) for weight in row] for row in due],
        }

    def to_json(self) -> str:
        """``as_dict`` as one line."""
        return json.dumps(self.as_dict(), allow_nan=False)

    def frame(self) -> Any:
        """The contribution matrix at the counterexample as a pandas frame: a row for each update and sample.

        Raises ImportError without pandas; ValueError if there is no counterexample.
        """
        import pandas as pd  # noqa: PLC0415 - not needed by those who do not ask for tables

        if not (probed := self.probed):
            raise ValueError(f"{self.loop} has no counterexample: there is no matrix to show")
        pair = probed.small
        ours, due = pair.ours.matrix, pair.due(pair.ours.kind, self.reference)
        rows = []
        for step in range(max(len(ours), len(due))):
            for sample in range(probed.sizes.samples):
                weights = {"weight": at(ours, step, sample), "due": at(due, step, sample)}
                rows.append({"step": step, "sample": sample, **weights})
        return pd.DataFrame(rows)

    def __str__(self) -> str:
        return self.text()

    def text(self, width: int = text.WIDTH) -> str:
        """The report in words, in lines of at most so many characters."""
        return "\n".join(text.lines_of(self, width))

    def __rich__(self) -> Any:

        return coloured(str(self))

    @property
    def headline(self) -> str:
        """The verdict in one sentence."""
        return text.headline(self)


def coloured(report: str) -> Any:
    """The words of a report as rich has them: verdicts and changed lines in colour."""
    from rich.text import Text  # noqa: PLC0415

    shown = Text(report)
    for pattern, style in text.STYLES.items():
        shown.highlight_regex(pattern, style)
    return shown


def finding_as_dict(finding: Finding, outcome: Outcome | None = None) -> dict[str, object]:
    """The JSON form of a finding; ``outcome`` knows the program and the lines of the loop."""
    program = outcome.program if outcome and finding.slot else None
    return {
        "id": finding.id,
        "step": finding.step,
        "epoch": finding.epoch,
        "samples": list(finding.samples),
        "weight": None if finding.weight is None else str(finding.weight),
        "due": None if finding.due is None else str(finding.due),
        "ratio": finding.ratio,
        "message": text.message(finding),
        "fix": fix_of(program, outcome.objective) if program and outcome else text.fix(finding),
        "where": text.place_of(finding, outcome.sites) if outcome else None,
    }


def sizes_as_dict(sizes: Sizes | None) -> dict[str, int] | None:
    """The JSON form of sizes."""
    if sizes is None:
        return None
    names = ("samples", "micro_batch_size", "accumulation_steps", "epochs")
    return {name: getattr(sizes, name) for name in names}


def versions() -> dict[str, str]:
    """Of what a verdict depends on."""
    return {
        "accumcheck": sys.modules["accumcheck"].__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
