"""The words for what was found: every sentence about a verdict is made here."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from accumcheck.explaining.excerpt import Excerpt
from accumcheck.explaining.finding import Finding, Verdict, Weight
from accumcheck.explaining.judge import Outcome
from accumcheck.probing.model import MATRIX, SHARED, VECTOR
from accumcheck.programs.laws import LAWS, SHARE, runs
from accumcheck.programs.listing import listing
from accumcheck.programs.rules import Program, Shape
from accumcheck.programs.simulate import CONVENTIONS
from accumcheck.scripts import compare
from accumcheck.scripts.explain import Judged, Judgement
from accumcheck.task import Objective, Sizes
from accumcheck.training.tolerance import SMALLEST_BUG, Comparison

if TYPE_CHECKING:
    from accumcheck.checks import Check
    from accumcheck.report import Report

WIDTH = 80
BESIDE = {"passed": "✓", "failed": "✗", "not applicable": "–", "not run": "–"}
OVER = {"sample": "a mean over samples", "token": "a mean over tokens"}
KINDS = {MATRIX: "the weight matrix", VECTOR: "the biases", SHARED: "the parameter that all samples share"}
# What the loop does wrong; the law in LAWS says what it should do.
WRONG = {
    "nondeterministic": "Two runs under one seed differ.",
    "batch-coupled": "A sample's gradient depends on which samples share its micro-batch.",
    "unsynchronised-replicas": "Ranks step with different gradients or learning rates.",
    "step-per-micro-batch": "The optimizer steps after every micro-batch, not once in k micro-batches.",
    "early-first-step": (
        "The first step comes too early. The condition is already true at the first micro-batch, so all "
        "later windows are shifted."
    ),
    "wrong-window": "Windows are not k micro-batches long.",
    "gradients-lost": "Gradients are cleared, or not kept, before the step that should use them.",
    "gradients-not-reset": "Gradients of earlier updates are still there, and go into the update again.",
    "clipped-per-micro-batch": "Gradients are clipped or rescaled at micro-batches, before the window is complete.",
    "unscaled-loss": "Each update is the sum of its micro-batches, not their mean. It is too large.",
    "over-scaled-loss": "The loss is divided once too often. Each update is too small.",
    "wrong-scale": "The loss is divided by the wrong number.",
    "scheduler-per-micro-batch": "The learning rate, or another setting, is not the one of full-batch training.",
    "sample-order": "The order of the samples depends on the micro-batch size.",
    "low-precision-accumulation": "Partial sums are rounded in a narrow dtype.",
    "token-weighting": "A micro-batch with few tokens counts as much as one with many.",
    "split-tail": "The last, short window of an epoch makes several updates, not one.",
    "carried-tail": (
        "The last, short window of an epoch makes no update of its own. Its gradients go into the next "
        "epoch's first update."
    ),
    "dropped-tail": "The last, short window of each epoch is dropped: its samples go into no update.",
    "tail-scaled-by-k": (
        "The last, short window of each epoch is divided by k, though it holds fewer than k micro-batches. "
        "Its update is too small."
    ),
    "mean-of-means": "A micro-batch with few samples counts as much as a full one.",
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
    "mean-of-means": ("A rank with few samples counts as much as a full one.", SHARES["sample"]),
    "token-weighting": ("A rank with few tokens counts as much as any other.", SHARES["token"]),
    "clipped-per-micro-batch": (
        "Gradients are clipped before they are complete: at micro-batches, or on each rank before the exchange.",
        "move clip_grad_norm_() to right before optimizer.step(), after gradients are exchanged",
    ),
    "dropped-tail": (
        "The ranks do not divide the data set, and the rest is left out.",
        "give every sample to a rank: DistributedSampler(drop_last=True) does not",
    ),
    "unexplained": (
        "Ranks draw samples more than once in an epoch.",
        "make the data set a multiple of the ranks: otherwise DistributedSampler repeats samples to fill up",
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
        return f"the gradients of samples {runs(finding.samples)} change direction in micro-batches"
    if finding.id == "gradients-lost" and facts.get("never"):
        return "full batches train it, micro-batches never do"
    if facts.get("terms"):
        return "one term of the loss is divided by the accumulation steps, and another one is not"
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
        return f"gradients differ once parameters are not zero, by {float(str(facts['error'])):.1e} of their size"
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
    usual = str(finding.facts.get("fix", LAWS[finding.id].fix))
    if _ranks(finding) > 1:
        if _on_ranks(finding) or finding.id == "token-weighting":
            return ON_RANKS[finding.id][1]
        return SHARES["sample"] if usual == SHARE else usual
    return usual


def tagged(sentence: str, name: str, width: int) -> list[str]:
    """A sentence, with a finding's id at the end of its last line."""
    lines = _wrapped(sentence, "  ", width)
    tag = f"[{name}]"
    if len(lines[-1]) + 2 + len(tag) > width:
        lines.append("")
    lines[-1] = f"{lines[-1]}{tag.rjust(width - len(lines[-1]))}"
    return lines


