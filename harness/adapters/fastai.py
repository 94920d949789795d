"""fastai with its GradientAccumulation callback, whose ``n_acc`` counts samples."""

from __future__ import annotations

from typing import Any

from harness.task import Task


def train(task: Task, max_norm: float | None = None) -> None:
    """``n_acc`` is the effective batch size b·k."""
    from fastai.callback.core import Callback  # noqa: PLC0415
    from fastai.callback.training import GradientAccumulation, GradientClip  # noqa: PLC0415
    from fastai.data.core import DataLoaders  # noqa: PLC0415
    from fastai.learner import Learner, Recorder  # noqa: PLC0415
    from fastai.optimizer import OptimWrapper  # noqa: PLC0415

    class Schedule(Callback):  # type: ignore[misc]
        def after_step(self) -> None:
            task.scheduler.step()

    callbacks: list[Any] = [GradientAccumulation(task.micro_batch_size * task.accumulation_steps), Schedule()]
    if max_norm:
        callbacks.append(GradientClip(max_norm))
    learner = Learner(
        DataLoaders(task.loader, task.loader, device=task.device),
        task.model,
        loss_func=task.loss_fn,
        lr=task.scheduler.get_last_lr()[0],
        cbs=callbacks,
        train_bn=False,
    )
    learner.opt = OptimWrapper(opt=task.optimizer)
    learner.remove_cb(Recorder)  # it averages losses in float32 only
    with learner.no_bar():
        learner.fit(task.epochs)
