"""DeepSpeed's engine on one rank, without ZeRO and in full precision."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from torch import distributed, nn
from torch._C._distributed_c10d import HashStore

from accumcheck.adapters import need
from accumcheck.task import LoopError, Task


def train(task: Task, max_norm: float | None = None) -> None:
    """``gradient_accumulation_steps=k``; ``engine.step()`` at each micro-batch."""
    _run(task, max_norm)


def boundary_set(task: Task, max_norm: float | None = None) -> None:
    """With ``set_gradient_accumulation_boundary``, by which the caller ends a window at the last micro-batch too."""
    _run(task, max_norm, by_hand=True)


def _run(task: Task, max_norm: float | None, by_hand: bool = False) -> None:
    """``by_hand`` sets the boundary of each window."""
    config = {
        "train_micro_batch_size_per_gpu": task.micro_batch_size,
        "gradient_accumulation_steps": task.accumulation_steps,
        "gradient_clipping": max_norm or 0.0,
        "zero_optimization": {"stage": 0},
    }
    with _one_rank(task) as deepspeed:
        # The engine leaves its hooks on the outer module.
        model = nn.Sequential(task.model)
        engine, *_ = deepspeed.initialize(
            model=model, optimizer=task.optimizer, lr_scheduler=task.scheduler, config=config
        )
        engine.enable_backward_allreduce = False  # with one rank it changes nothing, and refuses float64
        try:
            for _ in range(task.epochs):
                for number, (inputs, targets) in enumerate(task.loader, start=1):
                    if by_hand:
                        last = number % task.accumulation_steps == 0 or number == len(task.loader)
                        engine.set_gradient_accumulation_boundary(last)
                    engine.backward(task.loss_fn(engine(inputs), targets))
                    engine.step()
        finally:
            engine.destroy()


@contextmanager
def _one_rank(task: Task) -> Iterator[Any]:
    """DeepSpeed in a process group of this process alone, which meets nobody over the network, and is gone after."""
    if distributed.is_initialized():
        raise LoopError("DeepSpeed is checked on one rank: there is a process group already")
    device = task.device.type
    environment = mock.patch.dict(os.environ, DS_ACCELERATOR=device, LOCAL_RANK=str(task.device.index or 0))
    hook = mock.patch.object(sys, "excepthook", sys.excepthook)  # torch puts one of its own beside a process group
    with environment, hook:
        deepspeed = need("deepspeed", "deepspeed")
        accelerator = deepspeed.accelerator.get_accelerator()
        if accelerator.device_name() != device:
            raise LoopError(f"DeepSpeed runs on {accelerator.device_name()!r}: set DS_ACCELERATOR={device}")
        distributed.init_process_group(
            accelerator.communication_backend_name(), store=HashStore(), rank=0, world_size=1
        )
        comm, backend = need("deepspeed.comm.comm", "deepspeed"), need("deepspeed.comm.torch", "deepspeed")
        # An extension for ranks that share memory, which it would compile first.
        not_compiled = mock.patch.object(backend, "build_shm_op", return_value=None)
        try:
            with not_compiled, mock.patch.object(comm, "cdb", None):
                yield deepspeed
                deepspeed.comm.destroy_process_group()
        finally:
            if distributed.is_initialized():
                distributed.destroy_process_group()
