"""MMEngine: its Runner with ``accumulative_counts=k``, and its OptimWrapper alone in a loop of one's own."""

from __future__ import annotations

import importlib.util
import multiprocessing
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accumcheck.adapters import need
from accumcheck.adapters.vision import name_operators
from accumcheck.task import Task
from accumcheck.watching.process import preserved


@preserved()
def train(task: Task, max_norm: float | None = None) -> None:
    """A Runner with an epoch-based loop; its ParamSchedulerHook moves the schedule at each micro-batch."""
    name_operators()
    model, runner = need("mmengine.model", "mmengine"), need("mmengine.runner", "mmengine opencv-python-headless")

    class Model(model.BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.inner = task.model

        def init_weights(self) -> None:
            """The model's weights stay as they are."""

        def forward(self, inputs: Any, targets: Any, mode: str = "loss") -> dict[str, Any]:
            """The loss, which Runner asks for with ``mode="loss"``."""
            return {"loss": task.loss_fn(self.inner(inputs), targets)}

    with _nothing_left(), tempfile.TemporaryDirectory() as folder:
        wrapper = _wrapper(task, max_norm)
        runner.Runner(
            model=Model(),
            work_dir=folder,
            train_dataloader=task.loader,
            train_cfg={"by_epoch": True, "max_epochs": task.epochs},
            optim_wrapper=wrapper,
            param_scheduler=_schedule(task, wrapper),
            default_hooks={"checkpoint": None, "logger": None},
            default_scope=None,
            randomness={"seed": 0},
            log_level="ERROR",
        ).train()


@preserved()
def optim_wrapper(task: Task, max_norm: float | None = None) -> None:
    """``update_params`` in one's own loop, as in the tutorial: it is not told how many micro-batches there will be."""
    with _nothing_left():
        wrapper = _wrapper(task, max_norm)
        for _ in range(task.epochs):
            for inputs, targets in task.loader:
                with wrapper.optim_context(task.model):
                    loss = task.loss_fn(task.model(inputs), targets)
                wrapper.update_params(loss)
                if wrapper.should_update():
                    task.scheduler.step()


def _wrapper(task: Task, max_norm: float | None) -> Any:
    optim = need("mmengine.optim", "mmengine")
    clip = {"max_norm": max_norm} if max_norm else None
    return optim.OptimWrapper(task.optimizer, accumulative_counts=task.accumulation_steps, clip_grad=clip)


def _schedule(task: Task, wrapper: Any) -> Any:
    """The task's scheduler as one of MMEngine's, which a Runner insists on."""
    optim = need("mmengine.optim", "mmengine")

    class Schedule(optim._ParamScheduler):
        def _get_value(self) -> list[float]:
            while task.scheduler.last_epoch < self.last_step:
                task.scheduler.step()
            return [float(rate) for rate in task.scheduler.get_last_lr()]

    return Schedule(wrapper, "lr", by_epoch=False)


@contextmanager
def _nothing_left() -> Iterator[None]:
    """Undo what MMEngine does to the process: registers of loggers and the like, and limits that it raises."""
    name_operators()
    logging, visualization = need("mmengine.logging", "mmengine"), need("mmengine.visualization", "mmengine")
    managed = [logging.MMLogger, logging.MessageHub, visualization.Visualizer]
    managed.append(need("mmengine.registry", "mmengine").DefaultScope)
    known = [dict(each._instance_dict) for each in managed]
    start = multiprocessing.get_start_method(allow_none=True)
    limits = _open_files()
    try:
        yield
    finally:
        for name, logger in logging.MMLogger._instance_dict.items():
            for handler in () if name in known[0] else logger.handlers:
                if hasattr(handler, "baseFilename"):
                    handler.close()
        for each, before in zip(managed, known, strict=True):
            each._instance_dict.clear()
            each._instance_dict.update(before)
        multiprocessing.set_start_method(start, force=True)
        _open_files(limits)


def _open_files(limits: tuple[int, int] | None = None) -> tuple[int, int] | None:
    """The limits on open files, after they are set to ``limits``; None where there are no such limits."""
    if importlib.util.find_spec("resource") is None:
        return None
    import resource  # noqa: PLC0415 - not on every system

    if limits:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    return resource.getrlimit(resource.RLIMIT_NOFILE)
