"""Which backward passes are in the gradient buffers, and how each was scaled since.

A few elements of every gradient are read around each backward pass, each clipping and each step. Between two readings
a buffer was left alone, cleared, scaled by one factor, or changed in a way that is not known; a pass adds to it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from accumcheck.scripts.log import Exchange, Log, Update

Values = NDArray[np.float64]
Flags = NDArray[np.bool_]
WIDTH = 8  # elements of each gradient, or parameter, that are read
PRECISION = {torch.float16: 4e-3, torch.bfloat16: 3e-2}


SHARED = "two optimizers share some parameters and not all of them: whose updates these are is not known"


@dataclass
class Watched:
    """A parameter, the optimizer that holds it, and which of its gradient's elements are read."""

    parameter: Tensor
    owner: int
    name: str
    stride: int
    seen: Tensor | None = None  # the gradient that was looked at, as long as its view is good

    def look(self) -> Tensor | None:
        """A view of some elements of the gradient, spread over all of it; without ``seen``, a copy of them."""
        gradient = self.parameter.grad
        self.seen = None
        if gradient is None:
            return None
        local = gradient if type(gradient) is Tensor else getattr(gradient, "_local_tensor", gradient)
        if local.layout != torch.strided:
            local = local.to_dense()
        elif local.is_contiguous():
            self.seen = gradient
            length = min(WIDTH, -(-local.numel() // self.stride))
            return local.as_strided((length,), (self.stride,), local.storage_offset())
        return local.reshape(-1)[:: self.stride][:WIDTH]


@dataclass
class Live:
    """A pass that is in the buffers: its factor in each of them, which it has reached, and the clippings since
    (effective, all), and the exchanges between ranks since."""

    factors: Values
    touched: Flags
    clipped: int = 0
    calls: int = 0
    exchanged: tuple[int, ...] = ()


@dataclass
class _Layout:
    """Where the elements that are read lie, as long as no gradient is replaced."""

    none: Flags
    places: NDArray[np.intp]  # of each element, in a flat table
    read: Callable[[], Values]  # all pieces, one behind the other


@dataclass
class Buffers:
    """The gradients of all parameters that optimizers hold."""

    log: Log
    several: bool = False  # several ranks train together, and may exchange gradients at any time
    optimizers: list[weakref.ref[Optimizer]] = field(default_factory=list)
    watched: list[Watched] = field(default_factory=list)
    index: dict[int, int] = field(default_factory=dict)
    live: dict[int, Live] = field(default_factory=dict)
    values: Values = field(default_factory=lambda: np.zeros((0, WIDTH)))
    none: Flags = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    changed: Flags = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    clipped: Flags = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    owners: NDArray[np.intp] = field(default_factory=lambda: np.zeros(0, dtype=np.intp))
    sharded: Flags = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    precision: Values = field(default_factory=lambda: np.zeros(0))
    sizes: dict[int, int] = field(default_factory=dict)
    layout: _Layout | None = None

    def number_of(self, optimizer: Optimizer) -> int:
        """Its number; a wrapper or successor of a known one, with the same parameters, has that one's."""
        for number, reference in enumerate(self.optimizers):
            if reference() is optimizer:
                return number
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) in self.index:
                    number = self.watched[self.index[id(parameter)]].owner
                    known = self.optimizers[number]()
                    if known is None:
                        self.optimizers[number] = weakref.ref(optimizer)
                    elif _ids(known) != _ids(optimizer) and SHARED not in self.log.doubts:
                        self.log.doubts.append(SHARED)
                    return number
        self.optimizers.append(weakref.ref(optimizer))
        self.log.optimizers.append(type(optimizer).__name__)
        self._refresh()
        return len(self.optimizers) - 1

    def of(self, owner: int) -> list[Tensor]:
        """The parameters of an optimizer."""
        return [each.parameter for each in self.watched if each.owner == owner]

    def rates(self) -> dict[int, tuple[float, ...]]:
        """The learning rates of each optimizer's groups, now."""
        known = {number: each() for number, each in enumerate(self.optimizers)}
        return {n: tuple(float(g.get("lr", 0.0)) for g in o.param_groups) for n, o in known.items() if o is not None}

    def _refresh(self) -> None:
        """Take in parameters that optimizers hold now."""
        before = len(self.watched)
        for number, known in enumerate(self.optimizers):
            optimizer = known()
            if optimizer is None:
                continue
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            if self.sizes.get(number) == len(parameters) and (not parameters or id(parameters[-1]) in self.index):
                continue
            self.sizes[number] = len(parameters)
            for place, parameter in enumerate(parameters):
                if id(parameter) in self.index:
                    self.watched[self.index[id(parameter)]].owner = number
                    continue
                self.index[id(parameter)] = len(self.watched)
                name = f"parameter {place} {tuple(parameter.shape)}"
                stride = max(1, parameter.numel() // WIDTH)
                self.watched.append(Watched(parameter, number, name, stride))
        self.layout = None
        if grown := len(self.watched) - before:
            self.values = np.concatenate([self.values, np.zeros((grown, WIDTH))])
            for name, value in (("none", True), ("changed", False), ("clipped", False)):
                setattr(self, name, np.append(getattr(self, name), np.full(grown, value)))
            for each in self.live.values():
                each.factors = np.append(each.factors, np.zeros(grown))
                each.touched = np.append(each.touched, np.zeros(grown, dtype=np.bool_))
        self.owners = np.array([each.owner for each in self.watched], dtype=np.intp)
        self.sharded = np.array([hasattr(each.parameter, "_local_tensor") for each in self.watched], dtype=np.bool_)
        self.precision = np.array([PRECISION.get(each.parameter.dtype, 1e-5) for each in self.watched])

    def _read(self) -> tuple[Values, Flags]:
        self._refresh_if_new()
        layout = self.layout
        if layout is None or not all(each.parameter.grad is each.seen for each in self.watched):
            layout = self.layout = self._lay_out()
        values = np.zeros((len(self.watched), WIDTH))
        if len(layout.places):
            values.reshape(-1)[layout.places] = layout.read()
        return values, layout.none.copy()

    @torch.no_grad()
    def _lay_out(self) -> _Layout:
        none = np.ones(len(self.watched), dtype=np.bool_)
        places: list[int] = []
        pieces: list[Tensor] = []
        for place, each in enumerate(self.watched):
            piece = each.look()
            if piece is not None and len(piece):  # a rank may hold nothing of a sharded one
                none[place] = False
                places += range(place * WIDTH, place * WIDTH + len(piece))
                pieces.append(piece)
        return _Layout(none, np.array(places, dtype=np.intp), _reader(pieces))

    def _refresh_if_new(self) -> None:
        for number, known in enumerate(self.optimizers):
            optimizer = known()
            if optimizer is not None and self.sizes.get(number) != sum(
                len(g["params"]) for g in optimizer.param_groups
            ):
                self._refresh()
                return

    def observe(self, why: str = "") -> None:
        """See what was done to the buffers since they were last read; ``why`` is "clip" right behind a clipping."""
        now, none = self._read()
        if not len(now):
            return
        last = self.values
        if len(self.optimizers) == 1 and np.array_equal(now, last) and np.array_equal(none, self.none) and last.any():
            if why == "clip":
                for each in self.live.values():
                    each.calls += 1
            return
        with np.errstate(all="ignore"):
            self._compare(now, none, clipping=why == "clip")

    def _compare(self, now: Values, none: Flags, *, clipping: bool) -> None:
        last = self.values
        told = (last != 0).any(1)  # where the elements that are read tell anything
        same = (now == last).all(1)
        cleared = (none & ~self.none) | (told & (now == 0).all(1))
        cleared |= self._emptied(told, none)
        ratio = (now * last).sum(1) / (last * last).sum(1).clip(min=1e-300)
        off = np.abs(now - ratio[:, None] * last).max(1) > self.precision * np.abs(now).max(1).clip(min=1e-300)
        finite = np.isfinite(last).all(1)
        scaled = told & ~same & ~cleared & ~off & np.isfinite(ratio)
        changed = ~same & ~cleared & ~scaled
        if self.several and not clipping and (changed & finite).any():
            # Where many elements say that ranks have exchanged gradients, single ones only seem to be scaled.
            changed |= scaled & np.isin(self.owners, self.owners[changed & finite])
            scaled &= ~changed
            self._exchange(changed & finite, last, now)
            changed &= ~finite
        factor = np.where(scaled, ratio, 1.0)
        if not same.all() or cleared.any():
            self._follow(told, none, scaled, cleared, factor)
            overflowed = cleared & ~finite
            for owner in set(self.owners[overflowed].tolist()):
                self.log.overflowed.setdefault(owner, set()).update(self.live)
        for each in self.live.values():
            if clipping:
                each.calls += 1
                each.clipped += bool((changed | scaled).any())
            else:
                each.factors = each.factors * factor
            each.factors = np.where(cleared, 0.0, each.factors)
        self.changed &= ~cleared
        self.clipped &= ~cleared
        if clipping:
            self.clipped |= changed | scaled
        else:
            self.changed |= changed & finite
        self.live = {number: each for number, each in self.live.items() if each.factors.any()}
        self.values, self.none = now, none

    def _emptied(self, told: Flags, none: Flags) -> Flags:
        """The gradients that are zero all over, of optimizers none of whose elements that are read tell anything."""
        found = np.zeros_like(none)
        silent = set(self.owners[~none].tolist()) - set(self.owners[told].tolist())
        if silent and self.live:
            for place, each in enumerate(self.watched):
                gradient = each.parameter.grad
                if each.owner in silent and gradient is not None:
                    values = gradient.coalesce().values() if gradient.is_sparse else gradient
                    found[place] = not bool(values.any())
        return found

    def _exchange(self, places: Flags, before: Values, after: Values) -> None:
        for each in self.live.values():
            if (each.touched & places).any():
                each.exchanged += (len(self.log.exchanges),)
        self.log.exchanges.append(Exchange(torch.from_numpy(before[places]), torch.from_numpy(after[places])))

    def forget_changes(self) -> None:
        """What a step itself does to gradients is its own business."""
        now, none = self._read()
        if (none & ~self.none).any():
            self.observe()
        self.values, self.none = now, none

    def update(
        self, owner: int, *, rates: tuple[float, ...], calls: int, since: tuple[int, ...], scale: float
    ) -> Update:
        """The step that is about to be made with what is in the buffers; ``scale`` is divided out by the step."""
        mine = self.owners == owner
        factors, clips, exchanged, lost, kept, spread = {}, {}, {}, {}, {}, False
        for number, each in self.live.items():
            here = mine & each.touched
            values = each.factors[here]
            there = values != 0
            if not there.any():
                continue
            factors[number] = float(np.median(values[there])) / scale
            clips[number] = (each.clipped, each.calls)
            exchanged[number] = each.exchanged
            spread |= bool(np.ptp(values[there]) > 1e-3 * abs(factors[number] * scale))
            if not there.all():
                (places,) = here.nonzero()
                if number in since:
                    lost[number] = tuple(self.watched[i].name for i in places[~there].tolist())
                else:
                    kept[number] = tuple(self.watched[i].name for i in places[there].tolist())
        gradients = [w.parameter.grad for w in self.watched if w.owner == owner and w.parameter.grad is not None]
        return Update(
            owner, rates, calls, factors, since, clips, lost, kept, spread, bool(self.changed[mine].any()),
            bool(self.clipped[mine].any()), dtypes=frozenset(str(g.dtype).removeprefix("torch.") for g in gradients),
            empty=not gradients, exchanged=exchanged,
            values=torch.from_numpy(self.values[mine]) if self.several else None,
        )  # fmt: skip

    def _follow(self, told: Flags, none: Flags, scaled: Flags, cleared: Flags, factor: Values) -> None:
        """Gradients whose elements that are read are all zero go as most others of their optimizer do."""
        silent = ~told & ~none & ~self.none
        for owner in set(self.owners[scaled].tolist()):
            mine = self.owners == owner
            factor[mine & silent] = np.median(factor[mine & told])
        for owner in set(self.owners[cleared].tolist()):
            mine = self.owners == owner
            if 2 * (mine & cleared).sum() > (mine & told).sum():
                cleared |= mine & silent

    def added(self, number: int, reached: Callable[[], set[int]] = set) -> list[int]:
        """A backward pass has just ended: what is new is its own. Returns the optimizers that it has reached."""
        now, none = self._read()
        if not len(now):
            return []
        touched = ((now != self.values).any(1) | self.none) & ~none
        if self.sharded.any():
            # Sharded ones get their gradient when ranks exchange it; until then FSDP keeps it elsewhere.
            touched |= self.sharded & ~np.isin(self.owners, self.owners[touched])
        everywhere = bool((touched | none).all())
        # Of an optimizer whose gradients moved nowhere that is read, the graph tells, as with embeddings.
        still = set() if everywhere else set(self.owners[~none].tolist()) - set(self.owners[touched].tolist())
        if still and (ids := reached()):
            for place, each in enumerate(self.watched):
                touched[place] |= each.owner in still and id(each.parameter) in ids and not none[place]
        factors = touched.astype(np.float64)
        for place in (none & ~self.none).nonzero()[0].tolist():
            if not self.watched[place].parameter.numel():  # this rank's shard of it is empty
                for live in self.live.values():
                    live.factors[place], live.touched[place] = 0.0, False
        owners: list[int] = sorted(set(self.owners[touched].tolist()))
        for owner in owners if not everywhere else ():
            silent = (self.owners == owner) & ~touched & (now == 0).all(1) & ~none
            factors[silent] = 1.0
        if owners:
            self.live[number] = Live(factors, factors != 0)
        self.values, self.none = now, none
        return owners


def _reader(pieces: list[Tensor]) -> Callable[[], Values]:
    """Reads pieces of gradients, by the shortest way for their device and dtype."""
    if all(p.device.type == "cpu" and p.dtype in (torch.float32, torch.float64) for p in pieces):
        arrays: list[NDArray[Any]] = [p.numpy() for p in pieces]
        return lambda: np.concatenate(arrays, dtype=np.float64)
    if len({(p.device, p.dtype) for p in pieces}) == 1:
        return lambda: torch.cat(pieces).to("cpu", torch.float64).numpy()
    return lambda: torch.cat([p.to("cpu", torch.float64) for p in pieces]).numpy()


def _ids(optimizer: Optimizer) -> set[int]:
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
