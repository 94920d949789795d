"""A loop of this project as a case of PyPI's trainparity 0.1.0, written as its accumulation quickstart shows.

trainparity compares one update boundary that its user declares, as its documentation says, and names no causes. Its
cases compute losses and its plans say what is done with them, so there is no place for a loop. This case makes one, to
the loop's advantage. The candidate is the loop itself on one full window of 8 samples, in 4 micro-batches of 2, for
one epoch; the full-batch phase is ``full_batch`` on the same window, or, for loops that clip or have an optimizer of
their own, the loop in one micro-batch. What trainparity then compares is the gradient that the last step was made
with, and parameters, optimizer and scheduler after it. All micro-batches are full and the window is the first, so
defects of tails, later windows and later epochs cannot show. Gradients are of order 1e2, so that clipping shows, and
in float64. Loops report no loss; the case says 1 for all of them.
"""

from __future__ import annotations

import importlib
import os
from importlib.util import find_spec
from typing import Any

import torch
from accumcheck.corpus import happened
from accumcheck.corpus import published as loops
from accumcheck.corpus import right as styles
from accumcheck.corpus import wrong as bugs
from accumcheck.corpus.expectations import loops_of
from accumcheck.task import IGNORE_INDEX, Loop, Objective, Sizes, Task, cross_entropy
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import ExponentialLR
from torch.utils.data import TensorDataset

from experiments.lab.recording import record
from experiments.lab.runner import ROOT

VERSION = "0.1.0"
BATCH, STEPS, TOKENS, CLASSES, GAIN = 2, 4, 4, 8, 1024.0
OWN = (
    "clips_every_time",
    "clips_values_every_time",
    "clips_each_gradient",
    "schedules_over_micro_batches",
    "steps_biases_every_time",
    "divides_the_rate_of_biases",
    "lowers_momentum_every_time",
    "clips_before_it_unscales",
    "decays_every_time",
)
BY_NAME: dict[str, Loop] = loops_of(loops, styles, bugs, happened)


def installed() -> bool:
    """Whether trainparity can be imported."""
    return find_spec("trainparity") is not None


def check(loop: str, objective: Objective) -> dict[str, str]:
    """The outcome of ``check_accumulation``, called as in the quickstart, and the phase that diverged first."""
    api = importlib.import_module("trainparity.api")
    result = api.check_accumulation(
        f"{__name__}:Case",
        # Explicit accounting and scaling are off, as it is the loop that scales.
        candidate=api.AccumulationExecutionPlan(
            STEPS, scale_accumulated_loss=False, use_explicit_loss_accounting=False
        ),
        comparison=api.ToleranceComparison(rtol=1e-6, atol=1e-7),
        cwd=ROOT,
        environment={"ACCUMCHECK_LOOP": loop, "ACCUMCHECK_OBJECTIVE": objective, "PYTHONWARNINGS": "ignore"},
    )
    if result.outcome.value == "ERROR":
        raise RuntimeError(f"trainparity could not check {loop}: {result.message}")
    return {"trainparity": result.outcome.value, "trainparity_phase": result.first_observed_phase or ""}


class Case:
    """One window of the loop that the environment names; see the module's docstring."""

    equivalence = "one window of eight ordered samples; global mean"

    def build(self, seed: int, device: str) -> Any:
        """Model, optimizer and scheduler; the loop steps them, not trainparity."""
        torch.manual_seed(seed)
        model = _Model().to(device)
        optimizer = SGD(model.parameters(), lr=0.05)
        scheduler = ExponentialLR(optimizer, gamma=0.9)
        api = importlib.import_module("trainparity.api")
        return api.TrainingState(model, _Stepped(optimizer), _Stepped(scheduler))

    def batch(self, device: str) -> tuple[Tensor, Tensor]:
        """The window's inputs and targets; of tokens, unequally many are masked."""
        generator = torch.Generator().manual_seed(0)
        shape = (BATCH * STEPS,) if os.environ["ACCUMCHECK_OBJECTIVE"] == "sample" else (BATCH * STEPS, TOKENS)
        targets = torch.randint(CLASSES, shape, generator=generator)
        if len(shape) == 2:
            lengths = torch.tensor([4, 1, 3, 2, 4, 3, 1, 2])
            targets[torch.arange(TOKENS) >= lengths[:, None]] = IGNORE_INDEX
        return torch.arange(targets.numel()).view(shape).to(device), targets.to(device)

    def split_batch(self, batch: tuple[Tensor, Tensor], count: int) -> list[Any]:
        """The loop splits the batch by itself, when it is given the first part."""
        return [(batch, count), *[None] * (count - 1)]

    def loss(self, state: Any, part: Any) -> Any:
        """Run the loop; return a loss whose gradient is the one that it stepped with."""
        parameters = dict(state.model.named_parameters())
        nothing = torch.stack([0 * parameter.sum() for parameter in parameters.values()]).sum()
        value = nothing
        if part is not None:
            (inputs, targets), count = part
            dataset = TensorDataset(inputs, targets)
            size = len(targets) // count
            loop = os.environ["ACCUMCHECK_LOOP"]
            train = BY_NAME[loop] if count > 1 or loop in OWN else loops.full_batch
            with record(state.model) as steps:
                train(
                    Task.build(
                        state.model,
                        state.optimizer.inner,
                        cross_entropy,
                        dataset,
                        Sizes(len(targets), size, count, epochs=1),
                        scheduler=state.scheduler.inner,
                        device=inputs.device,
                    )
                )
            state.model.zero_grad()
            for name, gradient in steps[-1].gradients.items() if steps else ():
                value = value + (parameters[name] * gradient).sum()
            value = value - value.detach() + 1
        return importlib.import_module("trainparity.api").LossAccounting(value)


class _Model(nn.Module):
    """A row of logits for every sample or token, and a bias that all share."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Embedding(BATCH * STEPS * TOKENS, CLASSES, dtype=torch.float64)
        self.bias = nn.Parameter(torch.zeros(CLASSES, dtype=torch.float64))
        nn.init.normal_(self.rows.weight, std=1e-4)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = GAIN * (self.rows(inputs) + self.bias)
        return logits


class _Stepped:
    """An optimizer or scheduler whose step the loop has made already."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def step(self) -> None:
        """Nothing is left to do."""
