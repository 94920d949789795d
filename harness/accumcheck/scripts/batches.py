"""Which micro-batches a script draws, and which of them a term of a loss is about."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from accumcheck.scripts.graph import Term
from accumcheck.scripts.log import Batch, Loader, Log

AHEAD, UNKNOWN = 512, 4  # micro-batches that wait for their backward pass: of a loader that trains, of another one
NO_LOADER = -1
TOGETHER = (
    "a loss has as many rows as several micro-batches together, and its target does not tell which these are: whether "
    "a backward pass is about all of them is not known"
)
IGNORED = -100  # as torch marks tokens that no loss counts


def tensors_of(data: object, depth: int = 0) -> Iterator[Tensor]:
    """The tensors in a batch, however it is nested."""
    if isinstance(data, Tensor):
        yield data
    elif depth < 4:
        if isinstance(data, Mapping):
            data = list(data.values())
        if isinstance(data, list | tuple):
            for each in data:
                yield from tensors_of(each, depth + 1)
        elif hasattr(data, "__dict__") and not isinstance(data, type):
            yield from tensors_of(list(vars(data).values()), depth + 1)


@dataclass
class Pass:
    """One pass of an iterator over a loader: its epoch, the next place in it, and the indices drawn ahead."""

    loader: int
    epoch: int
    place: int = 0
    indices: deque[Any] = field(default_factory=deque)


@dataclass
class Draws:
    """All that was drawn; ``waiting`` are micro-batches that no backward pass has followed yet."""

    log: Log
    several: bool = False  # ranks train together, and which samples each draws matters
    keys: dict[int, int] = field(default_factory=dict)  # id of a data set -> number of its loader
    kept: list[object] = field(default_factory=list)  # so that no other object gets its id
    epochs: Counter[int] = field(default_factory=Counter)
    waiting: list[Batch] = field(default_factory=list)
    used: Counter[int] = field(default_factory=Counter)  # by loader, micro-batches that a pass followed
    recent: deque[Batch] = field(default_factory=lambda: deque(maxlen=16))  # used, and perhaps looked at once more
    last: Batch | None = None
    permuted: int = 0  # the length of a permutation that was drawn since the last row of a stream
    usual: Counter[int] = field(default_factory=Counter)  # rows of the micro-batches of a stream
    stream: list[int] = field(default_factory=lambda: [0, 0])  # epoch and place where there is no loader

    def begin(self, loader: Any) -> Pass:
        """A pass over a loader begins."""
        dataset = getattr(loader, "dataset", loader)
        if id(dataset) not in self.keys:
            self.keys[id(dataset)] = len(self.keys)
            self.kept.append(dataset)
        number = self.keys[id(dataset)]
        known = self.log.loaders.setdefault(number, Loader(number))
        try:
            known.length = len(loader)
        except TypeError:
            known.length = None
        self.epochs[number] += 1
        return Pass(number, self.epochs[number] - 1)

    def drawn(self, each: Pass, data: object) -> None:
        """A micro-batch has come out of a loader."""
        indices = each.indices.popleft() if each.indices else None
        tensors = list(tensors_of(data))
        rows = next((t.shape[0] for t in tensors if t.dim()), 1)
        if isinstance(indices, list | tuple):
            rows = len(indices)
        batch = Batch(len(self.log.batches), each.loader, each.epoch, each.place, rows)
        if self.several and isinstance(indices, list | tuple):
            batch.samples = tuple(indices)
        each.place += 1
        self.log.batches.append(batch)
        if not torch.is_grad_enabled():
            return
        batch.tensors = tensors
        batch.counts = tuple(
            float(count)
            for t in tensors
            if t.dim() and not t.is_floating_point() and not t.is_complex()
            for count in ((t != IGNORED).sum(), t.numel(), (t != 0).sum())
        )
        self.waiting.append(batch)
        same = [b for b in self.waiting if b.loader == batch.loader]
        if len(same) > (AHEAD if self.used[batch.loader] or not self.used else UNKNOWN):
            self._drop(same[0])

    def _drop(self, batch: Batch) -> None:
        batch.tensors = []
        if batch in self.waiting:
            self.waiting.remove(batch)

    def ended(self, each: Pass) -> None:
        """A pass has come to its end."""
        self.log.loaders[each.loader].ends.add(each.epoch)

    def match(self, terms: list[Term]) -> list[tuple[Term, Batch, bool]]:
        """The micro-batch of each term of one backward pass, and whether this is certain.

        It is certain where the term's target is the micro-batch's own. Other terms are about the same micro-batch; if
        no target tells, about the next one in order. A term about several micro-batches, put together, is several.
        """
        terms = [part for term in terms for part in self._apart(term)]
        certain = {place: batch for place, term in enumerate(terms) if (batch := self._by_target(term)) is not None}
        taken = next(iter(certain.values()), None) or self._next(len(terms[0].weights))
        found = [(term, certain.get(place, taken), place in certain) for place, term in enumerate(terms)]
        for batch in sorted({batch for _, batch, _ in found}, key=lambda each: each.number):
            self._take(batch)
        return found

    def _by_target(self, term: Term) -> Batch | None:
        known = [*self.waiting, *reversed(self.recent)]
        return next((b for test in (_in_memory, _of_value) for b in known if test(term, b)), None)

    def _apart(self, term: Term) -> list[Term]:
        """The rows of each micro-batch, where a target is made of the next ones, one behind the other."""
        target = term.here
        if target is None or target.numel() < 2 or self._by_target(term) is not None:
            return [term]
        flat = target.reshape(-1)
        for loader in {batch.loader for batch in self.waiting}:
            for column in zip(*[b.tensors for b in self.waiting if b.loader == loader], strict=False):
                ends = [0, *itertools.accumulate(tensor.numel() for tensor in column)]
                places = {end: place for place, end in enumerate(ends)}
                for first, end in enumerate(ends):
                    last = places.get(end + len(flat), 0)
                    if last < first + 2:
                        continue
                    whole = torch.cat([tensor.reshape(-1).cpu() for tensor in column[first:last]])
                    if whole.dtype == flat.dtype and torch.equal(whole, flat):
                        return _pieces(term, column[first:last])
        return [term]

    def _next(self, rows: int) -> Batch:
        """By order: the next micro-batch of the loader that trains; the last one again, if no other waits."""
        fitting = [b for b in self.waiting if b.rows and rows % b.rows == 0] or self.waiting
        if fitting:
            trains = max((b.loader for b in fitting), key=lambda n: (self.used[n], n == fitting[-1].loader))
            held = [b.rows for b in self.waiting if b.loader == trains]
            if rows not in held and rows in itertools.accumulate(held) and TOGETHER not in self.log.doubts:
                self.log.doubts.append(TOGETHER)
            return next(b for b in fitting if b.loader == trains)
        if self.last is not None and self.last.loader != NO_LOADER and rows % max(self.last.rows, 1) == 0:
            return self.last
        return self._of_stream(rows)

    def _of_stream(self, rows: int) -> Batch:
        """Without a loader, rows are counted as they come; a new permutation, or a short micro-batch, ends an epoch."""
        epoch, place = self.stream
        usual = self.usual.most_common(1)[0][0] if self.usual else rows
        short = self.last is not None and self.last.loader == NO_LOADER and self.last.rows < usual
        if place and (self.permuted > rows or short):
            self.log.loaders.setdefault(NO_LOADER, Loader(NO_LOADER)).ends.add(epoch)
            epoch, place = epoch + 1, 0
        self.permuted = 0
        self.usual[rows] += 1
        self.stream = [epoch, place + 1]
        batch = Batch(len(self.log.batches), NO_LOADER, epoch, place, rows)
        self.log.batches.append(batch)
        return batch

    def _take(self, batch: Batch) -> None:
        if batch in self.waiting:
            # Those drawn before it, of the same loader, were passed over.
            for other in [b for b in self.waiting if b.loader == batch.loader and b.number <= batch.number]:
                self.waiting.remove(other)
                if other is not batch:
                    other.tensors = []
            if len(self.recent) == self.recent.maxlen:
                self.recent[0].tensors = []
            self.recent.append(batch)
        self.used[batch.loader] += 1
        self.last = batch

    def skip(self) -> None:
        """A backward pass whose loss cannot be read has used the next micro-batch."""
        if self.waiting:
            trains = max((b.loader for b in self.waiting), key=lambda n: self.used[n])
            self._take(next(b for b in self.waiting if b.loader == trains))


def _pieces(term: Term, targets: Sequence[Tensor]) -> list[Term]:
    """A term in as many as there are targets, each with its rows of it."""
    rows, total = len(term.weights), sum(target.numel() for target in targets)
    ends = [end * rows // total for end in itertools.accumulate(target.numel() for target in targets)]
    return [
        replace(term, units=term.units[start:end], weights=term.weights[start:end], target=target, copy=None)
        for start, end, target in zip([0, *ends], ends, targets, strict=False)
    ]


def _span(tensor: Tensor) -> tuple[int, int]:
    start = tensor.data_ptr()
    last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return start, start + (last + 1) * tensor.element_size()


def _in_memory(term: Term, batch: Batch) -> bool:
    """Whether a loss's target lies in the memory of a tensor of the micro-batch."""
    target = term.target
    if target is None or not target.numel():
        return False
    first, end = _span(target)
    for tensor in batch.tensors:
        if tensor.device == target.device and tensor.numel() and tensor.layout == torch.strided:
            low, high = _span(tensor)
            if low <= first and end <= high:
                return True
    return False


