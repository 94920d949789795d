"""Loops of frameworks and published recipes: one ``train(task)`` a file, which imports its framework when it is used.

``train(task, max_norm)`` clips gradients to that norm in the way the framework offers, where it offers one. Check one
with ``accumcheck check harness.adapters.lightning:train``; ``accumcheck frameworks`` prints what all of them do.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from typing import Any

from harness.probe import LOW, Reading, probe
from harness.task import LoopError, Objective, Sizes


def need(module: str, distribution: str) -> Any:
    """The module; LoopError that says what to install where it is missing.

    >>> need("json", "json").loads("1")
    1
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise LoopError(f"{error.name} is not installed: pip install {distribution}") from error


@dataclass(frozen=True)
class Adapter:
    """A loop of a framework in one setting; ``package`` is the distribution whose version decides what it does."""

    name: str
    framework: str
    setting: str
    package: str
    clips: bool = True
    function: str = "train"

    @property
    def id(self) -> str:
        """A name of its own."""
        return self.name if self.function in ("train", "read") else self.function

    @property
    def target(self) -> str:
        """What ``accumcheck check`` takes."""
        return f"harness.adapters.{self.name}:{self.function}"

    @property
    def version(self) -> str | None:
        """The installed version, or None."""
        try:
            return metadata.version(self.package)
        except metadata.PackageNotFoundError:
            return None

    @property
    def release(self) -> str:
        """Package and version, without the build."""
        return f"{self.package} {(self.version or 'missing').partition('+')[0]}"

    def read(
        self, sizes: Sizes, objective: Objective = "sample", *, gain: float = LOW, max_norm: float | None = None
    ) -> Reading:
        """The contribution matrix at these sizes. Raises LoopError if the framework is missing or fails."""
        function = getattr(importlib.import_module(f"harness.adapters.{self.name}"), self.function)
        options = {"max_norm": max_norm} if max_norm else {}
        if self.function == "read":
            reading: Reading = function(sizes, objective, gain=gain, **options)
            return reading
        return probe(partial(function, **options), sizes, objective, gain=gain)


ADAPTERS = (
    Adapter("hf_trainer", "HF Trainer", "model uses num_items_in_batch", "transformers"),
    Adapter("hf_trainer_no_count", "HF Trainer", "model without num_items_in_batch", "transformers"),
    Adapter("hf_trainer_count_ignored", "HF Trainer", "model swallows it in **kwargs", "transformers"),
    Adapter("hf_trainer_iterable", "HF Trainer", "iterable data set, max_steps", "transformers"),
    Adapter("accelerate", "HF Accelerate", "accumulate()", "accelerate"),
    Adapter("accelerate_dataloader_unsynced", "HF Accelerate", "sync_with_dataloader=False", "accelerate"),
    Adapter("accelerate_zero_grad_first", "HF Accelerate", "zero_grad() first in the block", "accelerate"),
    Adapter("lightning", "Lightning", "accumulate_grad_batches=k", "lightning"),
    Adapter("lightning_scheduler", "Lightning", "GradientAccumulationScheduler", "lightning"),
    Adapter("ignite", "PyTorch Ignite", "create_supervised_trainer", "pytorch-ignite", clips=False),
    Adapter("skorch", "skorch", "recipe of its FAQ", "skorch"),
    Adapter("skorch_accelerate", "skorch", "AccelerateMixin", "skorch"),
    Adapter("fastai", "fastai", "GradientAccumulation(b·k)", "fastai"),
    Adapter("keras_torch", "Keras on torch", "gradient_accumulation_steps=k", "keras"),
    Adapter("optax", "Optax", "MultiSteps", "optax", function="read"),
    Adapter("recipes", "PyTorch", "recipe of the AMP examples", "torch", function="pytorch_amp"),
    Adapter("recipes", "nanoGPT", "inner loop", "torch", function="nanogpt"),
    Adapter("recipes", "torchtune", "token-normalised recipe", "torch", function="torchtune"),
    Adapter("recipes", "LLMs from scratch", "before its fix", "torch", function="book_before"),
    Adapter("recipes", "LLMs from scratch", "after its fix", "torch", function="book_after"),
)
