"""skorch's AccelerateMixin with ``Accelerator(gradient_accumulation_steps=k)``."""

from __future__ import annotations

from harness.adapters import need
from harness.adapters.skorch import fit
from harness.task import Task


def train(task: Task, max_norm: float | None = None) -> None:
    """As the class's documentation has it, with skorch's own callbacks for the schedule and for clipping."""
    accelerate, skorch = need("accelerate", "accelerate"), need("skorch", "skorch")
    callbacks, hf = need("skorch.callbacks", "skorch"), need("skorch.hf", "skorch")

    class Net(hf.AccelerateMixin, skorch.NeuralNet):
        pass

    used = [callbacks.LRScheduler(policy=lambda *_, **__: task.scheduler, step_every="batch")]
    if max_norm:
        used.append(callbacks.GradientNormClipping(max_norm))
    accelerator = accelerate.Accelerator(
        gradient_accumulation_steps=task.accumulation_steps, cpu=task.device.type == "cpu"
    )
    fit(task, Net, accelerator=accelerator, callbacks=used)
