"""SpeechBrain's Brain, whose ``fit`` accumulates gradients by ``grad_accumulation_factor``."""

from __future__ import annotations

import os
from typing import Any
from unittest import mock

from accumcheck.adapters import need
from accumcheck.task import Task


def train(task: Task, max_norm: float | None = None) -> None:
    """``fit`` as documented; the schedule moves in ``on_fit_batch_end``, which is told of each optimizer step."""
    # Importing it would set JIT and TF32 for the whole process.
    with mock.patch.dict(os.environ, SB_DISABLE_QUIRKS="disable_jit_profiling,allow_tf32"):
        speechbrain = need("speechbrain", "speechbrain torchaudio")

    class Brain(speechbrain.Brain):
        def compute_forward(self, batch: Any, stage: Any) -> Any:
            return self.modules.model(batch[0])

        def compute_objectives(self, predictions: Any, batch: Any, stage: Any) -> Any:
            return task.loss_fn(predictions, batch[1])

        def on_fit_batch_end(self, batch: Any, outputs: Any, loss: Any, should_step: bool) -> None:
            if should_step:
                task.scheduler.step()

    options: dict[str, Any] = {"device": str(task.device), "grad_accumulation_factor": task.accumulation_steps}
    if max_norm:
        options["max_grad_norm"] = max_norm
    brain = Brain({"model": task.model}, lambda _: task.optimizer, run_opts=options)
    # A progress bar that is off would still leave a thread that watches it.
    with mock.patch.object(need("tqdm", "tqdm").tqdm, "monitor_interval", 0):
        brain.fit(range(task.epochs), task.loader, progressbar=False)
