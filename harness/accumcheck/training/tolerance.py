"""The measured tolerance: how far a correct run moves under changes that mean nothing, and what lies beyond it.

The *noise floor* of a tensor at a step is the largest distance between the reference and neutral runs of it: runs with
the samples of every window in another order, and runs whose inputs and modules' outputs are changed by a unit in the
last place. It is never taken below one such unit of the numbers that were subtracted. The tolerance is ``SAFETY`` times
the floor. ``python -m experiments tolerance`` measures the constants.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from accumcheck.task import Loop, Task, Verdict
from accumcheck.training.differences import Difference
from accumcheck.training.lockstep import Kind, Run, Trajectory
from accumcheck.training.problem import DTYPES, Case

SAFETY = 16.0
NEUTRAL_RUNS = 4  # half of them permuted, half perturbed
SMALLEST_BUG = 0.001  # relative error; the mildest wrong loop in 3,600 random cases erred by that much


def neutral_runs(case: Case, train: Loop, count: int = NEUTRAL_RUNS) -> list[Run]:
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
            perturb_outputs(task, generator)
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


def perturb_outputs(task: Task, generator: torch.Generator) -> None:
    """Move what every module with parameters of its own puts out by a unit in the last place.

    Without it the noise of a model that reads whole numbers, or that is trained until its errors cancel, is too low.
    """

    def nudge(module: nn.Module, inputs: Any, output: Any) -> Any:
        return _nudged(output, generator) if isinstance(output, Tensor) and output.is_floating_point() else output

    for module in task.model.modules():
        if next(module.parameters(recurse=False), None) is not None:
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
    unit: float  # in the last place, of the dtype

    @property
    def is_divergence(self) -> bool:
        """Beyond the tolerance, and wrong in the leading half of its digits.

        Rounding may come in rare jumps that no neutral run happens to make, as where a softmax saturates; they stay in
        the trailing half, below √unit. A difference there is doubtful and makes a comparison inconclusive.
        """
        return self.margin > 0 and self.difference.error > math.sqrt(self.unit)

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
        """``diverges`` when anything lies clearly beyond the tolerance, or steps or learning rates differ;
        ``inconclusive`` when something lies doubtfully beyond it, or when at some step noise would have hidden the
        smallest bug in every gradient; else ``equivalent``."""
        if self.first_divergence or self.first_learning_rate is not None or self.steps_differ:
            return "diverges"
        return "inconclusive" if self.blind_steps or self.first_doubt else "equivalent"

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
        return _first(excess for excess in self.evidence if excess.is_divergence)

    @cached_property
    def first_doubt(self) -> Excess | None:
        """The first difference beyond the tolerance that is too small, for the dtype, to be told from rounding."""
        return _first(excess for excess in self.evidence if excess.margin > 0 and not excess.is_divergence)

    @cached_property
    def first_learning_rate(self) -> int | None:
        """The first step at which the learning rates differ."""
        for pair in self.trajectory.pairs:
            reference, candidate = pair.learning_rates
            if any(not math.isclose(rate, candidate.get(name, 0.0), rel_tol=1e-9) for name, rate in reference.items()):
                return pair.step
        return None

    @property
    def steps_differ(self) -> bool:
        """Whether the loop made more or fewer optimizer steps than the reference."""
        return self.trajectory.candidate_steps != self.trajectory.reference_steps

    @cached_property
    def blind_steps(self) -> list[int]:
        """Steps at which no gradient is precise enough to show the smallest bug; exact zeros, all of them, are."""
        gradients: dict[int, list[Excess]] = {}
        for excess in self.excesses:
            if excess.kind == "gradient":
                gradients.setdefault(excess.step, []).append(excess)
        return [
            step
            for step, found in gradients.items()
            if not any(excess.sees_bugs for excess in found) and any(excess.floor for excess in found)
        ]

    def ratio(self, step: int) -> float:
        """The multiple of the reference's gradient that the candidate stepped with; NaN if the reference's is 0."""
        gradient = self.trajectory.pairs[step].gradient.values()
        size = math.fsum(d.reference**2 for d in gradient)
        return math.fsum(d.ratio * d.reference**2 for d in gradient if d.reference) / size if size else math.nan

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
                excesses.append(Excess(pair.step, kind, tensor, difference, floor, unit))
    return Comparison(case, trajectory, tuple(excesses))


def _first(excesses: Iterator[Excess]) -> Excess | None:
    kinds = get_args(Kind)
    return min(excesses, key=lambda e: (e.step, kinds.index(e.kind), -e.margin), default=None)


def _relative(differences: Iterator[Difference]) -> float:
    distance = reference = 0.0
    for difference in differences:
        distance += difference.distance**2
        reference += difference.reference**2
    return math.sqrt(distance / reference) if reference else math.inf
