"""What a check found, as a value and as text."""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness.task import Objective
from harness.tolerance import SMALLEST_BUG, Comparison, Verdict


@dataclass(frozen=True)
class Report:
    """The verdict on a loop over several sizes; true only if it is equivalent at all of them."""

    loop: str
    objective: Objective
    comparisons: tuple[Comparison, ...]

    def __bool__(self) -> bool:
        return self.verdict == "equivalent"

    @property
    def verdict(self) -> Verdict:
        """``diverges`` if the loop does so at any size, else ``inconclusive`` if so at any, else ``equivalent``."""
        verdicts = {comparison.verdict for comparison in self.comparisons}
        for verdict in ("diverges", "inconclusive"):
            if verdict in verdicts:
                return verdict
        return "equivalent"

    @property
    def margin(self) -> float:
        """Decades between the worst error and its tolerance; above 0 the loop diverges."""
        return max(comparison.margin for comparison in self.comparisons)

    def __str__(self) -> str:
        if self.verdict == "equivalent":
            how = (
                f"the largest error lies {-self.margin:.1f} decades below its tolerance"
                if math.isfinite(self.margin)
                else "equal to the bit"
            )
            return f"{self.loop} is equivalent to full-batch training at {len(self.comparisons)} sizes: {how}."
        head = {
            "diverges": f"{self.loop} diverges from full-batch training.",
            "inconclusive": f"{self.loop} cannot be judged: what differs cannot be told from noise.",
        }[self.verdict]
        return "\n".join([head, *(line for c in self.comparisons if c.verdict == self.verdict for line in explain(c))])


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
