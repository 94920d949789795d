"""Hugging Face's Trainer for ``architectures``: its gradients on tiny models of real architectures, and those due.

Nothing is downloaded, saved or reported, and what Trainer changes for the whole process is undone.
"""

from __future__ import annotations

import gc
import importlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import torch
from accumcheck.numbers import exact
from accumcheck.training.differences import Difference
from accumcheck.watching.process import preserved
from torch import Tensor, nn

from experiments.architectures.models import examples, transformers_library
from experiments.lab.runner import Row

BATCH, STEPS, TAIL = 2, 4, 3
N = BATCH * STEPS
# By name: the number of samples that ends in such a window, and its optimizer step.
WINDOWS = {
    "full": (N + BATCH * TAIL, 0),
    "tail": (N + BATCH * TAIL, 1),
    "tail, last micro-batch short": (N + BATCH * TAIL - 1, 1),
}


def compare(model: nn.Module, head: str) -> list[Row]:
    """Trainer's accumulated gradients against its full batches', and these against the model's own mean loss."""
    rows = []
    data = {samples: examples(head, samples) for samples, _ in WINDOWS.values()}
    runs = {n: (*gradients(model, data[n], BATCH, STEPS), gradients(model, data[n], N, 1)[0]) for n in data}
    for window, (samples, step) in WINDOWS.items():
        accumulated, accepts_count, full = runs[samples]
        due, uses_count = direct(model, data[samples][step * N : (step + 1) * N], accepts_count)
        ours, theirs = _difference(accumulated[step], full[step]), _difference(full[step], due)
        rows.append(
            {
                "head": head,
                "class": type(model).__name__,
                "transformers": transformers_library().__version__,
                "accepts_count": accepts_count,
                "uses_count": uses_count,
                "objective": "sample mean" if head == "sequence classifier" else "token mean",
                "window": window,
                "error": ours.error,
                "ratio": ours.ratio,
                "fraction": _fraction(ours.ratio),
                "cosine": ours.ratio * ours.reference / ours.candidate,
                "full_error": theirs.error,
                "full_ratio": theirs.ratio,
                "full_fraction": _fraction(theirs.ratio),
            }
        )
    return rows


def gradients(
    model: nn.Module, data: list[dict[str, Tensor]], batch_size: int, accumulation_steps: int
) -> tuple[list[Tensor], bool]:
    """Trainer's gradient at each optimizer step of an epoch, and whether it hands the model the number of labels."""
    transformers = transformers_library()
    steps: list[Tensor] = []

    class Recorder(transformers.TrainerCallback):  # type: ignore[misc,name-defined]
        def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
            steps.append(_gradient(model))

    with tempfile.TemporaryDirectory() as folder, _unchanged():
        options = transformers.TrainingArguments(
            folder,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation_steps,
            train_sampling_strategy="sequential",
            num_train_epochs=1,
            learning_rate=0.0,
            optim="sgd",
            max_grad_norm=0.0,
            use_cpu=True,
            dataloader_pin_memory=False,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = transformers.Trainer(model, options, train_dataset=data, callbacks=[Recorder])
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    return steps, trainer.model_accepts_loss_kwargs


def direct(model: nn.Module, data: list[dict[str, Tensor]], accepts_count: bool) -> tuple[Tensor, bool]:
    """The gradient of the model's own mean loss over a window, and whether its loss heeds the number of labels."""
    batch = {name: torch.stack([example[name] for example in data]) for name in data[0]}
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    gradient = _gradient(model)
    model.zero_grad()
    if not accepts_count:
        return gradient, False
    with torch.no_grad():
        counted = model(**batch, num_items_in_batch=torch.tensor(1)).loss  # a sum, where it is used
    return gradient, bool(counted > 2 * loss)


def _gradient(model: nn.Module) -> Tensor:
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return torch.cat([gradient.flatten() for gradient in found]).double()


def _difference(ours: Tensor, theirs: Tensor) -> Difference:
    reference = float(theirs.norm())
    return Difference(reference, float((ours - theirs).norm()), reference, float(ours.norm()))


def _fraction(ratio: float) -> str:
    found = exact(ratio)
    return str(found) if isinstance(found, Fraction) else ""


@contextmanager
def _unchanged() -> Iterator[None]:
    """Undo, when the block ends, what Trainer changed for the whole process."""
    state, logging = importlib.import_module("accelerate.state"), transformers_library().logging
    shared = [getattr(state, name)._shared_state for name in ("PartialState", "AcceleratorState", "GradientState")]
    kept, verbosity = [dict(values) for values in shared], logging.get_verbosity()
    logging.set_verbosity_error()
    gc.freeze()  # Trainer collects garbage, which takes longer than its training among so many modules
    try:
        with preserved():
            yield
    finally:
        gc.unfreeze()
        logging.set_verbosity(verbosity)
        for values, before in zip(shared, kept, strict=True):
            values.clear()
            values.update(before)
