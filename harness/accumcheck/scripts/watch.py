"""Watches a whole script from outside: what it draws, differentiates, clears, clips, steps and schedules.

Nothing that the script computes is changed: hooks read, and wrappers of torch's functions call what they wrap.
"""

from __future__ import annotations

import argparse
import functools
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, distributed
from torch.nn import functional, utils
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer, lr_scheduler
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data.dataloader import _BaseDataLoaderIter

from accumcheck.scripts import graph, hints
from accumcheck.scripts.batches import Draws, Fewer, FewerDrawn
from accumcheck.scripts.buffers import Buffers
from accumcheck.scripts.execute import EnoughError
from accumcheck.scripts.log import Batch, Log, Part, Pass, Schedule
from accumcheck.scripts.marks import Marks
from accumcheck.watching.sites import BACKWARD, STEP, Sites
from accumcheck.watching.steps import Update, watch

Wrapper = Callable[[Callable[..., Any]], Callable[..., Any]]
KEPT = 1000  # tuples of numbers that are not kept twice
ASKED = 8  # backward passes at which a script's variables are looked at
RANKS = "several ranks train together"
SHARDED = "gradients are sharded over ranks"
HOOKED = "a communication hook changes how gradients are put together"
MOVED = "parameters are changed within a window"
INSIDE = "an optimizer steps inside of backward()"
GRAD = "torch.autograd.grad() is used"
BATCH_NORM = "BatchNorm in training mode"


@dataclass
class Observer:
    """Writes down what happens; ``limit`` is the number of updates after which the script is ended."""

    log: Log = field(default_factory=Log)
    limit: int | None = None
    several: bool = False  # the logs of several ranks are to be joined
    enough: Callable[[], None] = lambda: None  # called once, when the limit is reached

    def __post_init__(self) -> None:
        self.buffers = Buffers(self.log, self.several)
        self.draws = Draws(self.log, self.several)
        self.inside = 0  # backward passes under way
        self.since: dict[int, list[int]] = {}
        self.calls: dict[int, int] = {}  # of schedulers, by optimizer, since its last step
        self.schedulers: WeakSet[Any] = WeakSet()
        self.marks = Marks()
        self.sites = Sites()
        self.log.sites = self.sites.found
        self.numbers: dict[tuple[float, ...], tuple[float, ...]] = {}

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """All parameters that optimizers hold."""
        for number, each in enumerate(self.buffers.watched):
            yield str(number), each.parameter

    # Backward passes

    def backward(self, original: Callable[..., Any], tensors: Any, args: Any, kwargs: Any) -> Any:
        """Call ``torch.autograd.backward`` and read what it sends where."""
        if self.inside:  # a pass that a pass starts, as re-entrant checkpoints do
            return original(tensors, *args, **kwargs)
        self.sites.note(BACKWARD)
        roots = [tensors] if isinstance(tensors, Tensor) else list(tensors)
        if len(self.log.passes) < ASKED:
            note_hints(self.log, hints.around())
        self.buffers.observe()
        terms = graph.find_terms([root for root in roots if root.grad_fn is not None])
        self.inside += 1
        try:
            with graph.reading(terms):
                return original(tensors, *args, **kwargs)
        finally:
            self.inside -= 1
            self._note(terms, roots)

    def _note(self, terms: list[graph.Term], roots: list[Tensor]) -> None:
        for term in terms:
            term.finish()
        known = [t for t in graph.joined(terms) if len(t.weights) and bool(t.weights.any())]
        number = len(self.log.passes)
        parts: list[Part] = []
        opaque = "" if known else "no losses of samples were found in its graph"
        if opaque:
            self.draws.skip()
        else:
            names: dict[tuple[str, int], int] = {}
            for term, batch, sure in self.draws.match(known):
                place = names[term.name, id(batch)] = names.get((term.name, id(batch)), 0) + 1
                part = _part(term, f"{term.name} {place}" if place > 1 else term.name, batch, sure=sure)
                parts.append(replace(part, units=self._kept(part.units), weights=self._kept(part.weights)))
        for term in terms:
            term.node = term.source = term.target = term.copy = term.mask = term.class_weights = None
        rates = self.buffers.rates()
        if self.log.passes and self.log.passes[-1].rates == rates:
            rates = self.log.passes[-1].rates
        self.log.passes.append(Pass(number, tuple(parts), opaque, rates))
        for owner in self.buffers.added(number, lambda: graph.reached(roots)):
            self.log.touched.setdefault(owner, []).append(number)
            if not self.since.setdefault(owner, []) and not _several_ranks():
                self.marks.keep(owner, self.buffers.of(owner))
            self.since[owner].append(number)

    def _kept(self, numbers: tuple[float, ...]) -> tuple[float, ...]:
        """The same numbers, kept once: those of most micro-batches are the same."""
        if len(self.numbers) > KEPT:
            self.numbers.clear()
        return self.numbers.setdefault(numbers, numbers)

    # Steps

    def meet(self, optimizer: Optimizer, *_: Any) -> None:
        """An optimizer that is about to step is known from then on."""
        self.buffers.number_of(optimizer)

    def before_step(self, update: Update) -> None:
        """The gradient is final."""
        self.sites.note(STEP)
        if self.inside:
            self.log.facts[INSIDE] += 1
        if _several_ranks():
            self.log.facts[RANKS] += 1
            if self.several and not self.log.updates and _is_sharded():
                self.log.facts[SHARDED] += 1
        optimizer = update.optimizer
        owner = self.buffers.number_of(optimizer)
        if self.marks.moved(owner, self.buffers.of(owner)):
            self.log.facts[MOVED] += 1
        self.buffers.observe()
        scale = getattr(optimizer, "grad_scale", None)
        rates = tuple(float(group.get("lr", 0.0)) for group in optimizer.param_groups)
        since = tuple(self.since.pop(owner, ()))
        self.log.updates.append(
            self.buffers.update(
                owner, rates=rates, calls=self.calls.pop(owner, 0), since=since,
                scale=1.0 if scale is None else float(scale),
            )
        )  # fmt: skip

    def after_step(self, update: Update) -> None:
        """Go on, or end the script."""
        if update.evaluations > 1:
            self.log.facts[f"an optimizer evaluated its closure {update.evaluations} times in one step"] += 1
        self.buffers.forget_changes()
        if self.limit is not None and len(self.log.updates) >= self.limit:
            self.enough()
            raise EnoughError

    def scheduled(self, scheduler: Any) -> None:
        """A scheduler was called, though not by its constructor."""
        optimizer = getattr(scheduler, "optimizer", None)
        if scheduler not in self.schedulers or not isinstance(optimizer, Optimizer):
            return
        owner = self.buffers.number_of(optimizer)
        names = ("total_steps", "T_max", "total_iters")
        length = next((v for name in names if isinstance(v := getattr(scheduler, name, None), int)), None)
        known = self.log.schedules.setdefault(owner, Schedule(type(scheduler).__name__, length))
        known.calls += 1
        self.calls[owner] = self.calls.get(owner, 0) + 1


