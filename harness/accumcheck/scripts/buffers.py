"""Which backward passes are in the gradient buffers, and how each was scaled since.

A few elements of every gradient are read around each backward pass, each clipping and each step. Between two readings
a buffer was left alone, cleared, scaled by one factor, or changed in a way that is not known; a pass adds to it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor
from torch.optim import Optimizer

from accumcheck.scripts.log import Exchange, Log, Update

WIDTH = 8  # elements of each gradient that are read
PRECISION = {torch.float16: 4e-3, torch.bfloat16: 3e-2}


@dataclass
class Watched:
    """A parameter, the optimizer that holds it, and which of its gradient's elements are read."""

    parameter: Tensor
    owner: int
    name: str
    stride: int
    seen: Tensor | None = None  # the gradient that ``view`` looks at
    view: Tensor | None = None

    def look(self) -> Tensor | None:
        """A view of some elements of the gradient, spread over all of it."""
        gradient = self.parameter.grad
        if gradient is None:
            self.seen = self.view = None
            return None
        if gradient is not self.seen or self.view is None:
            local = gradient.detach()
            local = getattr(local, "_local_tensor", local)
            if local.layout != torch.strided:
                self.seen = self.view = None
                return local.to_dense().reshape(-1)[:: self.stride][:WIDTH]
            if local.is_contiguous():
                self.seen, self.view = gradient, local.view(-1)[:: self.stride][:WIDTH]
            else:
                self.seen = self.view = None
                return local.reshape(-1)[:: self.stride][:WIDTH]
        return self.view


@dataclass
class Live:
    """A pass that is in the buffers: its factor in each of them, which it has reached, and the clippings since
    (effective, all), and the exchanges between ranks since."""

    factors: Tensor
    touched: Tensor
    clipped: int = 0
    calls: int = 0
    exchanged: tuple[int, ...] = ()


@dataclass
class _Layout:
    """Where the elements that are read lie, as long as no gradient is replaced."""

    none: Tensor
    places: Tensor
    pieces: list[Tensor]
    lengths: list[int]
    alike: bool  # all on one device and of one dtype


