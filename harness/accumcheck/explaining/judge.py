"""Judges a loop at many sizes, names what it does wrong, and looks for the smallest sizes at which that shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from accumcheck.explaining.diagnose import Diagnosis, at, broken, size_order
from accumcheck.explaining.evidence import (
    Evidence,
    Pair,
    Reference,
    common_convention,
    convention_of_ours,
    reference_of,
)
from accumcheck.explaining.excerpt import Excerpt, excerpt_of
from accumcheck.explaining.finding import Explanation, Finding, Verdict
from accumcheck.numbers import same
from accumcheck.probing.model import Point, Samples
from accumcheck.probing.reading import Reading
from accumcheck.probing.run import HIGH, LOW, Setup, probe
from accumcheck.programs.rules import TABLES, Program, Shape
from accumcheck.programs.simulate import Units, equivalent, simulate
from accumcheck.task import Loop, LoopError, NotRepeatable, Objective, Sizes, name_of
from accumcheck.watching.limits import TIME_LIMIT

DEFAULT_SIZES = (
    Sizes(samples=7, micro_batch_size=1, accumulation_steps=4),
    Sizes(samples=11, micro_batch_size=2, accumulation_steps=4, epochs=3),
    Sizes(samples=14, micro_batch_size=1, accumulation_steps=4),
    Sizes(samples=13, micro_batch_size=1, accumulation_steps=8),
    Sizes(samples=14, micro_batch_size=1, accumulation_steps=8),
    Sizes(samples=15, micro_batch_size=1, accumulation_steps=8),
    Sizes(samples=5, micro_batch_size=2, accumulation_steps=4),
    Sizes(samples=7, micro_batch_size=2, accumulation_steps=4),
    Sizes(samples=12, micro_batch_size=2, accumulation_steps=3),
)
"""Two and four windows in an epoch, tails of 3 in 4 and of 5 to 7 in 8 micro-batches, short micro-batches, n < N."""
SMALL_SIZES = tuple(
    Sizes(n, b, k, epochs)
    for n, b, k, epochs in (
        (1, 1, 2, 1), (2, 1, 2, 1), (3, 1, 2, 1), (3, 2, 2, 1), (4, 1, 2, 1), (4, 2, 2, 1), (3, 1, 2, 2), (5, 1, 2, 2),
    )
)  # fmt: skip
PATIENCE = 1.5  # seconds after which no smaller sizes are looked for


@dataclass(frozen=True)
class Outcome:
    """The exact verdict for one objective: root cause first, and the smallest sizes at which it was seen.

    ``reference`` is what the loop was compared with, ``convention`` how its own run without accumulation treats tails,
    ``equals`` the convention of full-batch training that a diverging loop's matrices are equal to. ``reasons`` say why
    a verdict is inconclusive, ``error`` why there is none, where it was not asked for.
    """

    objective: Objective
    verdict: Verdict | None
    findings: tuple[Finding, ...] = ()
    explanations: tuple[Explanation, ...] = ()
    counterexample: Evidence | None = None
    example: Evidence | None = None  # large enough for a picture, where the root cause shows if there is one
    sizes: tuple[Sizes, ...] = ()
    evidence: tuple[Evidence, ...] = ()  # of each of the sizes that are always probed
    reference: Reference = "mean"
    convention: str | None = None
    equals: str | None = None
    plain: bool = True  # whether the loop's own run without accumulation is the window mean
    notes: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    error: str | None = None
    witnesses: dict[str, Evidence] = field(default_factory=dict)
    excerpts: dict[str, Excerpt] = field(
        default_factory=dict
    )  # by finding, where it shows at sizes that are easy to read
    sites: dict[str, str] = field(default_factory=dict)

    @property
    def program(self) -> Program | None:
        """What the loop does, where rules say it: to weights, and what findings say of clipping, rates or single kinds
        of parameters."""
        program = self.explanations[0].program if self.explanations else None
        for finding in reversed(self.findings):
            if program and finding.rule and TABLES.get(finding.slot, {}).get(finding.rule.name) == finding.rule:
                program = replace(program, **{finding.slot: finding.rule.name})
        return program


class Prober:
    """Probes of one loop for one objective, each size once."""

    def __init__(self, train: Loop, setup: Setup) -> None:
        self.train, self.setup = train, setup
        self.evidence: dict[Sizes, Evidence] = {}
        self.failures: dict[Sizes, LoopError] = {}
        self.own_failures: dict[Sizes, LoopError] = {}

    def read(self, sizes: Sizes, **options: Any) -> Reading:
        """One reading; in float32 from the first time on that the loop cannot take float64."""
        try:
            return self._read(sizes, **options)
        except LoopError as error:
            if self.setup.dtype != "float64" or "Double" not in str(error) or self.evidence:
                raise
            self.setup = replace(self.setup, dtype="float32")
            return self._read(sizes, **options)

    def _read(self, sizes: Sizes, *, gain: float = LOW, point: Point = "zero", shuffle: bool = False) -> Reading:
        """One reading."""
        setup = replace(self.setup, gain=gain, point=point, shuffle=shuffle)
        return probe(self.train, sizes, setup.objective, setup)

    def pair(self, sizes: Sizes, *, gain: float = LOW, point: Point = "zero", shuffle: bool = False) -> Pair:
        """With micro-batches and, where that does not fail, without accumulation."""
        ours = self.read(sizes, gain=gain, point=point, shuffle=shuffle)
        try:
            own = self.read(sizes.full_batch(), gain=gain, point=point, shuffle=shuffle)
        except LoopError as error:
            self.own_failures[sizes] = error
            return Pair(ours, None)
        return Pair(ours, own)

    def __call__(self, sizes: Sizes) -> Evidence:
        """All readings at one size; LoopError where the loop fails there."""
        if sizes in self.failures:
            raise self.failures[sizes]
        if sizes not in self.evidence:
            try:
                small = self.pair(sizes)
                # One epoch shows clipping; what passes from one to the next shows at small gradients.
                large = self.pair(replace(sizes, epochs=1), gain=HIGH)
            except LoopError as error:
                self.failures[sizes] = error
                raise
            self.evidence[sizes] = Evidence(small, large)
        return self.evidence[sizes]

    def require_repeatable(self, sizes: Sizes) -> None:
        """Raise NotRepeatable unless the loop does the same twice."""
        first, again = self(sizes).small.ours, self.read(sizes)
        if (first.matrices, first.settings, first.shared) != (again.matrices, again.settings, again.shared):
            raise NotRepeatable(name_of(self.train), str(sizes))


def judge_exactly(
    train: Loop,
    objective: Objective = "sample",
    *,
    sizes: Iterable[Sizes] = (),
    search: bool = True,
    seed: int = 0,
    device: str = "cpu",
    time_limit: float = TIME_LIMIT,
) -> Outcome:
    """Probe a loop at ``sizes``, or else at the default ones; name what it does wrong; find the smallest case of it.

    Raises LoopError when the loop raises, hangs, never steps, has no gradients, or does not repeat itself, unless it
    diverges elsewhere.

    >>> from accumcheck.corpus.published import published_fix
    >>> outcome = judge_exactly(published_fix)
    >>> outcome.verdict, outcome.findings[0].id, str(outcome.counterexample.sizes)
    ('diverges', 'tail-scaled-by-k', 'n=1, b=1, k=2, epochs=1')
    """
    prober = Prober(train, Setup(objective, seed=seed, device=device, time_limit=time_limit))
    ladder = tuple(dict.fromkeys(sizes)) or DEFAULT_SIZES
    for each in ladder:
        try:
            prober(each)
        except LoopError as error:
            if error.__cause__ is None and not prober.evidence:  # the loop has not raised it: it hangs, or did not run
                raise
    evidence = tuple(prober.evidence.values())
    if not evidence:
        raise prober.failures[ladder[0]]
    for first in evidence[:2]:
        prober.require_repeatable(first.sizes)
    other = _elsewhere(prober, evidence)
    reasons = unseen(evidence)
    require_life(name_of(train), evidence, other, reasons)
    convention = common_convention(evidence)
    diagnosis = Diagnosis(evidence, objective, reference_of(evidence, convention), other)
    findings = diagnosis.findings
    # What is not cleared without accumulation either is wrong all the same.
    if findings and not any(f.rule or f.facts or f.id == "gradients-not-reset" for f in findings) and diagnosis.is_own:
        findings = []
        reasons.append(
            "its updates are made of no window that is known, but it makes the same ones without accumulation: whether "
            "these are what full-batch training should do is not known"
        )
    if not findings and not reasons and (skipped := _skips(prober, evidence[0].sizes)):
        reasons.append(skipped)
    outcome = verdict(diagnosis, findings, convention, reasons)
    if not findings:
        if prober.failures:
            _raise_first(prober, len(evidence))
        return replace(outcome, notes=_order_notes(prober))
    root = findings[0]
    shows = [e for e in evidence if e.sizes == root.sizes]
    explanations = tuple(diagnosis.explanations) if root.id != "batch-coupled" else ()
    smallest = _smallest(prober, diagnosis, root) if search else None
    known = {e.sizes: e for e in [*evidence, *([smallest] if smallest else [])]}
    excerpts = {f.id: excerpt_for(f, evidence, diagnosis) for f in findings}
    if smallest:
        findings = [_at_smallest(f, smallest, diagnosis) if f is root else f for f in findings]
    if root.id == "sample-order":
        facts = {**findings[0].facts, "consumers": _consumers(prober, findings[0].sizes or DEFAULT_SIZES[1])}
        findings = [replace(findings[0], facts=facts), *findings[1:]]
    if root.id == "batch-coupled" and root.sizes and _terms_go_by_k(prober, root.sizes):
        findings = [replace(findings[0], id="wrong-scale", samples=(), facts={"terms": True})]
    notes = [f"at {s} it fails: {error}" for s, error in list(prober.failures.items())[:1]]
    return replace(
        outcome,
        findings=tuple(findings),
        explanations=explanations,
        counterexample=smallest or next(iter(shows), None) or evidence[0],
        example=pictured(evidence, diagnosis, root),
        sizes=tuple(prober.evidence),
        notes=tuple(notes),
        witnesses={f.id: known[f.sizes] for f in findings if f.sizes in known},
        excerpts={name: excerpt for name, excerpt in excerpts.items() if excerpt},
        sites=evidence[0].small.ours.sites,
    )


def verdict(
    diagnosis: Diagnosis, findings: Sequence[Finding], convention: str | None, reasons: Sequence[str]
) -> Outcome:
    """The outcome that such findings make, without what is to be shown of them."""
    evidence = diagnosis.evidence
    return Outcome(
        diagnosis.objective,
        "diverges" if findings else "inconclusive" if reasons else "equivalent",
        tuple(findings),
        example=next((e for e in evidence if e.sizes == DEFAULT_SIZES[1]), evidence[0]),
        sizes=tuple(e.sizes for e in evidence),
        evidence=tuple(evidence),
        reference=diagnosis.reference,
        convention=convention,
        equals=convention_of_ours([e for e in evidence if _tells_conventions(e)] or evidence) if findings else None,
        plain=all(
            pair.own is not None and same(m, pair.mean)
            for e in evidence
            for pair in e.pairs
            if pair.own
            for m in pair.own.matrices.values()
        ),
        reasons=tuple(reasons),
    )


def _raise_first(prober: Prober, passed: int) -> None:
    error = next(iter(prober.failures.values()))
    others = f"{passed} other size{'s' * (passed > 1)}"
    where = f"; at {others} it ran, and no difference was seen there: to judge these alone, give them by sizes"
    raise type(error)(f"{error}{where}") from error


def _elsewhere(prober: Prober, evidence: Sequence[Evidence]) -> Pair | None:
    """Readings at other parameters than zero, and gradients of order 1."""
    sizes = [e.sizes for e in evidence]
    chosen = next((s for s in sizes if s.micro_batch_size > 1 and s.accumulation_steps > 2), sizes[0])
    try:
        return prober.pair(chosen, gain=1.0, point="other")
    except LoopError:
        return None


def unseen(evidence: Sequence[Evidence]) -> list[str]:
    """Why what was seen is not enough for a verdict."""
    readings = [e.small.ours for e in evidence]
    reasons = []
    calls = max(reading.facts.evaluations for reading in readings)
    if calls > 1:
        reasons.append(
            f"an optimizer evaluated its closure {calls} times in one step, as LBFGS does; only the first was judged. "
            "To judge the loop, give it an optimizer that evaluates once, such as SGD"
        )
    if any(r.facts.strangers and not r.settings for r in readings):
        reasons.append(
            "the optimizer that stepped holds none of task.model's parameters: it may own copies of them, and "
            "updates of copies are not seen. To judge the loop, let it hold task.model.parameters() themselves"
        )
    return reasons


def _skips(prober: Prober, sizes: Sizes) -> str:
    """Whether a micro-batch is left out when its loss is not finite, where a full batch would be as a whole."""
    ours, own = (_finite(prober, each) for each in (sizes, sizes.full_batch()))
    if ours is None or own is None or ours <= own:
        return ""
    return (
        "a micro-batch whose loss is not finite is left out, and the rest of its window is used; without accumulation "
        "the whole batch would be left out"
    )


def _finite(prober: Prober, sizes: Sizes) -> int | None:
    """Updates with finite gradients that are made of the first window, in which one sample's loss is not finite."""
    try:
        reading = probe(prober.train, sizes, prober.setup.objective, replace(prober.setup, poison=True))
    except LoopError:
        return None
    return sum(any(row[1 : min(3, len(row))]) for row in reading.matrix)


