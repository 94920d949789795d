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
from typing import Any, Literal

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
    ``source`` is the release of a published loop that is retold here. ``yours`` are the columns of the matrix that the
    framework leaves to its user, ``absent`` those which cannot occur in it, each with the line that shows why.
    ``group`` says what it stands for: a framework's own loop, a published recipe, or a known misuse.
    """

    id: str
    framework: str
    setting: str
    package: str
    clips: bool = True
    file: str = ""
    function: str = "train"
    source: str = ""
    yours: tuple[str, ...] = ()
    absent: tuple[tuple[str, str], ...] = ()
    group: Literal["framework", "recipe", "misuse"] = "framework"

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
        """Package and version, without the build; of a loop that is retold, those of its source."""
        return self.source or f"{self.package} {(self.version or 'missing').partition('+')[0]}"

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


# Lines of published loops that are retold.
NANOGPT = "https://github.com/karpathy/nanoGPT/blob/3adf61e154c3/train.py"
TORCHTUNE = "https://github.com/meta-pytorch/torchtune/blob/"
FINETUNE = "/recipes/full_finetune_single_device.py"
TIMM = "https://github.com/huggingface/pytorch-image-models/blob/v1.0.28/"
ULTRALYTICS = "https://github.com/ultralytics/ultralytics/blob/v8.4.190/ultralytics/"
BOOK = "https://github.com/rasbt/LLMs-from-scratch/blob/"
BEFORE = "/ch06/02_bonus_additional-experiments/additional-experiments.py"

ADAPTERS = (
    Adapter("hf_trainer", "HF Trainer", "model uses num_items_in_batch", "transformers"),
    Adapter(
        "hf_trainer_no_count",
        "HF Trainer",
        "model without loss arguments",
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
        absent=(("last window", "transformers/trainer.py:1889,1963-1966,2546"),),
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
        group="misuse",
    ),
    Adapter("lightning", "Lightning", "accumulate_grad_batches=k", "lightning"),
    Adapter("ignite", "PyTorch Ignite", "create_supervised_trainer", "pytorch-ignite", clips=False),
    Adapter("skorch", "skorch", "recipe of its FAQ", "skorch", clips=False, yours=("clipping",), group="recipe"),
    Adapter("skorch_accelerate", "skorch", "AccelerateMixin", "skorch", file="skorch", function="accelerate"),
    Adapter("fastai", "fastai", "GradientAccumulation(b·k)", "fastai"),
    Adapter("keras_torch", "Keras on torch", "gradient_accumulation_steps=k", "keras"),
    Adapter("trl", "TRL", "SFTTrainer", "trl"),
    Adapter("trl_no_count", "TRL", "SFTTrainer, model without loss arguments", "trl", file="trl", function="no_count"),
    Adapter(
        "trl_dpo", "TRL", "DPOTrainer, sigmoid loss", "trl", file="trl", function="dpo",
        absent=(("tokens", "trl/trainer/dpo_trainer.py:1304,1528"),),
    ),
    Adapter("litgpt", "LitGPT", "finetune_full", "litgpt", clips=False),
    Adapter("deepspeed", "DeepSpeed", "gradient_accumulation_steps=k", "deepspeed"),
    Adapter(
        "deepspeed_boundary_set", "DeepSpeed", "set_gradient_accumulation_boundary", "deepspeed", file="deepspeed",
        function="boundary_set",
    ),
    Adapter("mmengine", "MMEngine", "Runner, accumulative_counts=k", "mmengine"),
    Adapter(
        "mmengine_optim_wrapper", "MMEngine", "OptimWrapper in a loop of one's own", "mmengine", file="mmengine",
        function="optim_wrapper", yours=("schedule",),
    ),
    Adapter("speechbrain", "SpeechBrain", "grad_accumulation_factor=k", "speechbrain", yours=("schedule",)),
    Adapter("composer", "Composer", "device_train_microbatch_size=b", "mosaicml"),
    Adapter(
        "composer_on_tokens", "Composer", "accumulate_train_batch_on_tokens, unmasked counted", "mosaicml",
        file="composer", function="on_tokens",
    ),
    Adapter(
        "timm", "timm", "train.py, default loader", "torch", source="timm 1.0.28",
        absent=(
            ("short last micro-batch", f"{TIMM}timm/data/loader.py#L353"), ("tokens", f"{TIMM}train.py#L833-L855"),
        ), group="recipe",
    ),
    Adapter(
        "ultralytics", "Ultralytics", "detection, no warm-up", "torch", source="ultralytics 8.4.190",
        group="recipe",
    ),
    Adapter(
        "ultralytics_classify", "Ultralytics", "classification, no warm-up", "torch", file="ultralytics",
        function="classify", source="ultralytics 8.4.190",
        absent=(("tokens", f"{ULTRALYTICS}utils/loss.py#L1027-L1028"),), group="recipe",
    ),
    Adapter(
        "ultralytics_warmup", "Ultralytics", "detection, warm-up", "torch", file="ultralytics",
        function="warmup", source="ultralytics 8.4.190", group="recipe",
    ),
    Reader("optax", "Optax", "MultiSteps", "optax", function="read"),
    Adapter(
        "pytorch_amp", "PyTorch", "recipe of the AMP examples", "torch", file="recipes", function="pytorch_amp",
        yours=("schedule",), group="recipe",
    ),
    Adapter(
        "nanogpt", "nanoGPT", "inner loop", "torch", file="recipes", function="nanogpt", source="nanoGPT 3adf61e",
        absent=(
            ("tail", f"{NANOGPT}#L292"), ("leftover", f"{NANOGPT}#L255"), ("short last micro-batch", f"{NANOGPT}#L123"),
            ("tokens", f"{NANOGPT}#L124-L125"), ("last window", f"{NANOGPT}#L292"),
        ), group="recipe",
    ),
    Adapter(
        "torchtune", "torchtune", "full, LoRA, QAT recipes of 0.6.1; LoRA, QAT on main", "torch", file="recipes",
        function="torchtune",
        source="torchtune 0.6.1", absent=(("short last micro-batch", f"{TORCHTUNE}v0.6.1{FINETUNE}#L600"),),
        group="recipe",
    ),
    Adapter(
        "torchtune_main", "torchtune", "full fine-tuning on main", "torch", file="recipes", function="torchtune_main",
        source="torchtune bd2a0fc", absent=(("short last micro-batch", f"{TORCHTUNE}bd2a0fc7c314{FINETUNE}#L517"),),
        group="recipe",
    ),
    Adapter(
        "book_before", "LLMs from scratch", "bonus of chapter 6, before its fix", "torch", file="recipes",
        function="book_before",
        clips=False, source="LLMs-from-scratch 36fbc7a", yours=("schedule", "clipping"),
        absent=(
            ("short last micro-batch", f"{BOOK}36fbc7aa7456{BEFORE}#L534"),
            ("tokens", f"{BOOK}36fbc7aa7456{BEFORE}#L171-L172"),
        ),
        group="recipe",
    ),
    Adapter(
        "book_after", "LLMs from scratch", "bonus of chapter 6, after its fix", "torch", file="recipes",
        function="book_after",
        clips=False, source="LLMs-from-scratch 70e5714", yours=("schedule", "clipping"),
        absent=(
            ("short last micro-batch", f"{BOOK}70e57145564e{BEFORE}#L535"),
            ("tokens", f"{BOOK}70e57145564e{BEFORE}#L171-L172"),
        ),
        group="recipe",
    ),
)  # fmt: skip