def table(excerpt: Excerpt, who: str, width: int) -> list[str]:
    """Weights of one update, as they are and as they should be; as many columns as fit."""
    rows = [excerpt.ours, *(weights for _, weights in excerpt.others), excerpt.due]
    columns = list(zip(excerpt.columns, *(map(_cell, row) for row in rows), strict=True))
    size = max(len(cell) for column in columns for cell in column)
    labels = [excerpt.what, excerpt.who or who, *(name for name, _ in excerpt.others), "should be"]
    margin = "      "
    room = (width - len(margin) - max(map(len, labels)) - 2) // (size + 2)
    if room < len(columns):
        columns = [column for column in columns if set(column[1:]) != {ZERO}]
    more = "  ..." if room < len(columns) else ""
    cells = list(zip(*columns, strict=True))
    lines = []
    for label, row in zip(labels, cells, strict=True):
        shown = "".join(cell.rjust(size + 2) for cell in row[: room - bool(more)])
        lines.append(f"{margin}{label.ljust(max(map(len, labels)))}{shown}{more}")
    if remark := _remark(excerpt):
        if len(lines[-1]) + 4 + len(remark) <= width:
            lines[-1] += f"    {remark}"
        else:
            lines.append(f"{margin}{remark}")
    return lines


ZERO = "·"


def _cell(weight: Weight) -> str:
    return ZERO if not weight else str(weight) if isinstance(weight, Fraction) else f"{weight:.3g}"


def _remark(excerpt: Excerpt) -> str:
    ratio = excerpt.ratio
    if ratio is None or not excerpt.only_wrong or excerpt.others:
        return ""
    if ratio == 0:
        return "missing"
    if ratio < 0:
        return "the wrong sign"
    if ratio < 1:
        return f"{1 - ratio:.0%} too small"
    return f"{ratio:.4g} times too large" if ratio >= 2 else f"{ratio - 1:.0%} too large"


ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


def _where(excerpt: Excerpt, kinds: Sequence[str], objective: Objective) -> str:
    sizes = excerpt.sizes
    assert sizes is not None
    each = len(sizes.window_lengths()) // sizes.epochs
    place = excerpt.update % each if excerpt.every_epoch else excerpt.update
    which = f"the {ORDINALS[place]} update" if place < len(ORDINALS) else f"update {place} (the first is 0)"
    which += " of each epoch" * excerpt.every_epoch
    words = [f"{_many(sizes.samples, 'sample')}, micro-batches of {micro_batch(sizes)}, k = {sizes.accumulation_steps}"]
    words += [f"for {' and '.join(KINDS.get(kind, kind) for kind in kinds)}"] * bool(kinds)
    words += ["where gradients are large"] * excerpt.large
    weight = ", the weight of each token" if objective == "token" else ""
    return f"{', '.join([*words, which])}{weight}:"


def micro_batch(sizes: Sizes) -> str:
    """The size of a micro-batch; of several ranks, that of each."""
    ranks = getattr(sizes, "ranks", 1)
    return f"{sizes.micro_batch_size // ranks} on each of {ranks} ranks" if ranks > 1 else str(sizes.micro_batch_size)