def require_life(
    loop: str, evidence: Sequence[Evidence], other: Pair | None = None, reasons: Sequence[str] = ()
) -> None:
    """Raise LoopError unless a loop, of this name, makes steps with gradients that are not all zero."""
    if reasons:
        return
    pairs = [e.small for e in evidence]
    readings = [r for pair in pairs for r in (pair.ours, pair.own) if r is not None]
    if not any(reading.settings for reading in readings):
        raise LoopError(
            f"{loop}: no torch optimizer that holds task.model's parameters stepped; other updates are not seen. "
            "Did it return early, or update a copy, or change parameters by hand?"
        )
    alive = other is not None and any(g.any() for r in (other.ours, other.own) if r for g in r.gradients.values())
    if all(e.is_dead for e in evidence) and not alive:
        raise LoopError(
            f"{loop} stepped, but no gradient reached task.model: two runs without gradients agree, which proves "
            "nothing. Does backward() start from a loss of task.model's outputs, or was a copy trained?"
        )


def _smallest(prober: Prober, diagnosis: Diagnosis, root: Finding) -> Evidence | None:
    """The smallest sizes at which the root cause is seen: proposed by its program, confirmed by a probe."""
    end = time.monotonic() + PATIENCE
    limit = size_order(root.sizes) if root.sizes else (1 << 30,)
    for sizes in _proposals(prober, diagnosis, root):
        if size_order(sizes) >= limit or time.monotonic() > end:
            return None
        try:
            evidence = prober(sizes)
        except LoopError:
            continue
        again = Diagnosis((evidence,), diagnosis.objective, diagnosis.reference)
        if root.slot and root.slot not in ("clip", "schedule"):
            if not evidence.equals(diagnosis.reference):
                return evidence
        elif any(finding.id == root.id for finding in again.findings):
            return evidence
    return None