def _of_value(term: Term, batch: Batch) -> bool:
    """Whether a loss's target has the values of a tensor of the micro-batch, perhaps shifted by one token."""
    target = term.here
    if target is None or target.numel() < 2:
        return False
    flat = target.reshape(-1)
    for tensor in batch.tensors:
        if not tensor.dim() or tensor.is_floating_point() != target.is_floating_point() or tensor.dtype == torch.bool:
            continue
        if tensor.numel() == target.numel():
            if torch.equal(tensor.reshape(-1).to(flat.device, flat.dtype), flat):
                return True
        elif (
            tensor.dim() == 2
            and tensor.shape[1] > 1
            and target.numel() == tensor.shape[0] * (tensor.shape[1] - 1)
            and torch.equal(tensor[:, 1:].reshape(-1).to(flat.device, flat.dtype), flat)
        ):
            return True
        if tensor.dim() == 2 and target.numel() == tensor.numel():
            shifted = target.reshape(tensor.shape)[:, :-1]
            if torch.equal(tensor[:, 1:].to(flat.device, flat.dtype), shifted):
                return True
    return False


class Fewer(torch.utils.data.Dataset[Any]):
    """The first samples of a data set, which in all else is as it was."""

    def __init__(self, dataset: Any, samples: int) -> None:
        self.__dict__.update(_whole=dataset, _samples=samples)

    def __len__(self) -> int:
        length: int = min(self._samples, len(self._whole))
        return length

    def __getitem__(self, index: Any) -> Any:
        return self._whole[index]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__getitems__":
            raise AttributeError(name)
        return getattr(self.__dict__["_whole"], name)


class FewerDrawn:
    """The first indices, or batches of them, that a sampler draws."""

    def __init__(self, sampler: Any, count: int) -> None:
        self.__dict__.update(_whole=sampler, _count=count)

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(iter(self._whole), self._count)

    def __len__(self) -> int:
        length: int = min(self._count, len(self._whole))
        return length

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.__dict__["_whole"], name)
