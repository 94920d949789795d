"""Ways to test a loop that accumulates, each as it is in use today: True where it notices that something is wrong.

All but ``trainparity`` train a small model of the project on data that divides evenly into windows, as tests do, and in
float64, which is to their advantage: in float32 rounding makes several of them fail on right loops. The data are digits
for means over samples and lines of text of unequal length for means over tokens; the model has BatchNorm where the bug
is one of that. They compare with the loop itself without accumulation, or with a loop that is written by hand.

- ``losses``: transformers' ``test_gradient_accumulation_loss_alignment_with_model_loss`` (tests/trainer) asks that
  no logged loss of two trainings differs by 0.01.
- ``parameters``: ``torch.testing.assert_close`` on the parameters of two trainings with AdamW, at its own tolerances.
- ``steps``: accelerate's ``test_gradient_accumulation_with_opt_and_scheduler`` (test_utils/scripts/test_sync.py)
  compares how often the optimizers and schedulers of two loops have stepped.
- ``changed``: weights differ from those before training, the smallest test that there is.
- ``gradients``: accelerate's ``test_gradient_accumulation`` (the same file) compares the gradient of each update with
  that of a loop that is written by hand and divides by the same k.
- ``update``: the first update of SGD on a full window, compared with that of the window as one batch.
- ``trainparity``: PyPI's trainparity 0.1.0, see ``experiments.lab.trainparity``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from accumcheck.corpus.problems import PROBLEMS
from accumcheck.corpus.published import published_fix
from accumcheck.task import Loop, Sizes
from accumcheck.training.problem import Case
from accumcheck.watching.process import RandomStream, quiet
from torch import Tensor

EVEN = Sizes(samples=32, micro_batch_size=2, accumulation_steps=4, epochs=2)
CLOSE = 0.01  # of logged losses, as transformers has it


@dataclass
class Training:
    """One training: of each update the gradients and the loss of the whole data set after it; parameters at the end."""

    before: list[Tensor]
    after: list[Tensor] = field(default_factory=list)
    gradients: list[list[Tensor]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    first: list[Tensor] = field(default_factory=list)
    scheduled: int = 0


@lru_cache(maxsize=8)  # several ways look at the same training
def trained(loop: Loop, problem: str, optimizer: str, sizes: Sizes) -> Training:
    """Train a loop from seed 0, which is also what it draws from."""
    task = Case(PROBLEMS[problem], sizes, optimizer, "float64").task()
    parameters = [each for each in task.model.parameters() if each.requires_grad]
    training = Training([each.detach().clone() for each in parameters])
    inputs, targets = task.dataset.tensors

    def before(*_: object) -> None:
        zero = torch.zeros(())
        training.gradients.append([zero if each.grad is None else each.grad.clone() for each in parameters])

    def after(*_: object) -> None:
        with torch.no_grad():
            training.losses.append(float(task.loss_fn(copy.deepcopy(task.model)(inputs), targets)))
        if not training.first:
            training.first = [each.detach().clone() for each in parameters]

    handles = [task.optimizer.register_step_pre_hook(before), task.optimizer.register_step_post_hook(after)]
    try:
        with RandomStream(0).active(), quiet():
            loop(task)
    finally:
        for handle in handles:
            handle.remove()
    training.after = [each.detach().clone() for each in parameters]
    training.scheduled = task.scheduler.last_epoch
    return training


def losses(loop: Loop, problem: str) -> bool:
    """Loss curves within 0.01."""
    ours, plain = (trained(loop, problem, "adamw", sizes) for sizes in (EVEN, EVEN.full_batch()))
    return any(not abs(a - b) < CLOSE for a, b in zip(ours.losses, plain.losses, strict=False))


def parameters(loop: Loop, problem: str) -> bool:
    """Parameters close after training with AdamW."""
    ours, plain = (trained(loop, problem, "adamw", sizes) for sizes in (EVEN, EVEN.full_batch()))
    return not _close(ours.after, plain.after)


def steps(loop: Loop, problem: str) -> bool:
    """As many optimizer steps, and steps of the schedule, as without accumulation."""
    ours, plain = (trained(loop, problem, "adamw", sizes) for sizes in (EVEN, EVEN.full_batch()))
    return (len(ours.losses), ours.scheduled) != (len(plain.losses), plain.scheduled)


def changed(loop: Loop, problem: str) -> bool:
    """Weights changed."""
    ours = trained(loop, problem, "adamw", EVEN)
    return all(torch.equal(a, b) for a, b in zip(ours.before, ours.after, strict=True))


def gradients(loop: Loop, problem: str) -> bool:
    """Gradients of each update against accumulation by hand, with the same divisor."""
    ours, by_hand = (trained(each, problem, "sgd", EVEN) for each in (loop, published_fix))
    if len(ours.gradients) != len(by_hand.gradients):
        return True
    return not all(_close(a, b) for a, b in zip(ours.gradients, by_hand.gradients, strict=True))


def update(loop: Loop, problem: str) -> bool:
    """One update of SGD on a window that divides evenly."""
    one = Sizes(EVEN.micro_batch_size * EVEN.accumulation_steps, EVEN.micro_batch_size, EVEN.accumulation_steps, 1)
    ours, plain = (trained(loop, problem, "sgd", sizes) for sizes in (one, one.full_batch()))
    return not _close(ours.first, plain.first)


METHODS: dict[str, Callable[[Loop, str], bool]] = {
    "losses": losses,
    "parameters": parameters,
    "steps": steps,
    "changed": changed,
    "gradients": gradients,
    "update": update,
}


def _close(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    if len(ours) != len(theirs):
        return False
    try:
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b)
    except AssertionError:
        return False
    return True
