"""Composer's Trainer, which splits each batch of its data loader into micro-batches."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from torch import Tensor, distributed

from accumcheck.adapters import need
from accumcheck.adapters.vision import name_operators
from accumcheck.task import Task, as_loader, unmasked
from accumcheck.watching.process import preserved


def train(task: Task, max_norm: float | None = None) -> None:
    """Batches of b·k with ``device_train_microbatch_size=b``: a micro-batch weighs as many samples as it has."""
    _run(task, max_norm)


def on_tokens(task: Task, max_norm: float | None = None) -> None:
    """With ``accumulate_train_batch_on_tokens``: a micro-batch weighs as many unmasked tokens as it has."""
    _run(task, max_norm, accumulate_train_batch_on_tokens=True)


def _run(task: Task, max_norm: float | None, **settings: Any) -> None:
    """``settings`` are those of Trainer."""
    with _composer() as composer:
        clipping = composer.algorithms.GradientClipping("norm", max_norm) if max_norm else None

        class Model(composer.ComposerModel):
            def __init__(self) -> None:
                super().__init__()
                self.inner = task.model

            def forward(self, batch: Any) -> Any:
                """Logits of a micro-batch."""
                return self.inner(batch[0])

            def loss(self, outputs: Any, batch: Any) -> dict[str, Tensor]:
                """As a dict, since Composer adds a plain loss to a tensor in single precision."""
                return {"total": task.loss_fn(outputs, batch[1])}

        batches = as_loader(task.dataset, task.micro_batch_size * task.accumulation_steps)
        trainer = composer.Trainer(
            model=Model(),
            train_dataloader=composer.DataSpec(batches, get_num_tokens_in_batch=lambda batch: unmasked(batch[1])),
            device_train_microbatch_size=task.micro_batch_size,
            max_duration=f"{task.epochs}ep",
            optimizers=task.optimizer,
            schedulers=task.scheduler,
            step_schedulers_every_batch=True,
            algorithms=clipping,
            device="cpu" if task.device.type == "cpu" else "gpu",
            precision="fp32",
            seed=0,
            loggers=[],
            progress_bar=False,
            **settings,
        )
        trainer.fit()
        trainer.close()


@contextmanager
def _composer() -> Iterator[Any]:
    """Composer; what its import and its Trainer change in the process is undone."""
    with preserved(), mock.patch.object(sys, "excepthook", sys.excepthook), ExitStack() as stack:
        if not distributed.is_initialized():
            # Composer makes a process group of this process alone.
            stack.callback(lambda: distributed.is_initialized() and distributed.destroy_process_group())
        name_operators()
        yield need("composer", "mosaicml")
