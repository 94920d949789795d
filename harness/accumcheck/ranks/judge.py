"""The verdict on a data-parallel loop: do all ranks step alike, and is what they make together the full batch?

Ranks that step alike have one matrix, which is the whole loop's. So they are judged by the same rules as other loops;
one slot says how their gradients are put together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from accumcheck.explaining.diagnose import Diagnosis, size_order
from accumcheck.explaining.evidence import Evidence, Pair, common_convention, reference_of
from accumcheck.explaining.excerpt import Excerpt, excerpt_of
from accumcheck.explaining.finding import Finding
from accumcheck.explaining.judge import Outcome, excerpt_for, pictured, require_life, unseen, verdict
from accumcheck.numbers import close, exact, same
from accumcheck.probing.model import KINDS, SHARED
from accumcheck.probing.reading import Matrix, Reading
from accumcheck.programs.laws import runs
from accumcheck.ranks.launch import Job, Readings, read
from accumcheck.task import OBJECTIVES, NotRepeatable, Objective, Sizes
from accumcheck.watching.limits import TIME_LIMIT


@dataclass(frozen=True)
class RankSizes(Sizes):
    """Sizes of all ranks together: ``micro_batch_size`` is the global micro-batch's, b·R.

    >>> str(RankSizes(samples=7, micro_batch_size=4, ranks=2))
    'n=7, b=2 on each of 2 ranks, k=1, epochs=2'
    """

    ranks: int = 1

    def __str__(self) -> str:
        b = f"{self.micro_batch_size // self.ranks} on each of {self.ranks} ranks"
        return f"n={self.samples}, b={b}, k={self.accumulation_steps}, epochs={self.epochs}"

    @classmethod
    def of(cls, sizes: Sizes, ranks: int) -> RankSizes:
        """From sizes whose micro-batch is a rank's."""
        return cls(sizes.samples, sizes.micro_batch_size * ranks, sizes.accumulation_steps, sizes.epochs, ranks)


def rank_sizes(ranks: int) -> tuple[Sizes, ...]:
    """What is probed on so many ranks: full windows, tails of 3 in 4 and of 5 in 8 micro-batches, a short last
    micro-batch that is spread evenly or unevenly, n < N, one and two epochs; and the smallest that can go wrong."""
    r = ranks
    return (
        Sizes(7 * r, 1, 4),
        Sizes(13 * r + 1, 2, 4),
        Sizes(8 * r, 1, 4),
        Sizes(11 * r, 2, 4),
        Sizes(3 * r + 1, 2, 4),
        Sizes(13 * r, 1, 8),
        Sizes(r, 1, 2, 1),
        Sizes(2 * r, 1, 2, 2),
        Sizes(r + 1, 2, 1, 1),
        Sizes(3 * r + 1, 2, 2, 1),
    )


def judge_replicas(
    targets: Sequence[str],
    ranks: int = 2,
    objectives: Sequence[Objective] = OBJECTIVES,
    *,
    seed: int = 0,
    time_limit: float = TIME_LIMIT,
) -> dict[str, tuple[Outcome, ...]]:
    """Run loops on ranks, all in one start; for each target, the outcomes in the order of ``objectives``.

    Raises ValueError for fewer ranks than one; LoopError when one of the loops raises, hangs, never steps, has no
    gradients, or does not repeat itself.
    """
    if isinstance(ranks, bool) or not isinstance(ranks, int) or ranks < 1:
        raise ValueError(f"ranks must be a whole number of at least 1, got {ranks!r}")
    sizes = rank_sizes(ranks)
    loops = tuple((target, each) for target in targets for each in objectives)
    readings = read(Job(loops, sizes, ranks, seed, time_limit))
    return {
        target: tuple(judge(each, [readings[target, each, size] for size in sizes]) for each in objectives)
        for target in targets
    }


