"""Hugging Face Trainer with a model whose forward has no place for ``num_items_in_batch``."""

from __future__ import annotations

from torch import Tensor, nn

from harness.adapters.hf_trainer import run
from harness.task import Task


class Model(nn.Module):
    """Returns the mean loss of its micro-batch."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.inner, self.loss_fn = task.model, task.loss_fn

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The loss, and the logits."""
        logits = self.inner(inputs)
        return {"loss": self.loss_fn(logits, labels), "logits": logits}


def train(task: Task, max_norm: float | None = None) -> None:
    """Trainer divides each micro-batch's mean by the number of micro-batches in the window."""
    run(task, Model(task), task.dataset, max_norm)
