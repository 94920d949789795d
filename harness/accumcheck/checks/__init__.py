"""Checks beside the weights: a loop whose weights are right may still average weights, clear optimizer state, keep
graphs, update a gradient scaler or report losses in the wrong places. They watch a few runs; they prove nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from accumcheck.checks.observe import Seen, Setup, Stepped, observe
from accumcheck.task import Loop, LoopError, Objective, Sizes
from accumcheck.watching.limits import TIME_LIMIT
from accumcheck.watching.steps import Tensors, Update

Status = Literal["passed", "failed", "not applicable", "not run"]
FULL = Sizes(samples=36, micro_batch_size=3, accumulation_steps=4, epochs=4)  # 12 updates, no tail
RAGGED = Sizes(samples=20, micro_batch_size=3, accumulation_steps=4)  # windows of 3, 3, 3, 3 and 3, 3, 2 samples
FEW, MANY = Sizes(12, 3, 2, epochs=1), Sizes(48, 3, 8, epochs=1)  # two windows each
CLOSE = 1e-6  # of the loops that ship, all that are right agree to the bit
ROUNDED = 1e-3  # people round what they report


@dataclass(frozen=True)
class Check:
    """One check of a loop, and why it has this status."""

    name: str
    status: Status
    reason: str

    def as_dict(self) -> dict[str, str]:
        """The JSON form."""
        return {"name": self.name, "status": self.status, "reason": self.reason}


Verdict = tuple[Status, str]


def side_checks(
    train: Loop,
    objective: Objective = "sample",
    *,
    seed: int = 0,
    device: str = "cpu",
    time_limit: float = TIME_LIMIT,
) -> tuple[Check, ...]:
    """Run a loop a few times on a small model, and check what its weights do not tell.

    - *per-step state*: averages of the weights move as in the loop's own run without accumulation.
    - *optimizer state*: AdamW's and momentum's is what one step for each update makes of it.
    - *memory per window*: what is kept for backward passes does not grow with k.
    - *gradient scaler*: it unscales, steps and updates once for each update.
    - *reported loss*: what the loop returns is the mean loss of each window, or of each micro-batch.

    >>> from accumcheck.corpus.published import accumulate_samples
    >>> for check in side_checks(accumulate_samples):
    ...     print(f"{check.name}: {check.status}")
    per-step state: not applicable
    optimizer state: passed
    memory per window: passed
    gradient scaler: not applicable
    reported loss: not applicable
    """
    runs: dict[Sizes, Seen] = {}

    def run(sizes: Sizes) -> Seen:
        if sizes not in runs:
            full = sizes in (FULL, FULL.full_batch())
            optimizer = "adamw" if full else "momentum"
            runs[sizes] = observe(train, sizes, Setup(objective, seed, device, time_limit, optimizer, averages=full))
        return runs[sizes]

    return tuple(_checked(name, judge, run) for name, judge in CHECKS.items())


Run = Callable[[Sizes], Seen]


def _checked(name: str, judge: Callable[[Run], Verdict], run: Run) -> Check:
    try:
        return Check(name, *judge(run))
    except LoopError as error:
        return Check(name, "not run", str(error))


def _averages(run: Run) -> Verdict:
    ours, own = run(FULL), run(FULL.full_batch())
    if not ours.moves and not own.moves:
        return "not applicable", "the loop averages no weights"
    last = min(len(ours.steps), len(own.steps))  # how many steps there are is for the verdict on the weights
    moves, due = ([move for move in seen.moves if move < last] for seen in (ours, own))
    if moves == due:
        return "passed", "averages move as they do without accumulation"
    told = f"{len(moves) / len(due):.3g} times as often as" if due else "where it does not move"
    told = "after other updates than" if len(moves) == len(due) else told
    return "failed", f"the average of the weights moves {told} without accumulation: move it behind optimizer.step()"


def _optimizer_state(run: Run) -> Verdict:
    steps = [step for sizes in (FULL, RAGGED) for step in enumerate(run(sizes).steps, 1)]
    if not steps:
        return "not run", "the loop makes no update"
    if found := next((found for number, step in steps if (found := _wrong_state(number, step))), None):
        return found
    kinds = " and ".join(dict.fromkeys(step.optimizer for _, step in steps))
    return "passed", f"{kinds}: that of one step for each update"


def _wrong_state(number: int, step: Stepped) -> Verdict | None:
    name = step.optimizer
    if step.evaluations > 1:
        return "not run", f"{name} evaluates the loss several times in a step"
    if step.alike is None:
        return "not run", f"{name} cannot be copied, to step once more with the same gradients"
    if name != (first := type(step.alike[0]).__name__):
        return "not run", f"{first} and {name} step the same weights in turn"
    if not any(gradient.any() for gradient in step.gradients.values()):
        return "failed", f"update {number} is made with gradients that are all zero: {name}'s state moves all the same"
    if wrong := _first_difference(step, *step.alike):
        return "failed", f"at update {number}, {name}'s {wrong}; build the optimizer once, and leave its state alone"
    return None


def _first_difference(step: Stepped, other: Optimizer, parameters: Tensors) -> str:
    """Where the state is another than a copy of the optimizer makes of the same gradients."""
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(step.parameters[name])
            gradient = step.gradients.get(name)
            parameter.grad = None if gradient is None else gradient.clone()
    for group, theirs in zip(other.param_groups, step.groups, strict=False):
        group.update(theirs)
    try:
        other.step()
    except Exception as error:
        raise LoopError(f"{step.optimizer} cannot step once more with the same gradients: {error}") from error
    due = Update(0, other, parameters).state
    for name in {**due, **step.state}:
        own, expected = (state.get(name, torch.empty(0)).double() for state in (step.state, due))
        if own.shape != expected.shape or not float((own - expected).norm()) <= CLOSE * float(expected.norm()):
            of, _, key = name.rpartition("/")
            return f"{key!r} of {of} is not what all updates so far make of it"
    return ""


def _memory(run: Run) -> Verdict:
    few, many = run(FEW), run(MANY)
    times = many.peak_bytes / max(few.peak_bytes, 1)
    if times > 1.5:
        return "failed", (
            f"at k = 8 the loop keeps {times:.2g} times as much for backward passes as at k = 2: its weights may be "
            "right, but accumulation saves no memory. Call backward() for each micro-batch"
        )
    if many.peak_graphs >= 2 * max(few.peak_graphs, 2):
        return "failed", (
            f"the graphs of {many.peak_graphs} micro-batches are alive at once: keep loss.item() or loss.detach(), "
            "not the loss"
        )
    if not few.peak_bytes:
        return "not run", "nothing was seen to be kept for backward passes"
    return "passed", "the same at k = 2 and at k = 8"


def _scaler(run: Run) -> Verdict:
    seen = run(FULL)
    if not seen.scaler:
        return "not applicable", "the loop uses autocast without one" if seen.autocast else "the loop uses none"
    for scaler in {each[0] for each in seen.scaler}:
        if wrong := _first_wrong_call([(name, scale) for each, name, scale in seen.scaler if each == scaler]):
            return "failed", wrong
    return "passed", "its methods are called once for each update"


def _first_wrong_call(calls: Sequence[tuple[str, float]]) -> str:
    scales: set[float] = set()  # in force since the last step
    unscaled = False
    for name, scale in calls:
        if name == "step":
            scales, unscaled = set(), False
        elif name == "unscale_":
            unscaled = True
        elif name == "update" and scales:
            return "update() is called within a window, where the scale may change: call it behind scaler.step()"
        elif name == "scale":
            if unscaled:
                return "unscale_() is called within a window: call it once, right before clipping and scaler.step()"
            scales.add(scale)
            if len(scales) > 1:
                return "the scale changes within a window: call update() once for each update"
    return ""


def _reported_loss(run: Run) -> Verdict:
    seen = run(FULL)
    series = _series(seen.result)
    if not series:
        return "not applicable", (
            "the loop returns no losses. Return a list with one number for each update to have them checked"
        )
    if not seen.losses:
        return "not run", "the micro-batches were not seen in the model, as under torch.compile"
    for place, numbers in series.items():
        for sizes in (FULL, RAGGED):
            here = run(sizes)
            numbers = _series(here.result).get(place, [])  # noqa: PLW2901
            windows = len(numbers) == len(here.steps) == len(here.windows)
            if not windows and len(numbers) != len(here.losses):
                said = f"the loop returns {len(numbers)} numbers, and makes {len(here.steps)} updates"
                return "not applicable", f"{said} of {len(here.losses)} micro-batches"
            due = here.windows if windows else here.losses
            wrong = _first_wrong_number(numbers, due, "window" if windows else "micro-batch", sizes)
            if wrong and windows and _same(numbers, _series(run(sizes.full_batch()).result).get(place, [])):
                return "passed", "the loop returns other numbers than losses, the same ones without accumulation"
            if wrong:
                return "failed", wrong
    return "passed", f"each number is the mean loss of its {'window' if windows else 'micro-batch'}"


def _first_wrong_number(numbers: Sequence[float], due: Sequence[float], what: str, sizes: Sizes) -> str:
    if _same(numbers, due):
        return ""
    ratios = [number / each for number, each in zip(numbers, due, strict=True)]
    times, k = ratios[0], sizes.accumulation_steps
    if all(math.isclose(each, times, rel_tol=0.01) for each in ratios):
        for factor, told in ((k, f"k = {k} times too large"), (1 / k, f"k = {k} times too small")):
            if math.isclose(times, factor, rel_tol=0.01):
                return f"the loss that the loop returns is {told}"
        return f"the loss that the loop returns is {times:.3g} times the mean loss of the {what}"
    first = next(i for i in range(len(due)) if not _same(numbers[i : i + 1], due[i : i + 1]))
    said = f"number {first + 1} is {numbers[first]:.4g}, and the mean loss of its {what} {due[first]:.4g}"
    return f"{said}: {ratios[first]:.3g} times as large"


def _same(numbers: Sequence[float], due: Sequence[float]) -> bool:
    pairs = zip(numbers, due, strict=False)
    return len(numbers) == len(due) and all(math.isclose(a, b, rel_tol=ROUNDED, abs_tol=ROUNDED) for a, b in pairs)


def _series(result: Any) -> dict[str, list[float]]:
    """Lists of numbers in what a loop returns, by their place; of dicts only what is called a loss."""
    return {place: numbers for place, numbers in _found(result, "") if numbers}


def _found(result: Any, place: str) -> Iterator[tuple[str, list[float]]]:
    if isinstance(result, dict):
        for name, value in result.items():
            if "loss" in str(name).lower():
                yield from _found(value, f"{place}.{name}")
        return
    if hasattr(result, "tolist"):  # a tensor or an array
        result = result.tolist()
    if not isinstance(result, list | tuple):
        return
    numbers = [each.item() if isinstance(each, Tensor) and each.numel() == 1 else each for each in result]
    if all(isinstance(each, int | float) and not isinstance(each, bool) for each in numbers):
        yield place, [float(each) for each in numbers]
    elif all(isinstance(each, dict) for each in result):
        losses = [value for each in result for name, value in each.items() if "loss" in str(name).lower()]
        yield from _found(losses, f"{place}.loss")
    else:
        for number, each in enumerate(result):
            yield from _found(each, f"{place}.{number}")


CHECKS: dict[str, Callable[[Run], Verdict]] = {
    "per-step state": _averages,
    "optimizer state": _optimizer_state,
    "memory per window": _memory,
    "gradient scaler": _scaler,
    "reported loss": _reported_loss,
}
