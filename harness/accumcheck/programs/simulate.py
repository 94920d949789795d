"""What a program does to a data set, in exact numbers: which sample goes into which update, with what weight.

A matrix has a row for every optimizer step, and in each row a weight for every sample of the data set: the factor
before the gradient of that sample's summed loss (for token objectives, of the sum over its unmasked tokens). Two loops
with the same matrix, optimizer and learning rates take the same trajectory in exact arithmetic.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from accumcheck.numbers import close
from accumcheck.programs.clip import Clipper
from accumcheck.programs.rules import LISTS, TABLES, Gathered, Now, Part, Program, Ratio, Scale, Shape, Step

if TYPE_CHECKING:
    from accumcheck.task import Sizes

Number = TypeVar("Number", Fraction, float)
Orders = tuple[tuple[int, ...], ...]  # the samples of each epoch, in the order in which they are drawn
Base = Callable[[int], Ratio]  # the weight of a unit in its micro-batch's mean loss, given its sample's units
Parts = dict[int, Sequence[tuple[Part, Base, list[int]]]]  # by visit, what each rank holds of it
ADD, SEEN, CLEAR, STEP = "add", "seen", "clear", "step"


class Visit(NamedTuple):
    """A micro-batch that is trained on: its spans of positions (epoch, start, end) and those of its window."""

    epoch: int
    spans: tuple[tuple[int, int, int], ...]
    window: tuple[tuple[int, int, int], ...]
    window_count: int
    place: int


class Event(NamedTuple):
    """What happens to the gradient: a visit's is added, or made and not kept; all is cleared; or a step is made of what
    ``visits`` left."""

    kind: str
    visits: tuple[int, ...] = ()
    epoch: int = 0  # of a step


@dataclass(frozen=True)
class Structure:
    """What a program does without looking at weights; ``rows`` are the visits in the gradient at each step."""

    visits: tuple[Visit, ...]
    events: tuple[Event, ...]
    rows: tuple[tuple[int, ...], ...]
    left: tuple[int, ...] = ()  # visits that no step has used

    @cached_property
    def key(self) -> int:
        """Equal for structures that do the same."""
        return hash((self.visits, self.events))

    @cached_property
    def made(self) -> int:
        """How many updates have any gradient."""
        return sum(map(bool, self.rows))

    @cached_property
    def supports(self) -> list[frozenset[int]]:
        """The samples of each update that has any, where they are drawn in the data set's order."""
        return supports(self, Units(()))


@dataclass(frozen=True)
class Units:
    """How many units (samples, or unmasked tokens) each sample holds, and the order in which samples are drawn."""

    units: tuple[int, ...]
    orders: Orders = ()

    def at(self, spans: Iterable[tuple[int, int, int]]) -> list[int]:
        """The samples at these positions."""
        if not self.orders:
            return [i for _, start, end in spans for i in range(start, end)]
        last = len(self.orders) - 1
        return [i for epoch, start, end in spans for i in self.orders[min(epoch, last)][start:end]]

    @property
    def length(self) -> int:
        """Samples in an epoch."""
        return len(self.orders[0]) if self.orders else len(self.units)


@lru_cache(maxsize=1 << 15)
def structure(visit: str, step: str, reset: str, shape: Shape, limit: int | None = None) -> Structure:
    """Follow a program's visits, steps and resets at these sizes, the first ``limit`` visits only if there is one."""
    gate = TABLES["step"][step]
    assert isinstance(gate, Step)
    # Many conditions step at the same micro-batches, which are followed once.
    return _followed(visit, _opened(visit, step, reset == LISTS, shape), gate.late, reset, shape, limit)


@lru_cache(maxsize=1 << 13)
def _opened(visit: str, step: str, anew: bool, shape: Shape) -> tuple[bool, ...]:
    """Whether the condition for a step is true, visit by visit; with ``anew`` counts start again in each epoch."""
    visits = _visits(visit, shape)
    gate = TABLES["step"][step]
    assert isinstance(gate, Step)
    streams = visit.startswith("stream")
    length = len(visits) if streams else shape.length
    total = len(visits) if streams or visit == "first epoch" else shape.length * shape.epochs
    opened = []
    since = samples = 0
    for number, (each, i, count) in enumerate(visits):
        place = number if streams else i
        if anew and place == 0:
            since = samples = 0
        if gate.late:
            opened.append(gate.gate(Now(place, count, since, samples, length, total, shape)))
            since, samples = (0, 0) if opened[-1] else (since, samples)
        if each.spans:
            since += 1
            samples += sum(end - start for _, start, end in each.spans)
        if not gate.late:
            opened.append(gate.gate(Now(place, count, since, samples, length, total, shape)))
            since, samples = (0, 0) if opened[-1] else (since, samples)
    return tuple(opened)


