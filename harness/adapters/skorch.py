"""skorch with the gradient accumulation recipe of its FAQ: ``train_step`` is overridden."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn

from harness.adapters import need
from harness.task import Task


def train(task: Task, max_norm: float | None = None) -> None:
    """A step at every k-th micro-batch of an epoch, with the loss divided by k."""
    skorch = need("skorch", "skorch")

    class Net(skorch.NeuralNet):
        def get_loss(self, *args: Any, **kwargs: Any) -> Tensor:
            loss: Tensor = super().get_loss(*args, **kwargs)
            return loss / task.accumulation_steps

        def train_step(self, batch: Any, **fit_params: Any) -> Any:
            # The history already counts the micro-batch that has just begun.
            number = len(self.history[-1, "batches"])
            step = self.train_step_single(batch, **fit_params)
            if number % task.accumulation_steps == 0:
                if max_norm:
                    nn.utils.clip_grad_norm_(self.module_.parameters(), max_norm)
                self.optimizer_.step()
                self.optimizer_.zero_grad()
                task.scheduler.step()
            return step

    fit(task, Net)


def fit(task: Task, net: Any, **settings: Any) -> None:
    """Fit a net class on the task's model, loss, optimizer and data; ``settings`` are those of NeuralNet."""

    class Criterion(nn.Module):
        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            """The task's loss."""
            return task.loss_fn(outputs, targets)

    net(
        module=task.model,
        criterion=Criterion,
        optimizer=lambda *_, **__: task.optimizer,
        train_split=None,
        max_epochs=task.epochs,
        batch_size=task.micro_batch_size,
        verbose=0,
        **settings,
    ).fit(*(np.asarray(tensor.cpu()) for tensor in task.dataset.tensors))
