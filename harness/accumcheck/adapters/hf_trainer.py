"""Hugging Face Trainer, which gives a model the number of items in the window as ``num_items_in_batch``.

Models take it as ``**loss_kwargs``, by which name 4.46 knows them, and labels begin with one that is masked, as the
first label of a row is no target for 4.46.0 and 4.46.1, which do not count it. Later releases need neither.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset, SequentialSampler

from accumcheck.adapters import need
from accumcheck.task import IGNORE_INDEX, Task, unmasked


def train(task: Task, max_norm: float | None = None) -> None:
    """Trainer as documented, with a model that uses the count."""
    _run(task, UsesCount(task), task.dataset, max_norm)


def no_count(task: Task, max_norm: float | None = None) -> None:
    """With a model that takes no count: Trainer divides each mean by the number of micro-batches in the window."""
    _run(task, NoCount(task), task.dataset, max_norm)


def count_ignored(task: Task, max_norm: float | None = None) -> None:
    """With a model that takes ``**kwargs``: Trainer expects it to use the count, and does not divide the loss."""
    _run(task, IgnoresCount(task), task.dataset, max_norm)


def iterable(task: Task, max_norm: float | None = None) -> None:
    """With a data set that has no length; ``max_steps`` is the number of windows in all epochs."""
    windows = -(-len(task.loader) // task.accumulation_steps)
    _run(task, UsesCount(task), Samples(task), max_norm, max_steps=windows * task.epochs)


class _Model(nn.Module):
    def __init__(self, task: Task) -> None:
        super().__init__()
        self.inner, self.loss_fn = task.model, task.loss_fn


class UsesCount(_Model):
    """Divides the sum of its losses by the count: samples or unmasked tokens of the whole window."""

    accepts_loss_kwargs = True

    def forward(self, inputs: Tensor, targets: Tensor, labels: Tensor, **loss_kwargs: Any) -> dict[str, Tensor]:
        """The loss, and the logits."""
        logits = self.inner(inputs)
        loss = self.loss_fn(logits, targets)
        count = loss_kwargs.get("num_items_in_batch")
        if count is not None:
            loss = loss * unmasked(targets) / count
        return {"loss": loss, "logits": logits}


class NoCount(_Model):
    """Returns the mean loss of its micro-batch."""

    def forward(self, inputs: Tensor, targets: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The loss, and the logits."""
        logits = self.inner(inputs)
        return {"loss": self.loss_fn(logits, targets), "logits": logits}


class IgnoresCount(_Model):
    """Returns the mean loss of its micro-batch and takes any further argument, as many published models do."""

    def forward(self, inputs: Tensor, targets: Tensor, labels: Tensor, **loss_kwargs: Any) -> dict[str, Tensor]:
        """The loss, and the logits."""
        logits = self.inner(inputs)
        return {"loss": self.loss_fn(logits, targets), "logits": logits}


class Samples(IterableDataset[tuple[Tensor, ...]]):
    """The task's data set without its length."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return (self.task.dataset[i] for i in range(len(self.task.dataset)))


def _run(
    task: Task, model: nn.Module, dataset: Dataset[Any], max_norm: float | None, max_steps: int = -1, **settings: Any
) -> None:
    """``settings`` are TrainingArguments."""
    if max_norm:
        settings["max_grad_norm"] = max_norm
    transformers = need("transformers", "transformers accelerate")
    trainer = transformers.Trainer
    if "train_sampling_strategy" in inspect.signature(transformers.TrainingArguments).parameters:
        settings["train_sampling_strategy"] = "sequential"
    else:  # 4.57 and before shuffle, unless a method says otherwise
        trainer = type("Trainer", (trainer,), {"_get_train_sampler": lambda self, *_: SequentialSampler(task.dataset)})

    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=task.micro_batch_size,
            gradient_accumulation_steps=task.accumulation_steps,
            num_train_epochs=task.epochs,
            max_steps=max_steps,
            use_cpu=task.device.type == "cpu",
            remove_unused_columns=False,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **settings,
        )
        trainer(
            model=model,
            args=arguments,
            train_dataset=dataset,
            data_collator=_collate,
            optimizers=(task.optimizer, task.scheduler),
        ).train()


def _collate(samples: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """A micro-batch as a model's keyword arguments; Trainer counts the labels that are not masked."""
    inputs, targets = (torch.stack(each) for each in zip(*samples, strict=True))
    labels = nn.functional.pad(targets.reshape(len(targets), -1), (1, 0), value=IGNORE_INDEX)
    return {"inputs": inputs, "targets": targets, "labels": labels}
