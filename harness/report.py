"""What a check found: as a value, as text that reads like a proof, as JSON and as a table."""

from __future__ import annotations

import json
import math
import platform
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch

from harness.diagnose import Probed
from harness.findings import LAWS, Finding, runs
from harness.probe import exact
from harness.search import Outcome
from harness.task import Sizes
from harness.tolerance import SMALLEST_BUG, Comparison, Verdict

Asked = Literal["sample", "token", "both"]
# Findings that are not about the weight of a sample in an update.
UNWEIGHED = ("batch-coupled", "low-precision-accumulation", "unsynchronised-replicas")
MATTERS = {
    "sample": "matters if your loss averages over samples",
    "token": "matters if your loss averages over tokens",
}


@dataclass(frozen=True)
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
    ranks: int | None = None  # of a data-parallel run; micro-batch sizes are then those of one rank

    def __bool__(self) -> bool:
        return self.verdict == "equivalent"

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
    def counterexample(self) -> Sizes | None:
        """The smallest sizes at which the root cause was seen."""
        if not self.probed:
            return None
        sizes = self.probed.sizes
        each = sizes.micro_batch_size // (self.ranks or 1)
        return Sizes(sizes.samples, each, sizes.accumulation_steps, sizes.epochs)

    @property
    def probed(self) -> Probed | None:
        """The readings at the counterexample."""
        return next((outcome.counterexample for outcome in self.asked if outcome.counterexample), None)

    @property
    def example(self) -> Probed | None:
        """Readings at sizes that are large enough for a picture."""
        diverging = [outcome for outcome in self.asked if outcome.findings]
        return next((o.example or o.counterexample for o in [*diverging, *self.asked]), None)

    @property
    def margin(self) -> float:
        """Decades between the worst error on the user's model and its tolerance; above 0 it diverges."""
        return max((comparison.margin for comparison in self.comparisons), default=-math.inf)

    def as_dict(self) -> dict[str, Any]:
        """The JSON form; ``error`` is None, as a check that fails has no report."""
        counterexample = self.counterexample
        return {
            "loop": self.loop,
            "verdict": self.verdict,
            "objectives": {
                o.objective: {"verdict": o.verdict, "findings": [f.as_dict() for f in o.findings]}
                for o in self.outcomes
            },
            "findings": [finding.as_dict() for finding in self.findings],
            "counterexample": counterexample
            and {
                "samples": counterexample.samples,
                "micro_batch_size": counterexample.micro_batch_size,
                "accumulation_steps": counterexample.accumulation_steps,
                "epochs": counterexample.epochs,
            },
            "error": None,
            "versions": versions(),
            **({} if self.ranks is None else {"ranks": self.ranks}),
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
        rows = []
        for step in range(max(len(probed.low.matrix), len(probed.due))):
            for sample in range(probed.sizes.samples):
                weight, due = _at(probed.low.matrix, step, sample), _at(probed.due, step, sample)
                rows.append({"step": step, "sample": sample, "weight": weight, "due": due})
        return pd.DataFrame(rows)

    def __str__(self) -> str:
        return "\n".join([self.headline, *self._body()])

    def __rich__(self) -> Any:
        from rich.text import Text  # noqa: PLC0415

        text = Text(str(self))
        colours = {"equivalent": "bold green", "diverges": "bold red", "inconclusive": "bold yellow"}
        text.stylize(colours[self.verdict], 0, len(self.headline))
        text.highlight_words([f.id for o in self.outcomes for f in o.findings], "bold")
        text.highlight_words(["Fix:", "Note:", "Let ", "Hence "], "bold cyan")
        return text

    @property
    def headline(self) -> str:
        """The verdict in one sentence."""
        what = {"sample": "means over samples", "token": "means over tokens", "both": "means over samples and tokens"}
        loop, over = self.loop, what[self.objective]
        if self.ranks is not None:
            loop += f", on {self.ranks} rank{'s' * (self.ranks != 1)},"
        if self.verdict == "equivalent":
            return f"{loop} is equivalent to full-batch training, for {over}."
        if self.verdict == "diverges":
            return f"{loop} diverges from full-batch training, for {over}."
        return f"{loop} cannot be judged: what differs cannot be told from noise."

    def _body(self) -> list[str]:
        lines = []
        for outcome in self.asked:
            if outcome.verdict == "equivalent":
                lines.append(
                    f"  {len(outcome.sizes)} sizes were probed ({outcome.objective} objective): {_span(outcome)}."
                )
                if not outcome.plain:
                    lines.append(
                        "  Its own full batch is no plain mean (a sum, or clipped); it was compared with that."
                    )
            for finding in outcome.findings:
                lines += ["", *prove(finding, outcome.witnesses.get(finding.id))]
            if outcome.policy:
                lines += ["", f"  Note: the matrix equals {outcome.policy}."]
        for finding in self.model_findings:
            lines += ["", *prove(finding, None)]
        lines += [line for c in self.comparisons if c.verdict == self.verdict != "equivalent" for line in explain(c)]
        if self.comparisons and self.verdict == "equivalent":
            how = (
                f"the largest error lies {-self.margin:.1f} decades below its tolerance"
                if math.isfinite(self.margin)
                else "equal to the bit"
            )
            lines.append(f"  {len(self.comparisons)} sizes were trained on {self.comparisons[0].case.problem}: {how}.")
        lines += [f"  Note: {note}" for outcome in self.asked for note in outcome.notes]
        lines += [f"  Note: {note}" for note in self.notes]
        for outcome in self.outcomes:
            if outcome not in self.asked:
                found = f" ({', '.join(f.id for f in outcome.findings)})" if outcome.findings else ""
                lines.append(
                    f"  Note: for means over {outcome.objective}s it {_says(outcome.verdict)}{found}; "
                    f"{MATTERS[outcome.objective]}."
                )
        return lines


def versions() -> dict[str, str]:
    """Of what a verdict depends on."""
    return {
        "accumcheck": sys.modules["harness"].__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def prove(finding: Finding, probed: Probed | None) -> list[str]:
    """A finding as a proof: let …; sample i belongs to window s …; its weight is …, it should be …; hence …."""
    law = LAWS[finding.id]
    lines = [f"  {finding.id}: {law.text}."]
    if probed is None:
        lines.append(f"    Hence the law is broken: {finding.detail}.")
    else:
        lines.append(f"    Let {probed.sizes}; a window has N={probed.sizes.effective_batch_size} samples.")
        if finding.samples and finding.id not in UNWEIGHED:
            lines.append(f"    {_weight(finding, probed)}")
        lines.append(f"    Hence the law is broken: {finding.detail}.")
        if finding.id == "unexplained":
            lines += [f"    update {s}: {' '.join(map(str, row))}" for s, row in enumerate(probed.low.exact)]
    lines.append(f"    Fix: {law.fix}")
    if law.thread:
        lines.append(f"    The same elsewhere: {law.thread}")
    return lines


def _weight(finding: Finding, probed: Probed) -> str:
    """The first sample whose weight is wrong, in the step that the finding is about."""
    sizes, due = probed.sizes, probed.due
    big, per_epoch = sizes.effective_batch_size, len(due) // sizes.epochs
    matrix = probed.high.matrix if finding.id == "clipped-per-micro-batch" else probed.low.matrix
    wanted = probed.own_high.matrix if finding.id == "clipped-per-micro-batch" else due
    step = finding.step
    sample = finding.samples[0]
    if step is not None:
        wrong = [i for i in finding.samples if not math.isclose(_at(matrix, step, i), _at(wanted, step, i))]
        sample = wrong[0] if wrong else sample
    window = (finding.epoch or 0) * per_epoch + sample // big
    first = sample // big * big
    inside = runs(range(first, min(first + big, sizes.samples)))
    belongs = f"Sample {sample} belongs to window {window} (epoch {window // per_epoch}), with samples {inside}"
    if step is None:
        return (
            f"{belongs}; its weight is 0 in every update, it should be {_show(due[window][sample])} in update {window}."
        )
    weight, right = _at(matrix, step, sample), _at(wanted, step, sample)
    large = " at large gradients" if matrix is probed.high.matrix else ""
    return f"{belongs}; its weight in update {step} is {_show(weight)}{large}, it should be {_show(right)}."


def _show(weight: float) -> str:
    value = exact(weight)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _at(matrix: list[list[float]], step: int, sample: int) -> float:
    return matrix[step][sample] if step < len(matrix) else 0.0


def _says(verdict: Verdict) -> str:
    return {"equivalent": "is equivalent", "diverges": "diverges", "inconclusive": "cannot be judged"}[verdict]


def _span(outcome: Outcome) -> str:
    values = [
        (name, sorted({getattr(sizes, field) for sizes in outcome.sizes}))
        for name, field in (
            ("n", "samples"),
            ("b", "micro_batch_size"),
            ("k", "accumulation_steps"),
            ("epochs", "epochs"),
        )
    ]
    return ", ".join(f"{name} from {found[0]} to {found[-1]}" for name, found in values)


def explain(comparison: Comparison) -> list[str]:
    """Lines that state where a comparison fails, smallest facts first; none if it is equivalent.

    Each law is followed by the numbers that break it: ratio, error, tolerance.
    """
    case, trajectory = comparison.case, comparison.trajectory
    lines = []
    if (step := comparison.first_learning_rate) is not None:
        reference, candidate = (sorted(set(rates.values())) for rates in trajectory.pairs[step].learning_rates)
        lines.append(
            f"  step {step}: the learning rate is {candidate}, the full batch's is {reference}; "
            "scheduler.step() is due once per optimizer step"
        )
    if excess := comparison.first_divergence:
        difference = excess.difference
        ratio = comparison.ratio(excess.step)
        what = (
            f"the gradient is {ratio:.4g} times the full batch's"
            if excess.kind == "gradient" and not math.isnan(ratio)
            else "the full batch's gradient is zero, the loop's is not"
            if excess.kind == "gradient"
            else f"the {excess.kind} differs, though no gradient does"
        )
        lines += [
            f"  step {excess.step} ({_window(comparison, excess.step)}): {what}",
            f"    {excess.kind} of {excess.tensor}: error {difference.error:.2g}, "
            f"tolerance {excess.relative_tolerance:.2g}, {excess.margin:.1f} decades beyond it",
        ]
    if comparison.steps_differ:
        lines.append(f"  {trajectory.candidate_steps} optimizer steps were made, {trajectory.reference_steps} are due")
    if comparison.verdict == "inconclusive":
        remedy = "is dropout on?" if case.dtype == "float64" else "use a wider dtype, and switch dropout off"
        if doubt := comparison.first_doubt:
            lines.append(
                f"  step {doubt.step}: the {doubt.kind} of {doubt.tensor} differs by {doubt.difference.error:.2g}, "
                f"more than the measured noise, less than half of the digits of {case.dtype}; {remedy}"
            )
        else:
            lines.append(
                f"  step {comparison.blind_steps[0]}: every gradient's tolerance is above {SMALLEST_BUG}, "
                f"the error of the smallest bug; {remedy}"
            )
    let = f"  let {case.sizes}: {case.problem} with {case.optimizer} in {case.dtype}, seed {case.seed}"
    return [let, *lines] if lines else []


def _window(comparison: Comparison, step: int) -> str:
    lengths = comparison.case.sizes.window_lengths()
    if step >= len(lengths):
        return "after the last window"
    epoch = step // (len(lengths) // comparison.case.sizes.epochs)
    return f"epoch {epoch}, window of {lengths[step]} sample{'s' * (lengths[step] != 1)}"
