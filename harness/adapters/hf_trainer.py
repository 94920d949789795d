"""Hugging Face Trainer, map-style data set, a model that uses ``num_items_in_batch``."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from harness.adapters import need
from harness.data import unmasked
from harness.task import Task


class Model(nn.Module):
    """Divides the summed loss by the count that Trainer gives it: samples, or unmasked tokens, of the whole window."""

    accepts_loss_kwargs = True

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.inner, self.loss_fn = task.model, task.loss_fn

    def forward(self, inputs: Tensor, labels: Tensor, num_items_in_batch: Any = None) -> dict[str, Tensor]:
        """The loss, and the logits."""
        logits = self.inner(inputs)
        loss = self.loss_fn(logits, labels)
        if num_items_in_batch is not None:
            loss = loss * unmasked(labels) / num_items_in_batch
        return {"loss": loss, "logits": logits}


def train(task: Task, max_norm: float | None = None) -> None:
    """Trainer as its documentation has it."""
    run(task, Model(task), task.dataset, max_norm)


def run(
    task: Task, model: nn.Module, dataset: Dataset[Any], max_norm: float | None, max_steps: int = -1, **settings: Any
) -> None:
    """Trainer on a model of choice; ``settings`` are TrainingArguments."""
    if max_norm:
        settings["max_grad_norm"] = max_norm
    transformers = need("transformers", "transformers accelerate")

    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=task.micro_batch_size,
            gradient_accumulation_steps=task.accumulation_steps,
            num_train_epochs=task.epochs,
            max_steps=max_steps,
            train_sampling_strategy="sequential",
            use_cpu=task.device.type == "cpu",
            remove_unused_columns=False,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **settings,
        )
        transformers.Trainer(
            model=model,
            args=arguments,
            train_dataset=dataset,
            data_collator=collate,
            optimizers=(task.optimizer, task.scheduler),
        ).train()


def collate(samples: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """A micro-batch as a model's keyword arguments."""
    inputs, labels = zip(*samples, strict=True)
    return {"inputs": torch.stack(inputs), "labels": torch.stack(labels)}
