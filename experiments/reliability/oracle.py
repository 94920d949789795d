"""An independent judge of loops: it trains a small network in float64 and compares gradients with full batches'.

It shares nothing with the probe but the task that a loop is given. Full batches are cut by hand and trained freely; at
each of their steps the parameters are noted. A loop is then trained frozen: after its s-th update the parameters are
put to those of the s-th step, so that every update is judged at the same point as the full batch's. Two scales of the
logits are used, so that clipping is reached once and once not.

A loop is the same as full-batch training if all its gradients are those of the full batch. If not, it may still train
as its own run without accumulation does, where that follows one convention: each update is made of one window, with the
tail of an epoch as a window, without it, or as one stream.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal
from unittest import mock

import torch
from accumcheck.task import Loop, Sizes, Task
from accumcheck.watching.limits import TimeUpError, within
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import TensorDataset

Verdict = Literal["same", "differs", "raises", "no update"]
FEATURES, HIDDEN, CLASSES = 6, 72, 5
SMALL, LARGE = 2.0**-10, 2.0**10  # scales of the logits
RATE = 0.1
EXACT = 1e-9  # relative
HALF = 2.0**-6  # twice the unit in the last place of bfloat16
LIMIT = 5.0  # seconds for one run
CONVENTIONS = ("window", "dropped", "stream", "endless")
Point = dict[str, Tensor]


class Net(nn.Module):
    """One hidden layer, whose logits are multiplied with ``scale``."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, HIDDEN)
        self.last = nn.Linear(HIDDEN, CLASSES)
        self.scale = scale

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits of samples, or of tokens."""
        logits: Tensor = self.last(torch.tanh(self.first(inputs))) * self.scale
        return logits


def mean_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean over samples, or over tokens that are not masked."""
    return F.cross_entropy(outputs.reshape(-1, CLASSES), targets.reshape(-1))


@dataclass
class Update:
    """One update of one parameter: its gradient, how far it moved from where it was put, and the group's numbers."""

    gradient: Tensor
    moved: Tensor
    settings: dict[str, float]


class Record(dict[str, list[Update]]):
    """The updates of each parameter; whether any optimizer stepped, and the orders in which samples were drawn."""

    stepped: bool = False
    orders: tuple[tuple[int, ...], ...] = ()


class Drawn(TensorDataset):
    """A data set that notes which samples are drawn."""

    def __init__(self, *tensors: Tensor) -> None:
        super().__init__(*tensors)
        self.drawn: list[int] = []

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        self.drawn += [int(i) for i in torch.as_tensor(index).flatten()] if not isinstance(index, slice) else []
        return tuple(tensor[index] for tensor in self.tensors)

    def orders(self) -> tuple[tuple[int, ...], ...]:
        """The order of each pass, if all passes are whole ones, the last one perhaps apart."""
        n = len(self)
        passes = tuple(tuple(self.drawn[start : start + n]) for start in range(0, len(self.drawn), n))
        whole = all(sorted(each) == [*range(n)] for each in passes[:-1])
        return passes if whole and passes and len({*passes[-1]}) == len(passes[-1]) else ()