def _several_ranks() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def _is_sharded() -> bool:
    """Whether any module of the process is one of FSDP, of either kind."""
    modules = [sys.modules.get("torch.distributed.fsdp"), sys.modules.get("torch.distributed._composable.fsdp")]
    names = ("FullyShardedDataParallel", "FSDPModule")
    kinds = tuple(kind for module in modules for name in names if isinstance(kind := getattr(module, name, 0), type))
    return bool(kinds) and any(issubclass(type(each), kinds) for each in gc.get_objects())


def _part(term: graph.Term, name: str, batch: Batch, *, sure: bool) -> Part:
    """What a term sends into the rows of its micro-batch; of several tokens in a row, their sums."""
    units, weights, rows = term.units, term.weights, batch.rows
    even = term.even
    if rows and len(weights) != rows and len(weights) % rows == 0:
        even = even and graph.is_even(weights.view(rows, -1), units.view(rows, -1))
        units, weights = units.view(rows, -1).sum(1), weights.view(rows, -1).sum(1)
    contrasts = term.classes > 1 and term.classes == len(term.weights) and not sure and bool(batch.tensors)
    return Part(
        name, batch, term.reduction, tuple(units.tolist()), tuple(weights.tolist()), even, sure, contrasts,
        not term.name.startswith(graph.LOSSES), term.hidden, term.nonlinear,
    )  # fmt: skip


@contextmanager
def observing(observer: Observer, samples: int | None = None) -> Iterator[None]:
    """All hooks, and their removal; with ``samples``, data sets of known length are cut to their first so many."""
    with ExitStack() as stack:

        def patch(owner: Any, name: str, wrapper: Wrapper) -> None:
            original = getattr(owner, name)
            setattr(owner, name, functools.wraps(original)(wrapper(original)))
            stack.callback(setattr, owner, name, original)

        if samples is not None:
            patch(DataLoader, "__init__", _fewer(samples))
        watch_loaders(observer.draws, patch)
        _watch_passes(observer, patch)
        _watch_schedules(observer, patch)
        patch(argparse.ArgumentParser, "parse_known_args", _hints(observer.log))
        stack.enter_context(observer.sites.clearing_noted())
        stack.callback(register_optimizer_step_pre_hook(observer.meet).remove)
        stack.enter_context(watch(observer, observer.before_step, observer.after_step))
        yield


Patch = Callable[[Any, str, Wrapper], None]


