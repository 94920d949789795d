"""Runs a loop once on a small model, and notes what it does beside the weights of its updates."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW, Optimizer
from torch.utils.data import TensorDataset

from accumcheck.checks.averages import Averages
from accumcheck.checks.saved import SavedBytes
from accumcheck.probing.model import CLASSES, Samples
from accumcheck.task import Loop, LoopError, Objective, Sizes, Task, cross_entropy, name_of, unmasked
from accumcheck.watching import progress
from accumcheck.watching.draws import scalers_on
from accumcheck.watching.limits import TIME_LIMIT, TimeUpError, within
from accumcheck.watching.process import Modes, RandomStream, one_thread, quiet
from accumcheck.watching.steps import Tensors, Update, copied, watch

WIDTHS = (13, 17)  # no activation has the shape of a parameter
OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adamw": lambda parameters: AdamW(parameters, lr=1e-3),
    "momentum": lambda parameters: SGD(parameters, lr=0.01, momentum=0.9),
}


@dataclass(frozen=True)
class Setup:
    """How a loop is run."""

    objective: Objective = "sample"
    seed: int = 0
    device: str = "cpu"
    time_limit: float = TIME_LIMIT
    optimizer: str = "adamw"
    averages: bool = True


class Model(nn.Module):
    """Embeds sample numbers as the probe's data has them; losses of its samples differ widely. ``seen`` is told of each
    forward pass that records gradients."""

    def __init__(self, rows: int, seed: int) -> None:
        super().__init__()
        first, second = WIDTHS
        self.embedding = nn.Embedding(rows, first)
        self.hidden, self.head = nn.Linear(first, second), nn.Linear(second, CLASSES)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(generator=generator)
        self.seen: Callable[[Tensor, Tensor], None] | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (batch, classes) for rows (batch,), or (batch, time, classes) for rows (batch, time)."""
        outputs: Tensor = self.head(self.hidden(self.embedding(inputs.long())).tanh())
        if torch.is_grad_enabled() and not torch.compiler.is_compiling() and self.seen is not None:
            self.seen(inputs, outputs)
        return outputs


@dataclass
class Stepped:
    """An optimizer step: what it was made with, and the optimizer's state behind it."""

    optimizer: str
    parameters: Tensors
    gradients: Tensors
    groups: list[dict[str, Any]]
    alike: tuple[Optimizer, Tensors] | None  # a copy of the first optimizer of these parameters, before its first step
    state: Tensors = field(default_factory=dict)
    evaluations: int = 0


@dataclass
class Seen:
    """What a run did. A loss is (sum over units, units); ``losses`` has one for each micro-batch, ``windows`` those
    between two steps; ``scaler`` has (scaler, method, scale) in their order."""

    sizes: Sizes
    moves: list[int] = field(default_factory=list)
    steps: list[Stepped] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    windows: list[float] = field(default_factory=list)
    scaler: list[tuple[int, str, float]] = field(default_factory=list)
    autocast: bool = False
    peak_bytes: int = 0
    peak_graphs: int = 0
    result: object = None


class _Token:
    """Lives as long as the graph that holds it."""