@lru_cache(maxsize=1 << 15)
def _followed(
    visit: str, opened: tuple[bool, ...], late: bool, reset: str, shape: Shape, limit: int | None
) -> Structure:
    visits = _visits(visit, shape)
    streams = visit.startswith("stream")
    events: list[Event] = []
    rows: list[tuple[int, ...]] = []
    live: list[int] = []
    since: list[int] = []

    def clear() -> None:
        if live:
            events.append(Event(CLEAR))
            live.clear()

    def make_step(epoch: int) -> None:
        if reset == "before step":
            clear()
        events.append(Event(STEP, tuple(since), epoch))
        rows.append(tuple(live))
        since.clear()
        if reset in ("after step", "epoch start too", LISTS):
            clear()

    for number, (each, i, _) in enumerate(islice(visits, limit)):
        place = number if streams else i
        first = place % shape.k == 0
        if place == 0 and reset in ("epoch start", "epoch start too", LISTS):
            clear()
            if reset == LISTS:
                since.clear()
        if late and opened[number]:
            make_step(each.epoch)
        if reset == "every" or (reset in ("window start", "first only") and first):
            clear()
        if each.spans:
            kept = first or reset != "first only"
            events.append(Event(ADD if kept else SEEN, (number,)))
            live += [number] * kept
            since.append(number)
        if reset == "after first" and first:
            clear()
        if not late and opened[number]:
            make_step(each.epoch)
        if reset == "window end" and (place + 1) % shape.k == 0:
            clear()
        if visit == "until max_steps" and len(rows) == shape.windows:
            break
    return Structure(
        tuple(each for each, *_ in islice(visits, limit)),
        tuple(events),
        tuple(rows),
        tuple(visit for visit in live if not any(visit in row for row in rows)),
    )