def _proposals(prober: Prober, diagnosis: Diagnosis, root: Finding) -> Iterator[Sizes]:
    change = _change(root, diagnosis)
    if change is None:
        yield from SMALL_SIZES
        return
    program = next(e.program for e in diagnosis.explanations if e.program and _has(e.program, root))
    proposed = 0
    for sizes in all_sizes():
        shape = Shape(sizes.samples, sizes.micro_batch_size, sizes.accumulation_steps, sizes.epochs)
        units = Units(Samples.draw(sizes.samples, diagnosis.objective, prober.setup.seed).units)
        here, there = (simulate(each, shape, units) for each in change)
        if here != there and not equivalent(change[0], shape, units) and not equivalent(program, shape, units):
            yield sizes
            proposed += 1
            if proposed == 4:
                return


def _has(program: Program, root: Finding) -> bool:
    return bool(root.slot) and root.slot not in ("clip", "schedule") and program.rule(root.slot) == root.rule


def all_sizes() -> Iterator[Sizes]:
    """All small sizes, the smallest first."""
    found = [
        Sizes(n, b, k, epochs) for n in range(1, 13) for k in range(2, 9) for b in range(1, 4) for epochs in range(1, 4)
    ]
    return iter(sorted(found, key=size_order))


def _at_smallest(finding: Finding, evidence: Evidence, diagnosis: Diagnosis) -> Finding:
    """The finding with its witness at these sizes."""
    again = Diagnosis((evidence,), diagnosis.objective, diagnosis.reference)
    if finding.slot and finding.slot not in ("clip", "schedule"):
        change = _change(finding, diagnosis)
        kind = finding.kinds[0] if finding.kinds else evidence.small.ours.kind
        return again._cell(replace(finding, sizes=None), [evidence], kind, change)
    return next((f for f in again.findings if f.id == finding.id), finding)