@dataclass
class World:
    """Data, first parameters and the full batches' trajectory at one size and scale.

    ``counts`` are the tokens of each sample that are not masked; none where targets are one for each sample.
    """

    sizes: Sizes
    counts: Sequence[int]
    seed: int
    scale: float
    points: list[Point] = field(default_factory=list)
    full: list[Point] = field(default_factory=list)  # gradients

    def __post_init__(self) -> None:
        draw = torch.Generator().manual_seed(self.seed)
        n = self.sizes.samples
        longest = max(self.counts, default=0)
        shape = (n, longest) if longest else (n,)
        self.inputs = torch.randn(*shape, FEATURES, generator=draw, dtype=torch.float64)
        self.targets = torch.randint(CLASSES, shape, generator=draw)
        if longest:
            self.targets[torch.arange(longest) >= torch.tensor(self.counts)[:, None]] = -100
        model = self.model()
        start = {
            name: torch.randn(value.shape, generator=draw, dtype=torch.float64) * (0.5 if "first" in name else 0.3)
            for name, value in model.named_parameters()
        }
        for name in ("last.weight", "last.bias"):
            start[name] *= min(1.0, 1 / self.scale)
        self.points.append(start)
        self._train(model)

    def model(self) -> Net:
        """A network at the first point."""
        with torch.random.fork_rng(devices=[]):  # from which torch's layers draw what is replaced here
            model = Net(self.scale).double()
        if self.points:
            put(model, self.points[0])
        return model

    @property
    def rate(self) -> float:
        """The learning rate, at which the logits move by as much at both scales."""
        return RATE / max(1.0, self.scale**2)

    def _train(self, model: Net) -> None:
        """Full batches, cut by hand, trained by hand."""
        put(model, self.points[0])
        big = self.sizes.micro_batch_size * self.sizes.accumulation_steps
        for _ in range(self.sizes.epochs):
            for start in range(0, self.sizes.samples, big):
                model.zero_grad()
                rows = slice(start, start + big)
                mean_loss(model(self.inputs[rows]), self.targets[rows]).backward()
                gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
                self.full.append(gradients)
                self.points.append({name: self.points[-1][name] - self.rate * gradients[name] for name in gradients})
                put(model, self.points[-1])

    def point(self, step: int) -> Point:
        """Where the parameters are before this update."""
        return self.points[min(step, len(self.points) - 1)]

    def record(self, loop: Loop, sizes: Sizes) -> Record:
        """Train a loop frozen at the points; every update of every parameter."""
        model = self.model()
        dataset = Drawn(self.inputs.clone(), self.targets.clone())
        optimizer = SGD(model.parameters(), lr=self.rate)
        task = Task.build(model, optimizer, mean_loss, dataset, sizes)
        found = Record()
        names = {id(parameter): name for name, parameter in model.named_parameters()}

        def after(stepped: Optimizer, *_: Any) -> None:
            found.stepped = True
            with torch.no_grad():
                for group in stepped.param_groups:
                    settings = {key: float(v) for key, v in group.items() if isinstance(v, int | float)}
                    for parameter in group["params"]:
                        name = names.get(id(parameter))
                        if name is None or parameter.grad is None:
                            continue
                        updates = found.setdefault(name, [])
                        moved = parameter - self.point(len(updates))[name]
                        updates.append(Update(parameter.grad.clone(), moved, settings))
                        parameter.copy_(self.point(len(updates))[name])
                steps = max(map(len, found.values()), default=0)
                for name, parameter in model.named_parameters():
                    if name not in found or not parameter.requires_grad:  # it is not stepped, but moves along
                        parameter.copy_(self.point(steps)[name])

        hook = register_optimizer_step_post_hook(after)
        try:
            with _quiet(self.seed):
                within(LIMIT, lambda: loop(task))
        finally:
            hook.remove()
        found.orders = dataset.orders()
        return found

    def weights(self, record: Record) -> tuple[list[list[float]], bool]:
        """The weight of every unit in each update, by least squares, and whether these are all there is to it."""
        rows: list[list[float]] = []
        whole = True
        steps = max((len(updates) for updates in record.values()), default=0)
        for step in range(steps):
            names = [name for name, updates in record.items() if len(updates) > step]
            if step and all(torch.equal(record[n][step].gradient, record[n][step - 1].gradient) for n in names):
                rows.append(rows[-1])  # a second step with the same gradient
                continue
            units = self._gradients_of_units(step, names)
            got = torch.cat([record[name][step].gradient.flatten() for name in names])
            narrow = all(torch.equal(g, g.bfloat16().double()) for g in (record[n][step].gradient for n in names))
            size = float(got.norm())
            solved = torch.linalg.lstsq(units.T, got[:, None], driver="gelsd").solution[:, 0]
            whole = whole and float((units.T @ solved - got).norm()) <= (HALF if narrow else 1e-7) * size + 1e-300
            solved[solved.abs() < (0.1 if narrow else 1e-6) * solved.abs().max()] = 0.0
            rows.append(solved.tolist())
        return rows, whole

    def _gradients_of_units(self, step: int, names: Sequence[str]) -> Tensor:
        model = self.model()
        put(model, self.point(step))
        parameters = [dict(model.named_parameters())[name] for name in names]
        rows = []
        for i, token in self.units:
            place = (i,) if token is None else (i, token)
            loss = F.cross_entropy(model(self.inputs[place])[None], self.targets[place][None])
            rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
        return torch.stack(rows)

    @property
    def units(self) -> list[tuple[int, int | None]]:
        """Samples, or tokens that are not masked, each with its sample first."""
        if not self.counts:
            return [(i, None) for i in range(self.sizes.samples)]
        return [(int(i), int(t)) for i, t in (self.targets != -100).nonzero()]


@contextmanager
def _quiet(seed: int) -> Iterator[None]:
    """What a loop prints is dropped, and what it draws begins anew; its scalers scale without CUDA too."""
    with torch.random.fork_rng(devices=[]), redirect_stdout(io.StringIO()):
        torch.manual_seed(seed)
        scaler = partial(_scaler, torch.amp.GradScaler)
        with mock.patch("torch.amp.GradScaler", scaler):
            yield


def _scaler(kind: Any, device: str = "cpu", **options: Any) -> Any:
    return kind("cpu", **options)


def put(model: nn.Module, point: Point) -> None:
    """Set a model's parameters."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(point[name])


def same_gradients(ours: Record, theirs: Record) -> bool:
    """Whether all updates of all parameters are made with the same gradients."""
    return _same(ours, theirs, "gradient")


def same_moves(ours: Record, theirs: Record) -> bool:
    """Whether all updates move all parameters by as much, with the same settings of their groups."""
    return _same(ours, theirs, "moved") and same_settings(ours, theirs)


def same_settings(ours: Record, theirs: Record) -> bool:
    """Whether the groups' numbers agree at all updates that both make."""
    return all(
        abs(a.settings[key] - b.settings[key]) <= EXACT * max(abs(a.settings[key]), abs(b.settings[key]))
        for name in ours.keys() & theirs.keys()
        for a, b in zip(ours[name], theirs[name], strict=False)
        for key in a.settings.keys() & b.settings.keys()
    )


