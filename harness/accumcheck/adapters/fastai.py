"""fastai with its GradientAccumulation callback, whose ``n_acc`` counts samples."""

from __future__ import annotations

from typing import Any

from accumcheck.adapters import need
from accumcheck.task import Task


def train(task: Task, max_norm: float | None = None) -> None:
    """``n_acc`` is the effective batch size b·k."""
    core, training = need("fastai.callback.core", "fastai"), need("fastai.callback.training", "fastai")
    data, learners, optimizers = (need(f"fastai.{name}", "fastai") for name in ("data.core", "learner", "optimizer"))

    class Schedule(core.Callback):
        def after_step(self) -> None:
            task.scheduler.step()

    callbacks: list[Any] = [training.GradientAccumulation(task.micro_batch_size * task.accumulation_steps), Schedule()]
    if max_norm:
        callbacks.append(training.GradientClip(max_norm))
    learner = learners.Learner(
        data.DataLoaders(task.loader, task.loader, device=task.device),
        task.model,
        loss_func=task.loss_fn,
        lr=task.scheduler.get_last_lr()[0],
        cbs=callbacks,
        train_bn=False,
    )
    learner.opt = optimizers.OptimWrapper(opt=task.optimizer)
    learner.remove_cb(learners.Recorder)  # it averages losses in float32 only
    with learner.no_bar():
        learner.fit(task.epochs)
