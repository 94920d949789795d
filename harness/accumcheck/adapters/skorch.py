"""skorch: the gradient accumulation recipe of its FAQ, and its AccelerateMixin."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn

from accumcheck.adapters import need
from accumcheck.task import Task


def train(task: Task) -> None:
    """The recipe of the FAQ: the loss is divided by k; ``train_step`` steps at every k-th micro-batch of an epoch.

    skorch's callback LRScheduler moves the schedule. Its callback for clipping is not called in this recipe.
    """
    skorch, callbacks = need("skorch", "skorch"), need("skorch.callbacks", "skorch")

    class Net(skorch.NeuralNet):
        def get_loss(self, *args: Any, **kwargs: Any) -> Tensor:
            loss: Tensor = super().get_loss(*args, **kwargs)
            return loss / task.accumulation_steps

        def train_step(self, batch: Any, **fit_params: Any) -> Any:
            # The history already counts the micro-batch that has just begun.
            number = len(self.history[-1, "batches"])
            step = self.train_step_single(batch, **fit_params)
            if number % task.accumulation_steps == 0:
                self.optimizer_.step()
                self.optimizer_.zero_grad()
            return step

    _fit(task, Net, callbacks=[callbacks.LRScheduler(policy=lambda *_, **__: task.scheduler, step_every="batch")])


def accelerate(task: Task, max_norm: float | None = None) -> None:
    """``Accelerator(gradient_accumulation_steps=k)``; skorch's own callbacks move the schedule and clip."""
    skorch, hf = need("skorch", "skorch"), need("skorch.hf", "skorch")
    callbacks = need("skorch.callbacks", "skorch")
    accelerator = need("accelerate", "accelerate").Accelerator(
        gradient_accumulation_steps=task.accumulation_steps, cpu=task.device.type == "cpu"
    )

    class Net(hf.AccelerateMixin, skorch.NeuralNet):
        pass

    used = [callbacks.LRScheduler(policy=lambda *_, **__: task.scheduler, step_every="batch")]
    if max_norm:
        used.append(callbacks.GradientNormClipping(max_norm))
    _fit(task, Net, accelerator=accelerator, callbacks=used)


def _fit(task: Task, net: Any, **settings: Any) -> None:
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