@lru_cache(maxsize=256)
def _visits(rule: str, shape: Shape) -> Sequence[tuple[Visit, int, int]]:
    """Visits with their place in the epoch, and how many micro-batches were drawn before."""
    n, batch, k, epochs, length = shape.n, shape.batch, shape.k, shape.epochs, shape.length

    def span(epoch: int, i: int) -> tuple[int, int, int]:
        return epoch, i * batch, min(n, (i + 1) * batch)

    if rule == "stream of samples":
        count = -(-n * epochs // shape.big) * k
        return list(_windows([_wrapped(i * batch, batch, n) for i in range(count)], k))
    if rule.startswith("stream"):
        updates = {
            "stream": epochs * length // k,
            "stream, rounded up": -(-epochs * length // k),
            "stream, by epochs": epochs * -(-length // k),
            "stream, whole windows": epochs * (length // k),
        }[rule]
        return list(_windows([(span(g // length, g % length),) for g in range(updates * k)], k))
    found = []
    for epoch in range({"first epoch": 1, "until max_steps": shape.passes}.get(rule, epochs)):
        for i in range(length):
            first = i - i % k
            whole = {"whole windows": length // k, "whole windows of samples": n // shape.big}.get(rule, length)
            start, end = i * batch, min(n, (i + 1) * batch)
            short = end - start < batch
            if i // k >= whole or (rule == "skips short" and short):
                continue
            window = (epoch, first * batch, min(n, (first + k) * batch))
            spans = () if rule == "leaves out short" and short else ((epoch, start, end),)
            visit = Visit(epoch, spans, (window,), min(k, length - first), i - first)
            found.append((visit, i, epoch * length + i))
    return found


def _wrapped(start: int, count: int, n: int) -> tuple[tuple[int, int, int], ...]:
    """The spans of ``count`` positions of an endless repetition of n samples."""
    spans = []
    while count:
        epoch, first = divmod(start, n)
        taken = min(count, n - first)
        spans.append((epoch, first, first + taken))
        start, count = start + taken, count - taken
    return tuple(spans)


def _windows(batches: Sequence[tuple[tuple[int, int, int], ...]], k: int) -> Iterator[tuple[Visit, int, int]]:
    for number, spans in enumerate(batches):
        first = number - number % k
        window = tuple(span for each in batches[first : first + k] for span in each)
        yield Visit(spans[-1][0], spans, window, min(k, len(batches) - first), number - first), number % k, number


def simulate(program: Program, shape: Shape, units: Units) -> list[list[Fraction]]:
    """The matrix that a program makes, in exact fractions; updates without any gradient are no updates.

    >>> for row in simulate(Program(scale="1/k"), Shape(n=3, b=1, k=2, epochs=1), Units((1, 1, 1))):
    ...     print(*row)
    1/2 1/2 0
    0 0 1/2
    """
    return matrix(program, structure(program.visit, program.step, program.reset, shape), shape, units, Fraction)


def leftover(program: Program, shape: Shape, units: Units) -> list[Fraction]:
    """The weights that one more step, at the very end, would be made with.

    >>> print(*leftover(Program(step="window", scale="1/k"), Shape(n=3, b=1, k=2, epochs=1), Units((1, 1, 1))))
    0 0 1/2
    """
    found = structure(program.visit, program.step, program.reset, shape)
    one_more = replace(found, events=(*found.events, Event(STEP, found.left)), rows=(*found.rows, found.left))
    return matrix(program, one_more, shape, units, Fraction)[-1] if found.left else [Fraction(0)] * len(units.units)


def window_mean(sizes: Sizes | Shape, units: Units | Sequence[int] | None = None) -> list[list[Fraction]]:
    """The matrix of full-batch training: 1/|window| inside the window and 0 outside; a window's size counts units.

    >>> for row in window_mean(Shape(n=3, b=1, k=2, epochs=1)):
    ...     print(*row)
    1/2 1/2 0
    0 0 1
    """
    shape = sizes if isinstance(sizes, Shape) else Shape.of(sizes)
    known = units if isinstance(units, Units) else Units(tuple(units or (1,) * shape.n))
    return simulate(Program(), shape.full_batch(), known)


def ratio(top: int, bottom: int) -> float:
    """As ``Fraction``, but fast."""
    return top / bottom


def matrix(
    program: Program,
    found: Structure,
    shape: Shape,
    units: Units,
    number: Callable[[int, int], Number],
    clipper: Clipper | None = None,
) -> list[list[Number]]:
    """The weights of a structure; ``number`` makes one of two integers, and is ``ratio`` where there is a clipper."""
    rows = list(updates(program, found, shape, units, number, clipper))
    some = any(full for full, _ in rows)
    return [row for full, row in rows if full or not some]


def updates(
    program: Program,
    found: Structure,
    shape: Shape,
    units: Units,
    number: Callable[[int, int], Number],
    clipper: Clipper | None = None,
) -> Iterator[tuple[bool, list[Number]]]:
    """The rows of ``matrix`` one by one, each with whether any gradient went into it."""
    parts: Parts = {}

    def held(visit: int) -> Sequence[Part]:
        parts[visit] = _parts(found.visits[visit], program.ranks, program.loss, shape, units)
        return [part for part, *_ in parts[visit]]

    def touch(moment: str, values: dict[int, list[Number]]) -> None:
        if clipper:
            _clip(clipper, moment, values, parts, units)

    for values in gradients(program, found, held, shape, number, touch):
        row = _row(values, parts, units, number)
        if clipper:
            row = [clipper.element(weight) for weight in row]  # type: ignore[arg-type,misc]
        yield bool(values), row


def gradients(
    program: Program,
    found: Structure,
    held: Callable[[int], Sequence[Part]],
    shape: Shape,
    number: Callable[[int, int], Number],
    touch: Callable[[str, dict[int, list[Number]]], None] = lambda moment, values: None,
) -> Iterator[dict[int, list[Number]]]:
    """For each step, the visits in its gradient with the factors of their mean losses, on each rank.

    ``held`` says what each rank holds of a visit; ``touch`` may change factors where a loop may clip.
    """
    scale = TABLES["scale"][program.scale]
    assert isinstance(scale, Scale)
    known: dict[int, Sequence[Part]] = {}
    values: dict[int, list[Number]] = {}
    for event in found.events:
        if event.kind == CLEAR:
            values.clear()
        elif event.kind == SEEN:
            known[event.visits[0]] = held(event.visits[0])
        elif event.kind == ADD:
            (visit,) = event.visits
            known[visit] = held(visit)
            values[visit] = [number(*scale.weight(part)) if part.units else number(0, 1) for part in known[visit]]
            touch("norm, each gradient", {visit: values[visit]})
            if scale.each:
                _multiply(values, number(*scale.each(known[visit][0])))
            touch("norm, every", values)
        else:
            if scale.divide and values:
                gathered = _gathered([known[visit] for visit in event.visits], program, shape)
                # Before the loop has seen anything anew, there is nothing that it could divide by.
                divisors = [number(*scale.divide(each)) if each.units else number(1, 1) for each in gathered]
                values = {v: [a * b for a, b in zip(each, divisors, strict=True)] for v, each in values.items()}
            touch("norm", values)
            yield values


def _gathered(parts: Sequence[Sequence[Part]], program: Program, shape: Shape) -> list[Gathered]:
    """What each rank has seen since the step before: of its own, or of all ranks where it counts these."""
    found = [(sum(each[r].samples for each in parts), sum(each[r].units for each in parts)) for r in range(shape.ranks)]
    if program.ranks.startswith("global"):
        found = [(sum(samples for samples, _ in found), sum(units for _, units in found))] * shape.ranks
    return [Gathered(samples, units, len(parts), shape) for samples, units in found]


def _row(
    values: dict[int, list[Number]],
    parts: Parts,
    units: Units,
    number: Callable[[int, int], Number],
) -> list[Number]:
    """Each sample's weight in the gradient that these visits have left."""
    row = [number(0, 1)] * len(units.units)
    for visit, factors in values.items():
        for factor, (_, base, samples) in zip(factors, parts[visit], strict=True):
            for sample in samples:
                row[sample] += factor * number(*base(units.units[sample]))
    return row


def _clip(
    clipper: Clipper,
    moment: str,
    values: dict[int, list[Number]],
    parts: Parts,
    units: Units,
) -> None:
    if clipper.rule == moment and values:
        _multiply(values, clipper.factor(moment, _row(values, parts, units, ratio)))  # type: ignore[arg-type,misc]


def _multiply(values: dict[int, list[Number]], factor: Number) -> None:
    for factors in values.values():
        factors[:] = [factor * each for each in factors]


@lru_cache(maxsize=1 << 15)
def _parts(visit: Visit, rule: str, loss: str, shape: Shape, units: Units) -> Sequence[tuple[Part, Base, list[int]]]:
    """What each rank holds of a micro-batch: what its weight may depend on, the weight of a unit in its mean loss, and
    its samples. Ranks hold contiguous pieces, as even as possible."""
    samples = units.at(visit.spans)
    window = units.at(visit.window)
    ranks = shape.ranks
    found = []
    for rank in range(ranks):
        mine = _piece(samples, ranks, rank)
        if rule.startswith("global"):
            around = window
        else:
            around = [i for batch in _batches(window, shape) for i in _piece(batch, ranks, rank)]
        held = sum(units.units[i] for i in mine)
        part = Part(
            len(mine), held, len(around), sum(units.units[i] for i in around), visit.window_count, visit.place,
            shape.length, shape,
        )  # fmt: skip
        found.append((part, _base(rule, loss, len(mine), held, ranks), mine))
    return found


def _base(rule: str, loss: str, samples: int, held: int, ranks: int) -> Base:
    # Local means are averaged over ranks; global ones are multiplied with the world size for that, and so cancel it.
    sums = rule in ("global", "local, summed")
    if rule == "global, summed":
        top, bottom = ranks, 1
    elif rule == "local, averaged":
        top, bottom = 1, ranks * ranks
    else:
        top, bottom = 1, 1 if sums or ranks == 1 else ranks
    if loss == "mean":
        return lambda _: (top, bottom * held)
    return lambda own: (top, bottom * samples * own)


def _piece(samples: Sequence[int], ranks: int, rank: int) -> list[int]:
    even, more = divmod(len(samples), ranks)
    first = rank * even + min(rank, more)
    return list(samples[first : first + even + (rank < more)])


def _batches(window: Sequence[int], shape: Shape) -> list[Sequence[int]]:
    return [window[start : start + shape.batch] for start in range(0, len(window), shape.batch)]


def supports(found: Structure, units: Units) -> list[frozenset[int]]:
    """The samples of each update that has any."""
    return [frozenset(units.at(s for v in row for s in found.visits[v].spans)) for row in found.rows if row]


def windows_by(convention: str, shape: Shape, units: Units) -> list[tuple[int, ...]]:
    """The windows of full-batch training under one of ``CONVENTIONS``, as samples in order, twice where used twice."""
    n, big = units.length, shape.big
    if convention in ("stream", "samples"):
        spans = [_wrapped(start, big, n) for start in range(0, n * shape.epochs, big)]
        if convention == "stream":
            spans = [tuple(span for span in each if span[0] < shape.epochs) for each in spans]
    else:
        whole = n // big * big if convention == "dropped" else n
        spans = [
            ((epoch, start, min(whole, start + big)),)
            for epoch in range(shape.epochs)
            for start in range(0, whole, big)
        ]
    return [tuple(sorted(units.at(each))) for each in spans]


CONVENTIONS = {
    "window": "the last window of an epoch is short",
    "dropped": "what does not fill a window at the end of an epoch is dropped",
    "stream": "windows run on across epochs",
    "samples": "windows run on across epochs, over an endless repetition of the data set",
}


def conventions(rows: Sequence[Sequence[float]], shape: Shape, units: Units) -> set[str]:
    """The conventions by which each update is made of one window and of nothing else; none if there is no update.

    A window may be used several times in a row; training may end early. ``shape`` has k = 1.

    >>> sorted(conventions([[1, 1, 0], [0, 0, 1]], Shape(n=3, b=2, k=1, epochs=1), Units((1, 1, 1))))
    ['stream', 'window']
    """
    if not rows:
        return set(CONVENTIONS)
    # Samples that no loss reaches, such as sequences without a target, are in no update of either run.
    dead = {i for i in range(len(rows[0])) if not any(row[i] for row in rows)}
    found = set()
    for name in CONVENTIONS:
        # An endless stream ends where the loop does.
        endless = shape._replace(epochs=-(-len(rows) * shape.big // units.length))
        windows = windows_by(name, endless if name == "samples" else shape, units)
        reached = [tuple(i for i in window if i not in dead) for window in windows]
        if _follows(rows, windows) or (all(reached) and _follows(rows, reached)):
            found.add(name)
    return found


def _follows(rows: Sequence[Sequence[float]], windows: Sequence[tuple[int, ...]]) -> bool:
    supports = [frozenset(i for i, weight in enumerate(row) if weight) for row in rows]
    times = len(rows) // len(windows) if windows else 0
    used = [window for window in windows for _ in range(max(times, 1))]
    if not windows or len(rows) > len(used) or (times > 1 and len(rows) < len(used)):
        return False
    if supports != [frozenset(window) for window in used[: len(rows)]]:
        return False
    first: dict[tuple[int, ...], Sequence[float]] = {}
    # Gradients of the same samples that are never cleared show by their growth.
    return _by_multiplicity(rows, used) and all(
        close(a, b)
        for row, window in zip(rows, used, strict=False)
        for a, b in zip(first.setdefault(window, row), row, strict=True)
    )


def _by_multiplicity(rows: Sequence[Sequence[float]], windows: Sequence[tuple[int, ...]]) -> bool:
    """Whether samples that a window holds several times weigh as many times as much, in all rows up to a factor.

    Where N is above n each window holds all samples, and leftovers of earlier ones show in no other way.
    """
    once: dict[int, float] = {}
    for row, window in zip(rows, windows, strict=False):
        counts = Counter(window)
        if len(counts) == len(window):
            continue
        each = {i: row[i] / count for i, count in counts.items() if row[i]}
        once = once or each
        ratios = [each[i] / once[i] for i in each.keys() & once.keys()]
        if not all(close(ratio, ratios[0]) for ratio in ratios):
            return False
    return True


def equivalent(program: Program, shape: Shape, units: Units) -> bool:
    """Whether a program's weights are, at these sizes, the window mean, or those of its own full batch by windows."""
    ours = simulate(program, shape, units)
    if ours == window_mean(shape, units):
        return True
    own = simulate(program, shape.full_batch(), units)
    return ours == own and bool(conventions([[float(w) for w in row] for row in own], shape.full_batch(), units))