class _Run:
    def __init__(self, sizes: Sizes, setup: Setup) -> None:
        self.samples = Samples.draw(sizes.samples, setup.objective, setup.seed)
        self.model = Model(self.samples.targets.numel(), setup.seed).to(setup.device, torch.float64)
        dataset = TensorDataset(self.samples.inputs.to(setup.device), self.samples.targets.clone().to(setup.device))
        optimizer = OPTIMIZERS[setup.optimizer](self.model.parameters())
        self.task = Task.build(self.model, optimizer, cross_entropy, dataset, sizes, device=setup.device)
        self.found = Seen(sizes)
        self.averages, self.saved = Averages(self.model), SavedBytes(self.model.parameters())
        self.window: dict[tuple[int, ...], tuple[float, int]] = {}  # the losses of micro-batches since the last step
        self.graphs: weakref.WeakSet[_Token] = weakref.WeakSet()
        self.firsts: dict[tuple[str, ...], tuple[Optimizer, Tensors] | None] = {}
        self.stepping: Stepped | None = None

    @contextmanager
    def watched(self, *, averages: bool) -> Iterator[None]:
        with ExitStack() as stack:
            for parameter in self.model.parameters():
                stack.callback(parameter.register_hook(lambda _: self.averages.pause()).remove)
            stack.callback(setattr, self.model, "seen", None)
            # A plain function, no method: whoever copies the model does not copy this run.
            self.model.seen = lambda *seen: self.look(*seen)  # noqa: PLW0108
            stack.enter_context(scalers_on() if self.task.device.type == "cpu" else nullcontext())
            stack.enter_context(_scalers_noted(self.found.scaler))
            stack.enter_context(watch(self.model, self.before, self.after))
            stack.enter_context(self.saved.counting())
            stack.enter_context(self.averages if averages else nullcontext())
            yield
            self.averages.pause()
        self.found.moves, self.found.peak_bytes = self.averages.moves, self.saved.peak["activations"]

    def look(self, inputs: Tensor, outputs: Tensor) -> None:
        self.averages.pause()
        self.found.autocast |= torch.is_autocast_enabled(outputs.device.type)
        if outputs.grad_fn is not None:
            token = _Token()
            metadata: Any = outputs.grad_fn.metadata
            metadata["accumcheck"] = token
            self.graphs.add(token)
            self.found.peak_graphs = max(self.found.peak_graphs, len(self.graphs))
        rows = inputs.detach().reshape(-1).long().cpu()
        targets = self.samples.targets.flatten()[rows]
        logits = outputs.detach().flatten(0, -2).double().cpu()
        loss = float(F.cross_entropy(logits, targets, reduction="sum"))
        units = max(unmasked(targets), 1)
        if tuple(rows.tolist()) not in self.window:  # else a second look at the same micro-batch
            self.found.losses.append(loss / units)
        self.window[tuple(rows.tolist())] = (loss, units)

    def before(self, update: Update) -> None:
        self.averages.pause()
        self.averages.stepping = True
        if all(parameter.grad is None for parameter in update.parameters.values()):
            return  # torch's optimizers do nothing at such a step
        key = tuple(sorted(update.parameters))
        if key not in self.firsts:
            self.firsts[key] = _copy_of(update)
        self.stepping = Stepped(
            type(update.optimizer).__name__,
            copied(update.parameters),
            {n: g.clone() for n, g in update.gradients.items() if update.parameters[n].grad is not None},
            [{k: v for k, v in g.items() if k != "params"} for g in update.optimizer.param_groups],
            self.firsts[key],
        )

    def after(self, update: Update) -> None:
        if self.stepping is not None:
            self.stepping.state, self.stepping.evaluations = copied(update.state), update.evaluations
            self.found.steps.append(self.stepping)
            if self.window:
                losses, units = zip(*self.window.values(), strict=True)
                self.found.windows.append(sum(losses) / sum(units))
                self.window = {}
            self.averages.steps += 1
        self.stepping, self.averages.stepping = None, False


def _copy_of(update: Update) -> tuple[Optimizer, Tensors] | None:
    try:
        other = copy.deepcopy(update.optimizer)
    except Exception:  # noqa: BLE001, RUF100 - an optimizer may hold anything
        return None
    names = {id(parameter): name for name, parameter in update.parameters.items()}
    parameters = {}
    for group, theirs in zip(update.optimizer.param_groups, other.param_groups, strict=True):
        for own, parameter in zip(group["params"], theirs["params"], strict=True):
            if id(own) in names:
                parameters[names[id(own)]] = parameter
    return other, parameters


@contextmanager
def _scalers_noted(events: list[tuple[int, str, float]]) -> Iterator[None]:
    """Note the calls of all gradient scalers that are on."""
    from torch.amp.grad_scaler import GradScaler  # noqa: PLC0415 - few loops need it

    def noting(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def noted(scaler: GradScaler, *arguments: Any, **keywords: Any) -> Any:
            result = method(scaler, *arguments, **keywords)
            if scaler.is_enabled():
                events.append((id(scaler), name, scaler.get_scale()))
            return result

        return noted

    originals = {name: getattr(GradScaler, name) for name in ("scale", "unscale_", "step", "update")}
    for name, method in originals.items():
        setattr(GradScaler, name, noting(name, method))
    try:
        yield
    finally:
        for name, method in originals.items():
            setattr(GradScaler, name, method)


def observe(train: Loop, sizes: Sizes, setup: Setup) -> Seen:
    """One run of a loop, and what was seen. Raises LoopError when it raises, or runs longer than the time limit.

    >>> from accumcheck.corpus.published import accumulate_samples
    >>> len(observe(accumulate_samples, Sizes(samples=6, accumulation_steps=2, epochs=1), Setup()).windows)
    3
    """
    progress.report({"loop": name_of(train), "sizes": str(sizes)})
    try:
        with one_thread(), RandomStream(setup.seed).active(), quiet():
            Modes().resume()
            run = _Run(sizes, setup)
            with run.watched(averages=setup.averages):
                run.found.result = within(setup.time_limit, lambda: train(run.task))
    except TimeUpError:
        raise LoopError(f"the loop did not end within {setup.time_limit:g} seconds at {sizes}") from None
    except (Exception, SystemExit) as error:
        raise LoopError(f"the loop raised {type(error).__name__} at {sizes}: {error}") from error
    return run.found