def excerpt_for(finding: Finding, evidence: Sequence[Evidence], diagnosis: Diagnosis) -> Excerpt | None:
    """Where a finding about weights shows at the first sizes, in the order in which they were probed."""
    if finding.weight is None:
        return None
    change = _change(finding, diagnosis) if finding.slot in ("scale", "ranks") else None
    for each in evidence:
        found = replace(_at_smallest(finding, each, diagnosis), sizes=each.sizes)
        if found.step is None or max(found.samples, default=0) >= each.sizes.samples:
            continue  # as the finding was: at these sizes it does not show
        if change:
            rows = [simulate(p, each.small.shape, each.small.our_units) for p in change]
            mine, theirs = ([at(row, found.step, i) for i in found.samples] for row in rows)
            if mine == theirs:
                continue
        if excerpt := excerpt_of(found, each, diagnosis.reference):
            return excerpt
    return None


def _change(finding: Finding, diagnosis: Diagnosis) -> tuple[Program, Program] | None:
    """The programs that differ in what a finding is about."""
    program = next((e.program for e in diagnosis.explanations if e.program and _has(e.program, finding)), None)
    if program is None:
        return None
    return next(
        (b[3:] for b in broken(program, diagnosis.objective) if b[0] == finding.slot and b[2] == finding.id), None
    )


