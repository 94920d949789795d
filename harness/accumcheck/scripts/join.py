"""The logs of several ranks as one: their micro-batches put together, as data-parallel training means them.

On each rank, a backward pass sends weights of its own samples; then ranks exchange gradients, in the backward pass as
DistributedDataParallel and FSDP do, or by a call of the script's own. How these put them together is read off: the
gradients at a step are the same on all ranks, and behind an exchange of the script's own they are the sum of those
before, or their mean.
"""

from __future__ import annotations

import pickle
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from accumcheck.numbers import close
from accumcheck.scripts.log import Batch, Exchange, Law, Log, Part, Pass, Update
from accumcheck.scripts.table import NEAR
from accumcheck.scripts.watch import HOOKED, RANKS, SHARDED

WAIT = 60.0  # seconds for other ranks to end, behind rank 0
SAME = 1e-4  # relative; how far gradients of two ranks, or a sum over them and what is made of it, may be apart


def save(log: Log, path: Path) -> None:
    """Write the log of one rank, at once."""
    for batch in log.batches:
        batch.tensors = []
    partial = path.with_suffix(".partial")
    partial.write_bytes(pickle.dumps(log))
    partial.replace(path)


def load(path: Path) -> Log:
    """The log of one rank."""
    log: Log = pickle.loads(path.read_bytes())
    return log


def gathered(log: Log, folder: Path, ranks: int) -> tuple[Log, str | None]:
    """The log of all ranks, where this is rank 0's and others leave theirs in ``folder``; and how the script failed."""
    paths = [folder / f"rank-{rank}" for rank in range(1, ranks)]
    until = time.monotonic() + WAIT
    while not all(path.exists() for path in paths) and time.monotonic() < until:
        time.sleep(0.05)
    missing = [path.name for path in paths if not path.exists()]
    logs = [log, *(load(path) for path in paths if path.exists())]
    errors = [f"on rank {rank}, {each.error}" for rank, each in enumerate(logs) if each.error]
    own = [error for error in errors if "by peer" not in error]  # as gloo says of a rank that is gone
    whole = joined(logs)
    if missing:
        whole.doubts.append(f"{missing[0]} left no record of its run")
    return whole, next(iter(own or errors), None)


def joined(logs: Sequence[Log]) -> Log:
    """One log of all ranks; its ``doubts`` say why they could not be put together, if so."""
    first = logs[0]
    whole = replace(first, facts=_facts(logs), ranks=len(logs), exchanges=[], notes=[], doubts=[*first.doubts])
    unlike = next(_unlike(logs), None)
    if unlike is not None:
        whole.doubts.append(unlike)
        return whole
    batches = _batches(logs, whole)
    whole.batches = list(dict.fromkeys(batches.values()))
    whole.passes = [_pass(each, batches) for each in zip(*(log.passes for log in logs), strict=True)]
    factors = [_summed([log.exchanges[number] for log in logs]) for number in range(len(first.exchanges))]
    if HOOKED in whole.facts:
        whole.doubts.append("a communication hook changes how ranks put their gradients together")
    whole.updates = [_update([log.updates[step] for log in logs], factors, whole) for step in range(len(first.updates))]
    _evened(logs, whole)
    _drawn_twice(logs, whole)
    if whole.facts[SHARDED]:
        whole.notes.append("ranks hold shards of gradients, which are taken for means over ranks, as FSDP makes them")
    elif any(not number for update in whole.updates for number in update.exchanged.values()):
        whole.notes.append("gradients are taken for means over ranks, as DistributedDataParallel makes them")
    return whole


def _facts(logs: Sequence[Log]) -> Counter[str]:
    facts: Counter[str] = Counter()
    for log in logs:
        facts |= log.facts
    del facts[RANKS]
    return facts


