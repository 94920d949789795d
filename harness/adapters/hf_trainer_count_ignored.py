"""Hugging Face Trainer with a model whose forward swallows ``num_items_in_batch`` in its ``**kwargs``."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from harness.adapters.hf_trainer import run
from harness.task import Task


class Model(nn.Module):
    """Returns the mean loss of its micro-batch, and takes any further argument, as many published models do."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.inner, self.loss_fn = task.model, task.loss_fn

    def forward(self, inputs: Tensor, labels: Tensor, **kwargs: Any) -> dict[str, Tensor]:
        """The loss, and the logits."""
        logits = self.inner(inputs)
        return {"loss": self.loss_fn(logits, labels), "logits": logits}


def train(task: Task, max_norm: float | None = None) -> None:
    """Trainer takes ``**kwargs`` for a promise to use the count, and does not divide the loss."""
    run(task, Model(task), task.dataset, max_norm)
