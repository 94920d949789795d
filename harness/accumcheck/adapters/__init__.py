"""Loops of frameworks and published recipes: a file for each framework, a function in it for each setting.

A function ``train(task, max_norm)`` imports its framework when it is called, and clips gradients to that norm in the
way the framework offers, where it offers one. ``accumcheck check accumcheck.adapters.lightning:train`` checks one;
``accumcheck frameworks`` prints what all of them do. A new one is a function, a row in ``ADAPTERS``, and the pins of
its packages in pyproject.toml.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from typing import Any

from accumcheck.probing.reading import Reading
from accumcheck.probing.run import LOW, probe
from accumcheck.task import LoopError, Objective, Sizes


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
    """A framework in one setting: a loop for torch.

    ``package`` is the distribution whose version decides what it does; ``file`` is its module, ``id`` if it is empty.
    """

    id: str
    framework: str
    setting: str
    package: str
    clips: bool = True
    file: str = ""
    function: str = "train"

    @property
    def target(self) -> str:
        """What ``accumcheck check`` takes."""
        return f"accumcheck.adapters.{self.file or self.id}:{self.function}"

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
        options = {"max_norm": max_norm} if max_norm else {}
        return probe(partial(self.load(), **options), sizes, objective, gain=gain)

    def load(self) -> Callable[..., Any]:
        """The function that ``target`` names."""
        module, _, function = self.target.partition(":")
        found: Callable[..., Any] = getattr(importlib.import_module(module), function)
        return found


class Reader(Adapter):
    """A framework without torch: its function makes the reading."""

    def read(
        self, sizes: Sizes, objective: Objective = "sample", *, gain: float = LOW, max_norm: float | None = None
    ) -> Reading:
        """The contribution matrix at these sizes. Raises LoopError if the framework is missing or fails."""
        reading: Reading = self.load()(sizes, objective, gain=gain, max_norm=max_norm)
        return reading


ADAPTERS = (
    Adapter("hf_trainer", "HF Trainer", "model uses num_items_in_batch", "transformers"),
    Adapter(
        "hf_trainer_no_count",
        "HF Trainer",
        "model without num_items_in_batch",
        "transformers",
        file="hf_trainer",
        function="no_count",
    ),
    Adapter(
        "hf_trainer_count_ignored",
        "HF Trainer",
        "model swallows it in **kwargs",
        "transformers",
        file="hf_trainer",
        function="count_ignored",
    ),
    Adapter(
        "hf_trainer_iterable",
        "HF Trainer",
        "iterable data set, max_steps",
        "transformers",
        file="hf_trainer",
        function="iterable",
    ),
    Adapter("accelerate", "HF Accelerate", "accumulate()", "accelerate"),
    Adapter(
        "accelerate_dataloader_unsynced",
        "HF Accelerate",
        "sync_with_dataloader=False",
        "accelerate",
        file="accelerate",
        function="dataloader_unsynced",
    ),
    Adapter(
        "accelerate_zero_grad_first",
        "HF Accelerate",
        "zero_grad() first in the block",
        "accelerate",
        file="accelerate",
        function="zero_grad_first",
    ),
    Adapter("lightning", "Lightning", "accumulate_grad_batches=k", "lightning"),
    Adapter(
        "lightning_scheduler",
        "Lightning",
        "GradientAccumulationScheduler",
        "lightning",
        file="lightning",
        function="scheduler",
    ),
    Adapter("ignite", "PyTorch Ignite", "create_supervised_trainer", "pytorch-ignite", clips=False),
    Adapter("skorch", "skorch", "recipe of its FAQ", "skorch"),
    Adapter("skorch_accelerate", "skorch", "AccelerateMixin", "skorch", file="skorch", function="accelerate"),
    Adapter("fastai", "fastai", "GradientAccumulation(b·k)", "fastai"),
    Adapter("keras_torch", "Keras on torch", "gradient_accumulation_steps=k", "keras"),
    Reader("optax", "Optax", "MultiSteps", "optax", function="read"),
    Adapter("pytorch_amp", "PyTorch", "recipe of the AMP examples", "torch", file="recipes", function="pytorch_amp"),
    Adapter("nanogpt", "nanoGPT", "inner loop", "torch", file="recipes", function="nanogpt"),
    Adapter("torchtune", "torchtune", "token-normalised recipe", "torch", file="recipes", function="torchtune"),
    Adapter("book_before", "LLMs from scratch", "before its fix", "torch", file="recipes", function="book_before"),
    Adapter("book_after", "LLMs from scratch", "after its fix", "torch", file="recipes", function="book_after"),
)
