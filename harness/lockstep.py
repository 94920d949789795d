"""Runs training loops in turns and compares them at every optimizer step, while all of them are alive."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from harness.ambient import RandomStream, preserved
from harness.recorder import Tensors, Update, copied, watch
from harness.task import Loop, LoopError, Task, name_of

_LARGE = 2**20  # elements; norms of larger tensors are not taken in float64, which would copy them


@dataclass(frozen=True)
class Run:
    """A loop and the task that it is to train; ``name`` is how messages call it."""

    train: Loop
    task: Task
    name: str = ""

    def __str__(self) -> str:
        return self.name or name_of(self.train)


@dataclass(frozen=True)
class Difference:
    """How a candidate's tensor differs from the reference's, in Euclidean norms.

    ``magnitude`` is the size of the numbers that were subtracted to get the reference, and so the scale of rounding.

    >>> half = Difference(reference=2.0, candidate=1.0, distance=1.0, magnitude=2.0)
    >>> half.error, half.ratio
    (0.5, 0.5)
    """

    reference: float
    candidate: float
    distance: float
    magnitude: float

    @property
    def error(self) -> float:
        """‖candidate − reference‖ / ‖reference‖."""
        if self.distance == 0:
            return 0.0
        return self.distance / self.reference if self.reference else math.inf

    @property
    def ratio(self) -> float:
        """The multiple of the reference that lies nearest to the candidate: ⟨candidate, reference⟩ / ‖reference‖²."""
        if not self.reference:
            return math.nan
        projection = self.reference**2 + self.candidate**2 - self.distance**2
        return projection / (2 * self.reference**2)


Differences = dict[str, Difference]
Kind = Literal["gradient", "displacement", "state"]


@dataclass(frozen=True)
class StepPair:
    """One optimizer step of the reference and of a candidate; learning rates as (reference, candidate)."""

    step: int
    learning_rates: tuple[tuple[float, ...], tuple[float, ...]]
    gradient: Differences
    displacement: Differences = field(default_factory=dict)
    state: Differences = field(default_factory=dict)


@dataclass
class Trajectory:
    """A candidate beside the reference: the steps that both made, and how many each made."""

    reference: str
    candidate: str
    pairs: list[StepPair] = field(default_factory=list)
    reference_steps: int = 0
    candidate_steps: int = 0


def lockstep(
    reference: Run,
    *candidates: Run,
    resynchronise: bool = True,
    state: bool = False,
    seed: int = 0,
) -> list[Trajectory]:
    """Train all runs in turns, pausing each before and after its optimizer steps, and compare them there.

    Compared are gradients (those the update is made with), displacements, and optimizer state on request. With
    ``resynchronise`` every candidate takes over the reference's parameters, buffers and optimizer state after each
    step, so that each step is judged on its own, and a displacement is that of one step. Without, the runs drift
    freely and a displacement counts from the first step on. Every run has its own random stream, seeded with ``seed``.

    Memory: the live runs, one copy of the parameters, and the largest tensor twice; it does not grow with the number
    of steps. A run that ends early or goes on longer is a result, see ``Trajectory``. Not for loops that must run in
    the main thread, for example because they install signal handlers.

    Raises LoopError when a run raises, yields a gradient or parameter that is not finite, or starts from other
    parameters than the reference; and when the comparison would be vacuous: the reference never steps, all its
    gradients are zero, or none of its parameters moves.
    """
    lead, *followers = runners = [_Runner(run, seed) for run in (reference, *candidates)]
    trajectories = [Trajectory(str(reference), str(run)) for run in candidates]
    origin: Tensors = {}
    with preserved(), _watched(runners):
        while _advance(runners) and lead.running:
            if not origin:
                origin = copied(lead.update.parameters)
                _require_same_start(origin, followers)
            met = [(runner, t) for runner, t in zip(followers, trajectories, strict=True) if runner.running]
            for follower, trajectory in met:
                trajectory.pairs.append(_at_gradients(lead, follower))
            _advance([lead, *(follower for follower, _ in met)])
            for follower, trajectory in met:
                _at_parameters(lead, follower, origin, trajectory.pairs[-1], state)
                if resynchronise:
                    _take_over(lead, follower)
            if resynchronise:
                for name, parameter in lead.update.parameters.items():
                    origin[name].copy_(parameter.detach())
        while _advance(runners):
            pass
    for follower, trajectory in zip(followers, trajectories, strict=True):
        trajectory.reference_steps, trajectory.candidate_steps = lead.steps, follower.steps
    _refuse_vacuous(lead, trajectories)
    return trajectories


class _Cancelled(BaseException):
    """Unwinds a loop whose comparison is over; no loop catches it by mistake."""


class _Runner:
    """One run in a thread of its own, which moves only between ``advance`` and its next pause."""

    def __init__(self, run: Run, seed: int) -> None:
        self.run = run
        self.update: Update  # the step at which the run is paused, while it is running
        self.running = True
        self.steps = 0
        self._stream = RandomStream.from_seed(seed)
        self._dtype = torch.get_default_dtype()
        self._error: BaseException | None = None
        self._cancelled = False
        self._baton, self._handed_back = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._main, name=f"lockstep-{run}", daemon=True)

    def __str__(self) -> str:
        return str(self.run)

    def advance(self) -> None:
        """Let the run go on to its next pause, or to its end; does nothing once it has ended."""
        if not self.running:
            return
        caller_dtype = torch.get_default_dtype()
        self._stream.resume()
        torch.set_default_dtype(self._dtype)
        if self._thread.ident is None:
            self._thread.start()
        self._baton.release()
        self._handed_back.acquire()
        self._stream.pause()
        self._dtype = torch.get_default_dtype()
        torch.set_default_dtype(caller_dtype)
        if self._error is not None:
            raise LoopError(
                f"{self} raised {type(self._error).__name__} after {self.steps} optimizer steps: {self._error}"
            ) from self._error

    def cancel(self) -> None:
        if self._thread.ident is not None:
            self._cancelled = True
            self._baton.release()
            self._thread.join()

    def _main(self) -> None:
        self._baton.acquire()
        try:
            if not self._cancelled:
                self.run.train(self.run.task)
        except _Cancelled:
            pass
        except BaseException as error:
            self._error = error
        self.running = False
        self._handed_back.release()

    def before(self, update: Update) -> None:
        self.update = update
        self._pause()

    def after(self, _: Update) -> None:
        self.steps += 1
        self._pause()

    def _pause(self) -> None:
        if not self._cancelled:
            self._handed_back.release()
            self._baton.acquire()
        if self._cancelled:
            raise _Cancelled


@contextmanager
def _watched(runners: Iterable[_Runner]) -> Iterator[None]:
    """Watch all runs for as long as any is alive: a paused one is iterating over the hooks, so they must not change."""
    with ExitStack() as stack:
        for runner in runners:
            stack.enter_context(watch(runner.run.task.model, runner.before, runner.after))
        for runner in runners:
            stack.callback(runner.cancel)
        yield


def _advance(runners: list[_Runner]) -> bool:
    """Let every run go on to its next pause; whether any is still running."""
    for runner in runners:
        runner.advance()
    return any(runner.running for runner in runners)


def _at_gradients(lead: _Runner, follower: _Runner) -> StepPair:
    difference = _differences(lead.update.gradients, follower.update.gradients)
    _require_finite("gradient", lead, follower, difference)
    return StepPair(lead.update.step, (lead.update.learning_rates, follower.update.learning_rates), difference)


def _at_parameters(lead: _Runner, follower: _Runner, origin: Tensors, pair: StepPair, state: bool) -> None:
    pair.displacement.update(_differences(lead.update.parameters, follower.update.parameters, origin))
    _require_finite("parameter", lead, follower, pair.displacement)
    if state:
        pair.state.update(_differences(lead.update.state, follower.update.state))


def _differences(reference: Tensors, candidate: Tensors, origin: Tensors | None = None) -> Differences:
    """Compare by name; with ``origin``, compare how far the two have moved away from it."""
    with torch.no_grad():
        norms = []
        for name, tensor in reference.items():
            other = candidate.get(name)
            other = torch.zeros_like(tensor) if other is None else other
            distance = _norm(other - tensor)
            if origin is None:
                size = _norm(tensor)
                norms += [size, _norm(other), distance, size]
            else:
                start = origin[name]
                norms += [_norm(tensor - start), _norm(other - start), distance, _norm(start)]
        flat = torch.stack(norms).tolist() if norms else []
    return {name: Difference(*flat[4 * i : 4 * i + 4]) for i, name in enumerate(reference)}


def _norm(tensor: Tensor) -> Tensor:
    wide = tensor.numel() <= _LARGE or tensor.dtype == torch.float64
    norm: Tensor = torch.linalg.vector_norm(tensor, dtype=torch.float64 if wide else torch.float32)
    return norm.double()


def _require_same_start(origin: Tensors, followers: list[_Runner]) -> None:
    for follower in (runner for runner in followers if runner.running):
        for name, parameter in follower.update.parameters.items():
            if name not in origin or not torch.equal(origin[name], parameter):
                raise LoopError(
                    f"{follower} starts from another {name} than the reference: "
                    "build both models from one seed, and leave parameters alone before the first step"
                )


def _require_finite(what: str, lead: _Runner, follower: _Runner, differences: Differences) -> None:
    for name, difference in differences.items():
        for runner, norm in ((lead, difference.reference), (follower, difference.candidate)):
            if not math.isfinite(norm):
                raise LoopError(
                    f"{runner} has a {what} of {name} whose norm is {norm} at step {runner.update.step}: "
                    "lower the learning rate, or look for a loss that is not finite"
                )


def _refuse_vacuous(lead: _Runner, trajectories: list[Trajectory]) -> None:
    if lead.steps == 0:
        raise LoopError(f"{lead} never called optimizer.step() on a parameter of task.model: nothing can be compared")
    for trajectory in trajectories:
        pairs = trajectory.pairs
        for what, kind in (("every gradient is zero", "gradient"), ("no parameter moved", "displacement")):
            differences = [d for pair in pairs for d in getattr(pair, kind).values()]
            if pairs and not any(difference.reference for difference in differences):
                raise LoopError(
                    f"{what} in {len(pairs)} steps of {lead}: two dead models agree, which proves nothing; "
                    "check requires_grad, the loss and the learning rate"
                )


def _take_over(lead: _Runner, follower: _Runner) -> None:
    """Give the follower the lead's parameters, buffers and optimizer state. Gradients stay: leaks must show."""
    source, target = lead.update.optimizer, follower.update.optimizer
    if type(source) is not type(target):
        raise LoopError(
            f"{follower} steps {type(target).__name__} where {lead} steps {type(source).__name__}: "
            "only runs with the same optimizer can be compared"
        )
    with torch.no_grad():
        for name, parameter in follower.update.parameters.items():
            parameter.copy_(lead.update.parameters[name])
            theirs, own = source.state.get(lead.update.parameters[name], {}), target.state[parameter]
            for key, value in theirs.items():
                if isinstance(value, Tensor) and isinstance(own.get(key), Tensor):
                    own[key].copy_(value)
                else:
                    own[key] = value.clone() if isinstance(value, Tensor) else value
        buffers = dict(lead.run.task.model.named_buffers())
        for name, buffer in follower.run.task.model.named_buffers():
            buffer.copy_(buffers[name])