def _unlike(logs: Sequence[Log]) -> Iterator[str]:
    """What ranks do differently, so that their logs cannot be laid over each other."""
    for what, counts in (
        ("optimizers", [len(log.optimizers) for log in logs]),
        ("optimizer steps", [len(log.updates) for log in logs]),
        ("backward passes", [len(log.passes) for log in logs]),
        ("exchanges of gradients", [len(log.exchanges) for log in logs]),
    ):
        if len(set(counts)) > 1:
            yield f"ranks make unequal numbers of {what}: {', '.join(map(str, counts))}"
    for each in zip(*(log.passes for log in logs), strict=False):
        if len({tuple(part.term for part in one.parts) for one in each}) > 1:
            yield f"in backward pass {each[0].number}, ranks have different loss terms"
        places = [(part.batch.loader, part.batch.epoch, part.batch.place) for part in each[0].parts]
        for one in each[1:]:
            if [(part.batch.loader, part.batch.epoch, part.batch.place) for part in one.parts] != places:
                yield f"in backward pass {each[0].number}, ranks are at different places in the epoch"
    for updates in zip(*(log.updates for log in logs), strict=False):
        if len({(u.optimizer, tuple(sorted(u.factors)), u.since, tuple(u.exchanged.values())) for u in updates}) > 1:
            yield "ranks step after different micro-batches"


def _batches(logs: Sequence[Log], whole: Log) -> dict[Batch, Batch]:
    """The joined micro-batch of each rank's own."""
    found: dict[Batch, Batch] = {}
    mine = [{(b.loader, *b.key): b for b in log.batches} for log in logs]
    for key, batch in mine[0].items():
        each = [one[key] for one in mine if key in one]
        if len(each) < len(logs):
            whole.doubts.append(f"ranks draw unequal numbers of micro-batches: one of epoch {batch.epoch} is missing")
        counts = tuple(map(sum, zip(*(one.counts for one in each), strict=False)))
        samples = tuple(sample for one in each for sample in one.samples)
        put = replace(batch, rows=sum(one.rows for one in each), counts=counts, samples=samples)
        found.update(dict.fromkeys(each, put))
    return found


def _pass(each: Sequence[Pass], batches: dict[Batch, Batch]) -> Pass:
    """One backward pass of all ranks; weights are as if gradients were averaged over ranks."""
    parts = []
    for same in zip(*(one.parts for one in each), strict=True):
        held = batches.get(same[0].batch, same[0].batch)
        part = replace(
            same[0],
            batch=held,
            units=tuple(u for one in same for u in one.units),
            weights=tuple(w / len(same) for one in same for w in one.weights),
            even=all(one.even for one in same),
        )
        parts.append(part)
    return replace(each[0], parts=tuple(parts), opaque=next((one.opaque for one in each if one.opaque), ""))


LAWS: tuple[Law, ...] = ("token", "sample")


def _counted(part: Part, law: Law) -> list[float]:
    return [float(bool(u)) for u in part.units] if law == "sample" else list(part.units)


def _evened(logs: Sequence[Log], whole: Log) -> None:
    """Give units the weights that they would have if ranks of unequal shares did not count the same; note where.

    Each rank may take the mean of its own part of a micro-batch, or of its own part of a window.
    """
    groups = [(each.number,) for each in whole.passes] + [update.since for update in whole.updates]
    for numbers in groups:
        for place, part in enumerate(whole.passes[numbers[0]].parts if numbers else ()):
            if all(len(whole.passes[n].parts) > place for n in numbers):
                for law in LAWS:
                    _even(logs, whole, numbers, place, law, part.term)


