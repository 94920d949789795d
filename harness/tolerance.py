"""The measured tolerance: how far a correct run moves under changes that mean nothing, and what lies beyond it.

The *noise floor* of a tensor at a step is the largest distance between the reference and neutral runs of it: runs with
the samples of every window in another order, and runs whose inputs (or embeddings) are changed by a unit in the last
place. It is never taken below one unit in the last place of the numbers that were subtracted. The tolerance is
``SAFETY`` times the floor. ``python -m experiments tolerance`` measures the constants.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from harness.differences import Difference
from harness.lockstep import Kind, Run, Trajectory
from harness.loops import full_batch
from harness.problems import DTYPES, Case
from harness.task import Loop, Task

SAFETY = 16.0
NEUTRAL_RUNS = 4  # half of them permuted, half perturbed
SMALLEST_BUG = 0.005  # relative error; in 1,200 random cases no wrong loop erred by less than 0.0066

Verdict = Literal["equivalent", "diverges", "inconclusive"]


def neutral_runs(case: Case, train: Loop = full_batch, count: int = NEUTRAL_RUNS) -> list[Run]:
    """Runs of a full-batch loop that differ from the reference only in rounding.

    Not neutral for models that draw random numbers per sample (dropout), as the samples' order decides who gets which.
    """
    full = case.full_batch()
    runs = []
    for draw in range(count):
        generator = torch.Generator().manual_seed(1_000_003 * (case.seed + 1) + draw)
        if draw % 2 == 0:
            task = full.task(permuted(full.dataset(), case.sizes.effective_batch_size, generator))
        else:
            task = full.task(perturbed(full.dataset(), generator))
            perturb_embeddings(task, generator)
        runs.append(Run(train, task, f"neutral run {draw}"))
    return runs


def permuted(dataset: TensorDataset, window: int, generator: torch.Generator) -> TensorDataset:
    """The same samples, in another order within each window of ``window`` samples."""
    order = torch.cat([rows[torch.randperm(len(rows), generator=generator)] for rows in _rows(dataset, window)])
    return TensorDataset(*(tensor[order.to(tensor.device)] for tensor in dataset.tensors))


def perturbed(dataset: TensorDataset, generator: torch.Generator) -> TensorDataset:
    """The same samples, each element of floating-point inputs moved by a unit in the last place."""
    inputs, *rest = dataset.tensors
    return TensorDataset(_nudged(inputs, generator) if inputs.is_floating_point() else inputs, *rest)


def perturb_embeddings(task: Task, generator: torch.Generator) -> None:
    """Move the output of every embedding by a unit in the last place; for models whose inputs are whole numbers."""

    def nudge(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return _nudged(output, generator)

    for module in task.model.modules():
        if isinstance(module, nn.Embedding):
            module.register_forward_hook(nudge)


def _nudged(values: Tensor, generator: torch.Generator) -> Tensor:
    signs = torch.randint(0, 2, values.shape, generator=generator).to(values.device, values.dtype) * 2 - 1
    return values * (1 + signs * torch.finfo(values.dtype).eps)


def _rows(dataset: TensorDataset, window: int) -> Iterator[Tensor]:
    yield from torch.arange(len(dataset)).split(window)


@dataclass(frozen=True)
class Excess:
    """One tensor at one step, beside its noise floor (a distance, like ``difference.distance``)."""

    step: int
    kind: Kind
    tensor: str
    difference: Difference
    floor: float

    @property
    def tolerance(self) -> float:
        """The largest distance that passes for noise."""
        return SAFETY * self.floor

    @property
    def margin(self) -> float:
        """Decades between the distance and the tolerance, log10(distance / tolerance); above 0 it is no noise."""
        if self.difference.distance == 0:
            return -math.inf
        return math.log10(self.difference.distance / self.tolerance) if self.floor else math.inf

    @property
    def relative_tolerance(self) -> float:
        """The tolerance as a share of the reference's norm: the smallest relative error that can be told from noise."""
        return self.tolerance / self.difference.reference if self.difference.reference else math.inf

    @property
    def sees_bugs(self) -> bool:
        """Whether the tolerance is below the smallest bug's error."""
        return self.relative_tolerance < SMALLEST_BUG


