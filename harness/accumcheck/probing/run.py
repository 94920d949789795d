"""Reads the contribution matrix off a running loop: which sample went into which update, and with what weight.

The loop trains the probe's model. No two contributions are rounded together, since each sample owns its parameters;
these are put back to one point after every step, so that all updates are judged there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD
from torch.utils.data import DataLoader

from accumcheck.probing.model import KINDS, MATRIX, SHARED, SLOPES, VECTOR, Point, ProbeModel, Samples
from accumcheck.probing.reading import Facts, Matrix, Reading, Settings
from accumcheck.task import Loop, LoopError, Objective, Sizes, Task, as_loader, cross_entropy, name_of
from accumcheck.watching import progress
from accumcheck.watching.draws import Drawn, Draws, loaders_watched, scalers_on
from accumcheck.watching.limits import TIME_LIMIT, TimeUpError, within
from accumcheck.watching.process import Modes, RandomStream, one_thread, quiet
from accumcheck.watching.sites import BACKWARD, STEP, Sites
from accumcheck.watching.steps import Update, watch

LOW, HIGH = 2.0**-10, 2.0**10  # gains: gradients of order 1e-3 stay below a clipping threshold, of order 1e3 do not
RATE = 0.1  # the first learning rate


@dataclass(frozen=True)
class Setup:
    """How a loop is probed. ``gain`` scales all gradients, for clipping; updates are judged at parameters of zero, or
    at some ``other`` point. With ``shuffle`` the loader draws its order from the global random stream, and draws are
    counted. ``micro_batches`` lists the samples of each, where they are not the next b of the data set."""

    objective: Objective = "sample"
    gain: float = LOW
    point: Point = "zero"
    seed: int = 0
    shuffle: bool = False
    micro_batches: list[list[int]] | None = None
    device: str = "cpu"
    dtype: str = "float64"
    poison: bool = False  # the first sample's loss is not finite
    time_limit: float = TIME_LIMIT


def probe(
    train: Loop, sizes: Sizes, objective: Objective = "sample", setup: Setup | None = None, **options: Any
) -> Reading:
    """Run a loop on the probe's model and read what it does; ``options`` are the fields of a ``Setup``.

    What the loop prints is dropped; random streams, modes, default dtype, threads and environment are as before when it
    returns. The weights are the loop's own if they do not depend on the data or the model.

    Raises LoopError when the loop raises, takes longer than the time limit, or yields gradients that are not finite. A
    loop that makes no step has a matrix without rows.

    >>> from accumcheck.corpus.published import published_fix
    >>> for row in probe(published_fix, Sizes(samples=3, accumulation_steps=2, epochs=1)).exact:
    ...     print(*row)
    1/2 1/2 0
    0 0 1/2
    """
    setup = setup or Setup(objective, **options)
    progress.report({"loop": name_of(train), "sizes": str(sizes)})
    with one_thread():
        run = _Run(sizes, setup)
        try:
            with RandomStream(setup.seed).active(), quiet(), run.watched():
                Modes().resume()
                result = within(setup.time_limit, lambda: train(run.task))
        except TimeUpError:
            raise LoopError(
                f"{name_of(train)} did not end within {setup.time_limit:g} seconds at {sizes} ({run.steps} optimizer "
                "steps): look for a loop without end, or raise the time limit"
            ) from None
        except LoopError:
            raise
        except (Exception, SystemExit) as error:
            where = f"at {sizes}, after {run.steps} optimizer steps"
            hint = ""
            if isinstance(error, IndexError):
                hint = "; the probe's inputs are row numbers, int64, of shape (b,), or (b, 4) for tokens"
            if "must be a mapping" in str(error) or "list indices must be integers or slices, not str" in str(error):
                hint = (
                    "; task.loader yields (inputs, targets). For a loop that wants dicts, put a wrapper beside it that "
                    "gives it [{'input_ids': x, 'labels': y} for x, y in task.loader], and check that"
                )
            raise LoopError(f"{name_of(train)} raised {type(error).__name__} {where}: {error}{hint}") from error
        if hasattr(result, "__await__") or hasattr(result, "__next__"):
            what = "coroutine" if hasattr(result, "__await__") else "generator"
            getattr(result, "close", lambda: None)()
            raise LoopError(f"{name_of(train)} returned a {what}: nothing ran; make it a plain function")
        return run.reading(name_of(train))


class _Run:
    """One run while it happens: its task, and the notes taken at its steps."""

    def __init__(self, sizes: Sizes, setup: Setup) -> None:
        self.sizes, self.setup = sizes, setup
        self.samples = Samples.draw(sizes.samples, setup.objective, setup.seed)
        self.point = self.samples.point(setup.point)
        self.responses = self.samples.responses(self.point, setup.gain)  # before the loop may change the data set
        device = setup.device
        self.model = ProbeModel(self.samples.targets.numel(), setup.gain)
        self.model.to(device, getattr(torch, setup.dtype))
        self.here = {name: value.to(device, getattr(torch, setup.dtype)) for name, value in self.point.items()}
        if setup.poison:
            self.here[MATRIX][: self.samples.inputs[0].numel()] = torch.nan
        self.started = False
        self.place()
        self.dataset = Drawn(self.samples.inputs.to(device), self.samples.targets.clone().to(device))
        b = sizes.micro_batch_size
        loader: DataLoader[tuple[Tensor, ...]] = (
            DataLoader(self.dataset, b, shuffle=True)
            if setup.shuffle
            else as_loader(self.dataset, b, setup.micro_batches)
        )
        optimizer = SGD(self.model.parameters(), lr=RATE)
        self.task = Task.build(self.model, optimizer, cross_entropy, self.dataset, sizes, loader=loader, device=device)
        self.draws = Draws() if setup.shuffle else None
        self.gradients: dict[str, list[Tensor]] = {name: [] for name in KINDS}
        self.settings: dict[str, list[Settings]] = {name: [] for name in KINDS}
        self.empty: list[dict[str, Settings]] = []
        self.moved: list[float] = []
        self.evaluations = self.strangers = self.steps = 0
        self.backward = False
        self.passed = dict.fromkeys(KINDS, 0)  # backward passes before the first update
        self.sites = Sites()

    def place(self) -> None:
        """Put the parameters to where the run begins, which copies of them that a loop keeps then tell of."""
        start = self.samples.point("zero" if self.setup.point == "zero" else "start")
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(self.here[name] if self.setup.poison else start[name])

    @contextmanager
    def watched(self) -> Iterator[None]:
        def trained(name: str, gradient: Tensor) -> None:
            self.passed[name] += not self.steps
            self.backward = self.backward or bool(gradient.any())
            self.sites.note(BACKWARD)
            self.dataset.trained()

        with ExitStack() as stack:
            for name, parameter in self.model.named_parameters():
                stack.callback(parameter.register_hook(partial(trained, name)).remove)
            stack.enter_context(loaders_watched(self.dataset))
            stack.enter_context(self.sites.clearing_noted())
            stack.enter_context(scalers_on() if self.setup.device == "cpu" else nullcontext())
            stack.enter_context(self.draws or nullcontext())
            stack.enter_context(watch(self.model, self.before, self.after, self.stranger))
            yield

    def stranger(self, _: object) -> None:
        self.strangers += 1

    def before(self, update: Update) -> None:
        self.dataset.trained()
        settings = update.settings
        there = [name for name, parameter in update.parameters.items() if parameter.grad is not None]
        if not there:
            # Torch's optimizers do nothing at such a step.
            self.empty.append({name: settings.get(name, {}) for name in update.parameters})
            return
        gradients = update.gradients
        self.sites.note(STEP)
        self.steps += 1
        self.moved.append(self.distance(update))
        for name in there:
            if name in self.gradients:
                self.gradients[name].append(gradients[name].clone())
                self.settings[name].append(settings.get(name, {}))

    def distance(self, update: Update) -> float:
        """How far the parameters are from the point that they were put to."""
        distance = 0.0
        if not self.started and self.setup.point != "zero":
            return distance  # the first update is made where the run began
        for name, parameter in update.parameters.items():
            if hasattr(parameter, "full_tensor") or name not in self.here:  # a shard, under FSDP
                continue
            difference = parameter.detach() - self.here[name].to(parameter.dtype)
            distance += float(difference.double().norm())
        return distance

    def after(self, update: Update) -> None:
        self.evaluations = max(self.evaluations, update.evaluations)
        self.started = True
        with torch.no_grad():
            for name, parameter in update.parameters.items():
                if (self.setup.point == "zero" and not self.setup.poison) or name not in self.here:
                    parameter.zero_()
                else:
                    parameter.copy_(self.here[name])

    def reading(self, loop: str) -> Reading:
        if not any(self.gradients.values()):
            self._empty_steps_count()
        found = {name: torch.stack(each).double().cpu() for name, each in self.gradients.items() if each}
        for name, each in found.items():
            wrong = ~each.flatten(1).isfinite().all(dim=1)
            if wrong.any() and self.setup.poison:
                each[wrong] = 0.0  # these updates are lost
            elif wrong.any():
                raise LoopError(
                    f"{loop} steps with a gradient that is not finite at step {int(wrong.nonzero()[0])}, {self.sizes}: "
                    "look for a division by zero, or a loss that is not finite"
                )
            found[name] = each / self.setup.gain
        samples = self.sizes.samples
        sums = self.responses.view(samples, -1, self.responses.shape[-1]).sum(dim=1)
        return Reading(
            loop=loop,
            objective=self.setup.objective,
            sizes=self.sizes,
            units=self.samples.units,
            matrices={name: self._weights(name, found[name]) for name in (MATRIX, VECTOR) if name in found},
            settings={name: each for name, each in self.settings.items() if each},
            shared=found[SHARED].tolist() if SHARED in found else [],
            responses=sums,
            gradients={name: each.flatten(1) for name, each in found.items()},
            orders=self.dataset.orders(plain=self.setup.micro_batches is not None),
            looked=self._looked(),
            passes=len(self.dataset.passes) if self.setup.shuffle else 0,
            random_draws=self.draws.counts if self.draws else {},
            dtypes=frozenset(gradient.dtype for each in self.gradients.values() for gradient in each),
            facts=Facts(self.evaluations, self.strangers, tuple(self.moved), self.backward, max(self.passed.values())),
            sites=dict(self.sites.found),
        )

    def _weights(self, name: str, gradients: Tensor) -> Matrix:
        """Each sample's weight in each update, from what a unit weight of its rows sends into its own parameters."""
        sent = self.responses if name == MATRIX else self.responses @ SLOPES[:, None]
        blocks = gradients.view(len(gradients), *sent.shape)
        squares = (sent * sent).sum(dim=1).clamp(min=1e-30)
        by_row = (blocks * sent).sum(dim=-1) / squares
        units = torch.tensor(self.samples.units, dtype=torch.float64)
        found: Matrix = (by_row.unflatten(-1, (self.sizes.samples, -1)).sum(dim=-1) / units).tolist()
        return found

    def _looked(self) -> tuple[tuple[int, ...], ...]:
        """The samples of each epoch as the model saw them: an epoch ends where a sample comes again."""
        tokens = self.samples.inputs[0].numel()
        epochs: list[list[int]] = [[]]
        seen: list[int] = []
        for inputs in self.model.looks:
            try:
                rows = list(dict.fromkeys((inputs.reshape(-1) // tokens).tolist()))
            except RuntimeError:  # under torch.func
                return ()
            if rows == seen:
                continue  # a second look at the same micro-batch
            seen = rows
            for row in rows:
                if row in epochs[-1]:
                    epochs.append([])
                epochs[-1].append(row)
        plain = all(each == sorted(each) for each in epochs)
        return () if plain else tuple(tuple(each) for each in epochs)

    def _empty_steps_count(self) -> None:
        """No step had a gradient: then those steps are the loop's updates, and made of nothing."""
        for settings in self.empty:
            self.steps += 1
            for name, each in settings.items():
                if name in self.gradients:
                    self.gradients[name].append(torch.zeros(self.point[name].shape))
                    self.settings[name].append(each)