def judge(objective: Objective, readings: Sequence[Readings]) -> Outcome:
    """The verdict on one loop, from its readings at all sizes; LoopError as ``judge_replicas``."""
    name = readings[0].own_small.loop
    for first, again in zip(readings[0].small, readings[0].again, strict=True):
        if (first.matrices, first.settings, first.shared) != (again.matrices, again.settings, again.shared):
            raise NotRepeatable(name, str(RankSizes.of(first.sizes, len(readings[0].small))))
    evidence = tuple(map(joint, readings))
    reasons = unseen(evidence)
    require_life(name, evidence, reasons=reasons)
    convention = common_convention(evidence)
    whole = Diagnosis(evidence, objective, reference_of(evidence, convention))
    apart = {e.sizes: found for e, r in zip(evidence, readings, strict=True) if (found := _apart(r, e, whole))}
    joined = tuple(e for e in evidence if e.sizes not in apart)
    diagnosis = replace(whole, evidence=joined)
    rest = diagnosis.findings if joined else []
    root = min(apart.values(), key=lambda f: (f.id == "unexplained", size_order(_sizes(f))), default=None)
    findings = [root, *(f for f in rest if f.id != "unexplained")] if root else rest
    outcome = replace(verdict(whole, findings, convention, reasons), example=evidence[0])
    if not findings:
        return outcome
    known = {e.sizes: e for e in evidence}
    witnesses = {f.id: known[f.sizes] for f in findings if f.sizes in known}
    shown = next((known[s] for s, f in apart.items() if f.id == findings[0].id), None)
    readable = sorted(joined, key=lambda e: (e.sizes.accumulation_steps == 1, size_order(e.sizes)))
    excerpts: dict[str, Excerpt | None] = {f.id: excerpt_for(f, readable, diagnosis) for f in findings if f is not root}
    if root:
        excerpts[root.id] = excerpt_of(root, known[_sizes(root)], whole.reference)
    return replace(
        outcome,
        excerpts={name: each for name, each in excerpts.items() if each},
        sites=readings[0].own_small.sites,
        explanations=() if apart else tuple(diagnosis.explanations),
        counterexample=witnesses.get(findings[0].id, evidence[0]),
        example=shown or pictured(joined, diagnosis, findings[0]),
        witnesses=witnesses,
    )


def joint(readings: Readings) -> Evidence:
    """All ranks as one loop, for ranks that step alike."""
    return Evidence(_pair(readings.small, readings.own_small), _pair(readings.large, readings.own_large))


def _pair(readings: Sequence[Reading], own: Reading) -> Pair:
    ranks, first = len(readings), readings[0]
    sizes = RankSizes.of(first.sizes, ranks)
    b, n = first.sizes.micro_batch_size, first.sizes.samples
    orders = [
        tuple(i for at in range(0, len(shares[0]), b) for each in shares for i in each[at : at + b])
        for shares in zip(*(reading.orders for reading in readings), strict=False)
    ]
    plain = all(order == tuple(range(len(order))) for order in orders)
    ours = replace(
        first,
        sizes=sizes,
        orders=() if plain else tuple(orders),
        dtypes=frozenset(dtype for reading in readings for dtype in reading.dtypes),
    )
    if ours.is_dead and not own.is_dead:  # steps before any exchange, as FSDP has them, are no updates
        ours = replace(ours, matrices={}, settings={}, shared=[], gradients={})
    # Samplers give ranks every R-th sample. Within a micro-batch of all ranks, the order is nobody's concern.
    theirs = own.orders or (tuple(range(n)),) * len(orders)
    if not plain and [_batches(o, b * ranks) for o in orders] == [_batches(o, b * ranks) for o in theirs]:
        own = replace(own, orders=ours.orders)
    return Pair(ours, own)


def _batches(order: Sequence[int], size: int) -> list[set[int]]:
    return [set(order[at : at + size]) for at in range(0, len(order), size)]


