"""Hugging Face Trainer on an iterable data set without a length, for which it needs ``max_steps``."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.utils.data import IterableDataset

from harness.adapters.hf_trainer import Model, run
from harness.task import Task


class Samples(IterableDataset[tuple[Tensor, ...]]):
    """The data set, without its length."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return (self.task.dataset[i] for i in range(len(self.task.dataset)))


def train(task: Task, max_norm: float | None = None) -> None:
    """As many optimizer steps as the epochs have windows."""
    windows = -(-len(task.loader) // task.accumulation_steps)
    run(task, Model(task), Samples(task), max_norm, max_steps=windows * task.epochs)