def _same(ours: Record, theirs: Record, what: str) -> bool:
    if {name: len(each) for name, each in ours.items()} != {name: len(each) for name, each in theirs.items()}:
        return False
    for step in range(max(map(len, ours.values()), default=0)):
        pairs = [
            (getattr(ours[name][step], what), getattr(theirs[name][step], what))
            for name in ours
            if len(ours[name]) > step
        ]
        size = sum(float(a.norm()) ** 2 + float(b.norm()) ** 2 for a, b in pairs) ** 0.5
        if any(float((a - b).norm()) > EXACT * size for a, b in pairs):
            return False
    return True


def same_as_full(ours: Record, world: World) -> bool:
    """Whether all parameters get the full batches' gradients."""
    full = {name: [Update(g[name], g[name], {}) for g in world.full] for name in world.full[0]}
    return same_gradients(ours, Record({name: full[name] for name in ours})) and bool(ours)


def conventions_of(
    rows: Sequence[Sequence[float]],
    sizes: Sizes,
    units: Sequence[tuple[int, int | None]],
    orders: Sequence[Sequence[int]] = (),
) -> set[str]:
    """The conventions by which each update is made of one window of N samples, and of nothing else."""
    n, big = sizes.samples, sizes.micro_batch_size * sizes.accumulation_steps
    if not rows:  # training ended before a window was full
        return {"dropped", "stream", "endless"} if n < big else set()
    supports = [frozenset(i for i, w in enumerate(row) if w) for row in rows]
    times = 1
    while times < len(supports) and supports[times] == supports[0]:
        times += 1
    found = set()
    passes = orders or [range(n)] * sizes.epochs
    for name in CONVENTIONS:
        for repeats in {1, times}:
            windows = _windows(name, n, big, passes, len(rows))
            used = [window for window in windows for _ in range(repeats)][: len(rows)]
            # Else the first window of each epoch, and no other one, would be a step that is repeated.
            if repeats > 1 and len(rows) not in {repeats * each for each in _ends(name, n, big, passes)}:
                continue
            inside = [frozenset(u for u, (i, _) in enumerate(units) if i in window) for window in used]
            if supports == inside:
                found.add(name)
    return found


def _ends(convention: str, n: int, big: int, orders: Sequence[Sequence[int]]) -> list[int]:
    """How many windows there are by the end of each pass."""
    name = "stream" if convention == "endless" else convention
    return [len(_windows(name, n, big, orders[: place + 1], 0)) for place in range(len(orders))]


def _windows(convention: str, n: int, big: int, orders: Sequence[Sequence[int]], count: int) -> list[tuple[int, ...]]:
    if convention in ("stream", "endless"):
        passes = [*orders, *[orders[-1]] * (big * count // n + 1 if convention == "endless" else 0)]
        rows = [i for each in passes for i in each]
        return [tuple(rows[start : start + big]) for start in range(0, len(rows), big)]
    whole = n if convention == "window" else n // big * big
    each = max(-(-whole // big), 1)
    longer = [*orders, *[orders[-1]] * max(0, -(-count // each) - len(orders))]  # a loop may have its own epochs
    return [tuple(order[start : min(whole, start + big)]) for order in longer for start in range(0, whole, big)]


@dataclass(frozen=True)
class Judgement:
    """What the oracle says of a loop, and why."""

    verdict: Verdict
    why: str = ""


def judge(loop: Loop, sizes: Sequence[Sizes], counts: Sequence[Sequence[int]], seed: int = 0) -> Judgement:
    """Train a loop at these sizes and say whether it is full-batch training, by the plain one or by its own.

    ``counts`` are the tokens of each sample, for each of the sizes; empty for targets that are one for each sample.
    """
    as_mean, as_own, updates = True, True, 0
    conventions = set(CONVENTIONS)
    for each, tokens in zip(sizes, counts, strict=True):
        for scale in (SMALL, LARGE):
            world = World(each, tokens, seed, scale)
            try:
                ours = world.record(loop, each)
            except (Exception, SystemExit, TimeUpError) as error:
                return Judgement("raises", f"{type(error).__name__}: {error}")
            own: Record | None = None
            with suppress(Exception, SystemExit, TimeUpError):
                own = world.record(loop, each.full_batch())
            updates += ours.stepped
            here_mean = same_as_full(ours, world) and (own is None or same_settings(ours, own))
            here_own = own is not None and same_gradients(ours, own) and same_moves(ours, own)
            as_mean, as_own = as_mean and here_mean, as_own and here_own
            if not here_mean and not here_own:
                return Judgement("differs", f"at {each}, scale {scale:g}")
            if own is not None and scale == SMALL:
                rows, whole = world.weights(own)
                conventions &= conventions_of(rows, each, world.units, own.orders) if whole else set()
    if not updates:
        return Judgement("no update")
    if as_mean:
        return Judgement("same", "mean")
    if as_own and conventions:
        return Judgement("same", f"own: {', '.join(sorted(conventions))}")
    why = "its own run follows no convention" if as_own else "neither the mean at all sizes nor its own run"
    return Judgement("differs", why)
