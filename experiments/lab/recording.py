"""Every optimizer step of a block, in copies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from accumcheck.watching.steps import Tensors, Update, copied, watch
from torch import nn


@dataclass
class Step:
    """A finished optimizer step, in copies: tensors by parameter name, state by ``name/key``."""

    learning_rates: dict[str, float]
    gradients: Tensors
    before: Tensors
    after: Tensors = field(default_factory=dict)
    state: Tensors = field(default_factory=dict)


@contextmanager
def record(model: nn.Module, *, state: bool = False) -> Iterator[list[Step]]:
    """Copy every update of ``model`` inside the block; optimizer state only on request.

    Use ``accumcheck.watching.steps.watch`` for large models: this keeps three copies of the model for every step.

    >>> import torch
    >>> model = nn.Linear(1, 1, bias=False)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    >>> with record(model) as steps:
    ...     model(torch.ones(1, 1)).sum().backward()
    ...     optimizer.step()
    >>> steps[0].gradients["weight"].item(), steps[0].learning_rates
    (1.0, {'weight': 0.5})
    """
    steps: list[Step] = []

    def before(update: Update) -> None:
        steps.append(Step(update.learning_rates, copied(update.gradients), copied(update.parameters)))

    def after(update: Update) -> None:
        steps[-1].after = copied(update.parameters)
        if state:
            steps[-1].state = copied(update.state)

    with watch(model, before, after):
        yield steps