def _apart(readings: Readings, evidence: Evidence, diagnosis: Diagnosis) -> Finding | None:
    """Why ranks are not one loop at this size: they step apart, or do not share the data set."""
    pairs = (readings.small, evidence.small), (readings.large, evidence.large)
    for number, (ranks, pair) in enumerate(pairs):
        if found := unsynchronised(ranks, pair.due(pair.ours.kind, diagnosis.reference)):
            return replace(found, sizes=evidence.sizes, large=number > 0)
    if evidence.equals(diagnosis.reference):
        return None
    return next((replace(f, sizes=evidence.sizes) for ranks, _ in pairs if (f := drawn(ranks))), None)


def _sizes(finding: Finding) -> Sizes:
    assert finding.sizes is not None
    return finding.sizes


def drawn(readings: Sequence[Reading]) -> Finding | None:
    """What a sampler does where the ranks do not divide the data set: samples on several ranks, or on none."""
    n, matrix = readings[0].sizes.samples, readings[0].matrix
    for epoch, shares in enumerate(zip(*(reading.orders for reading in readings), strict=False)):
        times = Counter(sample for share in shares for sample in share)
        again = [i for i in range(n) if times[i] > 1]
        none = [i for i in range(n) if not times[i]]
        if again or 0 < len(none) < len(readings):  # who leaves an epoch early has left more
            law, samples, how = (
                ("unexplained", again, "more than once") if again else ("dropped-tail", none, "by no rank")
            )
            step = next((s for s, row in enumerate(matrix) if row[samples[0]]), None)
            what = f"sample {samples[0]} is" if len(samples) == 1 else f"samples {runs(samples)} are"
            text = f"in epoch {epoch}, {what} drawn {how}"
            return Finding(law, None, step, epoch, tuple(samples), slot="ranks", facts={"text": text})
    return None


def unsynchronised(readings: Sequence[Reading], due: Matrix) -> Finding | None:
    """The first update that two ranks make with different gradients or settings, or that only one of them makes.

    Gradients are equal to the bit where they have been exchanged; but not every exchange is DDP's.
    """
    found = [
        each
        for a, b in combinations(range(len(readings)), 2)
        for kind in KINDS
        if (each := _differ(readings, (a, b), kind, due))
    ]
    return min(found, key=lambda finding: finding.step or 0, default=None)


def _differ(readings: Sequence[Reading], pair: tuple[int, int], kind: str, due: Matrix) -> Finding | None:
    a, b = pair
    ours, theirs = readings[a], readings[b]
    rows, others = (r.shared if kind == SHARED else r.matrices.get(kind, []) for r in (ours, theirs))
    named = (kind,) if kind != ours.kind else ()
    law = "unsynchronised-replicas"
    for step in range(max(len(rows), len(others))):
        samples: tuple[int, ...] = ()
        weight = wanted = None
        facts: dict[str, object] = {}
        if step >= min(len(rows), len(others)):
            text = f"rank {a} makes {len(rows)} updates, rank {b} makes {len(others)}"
        elif same(rows[step : step + 1], others[step : step + 1], sums=kind == SHARED):
            mine, other = ours.settings[kind][step], theirs.settings[kind][step]
            name = next((n for n in mine if not close(mine[n], other.get(n, 0.0))), None)
            if name is None:
                continue
            what = "the learning rate" if name == "lr" else name
            text = f"in update {step}, {what} is {mine[name]:.6g} on rank {a} and {other[name]:.6g} on rank {b}"
        elif kind == SHARED:
            text = f"in update {step}, its gradient is not the same on ranks {a} and {b}"
        else:
            samples = tuple(i for i, each in enumerate(zip(rows[step], others[step], strict=True)) if not close(*each))
            i = samples[0]
            weight, wanted = exact(rows[step][i]), exact(due[step][i]) if step < len(due) else 0
            text = (
                f"in update {step}, the weight of sample {i} is {weight} on rank {a} and {exact(others[step][i])} "
                f"on rank {b}, it should be {wanted} on both"
            )
            facts = {"ranks apart": {f"rank {r}": tuple(map(exact, m[step])) for r, m in ((a, rows), (b, others))}}
        return Finding(
            law, step=step, samples=samples, weight=weight, due=wanted, kinds=named, facts={"text": text, **facts}
        )  # fmt: skip
    return None