@dataclass
class Buffers:
    """The gradients of all parameters that optimizers hold."""

    log: Log
    several: bool = False  # several ranks train together, and may exchange gradients at any time
    optimizers: list[weakref.ref[Optimizer]] = field(default_factory=list)
    watched: list[Watched] = field(default_factory=list)
    index: dict[int, int] = field(default_factory=dict)
    live: dict[int, Live] = field(default_factory=dict)
    values: Tensor = field(default_factory=lambda: torch.zeros(0, WIDTH, dtype=torch.float64))
    none: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    changed: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    clipped: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    owners: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    sharded: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    precision: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    sizes: dict[int, int] = field(default_factory=dict)
    layout: _Layout | None = None

    def number_of(self, optimizer: Optimizer) -> int:
        """Its number; a wrapper or successor of a known one, with the same parameters, has that one's."""
        for number, known in enumerate(self.optimizers):
            if known() is optimizer:
                return number
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) in self.index:
                    number = self.watched[self.index[id(parameter)]].owner
                    if self.optimizers[number]() is None:
                        self.optimizers[number] = weakref.ref(optimizer)
                    return number
        self.optimizers.append(weakref.ref(optimizer))
        self.log.optimizers.append(type(optimizer).__name__)
        self._refresh()
        return len(self.optimizers) - 1

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
            self.values = torch.cat([self.values, torch.zeros(grown, WIDTH, dtype=torch.float64)])
            for name, value in (("none", True), ("changed", False), ("clipped", False)):
                setattr(self, name, torch.cat([getattr(self, name), torch.full((grown,), value)]))
            for each in self.live.values():
                each.factors = torch.cat([each.factors, torch.zeros(grown, dtype=torch.float64)])
                each.touched = torch.cat([each.touched, torch.zeros(grown, dtype=torch.bool)])
        self.owners = torch.tensor([each.owner for each in self.watched], dtype=torch.long)
        self.sharded = torch.tensor([hasattr(each.parameter, "_local_tensor") for each in self.watched])
        self.precision = torch.tensor(
            [PRECISION.get(each.parameter.dtype, 1e-5) for each in self.watched], dtype=torch.float64
        )

    def _read(self) -> tuple[Tensor, Tensor]:
        self._refresh_if_new()
        layout = self.layout
        if layout is None or not all(each.parameter.grad is each.seen for each in self.watched):
            layout = self.layout = self._lay_out()
        values = torch.zeros(len(self.watched), WIDTH, dtype=torch.float64)
        if layout.pieces:
            with torch.no_grad():
                flat = (
                    torch.cat(layout.pieces)
                    if layout.alike
                    else torch.cat([p.to("cpu", torch.float64) for p in layout.pieces])
                ).to("cpu", torch.float64)
            if all(length == WIDTH for length in layout.lengths):
                values[layout.places] = flat.view(-1, WIDTH)
            else:
                for place, piece in zip(layout.places.tolist(), flat.split(layout.lengths), strict=True):
                    values[place, : len(piece)] = piece
        return values, layout.none.clone()

    def _lay_out(self) -> _Layout:
        none = torch.ones(len(self.watched), dtype=torch.bool)
        places: list[int] = []
        pieces: list[Tensor] = []
        for place, each in enumerate(self.watched):
            piece = each.look()
            if piece is not None and piece.numel():  # a rank may hold nothing of a sharded one
                none[place] = False
                places.append(place)
                pieces.append(piece)
        alike = len({(p.device, p.dtype) for p in pieces}) == 1
        return _Layout(none, torch.tensor(places, dtype=torch.long), pieces, [len(p) for p in pieces], alike)

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
        if len(self.optimizers) == 1 and torch.equal(now, last) and torch.equal(none, self.none) and bool(last.any()):
            if why == "clip":
                for each in self.live.values():
                    each.calls += 1
            return
        told = (last != 0).any(1)  # where the elements that are read tell anything
        same = (now == last).all(1)
        cleared = (none & ~self.none) | (told & (now == 0).all(1))
        cleared |= self._emptied(told, none)
        size = (last * last).sum(1)
        ratio = (now * last).sum(1) / size.clamp(min=1e-300)
        off = (now - ratio[:, None] * last).abs().amax(1) > self.precision * now.abs().amax(1).clamp(min=1e-300)
        finite = torch.isfinite(last).all(1)
        scaled = told & ~same & ~cleared & ~off & torch.isfinite(ratio)
        changed = ~same & ~cleared & ~scaled
        if self.several and why != "clip" and bool((changed & finite).any()):
            # Where many elements say that ranks have exchanged gradients, single ones only seem to be scaled.
            changed |= scaled & torch.isin(self.owners, self.owners[changed & finite])
            scaled &= ~changed
            self._exchange(changed & finite, last, now)
            changed &= ~finite
        factor = torch.where(scaled, ratio, torch.ones_like(ratio))
        if not bool(same.all()) or bool(cleared.any()):
            self._follow(told, none, scaled, cleared, factor)
            overflowed = cleared & ~finite
            for owner in set(self.owners[overflowed].tolist()):
                self.log.overflowed.setdefault(owner, set()).update(self.live)
        clipping = why == "clip"
        for each in self.live.values():
            if clipping:
                each.calls += 1
                each.clipped += bool((changed | scaled).any())
            else:
                each.factors = each.factors * factor
            each.factors = torch.where(cleared, 0.0, each.factors)
        self.changed &= ~cleared
        self.clipped &= ~cleared
        if clipping:
            self.clipped |= changed | scaled
        else:
            self.changed |= changed & finite
        self.live = {number: each for number, each in self.live.items() if bool((each.factors != 0).any())}
        self.values, self.none = now, none

    def _emptied(self, told: Tensor, none: Tensor) -> Tensor:
        """The gradients that are zero all over, of optimizers none of whose elements that are read tell anything."""
        found = torch.zeros_like(none)
        silent = set(self.owners[~none].tolist()) - set(self.owners[told].tolist())
        if silent and self.live:
            for place, each in enumerate(self.watched):
                gradient = each.parameter.grad
                if each.owner in silent and gradient is not None:
                    values = gradient.coalesce().values() if gradient.is_sparse else gradient
                    found[place] = not bool(values.any())
        return found

    def _exchange(self, places: Tensor, before: Tensor, after: Tensor) -> None:
        for each in self.live.values():
            if bool((each.touched & places).any()):
                each.exchanged += (len(self.log.exchanges),)
        self.log.exchanges.append(Exchange(before[places], after[places]))

    def forget_changes(self) -> None:
        """What a step itself does to gradients is its own business."""
        now, none = self._read()
        if bool((none & ~self.none).any()):
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
            if not bool(there.any()):
                continue
            factors[number] = median(values[there].tolist()) / scale
            clips[number] = (each.clipped, each.calls)
            exchanged[number] = each.exchanged
            spread |= bool(values[there].max() - values[there].min() > 1e-3 * abs(factors[number] * scale))
            if not bool(there.all()):
                places = here.nonzero().flatten()
                if number in since:
                    lost[number] = tuple(self.watched[i].name for i in places[~there].tolist())
                else:
                    kept[number] = tuple(self.watched[i].name for i in places[there].tolist())
        gradients = [w.parameter.grad for w in self.watched if w.owner == owner and w.parameter.grad is not None]
        return Update(
            owner, rates, calls, factors, since, clips, lost, kept, spread, bool(self.changed[mine].any()),
            bool(self.clipped[mine].any()), dtypes=frozenset(str(g.dtype).removeprefix("torch.") for g in gradients),
            empty=not gradients, exchanged=exchanged, values=self.values[mine].clone() if self.several else None,
        )  # fmt: skip

    def _follow(self, told: Tensor, none: Tensor, scaled: Tensor, cleared: Tensor, factor: Tensor) -> None:
        """Gradients whose elements that are read are all zero go as most others of their optimizer do."""
        silent = ~told & ~none & ~self.none
        for owner in set(self.owners[scaled].tolist()):
            mine = self.owners == owner
            factor[mine & silent] = median(factor[mine & told].tolist())
        for owner in set(self.owners[cleared].tolist()):
            mine = self.owners == owner
            if 2 * int((mine & cleared).sum()) > int((mine & told).sum()):
                cleared |= mine & silent

    def added(self, number: int, reached: Callable[[], set[int]] = set) -> list[int]:
        """A backward pass has just ended: what is new is its own. Returns the optimizers that it has reached."""
        now, none = self._read()
        if not len(now):
            return []
        touched = ((now != self.values).any(1) | self.none) & ~none
        if bool(self.sharded.any()):
            # Sharded ones get their gradient when ranks exchange it; until then FSDP keeps it elsewhere.
            touched |= self.sharded & ~torch.isin(self.owners, self.owners[touched])
        everywhere = bool((touched | none).all())
        # Of an optimizer whose gradients moved nowhere that is read, the graph tells, as with embeddings.
        still = set() if everywhere else set(self.owners[~none].tolist()) - set(self.owners[touched].tolist())
        if still and (ids := reached()):
            for place, each in enumerate(self.watched):
                touched[place] |= each.owner in still and id(each.parameter) in ids and not bool(none[place])
        factors = touched.double()
        for place in (none & ~self.none).nonzero().flatten().tolist():
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