def _even(logs: Sequence[Log], whole: Log, numbers: Sequence[int], place: int, law: Law, term: str) -> None:
    ranks = [[log.passes[n].parts[place] for n in numbers] for log in logs]
    totals = [sum(part.total for part in each) for each in ranks]
    held = [sum(sum(_counted(part, law)) for part in each) for each in ranks]
    if not all(held) or not all(close(t, totals[0], NEAR) for t in totals) or all(close(h, held[0]) for h in held):
        return
    if law == "token" and not all(part.even for each in ranks for part in each):
        return
    found = []
    for index, n in enumerate(numbers):
        weights: list[float] = []
        units: list[float] = []
        for each, count in zip(ranks, held, strict=True):
            weights += [w * count / sum(held) for w in each[index].weights]
            units += _counted(each[index], law)
        each_unit = [w / u for w, u in zip(weights, units, strict=True) if u]
        if not all(close(w, each_unit[0], NEAR) for w in each_unit):
            return
        found.append((n, tuple(weights)))
    for n, new in found:
        parts = list(whole.passes[n].parts)
        parts[place] = replace(parts[place], weights=new)
        whole.passes[n] = replace(whole.passes[n], parts=tuple(parts))
    batch = whole.passes[numbers[0]].parts[place].batch
    what = "micro-batch" if len(numbers) == 1 else "the window that begins with micro-batch"
    shares = " and ".join(f"{number:g}" for number in held)
    whole.uneven.setdefault(
        (term, law),
        f"in {what} {batch.place} of epoch {batch.epoch}, ranks hold {shares} {law}s, and the mean of each rank "
        "counts the same",
    )


def _summed(each: Sequence[Exchange]) -> float | None:
    """What an exchange multiplies the sum over ranks with: 1, or one over their number; None if neither."""
    if len({one.before.shape for one in each}) > 1:
        return None
    before = torch.stack([one.before for one in each]).sum(0)
    for factor in (1.0, 1 / len(each)):
        if all(_near(one.after, factor * before) for one in each):
            return factor
    return None


def _near(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    size = torch.maximum(ours.abs().amax(1), theirs.abs().amax(1))
    return bool(((ours - theirs).abs().amax(1) <= SAME * size).all())


def _update(each: Sequence[Update], factors: Sequence[float | None], whole: Log) -> Update:
    """One optimizer step of all ranks; a factor of 1 means that gradients were averaged over ranks."""
    ranks = len(each)
    put: dict[int, float] = {}
    unknown = False
    for number, factor in each[0].factors.items():
        seen = [factors[exchange] for exchange in each[0].exchanged.get(number, ())]
        unknown |= None in seen
        known = [f for f in seen if f is not None]
        # The first exchange adds up what ranks have; all later ones, what is the same on all of them.
        put[number] = factor
        for f in known:
            put[number] *= f * ranks
        unknown |= not all(close(one.factors[number], factor, NEAR) for one in each)
    apart = any(not all(map(close, one.rates, each[0].rates)) for one in each)
    if not whole.facts[SHARDED] and all(one.values is not None for one in each):
        values = [one.values for one in each if one.values is not None]
        apart |= any(v.shape != values[0].shape or not _near(v, values[0]) for v in values)
    return replace(
        each[0], factors=put, apart=apart, values=None, changed=unknown or any(one.changed for one in each),
        spread=any(one.spread for one in each), clipped=any(one.clipped for one in each),
    )  # fmt: skip


def _drawn_twice(logs: Sequence[Log], whole: Log) -> None:
    """Do ranks draw the same samples?"""
    epochs: dict[tuple[int, int], list[list[int]]] = {}
    for rank, log in enumerate(logs):
        for batch in log.batches:
            if batch.samples:
                drawn = epochs.setdefault((batch.loader, batch.epoch), [[] for _ in logs])
                drawn[rank] += batch.samples
    for drawn in epochs.values():
        several = [set(each) for each in drawn]
        twice = sum(map(len, several)) - len(set.union(*several))
        if len(logs) > 1 and all(each == several[0] for each in several):
            whole.doubts.append("all ranks draw the same samples: DistributedSampler gives each rank its own")
            return
        if twice:
            whole.notes.append(
                f"{twice} of the samples in an epoch go to more than one rank, as DistributedSampler makes it "
                "where ranks do not divide the data set; a full batch draws each once"
            )
            return
    if not epochs:
        whole.notes.append("ranks draw different samples (no sampler was seen that tells)")
