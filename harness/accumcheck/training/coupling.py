"""May a model and its loss be accumulated at all? Found by experiment: what one sample's output depends on.

Accumulation runs samples in smaller batches. That changes nothing only if a sample's output depends neither on the
samples beside it, as BatchNorm's does, nor on random numbers, which micro-batches draw otherwise than a large batch.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from accumcheck.task import Sizes, unmasked
from accumcheck.training.problem import DTYPES, Case, Problem
from accumcheck.watching.process import Modes, RandomStream, preserved

STREAMS = 4  # other random streams tried; one may happen to drop nothing where little is dropped


@dataclass(frozen=True)
class Coupling:
    """What stands between a problem and accumulation; a module goes by its name and class, as in "1 (BatchNorm2d)".

    ``mixes`` is the first module, in order of execution, whose output for a sample depends on the samples beside it:
    "the model" if its own forward does it, "the loss" if no module does but the batch's loss is not the mean, over
    samples or unmasked tokens, of its halves' losses. ``draws`` is the first module, or the loss, that depends on
    random numbers. ``None`` if nothing does; ``mixes`` is unknown, and ``None``, if something draws even in evaluation
    mode. ``silent`` are the classes of modules whose evaluation mode silences all draws; ``None`` if nothing does.
    """

    mixes: str | None
    draws: str | None
    silent: frozenset[type[nn.Module]] | None = field(default=frozenset(), compare=False, repr=False)


@dataclass(frozen=True)
class _Call:
    label: str
    kind: type[nn.Module]
    inputs: list[Tensor]
    outputs: list[Tensor]


@dataclass(frozen=True)
class _Forward:
    """A forward pass of some rows of the batch: calls in the order in which they return, so inner ones come first."""

    rows: range
    calls: dict[tuple[str, int], _Call]
    outputs: Any


def examine(
    problem: Problem, *, dtype: str = "float64", seed: int = 0, device: str = "cpu", samples: int = 8
) -> Coupling:
    """Run the model on a batch, on its halves and under several random streams, and compare module by module.

    Modules keep the mode in which ``problem.model()`` returns them, so a frozen BatchNorm stays frozen; a model that
    is in evaluation mode as a whole is put into training mode. Nothing of the caller's is changed. In bfloat16, what
    mixes by less than two per cent passes for rounding, so a larger module may be named; float64 tells exactly.

    Raises ValueError for fewer than four samples or an unknown dtype, and whatever the model or the loss raises.

    >>> from accumcheck.corpus.problems import PROBLEMS
    >>> examine(PROBLEMS["cnn-batchnorm"])
    Coupling(mixes='1 (BatchNorm2d)', draws=None)
    """
    if samples < 4:
        raise ValueError(f"samples must be at least 4, so that each half has two, got {samples}")
    case = Case(problem, Sizes(samples, 2, 2), dtype=dtype, seed=seed, device=device)
    tolerance = max(1e-6, math.sqrt(torch.finfo(DTYPES[dtype]).eps) / 4)
    with preserved():
        Modes().resume()
        with torch.no_grad():  # weights computed from parameters, as weight norm's, can be copied only without a graph
            task = case.task()
        if not task.model.training:
            task.model.train()
        inputs, targets = task.dataset.tensors
        everything, halves = range(samples), (range(samples // 2), range(samples // 2, samples))
        silent: set[type[nn.Module]] = set()
        draws = None
        while True:
            whole = _forward(task.model, inputs, everything, silent, seed)
            others = [_forward(task.model, inputs, everything, silent, seed + 1 + i) for i in range(STREAMS)]
            drawing = _culprit(whole, others, tolerance)
            if drawing is None:
                break
            draws = draws or drawing.label
            if drawing.kind in silent:
                return Coupling(None, draws, None)
            silent.add(drawing.kind)

        parts = [_forward(task.model, inputs, rows, silent, seed) for rows in halves]
        if mixing := _culprit(whole, parts, tolerance):
            return Coupling(mixing.label, draws, frozenset(silent))

        def loss(forward: _Forward, stream: int = seed) -> Tensor:
            rows = targets[forward.rows.start : forward.rows.stop].clone()
            outputs = forward.outputs.detach().clone() if isinstance(forward.outputs, Tensor) else forward.outputs
            with RandomStream(stream).active():
                return problem.loss(outputs, rows).detach()

        total = loss(whole)
        if any(_differ(total, loss(whole, seed + 1 + i), tolerance) for i in range(STREAMS)):
            return Coupling(None, draws or "the loss", None)
        counted = unmasked if problem.objective == "token" else len
        weights = [counted(targets[rows.start : rows.stop]) for rows in halves]
        losses = [loss(part) * weight for part, weight in zip(parts, weights, strict=True) if weight]
        mean = torch.stack(losses).sum(0) / sum(weights)
        mixes = "the loss" if _differ(total, mean, tolerance) else None
        return Coupling(mixes, draws, frozenset(silent))


def silenced(build: Callable[[], nn.Module], classes: frozenset[type[nn.Module]]) -> nn.Module:
    """A new model whose modules of these classes stay in evaluation mode, whatever a loop does."""
    model = build()
    for module in model.modules():
        if type(module) in classes:
            module.train = partial(_stay, module)  # type: ignore[method-assign]
            module.training = False
    return model


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    type(module).train(module, mode)
    module.training = False
    return module


def _forward(model: nn.Module, inputs: Tensor, rows: range, silent: set[type[nn.Module]], seed: int) -> _Forward:
    """Run some rows through a copy of the model; modules of the classes in ``silent`` are in evaluation mode."""
    model = copy.deepcopy(model)  # a forward pass moves buffers, such as running statistics
    calls: dict[tuple[str, int], _Call] = {}
    entered: list[list[Tensor]] = []
    count: Counter[str] = Counter()

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        entered.append(list(_tensors((args, kwargs))))

    for name, module in model.named_modules():
        if type(module) in silent:
            module.training = False  # not eval(), which would take the modules inside along

        def leave(module: nn.Module, args: Any, kwargs: Any, output: Any, name: str = name) -> None:
            label = f"{name} ({type(module).__name__})" if name else "the model"
            calls[name, count[name]] = _Call(label, type(module), entered.pop(), list(_tensors(output)))
            count[name] += 1

        module.register_forward_pre_hook(enter, with_kwargs=True)
        module.register_forward_hook(leave, with_kwargs=True)
    with RandomStream(seed).active():
        return _Forward(rows, calls, model(inputs[rows.start : rows.stop].clone()))


def _tensors(values: Any) -> Iterator[Tensor]:
    """Copies, as modules may work in place."""
    if isinstance(values, Tensor):
        if values.layout == torch.strided:
            yield values.detach().clone()
    elif isinstance(values, list | tuple | Mapping):
        for value in values.values() if isinstance(values, Mapping) else values:
            yield from _tensors(value)


def _culprit(whole: _Forward, others: list[_Forward], tolerance: float) -> _Call | None:
    """The first call of which some other pass has one with the same inputs and different outputs."""
    for key, call in whole.calls.items():
        for other in others:
            twin = other.calls.get(key)
            if twin is None or len(call.inputs) != len(twin.inputs) or len(call.outputs) != len(twin.outputs):
                continue
            rows, samples = other.rows, len(whole.rows)
            inputs = zip(call.inputs, twin.inputs, strict=True)
            outputs = zip(call.outputs, twin.outputs, strict=True)
            # Inputs must agree more closely than outputs, or a module that magnifies a difference would be blamed.
            if all(_agree(*pair, rows, samples, tolerance / 10) for pair in inputs) and any(
                _agree(a, b, rows, samples, tolerance) is False
                for a, b in outputs
                if a.shape != b.shape or rows == whole.rows  # not a batch's statistics: they are no sample's output
            ):
                return call
    return None


def _agree(whole: Tensor, part: Tensor, rows: range, samples: int, tolerance: float) -> bool | None:
    """Whether ``part`` is these rows of ``whole``, along the one dimension that is shorter; ``None`` if none is.

    The dimension may hold several items per sample, a sample's side by side or the samples' side by side.
    """
    if whole.shape == part.shape:
        return not _differ(whole, part, tolerance)
    differing = [i for i, (a, b) in enumerate(zip(whole.shape, part.shape, strict=False)) if a != b]
    if whole.dim() != part.dim() or len(differing) != 1:
        return None
    (dim,) = differing
    items = whole.shape[dim] // samples
    if whole.shape[dim] != items * samples or part.shape[dim] != items * len(rows):
        return None
    major = whole.unflatten(dim, (samples, items)).narrow(dim, rows.start, len(rows)).flatten(dim, dim + 1)
    minor = whole.unflatten(dim, (items, samples)).narrow(dim + 1, rows.start, len(rows)).flatten(dim, dim + 1)
    return any(not _differ(view, part, tolerance) for view in (major, minor))


def _differ(one: Tensor, two: Tensor, tolerance: float) -> bool:
    """Beyond rounding: relative to the norm, and where a tensor is rounding altogether, absolutely."""
    kind = torch.complex128 if one.is_complex() else torch.float64
    one, two = one.to("cpu", kind), two.to("cpu", kind)
    same = (one == two) | (one.isnan() & two.isnan())
    distance = (one - two).masked_fill(same, 0).norm().item()
    size = torch.where(two.abs().isfinite(), two, 0).norm().item()
    return not distance <= tolerance * size + tolerance**2
