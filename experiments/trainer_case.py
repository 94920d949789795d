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
from torch import Tensor, nn

from experiments.bench import Row
from harness.ambient import preserved
from harness.data import text_lines
from harness.differences import Difference
from harness.probe import exact
from harness.task import IGNORE_INDEX

BATCH, STEPS, TAIL = 2, 4, 3
N = BATCH * STEPS
HEADS = {
    "causal language model": "AutoModelForCausalLM",
    "masked language model": "AutoModelForMaskedLM",
    "sequence classifier": "AutoModelForSequenceClassification",
    "token classifier": "AutoModelForTokenClassification",
    "sequence to sequence": "AutoModelForSeq2SeqLM",
}
# Sizes, by every name that configurations have for them.
TINY: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "embedding_size", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("intermediate_size", "d_ff", "dff", "hidden_dim", "ffn_dim", "dim_ff"), 64),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "max_position_embeddings"), 64),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "num_decoder_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads"), 4),
    **{"attention_types": [[["global"], 2]], "head_dim": 8, "dim_head": 8, "d_kv": 8, "num_key_value_heads": 2},
    **{"vocab_size": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    **{"cls_token_id": 1, "sep_token_id": 2, "mask_token_id": 3, "decoder_start_token_id": 0},
}
# By name: the number of samples that ends in such a window, and its optimizer step.
WINDOWS = {
    "full": (N + BATCH * TAIL, 0),
    "tail": (N + BATCH * TAIL, 1),
    "tail, last micro-batch short": (N + BATCH * TAIL - 1, 1),
}


def build(family: str, head: str) -> nn.Module | None:
    """A tiny model of the family with this head and no dropout; None if the family has no such head."""
    transformers = _transformers()
    config = transformers.AutoConfig.for_model(family)
    for name, value in TINY.items():
        if name in vars(config) or name in config.attribute_map or name.endswith("token_id"):
            setattr(config, name, value)
    config.num_labels = 3
    for name, value in list(vars(config).items()):
        if "drop" in name and isinstance(value, float | None):
            setattr(config, name, 0.0)
    if head == "causal language model":
        config.is_decoder = True  # encoders have such heads too
    auto = getattr(transformers, HEADS[head])
    if type(config) not in auto._model_mapping or (config.is_encoder_decoder and "masked" in head):
        return None  # what is called masked is the sequence-to-sequence model there
    torch.manual_seed(0)
    model: nn.Module = auto.from_config(config)
    for module in model.modules():
        if isinstance(module, nn.Dropout):  # some heads have a rate that no configuration sets
            module.p = 0.0
    return model


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
                "transformers": _transformers().__version__,
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


def examples(head: str, samples: int) -> list[dict[str, Tensor]]:
    """Lines of text with labels: their own bytes, or what kind of byte each is, or the line begins with."""
    found = []
    for ids in text_lines(samples, seed=1).tensors[0]:
        ids[ids.count_nonzero() - 1] = TINY["eos_token_id"]  # where some classifiers look
        kinds = (ids == ord(" ")).long() + 2 * (ids >= ord("a")).long()
        labels = kinds[0] if head == "sequence classifier" else kinds if head == "token classifier" else ids
        labels = labels if labels.ndim == 0 else labels.where(ids != 0, IGNORE_INDEX)
        found.append({"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels})
    return found


def gradients(
    model: nn.Module, data: list[dict[str, Tensor]], batch_size: int, accumulation_steps: int
) -> tuple[list[Tensor], bool]:
    """Trainer's gradient at each optimizer step of an epoch, and whether it hands the model the number of labels."""
    transformers = _transformers()
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


def _transformers() -> Any:
    try:
        importlib.import_module("accelerate")
        return importlib.import_module("transformers")
    except ImportError as error:
        raise ImportError(
            f"architectures needs {error.name}, which is not installed: pip install 'accumcheck[frameworks]'"
        ) from error


@contextmanager
def _unchanged() -> Iterator[None]:
    """Undo, when the block ends, what Trainer changed for the whole process."""
    state, logging = importlib.import_module("accelerate.state"), _transformers().logging
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
