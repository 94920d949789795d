"""Problems: a model, real data and a loss. Cases: a problem with all that makes its tasks identical."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.utils.data import TensorDataset

from accumcheck.task import OBJECTIVES, Objective, Sizes, Task, cross_entropy
from accumcheck.watching.process import RandomStream

T = TypeVar("T", Tensor, nn.Module)


def seeded(factory: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build a model from a seed: two builds from one seed are equal to the bit, and no random stream is moved.

    >>> linear = partial(nn.Linear, 2, 1)
    >>> torch.equal(seeded(linear, 0).weight, seeded(linear, 0).weight)
    True
    """
    if not callable(factory):
        raise TypeError(f"model must be a function that returns a torch.nn.Module, got {factory!r}")
    with RandomStream(seed).active():
        model = factory()
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must return a torch.nn.Module, got {type(model).__name__}")
    return model


@dataclass(frozen=True)
class Problem:
    """A model with its data and its loss.

    ``model()`` returns a new module; ``data(samples, seed)`` a ``TensorDataset`` of that many samples; ``loss(outputs,
    targets)`` is a mean over samples or over unmasked tokens, as ``objective`` says.

    >>> from accumcheck.corpus.problems import PROBLEMS
    >>> PROBLEMS["mlp"].objective
    'sample'
    """

    name: str
    model: Callable[[], nn.Module]
    data: Callable[[int, int], TensorDataset]
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy
    objective: Objective = "sample"

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective must be 'sample' or 'token', got {self.objective!r}")

    def __str__(self) -> str:
        return self.name


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": partial(SGD, lr=0.1),
    "momentum": partial(SGD, lr=0.05, momentum=0.9),
    "adamw": partial(AdamW, lr=1e-3),
}
DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Case:
    """Everything that a training run depends on, except the loop. Tasks of one case start equal to the bit.

    ``optimizer`` and ``dtype`` are names in ``OPTIMIZERS`` and ``DTYPES``; ``device`` is one of torch's.
    Raises ValueError for a name that is not there.
    """

    problem: Problem
    sizes: Sizes
    optimizer: str = "sgd"
    dtype: str = "float64"
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name, known in (("optimizer", OPTIMIZERS), ("dtype", DTYPES)):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")

    def __str__(self) -> str:
        return f"{self.problem} with {self.optimizer} in {self.dtype}, {self.sizes}, seed {self.seed}"

    def dataset(self) -> TensorDataset:
        """The case's samples, in the order in which every loader of the case yields them."""
        dataset = self.problem.data(self.sizes.samples, self.seed)
        if not isinstance(dataset, TensorDataset) or len(dataset.tensors) != 2:
            raise ValueError(
                f"data({self.sizes.samples}, {self.seed}) must return TensorDataset(inputs, targets), "
                f"got {type(dataset).__name__}"
            )
        if len(dataset) != self.sizes.samples:
            raise ValueError(f"data({self.sizes.samples}, {self.seed}) returned {len(dataset)} samples")
        return TensorDataset(*(self._place(tensor) for tensor in dataset.tensors))

    def task(self, dataset: TensorDataset | None = None) -> Task:
        """A fresh task. ``dataset`` replaces the case's own, for example by the same samples in another order."""
        dataset = dataset or self.dataset()
        model = self._place(seeded(self.problem.model, self.seed))
        optimizer = OPTIMIZERS[self.optimizer](model.parameters())
        return Task.build(model, optimizer, self.problem.loss, dataset, self.sizes, device=self.device)

    def full_batch(self) -> Case:
        """The same case without accumulation: micro-batches of N samples, one accumulation step."""
        return replace(self, sizes=self.sizes.full_batch())

    def _place(self, item: T) -> T:
        if isinstance(item, Tensor) and not item.is_floating_point():
            return item.to(self.device)
        return item.to(self.device, DTYPES[self.dtype])
