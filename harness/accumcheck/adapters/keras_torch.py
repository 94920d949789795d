"""Keras on the torch backend, ``gradient_accumulation_steps`` of its optimizers."""

from __future__ import annotations

import os
from typing import Any
from unittest import mock

from torch import Tensor

from accumcheck.adapters import need
from accumcheck.task import LoopError, Task


def train(task: Task, max_norm: float | None = None) -> None:
    """``fit`` as documented; the task's optimizer makes the updates that Keras computes, at Keras' learning rate."""
    with mock.patch.dict(os.environ, KERAS_BACKEND="torch"):
        keras = need("keras", "keras")
    if keras.backend.backend() != "torch":
        raise LoopError(f"Keras runs on {keras.backend.backend()!r}: set KERAS_BACKEND=torch before it is imported")

    class Schedule(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step: Any) -> Any:
            while task.scheduler.last_epoch < int(keras.ops.convert_to_numpy(step)):
                task.scheduler.step()
            return task.scheduler.get_last_lr()[0]

    class Optimizer(keras.optimizers.SGD):
        def _backend_update_step(self, grads: Any, trainable_variables: Any, learning_rate: Any) -> None:
            for gradient, variable in zip(grads, trainable_variables, strict=True):
                variable.value.grad = gradient.clone()
            task.optimizer.step()

    class Model(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.inner = keras.layers.TorchModuleWrapper(task.model)

        def call(self, inputs: Tensor) -> Any:
            return self.inner(inputs)

        def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, *_: Any, **__: Any) -> Any:
            return task.loss_fn(y_pred, y)

    model = Model()
    steps = task.accumulation_steps if task.accumulation_steps > 1 else None
    model.compile(Optimizer(Schedule(), gradient_accumulation_steps=steps, global_clipnorm=max_norm))
    model.fit(task.loader, epochs=task.epochs, verbose=0)
