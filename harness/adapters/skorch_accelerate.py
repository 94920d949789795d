"""skorch's AccelerateMixin with ``Accelerator(gradient_accumulation_steps=k)``."""

from __future__ import annotations

from harness.adapters.skorch import fit
from harness.task import Task


def train(task: Task, max_norm: float | None = None) -> None:
    """As the class's documentation has it, with skorch's own callbacks for the schedule and for clipping."""
    import skorch  # noqa: PLC0415
    from accelerate import Accelerator  # noqa: PLC0415
    from skorch.callbacks import GradientNormClipping, LRScheduler  # noqa: PLC0415
    from skorch.hf import AccelerateMixin  # noqa: PLC0415

    class Net(AccelerateMixin, skorch.NeuralNet):
        pass

    callbacks = [LRScheduler(policy=lambda *_, **__: task.scheduler, step_every="batch")]
    if max_norm:
        callbacks.append(GradientNormClipping(max_norm))
    accelerator = Accelerator(gradient_accumulation_steps=task.accumulation_steps, cpu=task.device.type == "cpu")
    fit(task, Net, accelerator=accelerator, callbacks=callbacks)