@dataclass(frozen=True)
class Comparison:
    """A candidate judged against the reference, by tolerances that were measured beside it."""

    case: Case
    trajectory: Trajectory
    excesses: tuple[Excess, ...]

    @cached_property
    def verdict(self) -> Verdict:
        """``diverges`` when anything lies beyond the tolerance, or steps or learning rates differ; ``inconclusive``
        when at some step noise would have hidden the smallest bug in every gradient; else ``equivalent``."""
        if self.first_divergence or self.first_learning_rate is not None or self.steps_differ:
            return "diverges"
        return "inconclusive" if self.blind_steps else "equivalent"

    @cached_property
    def evidence(self) -> tuple[Excess, ...]:
        """What counts: all gradients, and displacements and state where the tensor's gradient shows more than noise.

        Out of a gradient that is rounding Adam makes steps as large as any other; they prove nothing.
        """
        seen = {(e.step, e.tensor) for e in self.excesses if e.kind == "gradient" and e.sees_bugs}
        return tuple(e for e in self.excesses if e.kind == "gradient" or (e.step, e.tensor.split("/")[0]) in seen)

    @cached_property
    def margin(self) -> float:
        """The largest margin of any tensor at any step, in decades."""
        return max((excess.margin for excess in self.evidence), default=-math.inf)

    @cached_property
    def first_divergence(self) -> Excess | None:
        """At the first step that diverges, the gradient (else displacement, else state) with the largest margin."""
        kinds = get_args(Kind)
        beyond = (excess for excess in self.evidence if excess.margin > 0)
        return min(beyond, key=lambda e: (e.step, kinds.index(e.kind), -e.margin), default=None)

    @cached_property
    def first_learning_rate(self) -> int | None:
        """The first step at which the learning rates differ."""
        for pair in self.trajectory.pairs:
            reference, candidate = pair.learning_rates
            if len(reference) != len(candidate) or any(
                not math.isclose(a, b, rel_tol=1e-9) for a, b in zip(reference, candidate, strict=True)
            ):
                return pair.step
        return None

    @property
    def steps_differ(self) -> bool:
        """Whether the loop made more or fewer optimizer steps than the reference."""
        return self.trajectory.candidate_steps != self.trajectory.reference_steps

    @cached_property
    def blind_steps(self) -> list[int]:
        """Steps at which no gradient is precise enough to show the smallest bug."""
        seeing = {e.step for e in self.excesses if e.kind == "gradient" and e.sees_bugs}
        return [pair.step for pair in self.trajectory.pairs if pair.step not in seeing]

    def ratio(self, step: int) -> float:
        """The multiple of the reference's gradient that the candidate stepped with, over all tensors at that step."""
        gradient = self.trajectory.pairs[step].gradient.values()
        return math.fsum(d.ratio * d.reference**2 for d in gradient if d.reference) / math.fsum(
            d.reference**2 for d in gradient
        )

    def error(self, step: int, kind: Kind = "gradient") -> float:
        """The relative error over all tensors at a step, ‖candidate − reference‖ / ‖reference‖."""
        return _relative(e.difference for e in self.excesses if e.step == step and e.kind == kind)


def judge(case: Case, trajectory: Trajectory, neutral: list[Trajectory]) -> Comparison:
    """Set every difference of a trajectory beside the noise floor that neutral runs of the same reference show."""
    unit = torch.finfo(DTYPES[case.dtype]).eps
    excesses = []
    for pair in trajectory.pairs:
        for kind in get_args(Kind):
            for tensor, difference in getattr(pair, kind).items():
                noise = (getattr(other.pairs[pair.step], kind)[tensor].distance for other in neutral)
                floor = max(unit * max(difference.magnitude, difference.reference), *noise)
                excesses.append(Excess(pair.step, kind, tensor, difference, floor))
    return Comparison(case, trajectory, tuple(excesses))


def _relative(differences: Iterator[Difference]) -> float:
    distance = reference = 0.0
    for difference in differences:
        distance += difference.distance**2
        reference += difference.reference**2
    return math.sqrt(distance / reference) if reference else math.inf
