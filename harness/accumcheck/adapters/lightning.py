"""Lightning with automatic optimization."""

from __future__ import annotations

from typing import Any

from accumcheck.adapters import need
from accumcheck.task import Task


def train(task: Task, max_norm: float | None = None) -> None:
    """``Trainer(accumulate_grad_batches=k)``."""
    _run(task, max_norm, accumulate_grad_batches=task.accumulation_steps)


def _run(task: Task, max_norm: float | None, **settings: Any) -> None:
    """``settings`` are those of Trainer."""
    lightning = need("lightning", "lightning")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = task.model

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            inputs, targets = batch
            return task.loss_fn(self.model(inputs), targets)

        def configure_optimizers(self) -> Any:
            schedule = {"scheduler": task.scheduler, "interval": "step"}
            return {"optimizer": task.optimizer, "lr_scheduler": schedule}

    lightning.Trainer(
        max_epochs=task.epochs,
        gradient_clip_val=max_norm,
        accelerator="cpu" if task.device.type == "cpu" else "gpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    ).fit(Module(), task.loader)
