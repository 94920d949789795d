"""Fine-tuning through Hugging Face's Trainer, with what Trainer logs."""

from __future__ import annotations

import gc
import importlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accumcheck.adapters import need
from accumcheck.watching.process import preserved

from experiments.lab.runner import Row
from experiments.symptom.classifier import Logits, fine_tuned, images
from experiments.symptom.record import Record

N, STEPS = 32, 4
VARIANTS = {"k1": 1, "as_it_is": STEPS, "remedy": STEPS}  # accumulation steps


def fine_tune(
    variant: str, optimizer: str, clip: float, rate: float, seed: int, samples: int, epochs: int, pretrained: int
) -> list[Row]:
    """One fine-tuning in batches of N, in one go or accumulated; its curve and how it ends. ``clip`` of 0 is off."""
    transformers, steps = need("transformers", "transformers accelerate"), VARIANTS[variant]
    model = fine_tuned(seed, pretrained)
    if variant == "remedy":
        model.accepts_loss_kwargs = False
    train, held_out = images(samples, seed)
    record = Record(Logits(model), train, held_out, every=2 * epochs, epochs=epochs)

    class Recorder(transformers.TrainerCallback):  # type: ignore[misc,name-defined]
        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            if "grad_norm" in logs:  # the last log sums up, and has none
                record.update(logs["loss"], logs["grad_norm"])

    with tempfile.TemporaryDirectory() as folder, _unchanged():
        options = transformers.TrainingArguments(
            folder,
            per_device_train_batch_size=N // steps,
            gradient_accumulation_steps=steps,
            num_train_epochs=epochs,
            learning_rate=rate,
            optim={"sgd": "sgd", "adamw": "adamw_torch"}[optimizer],
            max_grad_norm=clip,
            seed=seed,
            use_cpu=True,
            dataloader_pin_memory=False,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            logging_nan_inf_filter=False,
            disable_tqdm=True,
        )
        data = [{"pixel_values": image, "labels": label} for image, label in zip(*train.tensors, strict=True)]
        trainer = transformers.Trainer(model, options, train_dataset=data, callbacks=[Recorder])
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    return record.rows()


@contextmanager
def _unchanged() -> Iterator[None]:
    """Undo, when the block ends, what Trainer changed for the whole process."""
    state = importlib.import_module("accelerate.state")
    logging = need("transformers", "transformers accelerate").logging
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