def _many(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def block(
    finding: Finding,
    excerpt: Excerpt | None = None,
    objective: Objective = "sample",
    width: int = WIDTH,
    *,
    explained: bool = False,
) -> list[str]:
    """A finding as lines: what is wrong, where it shows, and what puts it right where no listing says it."""
    lines = tagged(wrong(finding), finding.id, width)
    if excerpt is not None:
        lines += ["", *_wrapped(_where(excerpt, finding.kinds, objective), "  ", width), ""]
        lines += table(excerpt, "your loop", width)
    elif seen := witness(finding):
        lines += _wrapped(seen, "  ", width)
    if not explained:
        lines += ["", *_wrapped(f"Fix: {fix(finding)}", "  ", width)]
    return lines


def _wrapped(text: str, indent: str = "", width: int = WIDTH) -> list[str]:
    """Lines of at most so many characters; those behind the first hang, except in a paragraph of its own."""
    own = " " * (len(text) - len(text.lstrip()))
    head, _, _ = text.strip().partition(": ")
    hang = "  " if head in HANGING else ""
    return textwrap.wrap(
        text.strip(),
        width,
        initial_indent=indent + own,
        subsequent_indent=f"{indent}{own}{hang}",
        break_long_words=False,
        break_on_hyphens=False,
    )


HANGING = ("Fix", "Note", "Not judged", "Others had it", "Smallest case", "A right loop to copy")


def listed(program: Program, objective: Objective, sites: Mapping[str, str], width: int) -> list[str]:
    """The loop that a program is, with the lines of the user's file that call ``backward`` and ``step``."""
    lines: list[str] = []
    named: set[str] = set()
    for line in listing(program, objective):
        shown = f"    {line.mark} {line.code}"
        place = sites.get(line.call, "")
        if place and place not in named and len(shown) + 2 + len(place) <= width:
            named.add(place)
            shown += place.rjust(width - len(shown))
        lines.append(shown)
    return lines


# The call that a slot's line is about, or is nearest to.
SITES = {
    "visit": "step", "step": "step", "clip": "step", "schedule": "step", "scale": "backward", "reset": "zero_grad",
    "ranks": "backward",
}  # fmt: skip


LISTED = ("visit", "scale", "clip", "step", "reset", "schedule")  # slots whose rule is a line of the loop


def place_of(finding: Finding, sites: Mapping[str, str]) -> str | None:
    """The line of the user's file that a finding is about."""
    return sites.get(SITES.get(finding.slot, ""))


def headline(report: Report) -> str:
    """The verdict in one sentence."""
    return heads(report)[0]


STYLES = {
    r"(?m)^ *✓ .*$": "bold green",
    r"(?m)^ *✗ .*$": "bold red",
    r"(?m)^ *\? .*$": "bold yellow",
    r"(?m)^    \+ .*$": "green",
    r"(?m)^    - (?=.*[(=#]).*$": "red",
    r"(?m)^ *(Fix|Note|Not judged|Others had it|Smallest case|A right loop to copy):": "cyan",
}
MARKS = {"equivalent": "✓", "diverges": "✗", "inconclusive": "?"}
SAYS = {
    "equivalent": "is full-batch training",
    "diverges": "is NOT full-batch training",
    "inconclusive": "cannot be judged",
}


def heads(report: Report) -> list[str]:
    """A line for each objective, those that were asked for first."""
    loop = report.loop
    if report.ranks is not None:
        loop += f", on {_many(report.ranks, 'rank')},"
    lines = []
    for outcome in report.asked:
        verdict = report.verdict if len(report.asked) == 1 else outcome.verdict or "inconclusive"
        lines.append(f"{MARKS[verdict]} {loop} {SAYS[verdict]}, if your loss is {OVER[outcome.objective]}")
    for outcome in report.outcomes:
        if outcome not in report.asked:
            if outcome.verdict is None:
                lines.append(f"– If it is {OVER[outcome.objective]}: not checked. {_sentence(outcome.error or '')}")
                continue
            found = f"  [{', '.join(f.id for f in outcome.findings)}]" if outcome.findings else ""
            says = SAYS[outcome.verdict].replace("cannot", "it cannot").replace("is ", "it is ", 1)
            more = f" (--objective {outcome.objective} says more)" if outcome.verdict != "equivalent" else ""
            lines.append(f"{MARKS[outcome.verdict]} If your loss is {OVER[outcome.objective]}, {says}{more}{found}")
    return lines


def _sentence(text: str, *, capital: bool = True) -> str:
    text = f"{text[:1].upper()}{text[1:]}" if capital else text
    return text if text.endswith((".", "?", "!")) else f"{text}."


def lines_of(report: Report, width: int = WIDTH) -> list[str]:
    """The whole report."""
    lines = [part for head in heads(report) for part in _hung(head, width)]
    for outcome in report.asked:
        lines += _outcome(outcome, report, width)
    for finding in report.model_findings:
        lines += ["", *block(finding, width=width)]
    for comparison in report.comparisons:
        if comparison.verdict == report.verdict != "equivalent":
            lines += ["", *(part for line in explain(comparison) for part in _wrapped(line, "", width))]
    if report.comparisons and report.verdict == "equivalent":
        how = (
            f"the largest error lies {-report.margin:.1f} decades below its tolerance"
            if math.isfinite(report.margin)
            else "equal to the bit"
        )
        text = f"{len(report.comparisons)} sizes were trained on {report.comparisons[0].case.problem}: {how}."
        lines += _wrapped(text, "  ", width)
    notes = [note for outcome in report.asked for note in outcome.notes] + list(report.notes)
    if notes:
        lines.append("")
    for note in notes:
        lines += _wrapped(f"Note: {note}", "  ", width)
    return lines + _beside(report.checks or (), width)


def _beside(checks: Sequence[Check], width: int) -> list[str]:
    """What was found beside the weights."""
    lines = ["", "  Beside the weights:"] if checks else []
    for check in checks:
        text = f"{BESIDE[check.status]} {check.name}: {check.status}. {check.reason[0].upper()}{check.reason[1:]}"
        lines += [f"    {line}" for line in _hung(text, width - 4)]
    return lines


def _hung(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _proved(outcome: Outcome, report: Report) -> list[str]:
    """What an equivalent loop was seen to do, and what follows."""
    said = [f"{_many(len(outcome.sizes), 'size')} compared, exactly: {span(outcome)}."]
    if not outcome.plain:
        said.append(
            "Even with k = 1 your loop sums, clips, or divides by another number than the mean does. So it was "
            "compared with its own run with k = 1: accumulation changes nothing. Whether that number is right is "
            "not judged."
        )
    if outcome.convention not in (None, "window") and outcome.reference == "own":
        said.append(f"With accumulation and without, {CONVENTIONS[str(outcome.convention)]}.")
    if not report.comparisons:
        weights = "Every weight is right." if outcome.plain else "Every weight is the same as in that run."
        said.append(f"{weights} So this holds for each model whose samples do not influence each other.")
    return said


def _outcome(outcome: Outcome, report: Report, width: int) -> list[str]:
    lines: list[str] = []
    if len(report.asked) > 1 and outcome.findings:
        lines += ["", f"  If your loss is {OVER[outcome.objective]}:"]
    if outcome.verdict == "equivalent":
        lines += ["", *(part for said in _proved(outcome, report) for part in _wrapped(said, "  ", width))]
    if outcome.reasons:
        lines.append("")
    for reason in outcome.reasons:
        lines += _wrapped(f"Not judged: {reason}.", "  ", width)
    program, shown = outcome.program, set()
    for finding in outcome.findings:
        excerpt = outcome.excerpts.get(finding.id)
        explained = bool(program and finding.slot in LISTED and program.rule(finding.slot).law)
        if excerpt in shown:  # two findings in one update: its weights are shown once
            lines += ["", *tagged(wrong(finding), finding.id, width)]
            continue
        shown.add(excerpt)
        lines += ["", *block(finding, excerpt, outcome.objective, width, explained=explained)]
    if program is not None and any(f.slot in LISTED for f in outcome.findings):
        sizes = _many(len(outcome.sizes), "size")
        lines += [
            "",
            f"  At all {sizes} your loop acts like this (+ is the fix):" if len(outcome.sizes) > 1 else "",
            "",
        ]
        lines += listed(program, outcome.objective, outcome.sites, width)
    if outcome.equals and outcome.findings and outcome.equals != "window":
        text = f"Note: these are the weights of full-batch training in which {CONVENTIONS[outcome.equals]}."
        lines += ["", *_wrapped(text, "  ", width)]
    if any(f.id == "unexplained" for f in outcome.findings) and outcome.counterexample:
        rows = outcome.counterexample.small.ours.exact
        lines += ["", *(f"    update {s}: {' '.join(map(str, row))}" for s, row in enumerate(rows))]
    if outcome.findings:
        lines += ["", *_pointers(outcome, report, width)]
    return lines


def _pointers(outcome: Outcome, report: Report, width: int) -> list[str]:
    """Where to go from here."""
    lines = []
    if any(f.slot in ("visit", "step", "reset", "scale") for f in outcome.findings) and report.ranks is None:
        option = " --objective token" * (outcome.objective == "token")
        lines += _wrapped(f"A right loop to copy: accumcheck recipe{option}", "  ", width)
    evidence = outcome.counterexample
    if evidence is not None:
        sizes = evidence.sizes
        text = (
            f"Smallest case: {_many(sizes.samples, 'sample')}, micro-batches of {micro_batch(sizes)}, "
            f"k = {sizes.accumulation_steps}, {_many(sizes.epochs, 'epoch')}"
        )
        lines += _wrapped(text, "  ", width)
    threads = [LAWS[f.id].thread for f in outcome.findings if not _on_ranks(f) and LAWS[f.id].thread]
    if threads:
        lines.append(f"  Others had it: {threads[0]}")
    return lines


def says(verdict: Verdict | None) -> str:
    """The verdict as the end of a sentence."""
    return {"equivalent": "is equivalent", "diverges": "diverges"}.get(verdict or "", "cannot be judged")


def span(outcome: Outcome) -> str:
    """The smallest and largest of each size that was probed."""
    shapes = [Shape.of(sizes) for sizes in outcome.sizes]

    def between(name: str) -> str:
        low, high = (f({getattr(shape, name) for shape in shapes}) for f in (min, max))
        return str(low) if low == high else f"{low} to {high}"

    ranks = f" on each of {shapes[0].ranks} ranks" if shapes[0].ranks > 1 else ""
    sizes = f"{between('n')} samples, micro-batches of {between('b')}{ranks}"
    return f"{sizes}, k = {between('k')}, {between('epochs')} epochs"


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
            "call scheduler.step() once per optimizer step"
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
        lines.append(
            f"  {trajectory.candidate_steps} optimizer steps were made, there should be {trajectory.reference_steps}"
        )
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


def script_lines(script: str, judged: Judgement, failure: str | None, width: int = WIDTH) -> list[str]:
    """The report on one run of a script."""
    lines: list[str] = []
    if failure:
        lines += _wrapped(f"accumcheck: {script}: {_sentence(failure, capital=False)}", "", width)
        if not judged.optimizers:
            return lines
        lines += ["", "What follows is of the updates until then. It is no verdict."]
    updates = sum(each.updates for each in judged.optimizers)
    says = SAYS[judged.verdict]
    if judged.verdict == "equivalent":
        says = f"has the weights of full-batch training, in all {updates} updates"
    lines += _hung(f"{MARKS[judged.verdict]} {script} {says}", width)
    lines += _wrapped(f"Accumulation steps: {judged.k} ({judged.source})", "  ", width)
    # Optimizers of which the same is to be said stand over it together.
    said: dict[tuple[Verdict, str, int, tuple[str, ...]], list[int]] = {}
    for number, each in enumerate(judged.optimizers):
        body = tuple(_optimizer(each, judged, width))
        said.setdefault((each.verdict, each.name, each.updates, body), []).append(number)
    for (verdict, name, updates, body), numbers in said.items():
        if len(judged.optimizers) > 1:
            count = len(judged.optimizers)
            which = f"Optimizer{'s' * (len(numbers) > 1)} {runs([n + 1 for n in numbers])} of {count}"
            which = f"All {count} optimizers" if len(numbers) == count else which
            what = f"{name}, {_many(updates, 'update')}{' each' * (len(numbers) > 1)}"
            lines += ["", *_wrapped(f"{MARKS[verdict]} {which}: {what}", "  ", width)]
        lines += body
    for what, reasons in (
        ("Not judged", judged.reasons), ("Taken for granted", judged.premises), ("Not seen in this run", judged.unseen),
    ):  # fmt: skip
        if reasons:
            lines += ["", f"  {what}:"]
            for reason in reasons:
                lines += textwrap.wrap(
                    reason, width, initial_indent="    - ", subsequent_indent="      ", break_long_words=False,
                    break_on_hyphens=False,
                )  # fmt: skip
    return lines


def _optimizer(each: Judged, judged: Judgement, width: int) -> list[str]:
    lines: list[str] = []
    shown: list[Excerpt] = []
    for finding in each.findings:
        lines += ["", *tagged(wrong(finding), finding.id, width)]
        excerpt = each.excerpts.get(finding.id)
        if excerpt is None:
            lines += _wrapped(_seen_in_script(finding), "  ", width)
        elif excerpt not in shown:
            shown.append(excerpt)
            where = (
                f"Update {excerpt.update}, in epoch {finding.epoch} (both count from 0). Each micro-batch's mean loss"
            )
            lines += ["", *_wrapped(f"{where} is multiplied by:", "  ", width), ""]
            lines += table(excerpt, "this run", width)
        if not (each.program and finding.slot in LISTED):
            lines += ["", *_wrapped(f"Fix: {fix(finding)}", "  ", width)]
    if each.program is not None and any(f.slot in LISTED for f in each.findings):
        law: Objective = next((t.law for t in each.tables), "sample")
        lines += [
            "",
            "  This run acts like this loop (+ is the fix):",
            "",
            *listed(each.program, law, judged.sites, width),
        ]
    if each.findings:
        lines.append("")
        if any(f.slot in ("visit", "step", "reset", "scale") for f in each.findings):
            option = " --objective token" * any(t.law == "token" for t in each.tables)
            lines.append(f"  A right loop to copy: accumcheck recipe{option}")
        if thread := next((t for f in each.findings if not _on_ranks(f) and (t := LAWS[f.id].thread)), ""):
            lines.append(f"  Others had it: {thread}")
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
        yield f"  At update {pair.update}, the learning rate is {second:.6g}, and {first:.6g} in the first command."
    if pair.wrong:
        where = ", before clipping," * pair.before_clipping
        aside = f" along it, and {pair.across:.2g} of it points elsewhere"
        aside = aside if not pair.across <= max(1e-3, 2 * pair.tolerance) else ""
        times = _times(pair.ratio)
        yield f"  At update {pair.update}, the gradient{where} is {times} that of the first command{aside}."
    for each in pair.wrong[: compare.SHOWN]:
        times = "zero in the first command" if math.isnan(each.ratio) else _times(each.ratio)
        yield f"    {each.tensor}: {times}, error {each.error:.2g}, tolerance {each.tolerance:.2g}"
    if len(pair.wrong) > compare.SHOWN:
        yield f"    and {len(pair.wrong) - compare.SHOWN} more tensors"


def _times(ratio: float) -> str:
    near = Fraction(ratio).limit_denominator(32) if math.isfinite(ratio) else Fraction(0)
    exact = near and abs(ratio / near - 1) < 1e-5 and near.denominator not in (1, 2, 4, 5, 10)
    return f"{ratio:.4g} ({near}) times" if exact else f"{ratio:.4g} times"