def pictured(evidence: Sequence[Evidence], diagnosis: Diagnosis, root: Finding) -> Evidence:
    """The first readings that show the root cause."""
    for each in evidence:
        if not each.equals(diagnosis.reference) and any(
            f.id == root.id for f in Diagnosis((each,), diagnosis.objective, diagnosis.reference).findings
        ):
            return each
    return next((e for e in evidence if e.sizes == root.sizes), evidence[0])


def _terms_go_by_k(prober: Prober, sizes: Sizes) -> bool:
    """Whether gradients point elsewhere because of k and not of their micro-batches' other samples: then terms of the
    loss are divided by different numbers. Of two runs without accumulation, one has the same micro-batches."""
    try:
        ours, plain, own = (prober.read(s) for s in (sizes, replace(sizes, accumulation_steps=1), sizes.full_batch()))
    except LoopError:
        return False
    return bool(Pair(ours, plain).coupled) and not Pair(plain, own).coupled


def _tells_conventions(evidence: Evidence) -> bool:
    # Where micro-batches are short, or the data set is, conventions cannot be told from other differences.
    sizes = evidence.sizes
    return sizes.samples > sizes.effective_batch_size and sizes.samples % sizes.micro_batch_size == 0


def _order_notes(prober: Prober) -> tuple[str, ...]:
    """Under a loader that shuffles from the global stream, does the order of samples depend on the micro-batch size?"""
    sizes = next((s for s in prober.evidence if s.micro_batch_size > 1), next(iter(prober.evidence)))
    pair = prober.pair(sizes, shuffle=True)
    if pair.own is None or pair.ours.orders == pair.own.orders:
        return ()
    return (
        "with a loader that shuffles from the global random stream, the order of samples depends on the micro-batch "
        f"size (sample-order); {_consumers(prober, sizes)}",
    )


def _consumers(prober: Prober, sizes: Sizes) -> str:
    """What draws more often from torch's global stream in smaller micro-batches."""
    pair = prober.pair(sizes, shuffle=True)
    low, own = pair.ours, pair.own or pair.ours
    names = [
        f"{name} {count} times, {own.random_draws.get(name, 0)} in the full batch"
        for name, count in low.random_draws.items()
        if count != own.random_draws.get(name, 0) and name != "random"
    ]
    if low.passes != own.passes or low.random_draws.get("random") != own.random_draws.get("random"):
        names.append(f"an order of samples {low.passes} times, {own.passes} in the full batch")
    if not names:
        return "what moved the stream was not seen: it may be random's or NumPy's"
    return f"for each micro-batch the loop draws random numbers: {'; '.join(names)}"


Judge = Callable[..., Outcome]
