"""Runs training loops in turns and compares them at every optimizer step, while all of them are alive."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

import torch
from greenlet import getcurrent, greenlet
from torch import Tensor

from accumcheck.task import Loop, LoopError, Task, name_of
from accumcheck.training.differences import Differences, Packed
from accumcheck.watching.process import Modes, RandomStream, preserved
from accumcheck.watching.steps import Update, copied, watch


@dataclass(frozen=True)
class Run:
    """A loop and the task that it is to train; ``name`` is how messages call it."""

    train: Loop
    task: Task
    name: str = ""

    def __str__(self) -> str:
        return self.name or name_of(self.train)


Kind = Literal["gradient", "displacement", "state"]


@dataclass(frozen=True)
class StepPair:
    """One optimizer step of the reference and of a candidate; learning rates as (reference, candidate), by
    parameter name."""

    step: int
    learning_rates: tuple[dict[str, float], dict[str, float]]
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

    Memory: the live runs and the largest tensor twice (and, if they drift, one copy of the parameters); it does not
    grow with the number of steps. A run that ends early or goes on longer is a result, see ``Trajectory``. Not for
    loops that step inside of ``backward()`` (optimizer-in-backward hooks): autograd expects no other run in its midst.

    Raises LoopError when two runs share a tensor, when a run raises, yields a gradient or parameter that is not finite,
    or starts from other parameters than the reference; and when the comparison would be vacuous: the reference never
    steps, all its gradients are zero, or none of its parameters moves.
    """
    _refuse_shared([reference, *candidates])
    lead, *followers = runners = [_Runner(run, seed) for run in (reference, *candidates)]
    trajectories = [Trajectory(str(reference), str(run)) for run in candidates]
    origin: Packed | None = None
    with preserved(), _watched(runners):
        while _advance(runners) and lead.running:
            met = [(runner, t) for runner, t in zip(followers, trajectories, strict=True) if runner.running]
            if lead.steps == 0:
                _require_same_start(lead, followers)
                origin = None if resynchronise else Packed(copied(lead.update.parameters))
            gradients = Packed(lead.update.gradients)
            sizes = gradients.norms()
            for follower, trajectory in met:
                trajectory.pairs.append(_at_gradients(lead, follower, gradients, sizes))
            lead.advance()
            if met:
                # The followers have not moved yet: re-synchronised, they still are where the lead has come from.
                moved = Packed(lead.update.parameters, like=gradients)
                start = origin or Packed(met[0][0].update.parameters, like=gradients)
                displaced, magnitude = moved.norms(start), start.norms()
            _advance([follower for follower, _ in met])
            for follower, trajectory in met:
                distance = Packed(follower.update.parameters, like=moved).norms(moved)
                displacement = moved.differences(displaced, distance, magnitude)
                _require_finite("parameter", lead, follower, displacement)
                trajectory.pairs[-1].displacement.update(displacement)
                if state:
                    _at_state(lead, follower, trajectory.pairs[-1])
                if resynchronise:
                    _take_over(lead, follower)
        while _advance(runners):
            pass
    for follower, trajectory in zip(followers, trajectories, strict=True):
        trajectory.reference_steps, trajectory.candidate_steps = lead.steps, follower.steps
    _refuse_vacuous(lead, trajectories)
    return trajectories


