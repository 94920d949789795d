"""The verdict on a data-parallel loop: do all ranks step alike, and is what they make together the full batch?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

from harness.diagnose import Probed, Suspicion, diagnose
from harness.findings import LAWS, runs
from harness.probe import TIME_LIMIT, Reading, exact
from harness.replicas import Job, Readings, read
from harness.search import Outcome, common_policy, merge, require_life
from harness.shares import close, evened, joined, scaled, total
from harness.task import OBJECTIVES, LoopError, Objective, Sizes


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
        target: tuple(judge(each, [readings[target, each, size] for size in sizes], sizes) for each in objectives)
        for target in targets
    }


def judge(objective: Objective, readings: Sequence[Readings], sizes: tuple[Sizes, ...]) -> Outcome:
    """The verdict on one loop, from its readings at all ``sizes``; LoopError as ``judge_replicas``."""
    name = readings[0].own_low.loop
    for first, again in zip(readings[0].low, readings[0].again, strict=True):
        if (first.matrix, first.learning_rates) != (again.matrix, again.learning_rates):
            error = LoopError(
                f"{name} does not repeat itself under one seed, at {sizes[0]}: {LAWS['nondeterministic'].fix}"
            )
            error.finding = "nondeterministic"
            raise error
    factor = over_ranks(readings)
    examined = {probed.sizes: (probed, found) for probed, found in (examine(each, factor) for each in readings)}
    probes = {each: probed for each, (probed, _) in examined.items()}
    require_life(name, list(probes.values()))
    findings = merge({each: found for each, (_, found) in examined.items()}, lambda _: "look at the sampler")
    root = findings[0] if findings else None
    return Outcome(
        objective,
        "diverges" if findings else "equivalent",
        tuple(findings),
        probes[root.sizes] if root and root.sizes else None,
        sizes,
        policy=common_policy(list(probes.values())) if findings else "",
        plain=all(probed.plain for probed in probes.values()),
        example=next(p for each, p in probes.items() if not root or any(root.id in s.ids for s in examined[each][1])),
        witnesses={f.id: probes[f.sizes] for f in findings if f.sizes},
    )


def over_ranks(readings: Sequence[Readings]) -> float:
    """R or 1/R, where every full window goes in with so many times the weight that one rank alone gives it; else 1."""
    ranks = len(readings[0].low)
    factors = [
        total(each.low[0]) / total(each.own_low)
        for each in readings
        if each.own_low.sizes.samples >= each.own_low.sizes.effective_batch_size and total(each.own_low)
    ]
    return next((f for f in (ranks, 1 / ranks) if factors and all(close(f, each) for each in factors)), 1.0)


def examine(readings: Readings, factor: float = 1.0) -> tuple[Probed, list[Suspicion]]:
    """What ranks show at one size: readings of them all as one loop, and the laws that are broken.

    ``factor`` is what full windows are multiplied by on these ranks, at all sizes.
    """
    ranks = len(readings.low)
    own_low, own_high = readings.own_low, readings.own_high
    probed = Probed(joined(readings.low), own_low, joined(readings.high), own_high)
    for each, due in ((readings.low, probed.due), (readings.high, own_high.matrix)):
        if found := unsynchronised(each, due):
            return probed, [found]
    if probed.equivalent or ranks == 1:
        return probed, diagnose(probed)
    if repeated := _repeated(readings.low):
        names = f"sample{'s' * (len(repeated) > 1)} {runs(repeated)}"
        text = f"ranks see {names} more than once in an epoch: a sampler gives them equally many by repeating some"
        step = next((s for s, row in enumerate(probed.low.matrix) if row[repeated[0]]), None)
        return probed, [Suspicion(("unexplained",), text, step, tuple(repeated), is_root=True)]
    suspicions = []
    low, high = (scaled(each, 1 / factor) for each in (probed.low, probed.high))
    if not close(factor, 1.0):
        name, text = (
            ("unscaled-loss", f"{ranks} times its mean: an all-reduce sums, nothing divides by the world size")
            if factor > 1
            else (
                "over-scaled-loss",
                f"1/{ranks} of its mean: ranks are averaged as well, so multiply by the world size",
            )
        )
        samples = tuple(i for i, weight in enumerate(low.matrix[0]) if weight)
        suspicions.append(Suspicion((name,), f"the window goes in with {text}", 0, samples, factor))
    even, found = evened(low, readings.low)
    if found is None:
        return probed, suspicions + _diagnosed(Probed(low, own_low, high, own_high))
    if all(close(*pair) for rows in zip(low.shared, low.implied, strict=True) for pair in zip(*rows, strict=True)):
        even = replace(even, shared=own_low.shared, implied=own_low.shared)  # they go with the matrix
    # Clipping goes by the norm of what is uneven, weights within a rank by what else it holds: even sizes show both.
    rest = _diagnosed(Probed(even, own_low, even, own_low))
    return probed, [*suspicions, found, *(s for s in rest if s.ids != ("unexplained",))]


def _repeated(readings: Sequence[Reading]) -> list[int]:
    """Samples that ranks see more than once in an epoch, if they see others once."""
    seen = Counter(i for reading in readings for contribution in reading.contributions for i in contribution.samples)
    epochs = readings[0].sizes.epochs
    return sorted(i for i, times in seen.items() if times > epochs >= min(seen.values()))


def _diagnosed(probed: Probed) -> list[Suspicion]:
    """As ``diagnose``; but an update without any gradient may be one that has not been exchanged yet, as under FSDP."""
    if any(weight for row in probed.low.matrix for weight in row):
        return diagnose(probed)
    later = ("gradients-lost", "carried-tail")
    text = "the update is made without any gradient"
    return [replace(s, ids=later, text=text) if s.ids == later[:1] else s for s in diagnose(probed)]


def unsynchronised(readings: Sequence[Reading], due: Sequence[Sequence[float]]) -> Suspicion | None:
    """The first step that two ranks make with different gradients, or learning rates; or not both.

    Gradients are equal to the bit where they have been exchanged; but not every exchange is DDP's.
    """
    name = ("unsynchronised-replicas",)
    for step in range(max(len(reading.matrix) for reading in readings)):
        for (a, ours), (b, theirs) in combinations(enumerate(readings), 2):
            counts = len(ours.matrix), len(theirs.matrix)
            if step >= min(counts):
                text = f"rank {a} makes {counts[0]} optimizer steps, rank {b} makes {counts[1]}"
                return Suspicion(name, text, step)
            pairs = list(zip(ours.matrix[step], theirs.matrix[step], strict=True))
            if wrong := [i for i, pair in enumerate(pairs) if not close(*pair)]:
                i = wrong[0]
                weights = [str(exact(weight)) for weight in pairs[i]]
                text = (
                    f"sample {i} goes into the update of rank {a} with weight {weights[0]}, "
                    f"into that of rank {b} with {weights[1]}"
                )
                owed = due[step][i] if step < len(due) else 0.0
                return Suspicion(name, text, step, tuple(wrong), pairs[i][0] / owed if owed else None)
            shared = zip(ours.shared[step], theirs.shared[step], strict=True)
            if any(not close(*pair, abs(max(ours.shared[step], key=abs))) for pair in shared):
                text = f"the gradient of parameters that samples share is another on rank {a} than on rank {b}"
                return Suspicion(name, text, step)
            rates = ours.learning_rates[step], theirs.learning_rates[step]
            if not close(*rates):
                return Suspicion(
                    name, f"the learning rate is {rates[0]:.6g} on rank {a}, {rates[1]:.6g} on rank {b}", step
                )
    return None
