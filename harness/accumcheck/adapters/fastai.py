"""fastai with its GradientAccumulation callback, whose ``n_acc`` counts samples."""

from __future__ import annotations

from typing import Any

from accumcheck.adapters import need
from accumcheck.task import DECAY, Task


def train(task: Task, max_norm: float | None = None) -> None:
    """``n_acc`` is the effective batch size b·k; the learning rate is moved by ParamScheduler, as in fit_one_cycle."""
    schedule, training = need("fastai.callback.schedule", "fastai"), need("fastai.callback.training", "fastai")
    data, learners, optimizers = (need(f"fastai.{name}", "fastai") for name in ("data.core", "learner", "optimizer"))

    rate = task.scheduler.get_last_lr()[0]
    updates = -(-len(task.loader) // task.accumulation_steps) * task.epochs
    decay = schedule.ParamScheduler({"lr": schedule.SchedExp(rate, rate * DECAY**updates)})
    callbacks: list[Any] = [training.GradientAccumulation(task.micro_batch_size * task.accumulation_steps), decay]
    if max_norm:
        callbacks.append(training.GradientClip(max_norm))
    learner = learners.Learner(
        data.DataLoaders(task.loader, task.loader, device=task.device),
        task.model,
        loss_func=task.loss_fn,
        lr=rate,
        cbs=callbacks,
        train_bn=False,
    )
    learner.opt = optimizers.OptimWrapper(opt=task.optimizer)
    learner.remove_cb(learners.Recorder)  # it averages losses in float32 only
    with learner.no_bar():
        learner.fit(task.epochs)