def watch_loaders(draws: Draws, patch: Patch) -> None:
    """Tell ``draws`` what comes out of loaders; ``patch`` replaces torch's functions."""

    def init(original: Callable[..., Any]) -> Callable[..., Any]:
        def __init__(self: Any, loader: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            self._accumcheck = draws.begin(loader)
            original(self, loader, *args, **kwargs)

        return __init__

    def reset(original: Callable[..., Any]) -> Callable[..., Any]:
        def _reset(self: Any, loader: Any, first_iter: bool = False) -> Any:
            if not first_iter:
                self._accumcheck = draws.begin(loader)
            return original(self, loader, first_iter)

        return _reset

    def index(original: Callable[..., Any]) -> Callable[..., Any]:
        def _next_index(self: Any) -> Any:
            found = original(self)
            self._accumcheck.indices.append(found)
            return found

        return _next_index

    def following(original: Callable[..., Any]) -> Callable[..., Any]:
        def __next__(self: Any) -> Any:  # noqa: N807
            try:
                data = original(self)
            except StopIteration:
                draws.ended(self._accumcheck)
                raise
            draws.drawn(self._accumcheck, data)
            return data

        return __next__

    patch(_BaseDataLoaderIter, "__init__", init)
    patch(_BaseDataLoaderIter, "_reset", reset)
    patch(_BaseDataLoaderIter, "_next_index", index)
    patch(_BaseDataLoaderIter, "__next__", following)

    def permuted(original: Callable[..., Any]) -> Callable[..., Any]:
        def randperm(n: Any, *args: Any, **kwargs: Any) -> Any:
            draws.permuted = n if isinstance(n, int) else 0
            return original(n, *args, **kwargs)

        return randperm

    patch(torch, "randperm", permuted)


def _watch_passes(observer: Observer, patch: Patch) -> None:
    def backward(original: Callable[..., Any]) -> Callable[..., Any]:
        def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            return observer.backward(original, tensors, args, kwargs)

        return backward

    def counted(fact: str, when: Callable[..., bool]) -> Wrapper:
        def wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                if when(*args, **kwargs):
                    observer.log.facts[fact] += 1
                return original(*args, **kwargs)

            return call

        return wrapper

    def clip(original: Callable[..., Any]) -> Callable[..., Any]:
        def clip(*args: Any, **kwargs: Any) -> Any:
            observer.buffers.observe()
            result = original(*args, **kwargs)
            observer.buffers.observe("clip")
            return result

        return clip

    def made(original: Callable[..., Any]) -> Callable[..., Any]:
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            original(self, *args, **kwargs)
            observer.buffers.number_of(self)

        return __init__

    patch(torch.autograd, "backward", backward)
    patch(torch.autograd, "grad", counted(GRAD, lambda *_, **k: not k.get("create_graph") and not observer.inside))

    def trains(*args: Any, **kwargs: Any) -> bool:
        return bool(kwargs.get("training", args[5] if len(args) > 5 else False)) and torch.is_grad_enabled()

    patch(functional, "batch_norm", counted(BATCH_NORM, trains))
    patch(Optimizer, "__init__", made)
    patch(DistributedDataParallel, "register_comm_hook", counted(HOOKED, lambda *_, **__: True))
    # Both where scripts import them from; what a script imported before it ran is wrapped all the same.
    for owner in (utils, utils.clip_grad):
        for name in ("clip_grad_norm_", "clip_grad_value_"):
            patch(owner, name, clip)


def _watch_schedules(observer: Observer, patch: Patch) -> None:
    depth = 0

    def stepped(original: Callable[..., Any]) -> Callable[..., Any]:
        def step(self: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal depth
            depth += 1
            try:
                return original(self, *args, **kwargs)
            finally:
                depth -= 1
                if not depth:
                    observer.scheduled(self)

        return step

    def made(original: Callable[..., Any]) -> Callable[..., Any]:
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            original(self, *args, **kwargs)
            observer.schedulers.add(self)

        return __init__

    # On the classes: an attribute of a scheduler would end up in its state_dict().
    base = lr_scheduler.LRScheduler
    for each in {v for v in vars(lr_scheduler).values() if isinstance(v, type) and issubclass(v, base)}:
        if "step" in vars(each):
            patch(each, "step", stepped)
        if "__init__" in vars(each) and (each.__mro__[1] is object or each is lr_scheduler.ReduceLROnPlateau):
            patch(each, "__init__", made)


def _hints(log: Log) -> Wrapper:
    def wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
        def parse_known_args(self: Any, *args: Any, **kwargs: Any) -> Any:
            namespace, rest = original(self, *args, **kwargs)
            note_hints(log, hints.named(vars(namespace), "argument"))
            return namespace, rest

        return parse_known_args

    return wrapper


def note_hints(log: Log, found: Iterator[tuple[str, int]]) -> None:
    """Keep the values that something named for accumulation steps has had."""
    for name, value in found:
        log.hints.setdefault(name, set()).add(value)


def _fewer(samples: int) -> Wrapper:
    def wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
        def __init__(self: Any, dataset: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            given = dict(zip(("batch_size", "shuffle", "sampler", "batch_sampler"), args, strict=False)) | kwargs
            if len(args) > 4 or isinstance(dataset, IterableDataset | Fewer):
                original(self, dataset, *args, **kwargs)
                return
            sampler, batched = given.get("sampler"), given.get("batch_sampler")
            if batched is not None and not isinstance(batched, FewerDrawn):
                given["batch_sampler"] = FewerDrawn(batched, -(-samples // (getattr(batched, "batch_size", 1) or 1)))
            elif sampler is not None and not isinstance(sampler, FewerDrawn):
                given["sampler"] = FewerDrawn(sampler, samples)
            elif batched is None and sampler is None:
                dataset = Fewer(dataset, samples)
            original(self, dataset, **given)

        return __init__

    return wrapper
