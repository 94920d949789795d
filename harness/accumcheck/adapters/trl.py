"""TRL: SFTTrainer and DPOTrainer, whose losses are their own."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from accumcheck.adapters import need
from accumcheck.task import IGNORE_INDEX, Task

VOCABULARY = {"version": "1.0", "model": {"type": "WordLevel", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"}}


def train(task: Task, max_norm: float | None = None) -> None:
    """SFTTrainer with a model that takes the loss arguments of Trainer, as those of transformers do."""
    _run(task, max_norm, accepts=True)


def no_count(task: Task, max_norm: float | None = None) -> None:
    """With a model that takes none: SFTTrainer gets no count, and Trainer divides each mean by the micro-batches."""
    _run(task, max_norm, accepts=False)


def dpo(task: Task, max_norm: float | None = None) -> None:
    """DPOTrainer where model and reference model agree, so that the weights of pairs do not depend on the model.

    A sample is the chosen answer of a pair. The rejected one has no parameters. With β = 2 the pair's gradient is that
    of the sample's loss, summed over its tokens. What DPOTrainer does with text, before training, is skipped.
    """
    trl, datasets = need("trl", "trl datasets"), need("datasets", "datasets")
    single = task.dataset.tensors[1].dim() == 1

    class Trainer(trl.DPOTrainer):
        def _send_telemetry(self) -> None:
            """Nothing."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    class Backbone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = task.model

        def forward(self, input_ids: Tensor, rows: Tensor, **_: Any) -> Any:
            """Logits for the chosen half of a batch, zeros for the rejected one and for a last position."""
            logits = self.inner(rows[:, 0] if single else rows)
            return _hidden(torch.cat([logits, torch.zeros_like(logits)]))

    def collate(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
        targets = torch.tensor([sample["chosen"] for sample in samples])
        kept = torch.cat([torch.zeros_like(targets[:, :1]), (targets != IGNORE_INDEX).long()], dim=1)
        tokens = torch.cat([torch.zeros_like(targets[:, :1]), targets.clamp(min=0)], dim=1)
        return {
            "input_ids": tokens.repeat(2, 1),
            "completion_mask": kept.repeat(2, 1),
            "attention_mask": torch.ones_like(tokens).repeat(2, 1),
            "rows": torch.tensor([sample["prompt"] for sample in samples]),
        }

    pairs = [task.dataset[i] for i in range(len(task.dataset))]
    data = {
        "prompt": [inputs.view(-1).tolist() for inputs, _ in pairs],
        "chosen": [targets.view(-1).tolist() for _, targets in pairs],
    }
    with _settings(task, max_norm) as (settings, tokenizer):
        Trainer(
            model=_model(task, Backbone()),
            ref_model=_model(task, Backbone()),
            args=trl.DPOConfig(beta=2.0, remove_unused_columns=False, **settings),
            train_dataset=datasets.Dataset.from_dict(data),
            data_collator=collate,
            processing_class=tokenizer,
            optimizers=(task.optimizer, task.scheduler),
        ).train()


def _run(task: Task, max_norm: float | None, accepts: bool) -> None:
    trl = need("trl", "trl datasets")
    datasets = need("datasets", "datasets")

    class Trainer(trl.SFTTrainer):
        def _send_telemetry(self) -> None:
            """Nothing."""

    class Backbone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = task.model

        def forward(self, input_ids: Tensor, **_: Any) -> Any:
            """The task's logits."""
            return _hidden(self.inner(input_ids[:, 0] if single else input_ids[:, :-1]))

    single = task.dataset.tensors[1].dim() == 1
    samples = [task.dataset[i] for i in range(len(task.dataset))]
    data = {
        "input_ids": [[*inputs.view(-1).tolist(), 0] for inputs, _ in samples],
        "labels": [[IGNORE_INDEX, *targets.view(-1).tolist()] for _, targets in samples],
    }
    with _settings(task, max_norm) as (settings, tokenizer):
        Trainer(
            model=_model(task, Backbone(), accepts),
            args=trl.SFTConfig(dataset_kwargs={"skip_prepare_dataset": True}, **settings),
            train_dataset=datasets.Dataset.from_dict(data),
            data_collator=_collate,
            processing_class=tokenizer,
            optimizers=(task.optimizer, task.scheduler),
        ).train()


@contextmanager
def _settings(task: Task, max_norm: float | None) -> Iterator[tuple[dict[str, Any], Any]]:
    """Arguments that the trainers share, and a tokenizer, which they ask for and this data does not need."""
    transformers = need("transformers", "transformers accelerate")
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = Path(folder) / "tokenizer.json"
        vocabulary.write_text(json.dumps(VOCABULARY))
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(vocabulary), unk_token="[UNK]", pad_token="[UNK]", eos_token="[UNK]"
        )
        settings: dict[str, Any] = {"max_grad_norm": max_norm} if max_norm else {}
        settings |= {
            "output_dir": folder,
            "per_device_train_batch_size": task.micro_batch_size,
            "gradient_accumulation_steps": task.accumulation_steps,
            "num_train_epochs": task.epochs,
            "train_sampling_strategy": "sequential",
            "use_cpu": task.device.type == "cpu",
            "bf16": False,
            "gradient_checkpointing": False,
            "max_length": None,
            "save_strategy": "no",
            "logging_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
        }
        yield settings, tokenizer


def _model(task: Task, backbone: nn.Module, accepts: bool = True) -> Any:
    """A model for TRL's own LM head, which here leaves hidden states as they are, as these are logits."""
    transformers = need("transformers", "transformers accelerate")

    class Model(transformers.PreTrainedModel):
        config_class = transformers.PretrainedConfig
        base_model_prefix = "backbone"
        accepts_loss_kwargs = accepts

        def __init__(self) -> None:
            super().__init__(transformers.PretrainedConfig())
            self.backbone = backbone
            self.generation_config = transformers.GenerationConfig()

        def get_output_embeddings(self) -> Any:
            """The identity."""
            return head

        def forward(self, input_ids: Tensor, labels: Tensor | None = None, **_: Any) -> Any:
            """Not called in training: TRL puts its own in this place."""
            raise NotImplementedError

    with torch.no_grad():
        classes = task.model(task.dataset[:1][0]).shape[-1]
    weight = torch.eye(classes, dtype=next(task.model.parameters()).dtype, device=task.device)
    head = SimpleNamespace(weight=weight, bias=None)
    return Model()


def _hidden(logits: Tensor) -> Any:
    """Logits as hidden states, and one more position, which TRL drops as it predicts nothing."""
    if logits.dim() == 2:
        logits = logits[:, None]
    return SimpleNamespace(last_hidden_state=torch.cat([logits, torch.zeros_like(logits[:, :1])], dim=1))


def _collate(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A micro-batch as a model's keyword arguments."""
    found = {name: torch.tensor([sample[name] for sample in samples]) for name in ("input_ids", "labels")}
    return {**found, "attention_mask": torch.ones_like(found["input_ids"])}
