"""The words for what was found: every sentence about a verdict is made here."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

from accumcheck.explaining.finding import Finding, Verdict, Weight
from accumcheck.explaining.judge import Outcome
from accumcheck.probing.model import MATRIX, SHARED, VECTOR
from accumcheck.programs.laws import LAWS, SHARE, runs
from accumcheck.programs.rules import RIGHT, SLOTS, Program, Shape
from accumcheck.programs.simulate import CONVENTIONS
from accumcheck.scripts import compare
from accumcheck.scripts.explain import Judgement
from accumcheck.training.tolerance import SMALLEST_BUG, Comparison

if TYPE_CHECKING:
    from accumcheck.report import Report

WIDTH = 100
OVER = {"sample": "means over samples", "token": "means over tokens", "both": "means over samples and tokens"}
MATTERS = {
    "sample": "matters if your loss averages over samples",
    "token": "matters if your loss averages over tokens",
}
KINDS = {MATRIX: "the weight matrix", VECTOR: "the biases", SHARED: "the parameter that all samples share"}
# What the loop does wrong; the law in LAWS says what it should do.
WRONG = {
    "nondeterministic": "Two runs under one seed differ.",
    "batch-coupled": "A sample's gradient depends on which samples share its micro-batch.",
    "unsynchronised-replicas": "Ranks step with different gradients or learning rates.",
    "step-per-micro-batch": "The optimizer steps after every micro-batch, not once in k micro-batches.",
    "early-first-step": "The first step comes too early: the condition is already true at the first micro-batch.",
    "wrong-window": "A window holds another number of micro-batches than k.",
    "gradients-lost": "Gradients are cleared before the step that should use them.",
    "gradients-not-reset": "Gradients of earlier updates are still there: they go into the update again.",
    "clipped-per-micro-batch": "Gradients are clipped or rescaled at micro-batches, before the window is complete.",
    "unscaled-loss": "The update is the sum of its micro-batches, not their mean.",
    "over-scaled-loss": "The loss of every window is divided once too often.",
    "wrong-scale": "The loss of every window is divided by the wrong number.",
    "scheduler-per-micro-batch": "The learning rate, or another setting, is not the one of full-batch training.",
    "sample-order": "The order of the samples depends on the micro-batch size.",
    "low-precision-accumulation": "Partial sums are rounded in a narrow dtype.",
    "token-weighting": "Micro-batches with unequal numbers of tokens weigh the same.",
    "split-tail": "The last, short window of an epoch is spread over several steps.",
    "carried-tail": "The last, short window of an epoch runs on into the next epoch.",
    "dropped-tail": "The samples of the last, short window of an epoch go into no update.",
    "tail-scaled-by-k": "A short last window is divided by k, though it holds fewer than k micro-batches.",
    "mean-of-means": "Micro-batches with unequal numbers of samples weigh the same.",
    "unexplained": "The weights are not those of full-batch training, and no known rule makes them.",
}
LOSS = "loss = loss_fn(outputs, targets)"
SHARES = {
    "sample": f"{LOSS} * len(targets) / samples_in_window * world_size, with the samples of all ranks counted",
    "token": f"{LOSS} * (targets != -100).sum() / tokens_in_window * world_size, with the tokens of all ranks counted",
}
# Of ranks: what the loop does wrong in how it puts their gradients together, and the fix.
ON_RANKS = {
    "unscaled-loss": (
        "Gradients are summed over ranks, not averaged.",
        "grad /= dist.get_world_size() after all_reduce, or average as DistributedDataParallel does",
    ),
    "over-scaled-loss": (
        "Gradients are divided by the number of ranks once too often.",
        "DistributedDataParallel averages gradients over ranks: multiply the loss by dist.get_world_size() if it is "
        "divided by what all ranks hold, and do not divide by the number of ranks again",
    ),
    "mean-of-means": ("Ranks with unequal numbers of samples weigh the same.", SHARES["sample"]),
    "token-weighting": ("Ranks with unequal numbers of tokens weigh the same.", SHARES["token"]),
    "clipped-per-micro-batch": (
        "Gradients are clipped before they are complete: at micro-batches, or on each rank before the exchange.",
        "move clip_grad_norm_() to right before optimizer.step(), after gradients are exchanged",
    ),
    "dropped-tail": (
        "Ranks leave out samples where they do not divide the data set.",
        "give each sample to one rank: DistributedSampler(drop_last=True) leaves some out",
    ),
    "unexplained": (
        "Ranks draw samples more than once in an epoch.",
        "give each sample to one rank: DistributedSampler repeats some where the ranks do not divide the data set",
    ),
}


def message(finding: Finding) -> str:
    """A finding in one paragraph: what is wrong, and where it shows first."""
    return " ".join(part for part in (wrong(finding), witness(finding)) if part)


def wrong(finding: Finding) -> str:
    """What the loop does wrong, in one sentence."""
    return ON_RANKS[finding.id][0] if _on_ranks(finding) else WRONG[finding.id]


def _on_ranks(finding: Finding) -> bool:
    return _ranks(finding) > 1 and finding.slot in ("ranks", "clip") and finding.id in ON_RANKS


def _ranks(finding: Finding) -> int:
    return int(str(finding.facts.get("ranks", getattr(finding.sizes, "ranks", 1))))


def witness(finding: Finding) -> str:
    """Where a finding shows first: sizes, update, sample, and its weight beside the one that it should have."""
    at = f"At {finding.sizes}" if finding.sizes else ""
    if finding.kinds:
        of = " and ".join(KINDS.get(kind, kind) for kind in finding.kinds)
        at = f"{at}, for {of}" if at else f"For {of}"
    seen = _seen(finding)
    return f"{at}: {seen}." if at and seen else f"{seen[:1].upper()}{seen[1:]}." if seen else f"{at}." if at else ""


def _seen(finding: Finding) -> str:  # noqa: PLR0911 - a table of cases
    facts = finding.facts
    if "text" in facts:
        return str(facts["text"])
    if "setting" in facts:
        name = "the learning rate" if facts.get("setting") == "lr" else f"{facts.get('setting')}"
        ours, own = _number(facts["ours"]), _number(facts["own"])
        return f"at update {finding.step}, {name} is {ours}, and {own} in full batches"
    if finding.id == "sample-order":
        order = "micro-batches bring the samples in another order than full batches"
        return f"{order}; {facts['consumers']}" if facts.get("consumers") else order
    if finding.id == "batch-coupled":
        return f"the gradients of samples {runs(finding.samples)} have other directions in micro-batches"
    if finding.id == "gradients-lost" and facts.get("never"):
        return "full batches train it, micro-batches never do"
    if facts.get("moved"):
        how = "parameters are changed outside of optimizer steps"
        return f"{how}, in another way than in full batches (update {finding.step})"
    if facts.get("penalty"):
        return (
            "the loss has a term that does not depend on the samples, such as a penalty on the parameters, "
            "which every micro-batch adds"
        )
    if finding.id == "low-precision-accumulation" and "error" in facts:
        return (
            f"{_narrow(facts)}sums are off by {float(str(facts['error'])):.1e} of their size at update {finding.step}"
        )
    if finding.id == "low-precision-accumulation" or facts.get("shared"):
        return f"{_narrow(facts)}at update {finding.step}, its gradient is not the sum over the samples"
    if finding.id == "unexplained" and "error" in facts:
        return f"gradients differ at parameters other than zero, by {float(str(facts['error'])):.1e} of their size"
    if finding.weight is None or finding.due is None:
        return ""
    ours, due = _shown(finding.weight, finding.due)
    large = " where gradients are large" if finding.large else ""
    return f"in update {finding.step}, the weight of sample {finding.samples[0]} is {ours}, it should be {due}{large}"


def _narrow(facts: dict[str, object]) -> str:
    dtypes = facts.get("dtypes")
    return f"gradients are kept in {' and '.join(dtypes)}: " if isinstance(dtypes, list) and dtypes else ""


def _number(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _shown(weight: Weight, due: Weight) -> tuple[str, str]:
    """Two weights with as many digits as it takes to tell them apart."""
    for digits in (3, 6, 9, 12):
        texts = [str(w) if isinstance(w, Fraction) else f"{w:.{digits}g}" for w in (weight, due)]
        if texts[0] != texts[1]:
            break
    return texts[0], texts[1]


def fix(finding: Finding) -> str:
    """One or two lines that put it right."""
    usual = LAWS[finding.id].fix
    if _ranks(finding) > 1:
        if _on_ranks(finding) or finding.id == "token-weighting":
            return ON_RANKS[finding.id][1]
        return SHARES["sample"] if usual == SHARE else usual
    return usual


def block(finding: Finding) -> list[str]:
    """A finding as lines: what is wrong, where it shows, how to put it right, who had it too."""
    lines = _wrapped(f"{finding.id}: {wrong(finding)}", "  ")
    lines += _wrapped(witness(finding), "    ")
    lines += _wrapped(f"Fix: {fix(finding)}", "    ")
    if (thread := LAWS[finding.id].thread) and not _on_ranks(finding):
        lines.append(f"    The same elsewhere: {thread}")
    return lines


def _wrapped(text: str, indent: str = "", width: int = WIDTH) -> list[str]:
    own = " " * (len(text) - len(text.lstrip()))
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=f"{indent}{own}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def program_lines(program: Program) -> list[str]:
    """What a loop does, where it is not what it should do."""
    slots = [slot for slot in SLOTS if getattr(program, slot) != RIGHT[slot]]
    if not slots:
        return []
    return [
        "  At all probed sizes the loop does just this:",
        *(f"    {slot}: {program.rule(slot).code}" for slot in slots),
    ]


def headline(report: Report) -> str:
    """The verdict in one sentence."""
    loop, over = report.loop, OVER[report.objective]
    if report.ranks is not None:
        loop += f", on {report.ranks} rank{'s' * (report.ranks != 1)},"
    if report.verdict == "equivalent":
        return f"{loop} is equivalent to full-batch training, for {over}."
    if report.verdict == "diverges":
        return f"{loop} diverges from full-batch training, for {over}."
    return f"{loop} cannot be judged, for {over}."


def body(report: Report) -> list[str]:
    """All lines behind the headline."""
    lines: list[str] = []
    for outcome in report.asked:
        lines += _outcome(outcome)
    for finding in report.model_findings:
        lines += ["", *block(finding)]
    lines += [line for c in report.comparisons if c.verdict == report.verdict != "equivalent" for line in explain(c)]
    if report.comparisons and report.verdict == "equivalent":
        how = (
            f"the largest error lies {-report.margin:.1f} decades below its tolerance"
            if math.isfinite(report.margin)
            else "equal to the bit"
        )
        lines.append(f"  {len(report.comparisons)} sizes were trained on {report.comparisons[0].case.problem}: {how}.")
    notes = [note for outcome in report.asked for note in outcome.notes] + list(report.notes)
    for outcome in report.outcomes:
        if outcome not in report.asked:
            notes.append(_other(outcome))
    for note in notes:
        lines += _wrapped(f"Note: {note}", "  ")
    return lines


def _outcome(outcome: Outcome) -> list[str]:
    lines: list[str] = []
    if outcome.verdict == "equivalent":
        lines.append(f"  {len(outcome.sizes)} sizes were probed ({outcome.objective} objective): {span(outcome)}.")
        if not outcome.plain:
            lines.append(
                "  Without accumulation it is no plain mean (a sum, or clipped); it was compared with that run."
            )
        if outcome.convention not in (None, "window") and outcome.reference == "own":
            lines.append(f"  With accumulation and without, {CONVENTIONS[str(outcome.convention)]}.")
    for reason in outcome.reasons:
        lines += _wrapped(f"Not judged: {reason}.", "  ")
    for finding in outcome.findings:
        lines += ["", *block(finding)]
    if outcome.program is not None and outcome.findings:
        lines += ["", *program_lines(outcome.program)]
    if outcome.equals and outcome.findings and outcome.equals != "window":
        lines += ["", f"  Note: the matrix is that of full-batch training in which {CONVENTIONS[outcome.equals]}."]
    if any(f.id == "unexplained" for f in outcome.findings) and outcome.counterexample:
        rows = outcome.counterexample.small.ours.exact
        lines += [f"    update {s}: {' '.join(map(str, row))}" for s, row in enumerate(rows)]
    return lines


def _other(outcome: Outcome) -> str:
    """A note on the objective that was not asked for."""
    over = f"for means over {outcome.objective}s"
    if outcome.error is not None:
        return f"{over} it was not judged: {outcome.error}"
    found = f" ({', '.join(f.id for f in outcome.findings)})" if outcome.findings else ""
    return f"{over} it {says(outcome.verdict)}{found}; {MATTERS[outcome.objective]}."


def says(verdict: Verdict | None) -> str:
    """The verdict as the end of a sentence."""
    return {"equivalent": "is equivalent", "diverges": "diverges"}.get(verdict or "", "cannot be judged")


def span(outcome: Outcome) -> str:
    """The smallest and largest of each size that was probed."""
    shapes = [Shape.of(sizes) for sizes in outcome.sizes]
    values = [(name, sorted({getattr(shape, name) for shape in shapes})) for name in ("n", "b", "k", "epochs")]
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


# Whole scripts


def script_message(finding: Finding) -> str:
    """A finding in a run of a script, in one paragraph."""
    return " ".join(part for part in (wrong(finding), _seen_in_script(finding)) if part)


def _seen_in_script(finding: Finding) -> str:
    if "text" in finding.facts:
        seen = str(finding.facts["text"])
        return f"{seen[:1].upper()}{seen[1:]}."
    if finding.weight is None or finding.due is None:
        return ""
    ours, due = _shown(finding.weight, finding.due)
    at = f"In update {finding.step}, the mean loss of micro-batch {finding.samples[0]} of epoch {finding.epoch}"
    return f"{at} is multiplied by {ours}, it should be by {due}."


def script_lines(script: str, judged: Judgement, failure: str | None) -> list[str]:
    """The report on one run of a script."""
    lines: list[str] = []
    if failure:
        lines += _wrapped(f"accumcheck: {script}: {failure}{'' if failure.endswith('?') else '.'}", "")
        if not judged.optimizers:
            return lines
        lines.append("  What follows is of the updates until then, and no verdict.")
    updates = sum(each.updates for each in judged.optimizers)
    head = {
        "equivalent": f"{script}: the weights are those of full-batch training, in all {updates} updates.",
        "diverges": f"{script} diverges from full-batch training.",
        "inconclusive": f"{script} cannot be judged.",
    }[judged.verdict]
    lines += _wrapped(head, "")
    lines += _wrapped(f"{judged.k} accumulation steps ({judged.source}).", "  ")
    for each in judged.optimizers:
        if len(judged.optimizers) > 1:
            lines.append(f"  {each.name}: {says(each.verdict)} ({each.updates} updates).")
        for finding in each.findings:
            lines += ["", *_wrapped(f"{finding.id}: {wrong(finding)}", "  ")]
            lines += _wrapped(_seen_in_script(finding), "    ")
            lines += _wrapped(f"Fix: {fix(finding)}", "    ")
            if thread := LAWS[finding.id].thread:
                lines.append(f"    The same elsewhere: {thread}")
        if each.program is not None and each.findings:
            lines += ["", "  In this run the script does just this:"]
            lines += [
                f"    {slot}: {each.program.rule(slot).code}"
                for slot in SLOTS
                if getattr(each.program, slot) != RIGHT[slot]
            ]
    for what, each_of in (
        ("Not judged", judged.reasons), ("Taken for granted", judged.premises), ("Not seen in this run", judged.unseen),
    ):  # fmt: skip
        if each_of:
            lines += ["", f"  {what}:"]
            for each_line in each_of:
                lines += textwrap.wrap(
                    each_line, WIDTH, initial_indent="    - ", subsequent_indent="      ", break_long_words=False,
                    break_on_hyphens=False,
                )  # fmt: skip
    return lines


# Two commands


def compared(outcome: compare.Outcome) -> str:
    """The report on two commands, in lines of at most 80 characters."""
    if outcome.error is not None:
        return f"accumcheck: {outcome.error}"
    says = {"equivalent": "is equivalent to", "diverges": "diverges from"}.get(outcome.verdict, "cannot be judged by")
    lines = [f"The second command {says} the first.", *map("  {}: {}".format, compare.ORDINAL, outcome.commands), ""]
    if outcome.verdict == "equivalent":
        margin = max((each.share for pair in outcome.pairs for each in pair.differences), default=0.0)
        below = f"{margin:.2g} of its tolerance" if margin else "zero: equal to the bit"
        lines.append(f"  {len(outcome.pairs)} updates were compared; the largest error is {below}.")
    if outcome.wrong:
        lines += _first_wrong(outcome.wrong[0])
        numbers = [str(pair.update) for pair in outcome.wrong]
        which = ", ".join(numbers[: 2 * compare.SHOWN]) + " ..." * (len(numbers) > 2 * compare.SHOWN)
        lines.append(f"  {len(numbers)} of {len(outcome.pairs)} updates differ: {which}.")
    lines += [f"  {reason[0].upper()}{reason[1:]}." for reason in outcome.reasons]
    lines += [f"  Note: {note}." for note in outcome.notes]
    return "\n".join(part for line in lines for part in _wrapped(line, width=80) or [""])


def _first_wrong(pair: compare.Pair) -> Iterator[str]:
    if pair.rates:
        first, second = pair.rates
        yield f"  At update {pair.update}, the learning rate is {second:.6g}, and {first:.6g} in the first."
    if pair.wrong:
        where = ", before clipping," * pair.before_clipping
        aside = f" in its direction, and {pair.across:.2g} of it lies across"
        aside = aside if not pair.across <= max(1e-3, 2 * pair.tolerance) else ""
        yield f"  At update {pair.update}, the gradient{where} is {_times(pair.ratio)} that of the first{aside}."
    for each in pair.wrong[: compare.SHOWN]:
        times = "zero in the first" if math.isnan(each.ratio) else _times(each.ratio)
        yield f"    {each.tensor}: {times}, error {each.error:.2g}, tolerance {each.tolerance:.2g}"
    if len(pair.wrong) > compare.SHOWN:
        yield f"    and {len(pair.wrong) - compare.SHOWN} more tensors"


def _times(ratio: float) -> str:
    near = Fraction(ratio).limit_denominator(32) if math.isfinite(ratio) else Fraction(0)
    exact = near and abs(ratio / near - 1) < 1e-5 and near.denominator not in (1, 2, 4, 5, 10)
    return f"{ratio:.4g} ({near}) times" if exact else f"{ratio:.4g} times"