class _Runner:
    """One run on a stack of its own, which moves only between ``advance`` and its next pause.

    A greenlet, not a thread: all runs share one thread's memory arena and one pool of OpenMP workers. With threads,
    10 M parameters took up to 3.4 times one run's memory, as each thread's arena held its freed blocks back.
    """

    def __init__(self, run: Run, seed: int) -> None:
        self.run = run
        self.update: Update  # the step at which the run is paused, while it is running
        self.running = True
        self.steps = 0
        self._stream = RandomStream(seed)
        self._modes = Modes()
        self._caller = getcurrent()
        self._greenlet = greenlet(lambda: run.train(run.task))

    def __str__(self) -> str:
        return str(self.run)

    def advance(self) -> None:
        """Let the run go on to its next pause, or to its end; does nothing once it has ended."""
        if not self.running:
            return
        try:
            with self._active():
                self._greenlet.switch()
        except (Exception, SystemExit) as error:
            raise LoopError(
                f"{self} raised {type(error).__name__} after {self.steps} optimizer steps: {error}"
            ) from error
        finally:
            self.running = not self._greenlet.dead

    def cancel(self) -> None:
        """Unwind the run from its pause, as if the step had raised GreenletExit; what that raises in turn is moot."""
        if self._greenlet and not self._greenlet.dead:
            with self._active(), suppress(Exception):
                self._greenlet.throw()

    @contextmanager
    def _active(self) -> Iterator[None]:
        """The run's own random stream and modes while it moves, the caller's again afterwards."""
        caller = Modes.current()
        self._stream.resume()
        self._modes.resume()
        try:
            yield
        finally:
            self._stream.pause()
            self._modes = Modes.current()
            caller.resume()

    def before(self, update: Update) -> None:
        """Pause with the gradients that the update is made with."""
        self.update = update
        self._caller.switch()

    def after(self, _: Update) -> None:
        """Pause with the parameters that the update has moved."""
        self.steps += 1
        self._caller.switch()


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


def _at_gradients(lead: _Runner, follower: _Runner, gradients: Packed, sizes: list[float]) -> StepPair:
    theirs = Packed(follower.update.gradients, like=gradients)
    differences = gradients.differences(sizes, theirs.norms(gradients), sizes, theirs.norms())
    _require_finite("gradient", lead, follower, differences)
    return StepPair(lead.update.step, (lead.update.learning_rates, follower.update.learning_rates), differences)


def _at_state(lead: _Runner, follower: _Runner, pair: StepPair) -> None:
    state = Packed(lead.update.state)
    own = state.norms()
    pair.state.update(state.differences(own, Packed(follower.update.state, like=state).norms(state), own))


def _require_same_start(lead: _Runner, followers: list[_Runner]) -> None:
    for follower in (runner for runner in followers if runner.running):
        for name, parameter in follower.update.parameters.items():
            if name not in lead.update.parameters or not torch.equal(lead.update.parameters[name], parameter):
                raise LoopError(
                    f"{follower} starts from another {name} than the reference: "
                    "build both models from one seed, and leave parameters alone before the first step"
                )


def _require_finite(what: str, lead: _Runner, follower: _Runner, differences: Differences) -> None:
    for name, difference in differences.items():
        for runner, norm in ((lead, difference.reference), (follower, difference.distance)):
            if not math.isfinite(norm):
                raise LoopError(
                    f"{runner} has a {what} of {name} whose norm is {norm} at step {runner.update.step}: "
                    "lower the learning rate, or look for a loss that is not finite"
                )


def _refuse_shared(runs: list[Run]) -> None:
    owners: dict[int, Run] = {}
    for run in runs:
        for name, tensor in [*run.task.model.named_parameters(), *run.task.model.named_buffers()]:
            if owners.setdefault(id(tensor), run) is not run:
                raise LoopError(
                    f"{name} is shared by the models of two runs, which would train one another: "
                    "a problem's model() must return new modules at every call, copy.deepcopy those that it reuses"
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
    pairs = []
    for name, parameter in follower.update.parameters.items():
        if name not in lead.update.parameters:
            continue
        pairs.append((parameter.detach(), lead.update.parameters[name].detach()))
        theirs, own = source.state.get(lead.update.parameters[name], {}), target.state[parameter]
        for key, value in theirs.items():
            if isinstance(value, Tensor) and isinstance(own.get(key), Tensor):
                pairs.append((own[key], value))
            else:
                own[key] = value.clone() if isinstance(value, Tensor) else value
    buffers = dict(lead.run.task.model.named_buffers())
    pairs += [(buffer, buffers[name]) for name, buffer in follower.run.task.model.named_buffers()]
    if pairs:
        torch._foreach_copy_([to for to, _ in pairs], [value for _, value in pairs])
