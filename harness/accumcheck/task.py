"""What a training loop is given: a model, an optimizer, micro-batches, and the sizes that shape them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ExponentialLR, LRScheduler
from torch.utils.data import DataLoader, TensorDataset

Objective = Literal["sample", "token"]
Verdict = Literal["equivalent", "diverges", "inconclusive"]
OBJECTIVES: tuple[Objective, ...] = ("sample", "token")
DECAY = 0.98  # what a task's learning rate is multiplied with at each scheduler step
IGNORE_INDEX = -100  # the target of a masked token, as in torch.nn.functional.cross_entropy


class LoopError(RuntimeError):
    """The loop, or the model it was given, cannot be judged; the message says why and what to do.

    ``finding`` is the id of the finding that this is, where there is one.
    """

    finding: str | None = None


class NotRepeatable(LoopError):  # noqa: N818
    """The loop does not do the same twice under one seed."""

    finding = "nondeterministic"

    def __init__(self, loop: str, where: str) -> None:
        super().__init__(
            f"{loop} does not repeat itself under one seed, at {where}: draw from torch's, random's or NumPy's global "
            "random stream only, and keep no state between two calls of the loop"
        )


@dataclass(frozen=True)
class Sizes:
    """The sizes that decide which samples meet in which window.

    ``samples`` (n) is the data set's length, ``micro_batch_size`` (b) and ``accumulation_steps`` (k) make the
    effective batch size N = b·k. Every epoch ends with a tail window of n mod N samples, unless N divides n.

    Raises ValueError for a size below 1.

    >>> Sizes(samples=7, micro_batch_size=1, accumulation_steps=4).window_lengths()
    [4, 3, 4, 3]
    """

    samples: int
    micro_batch_size: int = 1
    accumulation_steps: int = 1
    epochs: int = 2

    def __post_init__(self) -> None:
        for name in ("samples", "micro_batch_size", "accumulation_steps", "epochs"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise ValueError(f"{name} must be a whole number, got {value!r}")
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    def __str__(self) -> str:
        return f"n={self.samples}, b={self.micro_batch_size}, k={self.accumulation_steps}, epochs={self.epochs}"

    @property
    def effective_batch_size(self) -> int:
        """N = b·k, in samples."""
        return self.micro_batch_size * self.accumulation_steps

    @property
    def is_ragged(self) -> bool:
        """Whether the last window of an epoch is a tail, that is whether N does not divide n."""
        return self.samples % self.effective_batch_size != 0

    @property
    def micro_batches(self) -> int:
        """Micro-batches in an epoch, ⌈n/b⌉."""
        return -(-self.samples // self.micro_batch_size)

    def window_lengths(self) -> list[int]:
        """Samples in each window, in the order of optimizer steps over all epochs."""
        full, tail = divmod(self.samples, self.effective_batch_size)
        return ([self.effective_batch_size] * full + [tail] * bool(tail)) * self.epochs

    def full_batch(self) -> Sizes:
        """The same windows without accumulation: micro-batch size N and one accumulation step."""
        return Sizes(self.samples, self.effective_batch_size, 1, self.epochs)


@dataclass
class Task:
    """All that a loop gets, and all that it needs: ``def train(task): ...`` trains ``task.model``.

    ``loader`` yields micro-batches ``(inputs, targets)`` in a fixed order, already on ``device``. ``loss_fn(outputs,
    targets)`` is the mean over samples, or over tokens whose target is not −100. ``scheduler.step()`` belongs behind
    each optimizer step, once. Its learning rate differs at every step, so that a schedule that runs too fast shows.
    """

    model: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler
    loss_fn: Callable[[Tensor, Tensor], Tensor]
    loader: DataLoader[tuple[Tensor, ...]]
    dataset: TensorDataset
    micro_batch_size: int
    accumulation_steps: int
    epochs: int
    device: torch.device

    @classmethod
    def build(
        cls,
        model: nn.Module,
        optimizer: Optimizer,
        loss_fn: Callable[[Tensor, Tensor], Tensor],
        dataset: TensorDataset,
        sizes: Sizes,
        *,
        loader: DataLoader[tuple[Tensor, ...]] | None = None,
        scheduler: LRScheduler | None = None,
        device: str | torch.device = "cpu",
    ) -> Task:
        """A task of these sizes; the rate falls by ``DECAY`` at each scheduler step unless ``scheduler`` is given."""
        return cls(
            model=model,
            optimizer=optimizer,
            scheduler=ExponentialLR(optimizer, gamma=DECAY) if scheduler is None else scheduler,
            loss_fn=loss_fn,
            loader=as_loader(dataset, sizes.micro_batch_size) if loader is None else loader,
            dataset=dataset,
            micro_batch_size=sizes.micro_batch_size,
            accumulation_steps=sizes.accumulation_steps,
            epochs=sizes.epochs,
            device=torch.device(device),
        )


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean over samples, logits (n, classes); or over unmasked tokens, logits (n, time, vocabulary)."""
    return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def unmasked(targets: Tensor) -> int:
    """Tokens that count towards a token mean: those whose target is not −100."""
    return int((targets != IGNORE_INDEX).sum())


Loop = Callable[[Task], object]


def name_of(train: Loop) -> str:
    """A loop's name as messages show it."""
    return getattr(train, "__name__", None) or repr(train)


def as_loader(
    dataset: TensorDataset, micro_batch_size: int, micro_batches: list[list[int]] | None = None
) -> DataLoader[tuple[Tensor, ...]]:
    """Micro-batches in data set order, or those that are listed; drawing them leaves the global random stream alone."""
    # A DataLoader draws a seed at every epoch; from its own generator, so that n and k leave other streams alone.
    if micro_batches is not None:
        return DataLoader(dataset, batch_sampler=micro_batches, generator=torch.Generator())
    return DataLoader(dataset, batch_size=micro_batch_size, generator=torch.Generator())
