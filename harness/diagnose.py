"""From contribution matrices to causes: which laws a loop breaks, read off where its weights went and when it stepped.

Nothing here is a threshold on a symptom: a cause is named where steps and weights are just those that it makes, at
that size. Where two causes make the same ones, both are suspected; other sizes tell them apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import pairwise

import torch

from harness.contributions import window_mean
from harness.findings import runs
from harness.probe import DECAY, Reading, Row, exact
from harness.task import Sizes

EXACT = 1e-6  # relative; a loop may compute its loss in float32
ROUNDED = 2.0**-6  # relative; twice the unit in the last place of bfloat16
TINY = 1e-12  # a weight that is rounding
MIXED = 0.05  # of a gradient of length 1; a window's other samples turn it by far more than bfloat16 does

MicroBatch = tuple[int, int]  # epoch, place in the epoch


@dataclass(frozen=True)
class Suspicion:
    """A broken law, or several that this size cannot tell apart, with the witness; see ``findings.Finding``."""

    ids: tuple[str, ...]
    text: str
    step: int | None = None
    samples: tuple[int, ...] = ()
    ratio: float | None = None
    is_root: bool = False  # before all others, though its rank is low


@dataclass(frozen=True)
class Probed:
    """All readings of a loop at one size: micro-batches and the loop's own full batch, at a low and at a high gain.

    At the high gain fewer epochs may do.
    """

    low: Reading
    own_low: Reading
    high: Reading
    own_high: Reading

    @property
    def sizes(self) -> Sizes:
        """Of the run with micro-batches."""
        return self.low.sizes

    @cached_property
    def due(self) -> list[Row]:
        """The weights that are due: of the loop's own full batch if it trains by windows, else the window mean."""
        return self.own_low.matrix if _by_windows(self.own_low) else self.mean

    @cached_property
    def mean(self) -> list[Row]:
        """The window mean."""
        return _mean(self.low)

    @cached_property
    def equivalent(self) -> bool:
        """Whether matrix, shared parameters and learning rates are those of full-batch training."""
        return self.vacuous or (
            not (self.coupled or self.wrong_rates)
            and all(right(reading, own) for reading, own in ((self.low, self.own_low), (self.high, self.own_high)))
        )

    @cached_property
    def plain(self) -> bool:
        """Whether the loop's own full batch is the window mean: no sum in place of a mean, nothing clipped."""
        return all(_same(own.matrix, _mean(own)) and right(own, own) for own in (self.own_low, self.own_high))

    @cached_property
    def vacuous(self) -> bool:
        """Whether no backward pass sends anything, at this size: two dead runs agree, which proves nothing."""
        readings = (self.low, self.own_low)
        return not any(abs(w) > TINY for r in readings for c in r.contributions for w in c.weights) and any(
            reading.matrix for reading in readings
        )

    @cached_property
    def coupled(self) -> list[int]:
        """Samples whose gradient points elsewhere than in the full batch, or is there only."""
        ours, theirs = self.low.directions, self.own_low.directions
        turned = ((ours - theirs).norm(dim=1) > MIXED) & (ours.norm(dim=1) > 0) & (theirs.norm(dim=1) > 0)
        sent = torch.zeros(len(ours))
        for contribution in self.low.contributions:
            for sample, weight in zip(contribution.samples, contribution.weights, strict=True):
                sent[sample] += abs(weight) > TINY
        seen = {sample for contribution in self.low.contributions for sample in contribution.samples}
        vanished = (sent == 0) & (theirs.norm(dim=1) > 0)
        return [i for i in range(len(ours)) if turned[i] or (vanished[i] and i in seen)]

    @cached_property
    def wrong_rates(self) -> list[int]:
        """Steps whose learning rate is not that of the full batch's step of the same number."""
        pairs = zip(self.low.learning_rates, self.own_low.learning_rates, strict=False)
        wrong = [s for s, (ours, theirs) in enumerate(pairs) if not _close(ours, theirs)]
        return [] if wrong and self._rates_go_by_epoch else wrong

    @property
    def _rates_go_by_epoch(self) -> bool:
        """A schedule by epochs is no schedule by micro-batches, even if windows are wrong."""
        due = len(self.sizes.window_lengths()) // self.sizes.epochs
        own = self.own_low.learning_rates
        if len(own) != due * self.sizes.epochs or len(self.low.matrix) == len(own):
            return False
        by_epoch = own[::due]
        epochs = Anatomy(self.low).epochs
        return all(_close(rate, by_epoch[e // due]) for e, rate in enumerate(own)) and all(
            epoch is None or _close(rate, by_epoch[min(epoch, len(by_epoch) - 1)])
            for epoch, rate in zip(epochs, self.low.learning_rates, strict=True)
        )


def right(reading: Reading, own: Reading) -> bool:
    """Whether a matrix is the window mean, or that of the loop's own full batch where this trains by windows."""
    if _same(reading.matrix, _mean(reading)) and _same(reading.shared, reading.implied, 1.0):
        return True
    return _by_windows(own) and _same(reading.matrix, own.matrix) and _same(reading.shared, own.shared, 1.0)


def diagnose(probed: Probed) -> list[Suspicion]:
    """The laws that a loop breaks at one size, in no order; none if it is equivalent there.

    >>> from harness.loops import published_fix
    >>> from harness.probe import HIGH, probe
    >>> sizes = Sizes(samples=7, accumulation_steps=4)
    >>> readings = [probe(published_fix, s, gain=g) for g in (2.0**-10, HIGH) for s in (sizes, sizes.full_batch())]
    >>> for suspicion in diagnose(Probed(*readings)):
    ...     print(suspicion.ids, suspicion.text)
    ('tail-scaled-by-k',) the window of micro-batches 4 to 6 is divided by k=4, not by its own 3
    """
    if probed.equivalent:
        return []
    if probed.coupled:
        text = "their gradients have other directions in micro-batches than in the full batch"
        return [Suspicion(("batch-coupled",), text, 0, tuple(probed.coupled))]
    low = probed.low
    found: list[Suspicion] = []
    if not right(low, probed.own_low):
        anatomy = Anatomy(low)
        if _by_windows(low, weights=True) and _by_windows(probed.own_low):
            step = next(s for s, (a, b) in enumerate(zip(low.matrix, probed.due, strict=True)) if not _same([a], [b]))
            got, due = (tuple(i for i, w in enumerate(m[step]) if w) for m in (low.matrix, probed.due))
            if got != due:
                text = f"the update is made of samples {runs(got)}, in the full batch of samples {runs(due)}"
                return [Suspicion(("sample-order",), text, step, got)]
        found += [*_partition(anatomy), *_resets(anatomy), *_weights(anatomy, probed), *_partial(anatomy)]
        if all(s.ids == ("unexplained",) for s in found) and _same(low.matrix, probed.due, 0.0, ROUNDED):
            found = [_rounded(anatomy, probed.due)]
        if not found:
            found.append(Suspicion(("unexplained",), "the matrix differs from the window mean", *_witness(probed)))
    if not any("clipped-per-micro-batch" in s.ids for s in found):
        found += _clipped(probed, otherwise_right=not found)
    return found + _schedule(probed)


@dataclass(frozen=True)
class Piece:
    """The part of a micro-batch that went into one step's gradient, by sample."""

    micro_batch: MicroBatch
    step: int
    weights: dict[int, float]


@dataclass
class Anatomy:
    """When micro-batches were differentiated, and from where on each step's gradient was gathered."""

    reading: Reading
    pieces: list[Piece] = field(init=False)
    starts: list[int | None] = field(init=False)  # per step, its first piece; None where no sum of pieces fits
    scales: list[float] = field(init=False)  # per step, of the gradient over its pieces

    def __post_init__(self) -> None:
        self.pieces = list(_pieces(self.reading))
        fits = [self._fit(step) for step in range(len(self.reading.matrix))]
        self.starts = [start for start, _ in fits]
        self.scales = [scale for _, scale in fits]

    @property
    def sizes(self) -> Sizes:
        """Of the run."""
        return self.reading.sizes

    @cached_property
    def bounds(self) -> list[tuple[int, int]]:
        """Per step, its own pieces, those since the step before; at the end, those that no step has used."""
        steps = range(len(self.reading.matrix) + 1)
        counts = [sum(piece.step < step for piece in self.pieces) for step in [*steps, len(steps)]]
        return list(pairwise(counts))

    def own(self, step: int) -> list[Piece]:
        """The step's own pieces."""
        return self.pieces[slice(*self.bounds[step])]

    def lost(self, step: int) -> list[Piece]:
        """Own pieces that were cleared before the step."""
        first, end = self.bounds[step]
        start = self.starts[step]
        return self.pieces[first : min(start, end)] if start is not None else []

    def leaked(self, step: int) -> list[Piece]:
        """Pieces of earlier steps that are in the gradient still."""
        start = self.starts[step]
        return self.pieces[start : self.bounds[step][0]] if start is not None else []

    @cached_property
    def windows(self) -> list[list[MicroBatch]]:
        """Per step, the micro-batches gathered since the step before; in the end those that no step has used.

        Left out is what a later epoch has cleared: it was dropped, not lost.
        """
        windows = []
        for step in range(len(self.bounds)):
            own = self.own(step)
            dropped = self.lost(step) if step < len(self.starts) and self.drops(step) else []
            windows.append(_unique(piece.micro_batch for piece in own if piece not in dropped))
        return windows

    def drops(self, step: int) -> bool:
        """Whether all that was cleared before a step is of an earlier epoch than what went into it."""
        lost = self.lost(step)
        kept = self.own(step)[len(lost) :]
        return bool(lost and kept) and lost[-1].micro_batch[0] < kept[0].micro_batch[0]

    @property
    def epochs(self) -> list[int | None]:
        """Per step, the epoch of its last own piece."""
        return [own[-1].micro_batch[0] if (own := self.own(s)) else None for s in range(len(self.starts))]

    def due(self) -> list[list[MicroBatch]]:
        """The windows of full-batch training."""
        k, count = self.sizes.accumulation_steps, self.sizes.micro_batches
        return [
            [(epoch, place) for place in range(start, min(start + k, count))]
            for epoch in range(self.sizes.epochs)
            for start in range(0, count, k)
        ]

    def is_full(self, window: Sequence[MicroBatch]) -> bool:
        """Whether a window holds N samples in k micro-batches."""
        return len(window) == self.sizes.accumulation_steps and self.samples(window) == self.sizes.effective_batch_size

    def samples(self, window: Sequence[MicroBatch]) -> int:
        """Samples in a window."""
        n, b = self.sizes.samples, self.sizes.micro_batch_size
        return sum(min(n, (place + 1) * b) - place * b for _, place in window)

    def _fit(self, step: int) -> tuple[int | None, float]:
        """From which piece on the gradient is the sum of pieces; plainly, or all of it scaled."""
        row = self.reading.matrix[step]
        first, end = self.bounds[step]
        sums: dict[int, Row] = {end: [0.0] * len(row)}
        for place in range(end - 1, -1, -1):
            total = list(sums[place + 1])
            for sample, weight in self.pieces[place].weights.items():
                total[sample] += weight
            sums[place] = total
        places = sorted(range(end + 1), key=lambda place: (abs(place - first), place))
        for place in places:
            if _same([row], [sums[place]]):
                return place, 1.0
        begins = {begin for begin, _ in self.bounds[: step + 1]}
        for place in [first, *(place for place in places if place > first or place in begins)]:
            if (scale := _scale(row, sums[place])) is not None:
                return place, scale
        return None, 1.0


def _pieces(reading: Reading) -> Iterable[Piece]:
    """Contributions cut where a micro-batch ends; samples come in order, so a smaller number starts an epoch."""
    epoch, last = 0, -1
    open_piece: Piece | None = None
    for contribution in reading.contributions:
        for sample, weight in zip(contribution.samples, contribution.weights, strict=True):
            epoch += sample <= last
            last = sample
            micro_batch = (epoch, sample // reading.sizes.micro_batch_size)
            if open_piece is None or (open_piece.micro_batch, open_piece.step) != (micro_batch, contribution.step):
                if open_piece is not None:
                    yield open_piece
                open_piece = Piece(micro_batch, contribution.step, {})
            open_piece.weights[sample] = weight
    if open_piece is not None:
        yield open_piece


def _partition(anatomy: Anatomy) -> list[Suspicion]:
    """Are micro-batches gathered into the windows that are due?"""
    k, count = anatomy.sizes.accumulation_steps, anatomy.sizes.micro_batches
    *got, left = anatomy.windows
    due = anatomy.due()
    if got == due and not left:
        return []
    tails = [window for window in due if not anatomy.is_full(window)]
    ids = []
    in_order = [micro_batch for window in got for micro_batch in window] == [m for window in due for m in window]
    if k > 1 and count > 1 and in_order and not left and all(len(window) == 1 for window in got):
        ids.append("step-per-micro-batch")
    # Before what was cleared is left out: the gate is seen from all that was gathered.
    gathered = [_unique(piece.micro_batch for piece in anatomy.own(step)) for step in range(len(anatomy.bounds))]
    if k > 1 and count > 1 and _starts_early(gathered, k, count):
        ids.append("early-first-step")
    full_at = [due.index(window) for window in due if window not in tails]
    kept = [window for window in got if not any(set(window) < set(tail) for tail in tails)]
    if (
        in_order
        and not left
        and tails
        and kept == [w for w in due if w not in tails or w in got]
        and len(got) > len(due)
    ):
        ids.append("split-tail")
    if not ids:
        first_epoch = [due[place] for place in full_at if due[place][0][0] == 0]
        mixed = [window for window in got if len({epoch for epoch, _ in window}) > 1]
        if mixed and got[: len(first_epoch)] == first_epoch:
            ids.append("carried-tail")
        elif _drops_tails(got, left, due, tails):
            ids.append("dropped-tail")
            if left and not any(_cleared(anatomy, tail, left) for tail in tails):
                ids.append("carried-tail")
    suspicion = _as_partition(anatomy, tuple(ids or ["unexplained"]), got, left, due)
    return [suspicion if ids else replace(suspicion, is_root=True)]


def _starts_early(got: list[list[MicroBatch]], k: int, count: int) -> bool:
    """Steps after micro-batches 0, k, 2k … of the first epoch; what comes at its end is another matter."""
    if got[0] != [(0, 0)]:
        return False
    for number, start in enumerate(range(1, count, k), start=1):
        expected = [(0, place) for place in range(start, min(start + k, count))]
        if number >= len(got) or [m for m in got[number] if m[0] == 0] != expected:
            return False
    return True


def _drops_tails(
    got: list[list[MicroBatch]], left: list[MicroBatch], due: list[list[MicroBatch]], tails: list[list[MicroBatch]]
) -> bool:
    """Whether all windows are as due, but for tails that miss some micro-batches, or all."""
    rest = list(got)
    missing = False
    for window in due:
        if rest and rest[0] == window:
            rest.pop(0)
        elif window in tails:
            missing = True
            if rest and set(rest[0]) < set(window):
                rest.pop(0)
        else:
            return False
    return missing and not rest and all(any(m in tail for tail in tails) for m in left)


def _cleared(anatomy: Anatomy, tail: list[MicroBatch], left: list[MicroBatch]) -> bool:
    """Whether a tail has gone though it is not what was left at the very end."""
    return tail[-1] not in left and not any(tail[-1] in window for window in anatomy.windows)


def _as_partition(
    anatomy: Anatomy,
    ids: tuple[str, ...],
    got: list[list[MicroBatch]],
    left: list[MicroBatch],
    due: list[list[MicroBatch]],
) -> Suspicion:
    """The witness: the first window that is not as due."""
    k = anatomy.sizes.accumulation_steps
    if "dropped-tail" in ids or "carried-tail" in ids:
        seen = [m for window in got for m in window]
        if "carried-tail" in ids and (mixed := [w for w in got if len({e for e, _ in w}) > 1]):
            step, window = got.index(mixed[0]), mixed[0]
            epochs = sorted({epoch for epoch, _ in window})
            parts = " and ".join(f"{_names([m for m in window if m[0] == e])} of epoch {e}" for e in epochs)
            return Suspicion(ids, f"one update is made of {parts}", step, _samples(anatomy, window))
        gone = next([m for m in window if m not in seen] for window in due if any(m not in seen for m in window))
        text = f"{_names(gone)} of epoch {gone[0][0]} went into no update"
        return Suspicion(ids, text, None, _samples(anatomy, gone), 0.0)
    step = next(
        (s for s, pair in enumerate(zip(got, due, strict=False)) if pair[0] != pair[1]), min(len(got), len(due))
    )
    if step >= len(got):
        rest = f"; {_names(left)} went into none" if left else ""
        return Suspicion(ids, f"{len(got)} optimizer steps were made, {len(due)} are due{rest}")
    window = got[step]
    if not window:
        return Suspicion(ids, "an optimizer step was made with no micro-batch since the one before", step)
    wanted = _names(due[step]) if step < len(due) else "nothing"
    text = f"the update is made of {_names(window)}, not of {wanted} (k={k})"
    return Suspicion(ids, text, step, _samples(anatomy, window))


def _resets(anatomy: Anatomy) -> list[Suspicion]:
    """Does each step's gradient start where the step before ended?"""
    found = []
    for step in range(len(anatomy.starts)):
        lost = anatomy.lost(step)
        if lost and not anatomy.drops(step):
            names = _names([piece.micro_batch for piece in lost])
            text = f"the gradient of {names} was cleared before the update"
            found.append(Suspicion(("gradients-lost",), text, step, _of(lost), 0.0))
            break
    for step in range(len(anatomy.starts)):
        if leaked := anatomy.leaked(step):
            text = f"the update still holds {_names([p.micro_batch for p in leaked])} of earlier updates"
            found.append(Suspicion(("gradients-not-reset",), text, step, _of(leaked)))
            break
    return found


def _partial(anatomy: Anatomy) -> list[Suspicion]:
    """Was the gradient changed while it was gathered?"""
    for step, start in enumerate(anatomy.starts):
        own = anatomy.own(step)
        if start is not None or not own:
            continue
        shares = _shares(anatomy, step)
        if shares is None:
            continue
        if all(abs(share - 1) <= ROUNDED for share in shares):
            text = f"weights are off by up to {max(abs(share - 1) for share in shares):.1e}, as rounding would have it"
            return [Suspicion(("low-precision-accumulation",), text, step, _of(own))]
        if all(a <= b * (1 + EXACT) for a, b in pairwise(shares)) and shares[0] > 0:
            text = (
                f"of {_names([p.micro_batch for p in own])}, "
                f"{', '.join(f'{share:.3g}' for share in shares)} of the gradient have reached the update"
            )
            return [Suspicion(("clipped-per-micro-batch",), text, step, _of(own), shares[0])]
    return []


def _shares(anatomy: Anatomy, step: int) -> list[float] | None:
    """What is left in the gradient of each of a step's pieces; None where a piece was not changed as a whole."""
    row = anatomy.reading.matrix[step]
    shares = []
    for piece in anatomy.own(step):
        parts = [row[sample] / weight for sample, weight in piece.weights.items() if weight]
        if not parts or any(abs(part - parts[0]) > ROUNDED * abs(parts[0]) for part in parts):
            return None
        shares.append(parts[0])
    total = {sample for piece in anatomy.own(step) for sample in piece.weights}
    return shares if all(sample in total for sample, weight in enumerate(row) if weight) else None


def _weights(anatomy: Anatomy, probed: Probed) -> list[Suspicion]:
    """Are windows divided by their own size, and do micro-batches weigh what they hold?"""
    k, big = anatomy.sizes.accumulation_steps, anatomy.sizes.effective_batch_size
    units = anatomy.reading.units
    unit = "token-weighting" if anatomy.reading.objective == "token" else "mean-of-means"
    due = anatomy.due()
    relative = _relative(probed)
    found: dict[tuple[str, ...], Suspicion] = {}
    base: float | None = None
    judged = []
    for step, window in enumerate(anatomy.windows[:-1]):
        if window and anatomy.starts[step] is not None and (window in due or anatomy.is_full(window)):
            full = anatomy.is_full(window)
            judged.append((not full, step, window))
    for short, step, window in sorted(judged):
        own = [piece for piece in anatomy.own(step) if piece.micro_batch in window]
        merged: dict[MicroBatch, dict[int, float]] = {}
        for piece in own:
            merged.setdefault(piece.micro_batch, {}).update(piece.weights)
        weights, samples, counts = [], [], []
        for parts in merged.values():
            values = [weight * anatomy.scales[step] * relative[sample] for sample, weight in parts.items()]
            if any(not _close(value, values[0]) for value in values):
                break
            weights.append(values[0])
            samples.append(len(parts))
            counts.append(sum(units[sample] for sample in parts))
        else:
            scheme, size = _scheme(weights, samples, counts)
            if scheme in ("equal", "samples"):
                found.setdefault((unit,), _as_scheme(unit, scheme, anatomy, step, window, weights, samples, counts))
            ratio = Fraction(sum(samples), big)
            ids = _scale_ids(size, base, short, len(window), k, ratio) if scheme else ("unexplained",)
            if not short and base is None:
                base = size
            if ids:
                found.setdefault(ids, _as_scale(ids, size, anatomy, step, window))
            continue
        found.setdefault(
            ("unexplained",), Suspicion(("unexplained",), "samples of one micro-batch weigh unequally", step, _of(own))
        )
    return list(found.values())


def _scheme(weights: list[float], samples: list[int], counts: list[int]) -> tuple[str | None, float]:
    """How the weight of a micro-batch goes, and the multiple of the window's mean that they make together."""
    totals = [weight * count for weight, count in zip(weights, counts, strict=True)]
    if all(_close(weight, weights[0]) for weight in weights):
        return "counts", sum(totals)
    if all(_close(total, totals[0]) for total in totals):
        return "equal", sum(totals)
    shares = [total / sample for total, sample in zip(totals, samples, strict=True)]
    if all(_close(share, shares[0]) for share in shares):
        return "samples", sum(totals)
    return None, math.nan


def _scale_ids(  # noqa: PLR0911 - a table of cases
    size: float, base: float | None, short: bool, length: int, k: int, ratio: Fraction
) -> tuple[str, ...]:
    """What a window's multiple of its mean says, given the multiple of full windows where there are any."""
    if k == 1:
        return () if _close(size, 1) else ("unexplained",)
    by_k = any(_close(size, x) for x in (length / k, float(ratio)))
    twice = any(_close(size, x) for x in (1 / k, length / k**2, float(ratio) / k))
    summed = length > 1 and any(_close(size, x) for x in (length, k))
    if not short or base is None:
        if _close(size, 1):
            return ()
        if not short:
            return ("unscaled-loss",) if _close(size, k) else ("over-scaled-loss",) if twice else ("unexplained",)
        ids = [("tail-scaled-by-k", by_k), ("over-scaled-loss", twice), ("unscaled-loss", summed)]
        return tuple(name for name, holds in ids if holds) or ("unexplained",)
    if _close(base, 1):
        return () if _close(size, 1) else ("tail-scaled-by-k",) if by_k else ("unexplained",)
    if _close(base, k):
        return () if any(_close(size, x) for x in (length, k, k * float(ratio))) else ("unexplained",)
    if _close(base, 1 / k):
        if _close(size, 1 / k):
            return ()
        return ("tail-scaled-by-k",) if twice else ("unexplained",)
    return () if _close(size, base) else ("unexplained",)


def _as_scheme(
    unit: str,
    scheme: str,
    anatomy: Anatomy,
    step: int,
    window: list[MicroBatch],
    weights: list[float],
    samples: list[int],
    counts: list[int],
) -> Suspicion:
    what = "tokens" if unit == "token-weighting" else "samples"
    by = "all weigh the same" if scheme == "equal" else f"weigh as their samples, {', '.join(map(str, samples))}"
    text = f"{_names(window)} hold {', '.join(map(str, counts))} {what}, but {by}"
    fair = sum(w * c for w, c in zip(weights, counts, strict=True)) / sum(counts)
    worst = max(range(len(weights)), key=lambda i: abs(weights[i] - fair))
    of_worst = [m for m in window if m == window[worst]]
    return Suspicion((unit,), text, step, _samples(anatomy, of_worst), float(exact(weights[worst] / fair)))


def _as_scale(ids: tuple[str, ...], size: float, anatomy: Anatomy, step: int, window: list[MicroBatch]) -> Suspicion:
    k, length = anatomy.sizes.accumulation_steps, len(window)
    names = _names(window)
    held = anatomy.samples(window)
    if ids[0] == "unexplained":
        text = f"the window of {names} goes in with weights that no rule makes"
        return Suspicion(ids, text, step, _samples(anatomy, window))
    ratio = exact(size)
    text = ""
    if ids[0] == "tail-scaled-by-k":
        by_samples = length == k or not _close(size * k, length)
        text = (
            f"the window of {names} is divided by N={anatomy.sizes.effective_batch_size}, not by its own {held} samples"
            if by_samples
            else f"the window of {names} is divided by k={k}, not by its own {length}"
        )
    elif ids[0] == "unscaled-loss":
        text = f"the window of {names} goes in with {ratio} times its mean: nothing divides the sum"
    elif ids[0] == "over-scaled-loss":
        text = f"the window of {names} goes in with {ratio} of its mean: it is divided by k={k} once too often"
    return Suspicion(ids, text, step, _samples(anatomy, window), float(ratio))


def _rounded(anatomy: Anatomy, due: list[Row]) -> Suspicion:
    """Weights, or sums over samples, that are right but for their last digits."""
    reading = anatomy.reading
    errors = [
        (abs(a - b) / _size(row), step)
        for ours, theirs in ((reading.matrix, due), (reading.shared, reading.implied))
        for step, (row, other) in enumerate(zip(ours, theirs, strict=True))
        for a, b in zip(row, other, strict=True)
        if a != b
    ]
    worst, step = max(errors)
    narrow = [str(d).removeprefix("torch.") for d in reading.dtypes if torch.finfo(d).bits < 32]
    where = f"gradients are kept in {' and '.join(narrow)}: " if narrow else ""
    text = f"{where}sums are off by up to {worst:.1e} of their size, as if rounded in a narrow dtype"
    return Suspicion(("low-precision-accumulation",), text, step)


def _clipped(probed: Probed, otherwise_right: bool) -> list[Suspicion]:
    """At gradients of order 1e3, is something cut off before the window is complete?"""
    high = probed.high
    if right(high, probed.own_high):
        return []
    partial = [s for s in _partial(Anatomy(high)) if "clipped-per-micro-batch" in s.ids]
    if partial and not (otherwise_right or _partial(Anatomy(probed.low))):
        return partial
    if not otherwise_right:
        return []
    if partial:
        return partial
    for step, (ours, theirs) in enumerate(zip(high.matrix, probed.own_high.matrix, strict=False)):
        if not (_same([ours], [theirs]) and _same([high.shared[step]], [probed.own_high.shared[step]], 1.0)):
            samples = tuple(i for i, weight in enumerate(ours) if weight)
            pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if b]
            ratio = pairs[0][0] / pairs[0][1] if pairs and not _close(*pairs[0]) else None
            text = "large gradients are cut otherwise than in the full batch, small ones are not"
            return [Suspicion(("clipped-per-micro-batch",), text, step, samples, ratio)]
    return [Suspicion(("unexplained",), "large gradients make other updates than small ones do")]


def _schedule(probed: Probed) -> list[Suspicion]:
    """Do learning rates go by optimizer steps?"""
    if not probed.wrong_rates:
        return []
    step = probed.wrong_rates[0]
    ours, theirs = probed.low.learning_rates[step], probed.own_low.learning_rates[step]
    text = f"the learning rate is {ours:.6g}, in full-batch training {theirs:.6g}"
    calls = math.log(ours / theirs, DECAY) if ours > 0 and theirs > 0 else 0.5
    if abs(calls - round(calls)) < EXACT:
        often = "often" if calls > 0 else "seldom"
        text += f": by then, scheduler.step() has been called {abs(round(calls))} times too {often}"
    return [Suspicion(("scheduler-per-micro-batch",), text, step, (), ours / theirs if theirs else None)]


def _relative(probed: Probed) -> list[float]:
    """Factors that make weights relative to the loop's own full batch, where this sets another scale by design."""
    n, big = probed.sizes.samples, probed.sizes.effective_batch_size
    windows = len(probed.sizes.window_lengths()) // probed.sizes.epochs
    if _by_windows(probed.own_low, fixed=True):
        rows = [(probed.mean[i // big][i], probed.own_low.matrix[i // big][i]) for i in range(n)]
        if windows and all(own for _, own in rows):
            return [mean / own for mean, own in rows]
    return [1.0] * n


def _by_windows(reading: Reading, *, weights: bool = False, fixed: bool = False) -> bool:
    """Whether a matrix has a row for each window, each with as many samples as are due, every sample once an epoch.

    With ``weights`` they must be the mean of those samples, too; with ``fixed`` in the data set's order.
    """
    lengths, units = reading.sizes.window_lengths(), reading.units
    if len(reading.matrix) != len(lengths):
        return False
    per_epoch = len(lengths) // reading.sizes.epochs
    seen: set[int] = set()
    for place, (row, length) in enumerate(zip(reading.matrix, lengths, strict=True)):
        if place % per_epoch == 0:
            seen = set()
        inside = [i for i, weight in enumerate(row) if weight]
        if len(inside) != length or seen.intersection(inside):
            return False
        if fixed and inside != list(range(len(seen), len(seen) + length)):
            return False
        if weights and any(not _close(row[i] * sum(units[j] for j in inside), 1) for i in inside):
            return False
        # What leaks from epoch to epoch shows even where a window is the whole data set.
        before = reading.matrix[place - per_epoch] if place >= per_epoch else row
        if {i for i, weight in enumerate(before) if weight} == set(inside) and not _same([before], [row]):
            return False
        seen.update(inside)
    return True


def policy(probed: Probed) -> str:
    """Which other way of treating tails the matrix is equal to, if any; in words."""
    sizes, units = probed.sizes, probed.low.units
    big = sizes.effective_batch_size
    per_epoch = sizes.samples // big
    full = [row for i, row in enumerate(probed.mean) if i % (len(probed.mean) // sizes.epochs) < per_epoch]
    if full and _same(probed.low.matrix, full):
        return "full-batch training with drop_last=True"
    stream = [i for _ in range(sizes.epochs) for i in range(sizes.samples)]
    rows = []
    for start in range(0, len(stream), big):
        window = stream[start : start + big]
        total = sum(units[i] for i in window)
        rows.append([window.count(i) / total for i in range(sizes.samples)])
    whole = len(stream) // big
    if whole and (_same(probed.low.matrix, rows) or _same(probed.low.matrix, rows[:whole])):
        return "full-batch training on one stream, whose windows run on across epochs"
    return ""


def _witness(probed: Probed) -> tuple[int | None, tuple[int, ...], float | None]:
    """The first step, and its samples, whose weights are not as due."""
    for step, (ours, theirs) in enumerate(zip(probed.low.matrix, probed.due, strict=False)):
        wrong = [i for i, pair in enumerate(zip(ours, theirs, strict=True)) if not _close(*pair)]
        if wrong:
            due = theirs[wrong[0]]
            return step, tuple(wrong), ours[wrong[0]] / due if due else None
    return None, (), None


def _samples(anatomy: Anatomy, window: Sequence[MicroBatch]) -> tuple[int, ...]:
    n, b = anatomy.sizes.samples, anatomy.sizes.micro_batch_size
    return tuple(sorted({i for _, place in window for i in range(place * b, min(n, (place + 1) * b))}))


def _of(pieces: Sequence[Piece]) -> tuple[int, ...]:
    return tuple(sorted({sample for piece in pieces for sample in piece.weights}))


def _names(window: Sequence[MicroBatch]) -> str:
    places = [place for _, place in window]
    return f"micro-batch{'es' * (len(set(places)) > 1)} {runs(places)}"


def _unique(items: Iterable[MicroBatch]) -> list[MicroBatch]:
    return list(dict.fromkeys(items))


def _mean(reading: Reading) -> list[Row]:
    """The window mean at a reading's sizes."""
    return _window_mean(reading.sizes, reading.units)


@lru_cache(maxsize=256)
def _window_mean(sizes: Sizes, units: tuple[int, ...]) -> list[Row]:
    return [[float(weight) for weight in row] for row in window_mean(sizes, units)]


def _close(a: float, b: float, relative: float = EXACT) -> bool:
    return a == b or math.isclose(a, b, rel_tol=relative, abs_tol=TINY)


def _same(ours: list[Row], theirs: list[Row], magnitude: float = 0.0, relative: float = EXACT) -> bool:
    """Whether two matrices are equal; ``magnitude`` is that of numbers which may have cancelled out."""
    return len(ours) == len(theirs) and all(
        abs(a - b) <= relative * max(abs(a), abs(b), magnitude * _size(ours_row)) + TINY
        for ours_row, theirs_row in zip(ours, theirs, strict=True)
        for a, b in zip(ours_row, theirs_row, strict=True)
    )


def _size(row: Row) -> float:
    return max(map(abs, row), default=0.0)


def _scale(row: Row, total: Row) -> float | None:
    """The factor between two rows, if one factor makes them equal."""
    scale = next((a / b for a, b in zip(row, total, strict=True) if a and b), None)
    return scale if scale is not None and _same([row], [[scale * x for x in total]]) else None
