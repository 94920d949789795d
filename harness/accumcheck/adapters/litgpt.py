"""LitGPT: the loop of ``litgpt finetune_full``."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from accumcheck.adapters import need
from accumcheck.task import IGNORE_INDEX, Task

VOCABULARY = {"version": "1.0", "model": {"type": "WordLevel", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"}}


def train(task: Task, max_norm: float | None = None) -> None:
    """``litgpt.finetune.full.fit`` with ``--train.global_batch_size b·k --train.micro_batch_size b``.

    The loss is LitGPT's own, a mean over the unmasked tokens of a micro-batch; a sample without tokens is a sequence
    of one. Fine-tuning refuses ``max_norm``.
    """
    fabrics, full = need("lightning.fabric", "lightning"), need("litgpt.finetune.full", "litgpt")
    arguments = need("litgpt.args", "litgpt")

    fabric = fabrics.Fabric(accelerator="cpu" if task.device.type == "cpu" else "gpu", devices=1)
    single = task.dataset.tensors[1].dim() == 1
    model, optimizer = fabric.setup(_Shifted(task.model, single)), fabric.setup_optimizers(task.optimizer)
    data = _Sequences(task)
    loaders = [DataLoader(data, task.micro_batch_size, generator=torch.Generator(), collate_fn=_collate)] * 2
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tokenizer.json").write_text(json.dumps(VOCABULARY))
        full.fit(
            fabric=fabric,
            state={
                "model": model,
                "optimizer": optimizer,
                "scheduler": task.scheduler,
                "iter_num": 0,
                "step_count": 0,
            },
            train_dataloader=loaders[0],
            val_dataloader=loaders[1],
            devices=1,
            resume=False,
            checkpoint_dir=Path(folder),
            out_dir=Path(folder),
            train=arguments.TrainArgs(
                save_interval=None,
                global_batch_size=task.micro_batch_size * task.accumulation_steps,
                micro_batch_size=task.micro_batch_size,
                epochs=task.epochs,
                max_norm=max_norm,
            ),
            eval=arguments.EvalArgs(interval=10**9, max_new_tokens=1, max_iters=1),
            data=None,
        )


class _Shifted(nn.Module):
    """LitGPT drops the logits of the last position and the target of the first: the task's model sees neither."""

    def __init__(self, inner: nn.Module, single: bool) -> None:
        super().__init__()
        self.inner, self.single = inner, single
        self.max_seq_length = 0
        self.config = _Config()

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (batch, time, classes)."""
        logits = self.inner(inputs[:, 0] if self.single else inputs[:, :-1])
        if self.single:
            logits = logits[:, None]
        return torch.cat([logits, torch.zeros_like(logits[:, :1])], dim=1)


class _Config:
    block_size = 0


class _Sequences(Dataset[dict[str, Any]]):
    """The task's data set as LitGPT's fine-tuning data."""

    def __init__(self, task: Task) -> None:
        self.data = task.dataset

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        inputs, targets = self.data[index]
        inputs, targets = inputs.view(-1), targets.view(-1)
        count = torch.tensor([targets.numel()])
        return {
            "input_ids": torch.cat([inputs, inputs.new_zeros(1)]),
            "labels": torch.cat([targets.new_full((1,), IGNORE_INDEX), targets]),
            "token_counts": {"raw": count, "raw_plus_prompt_template": count},
        }


def _collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    collated: dict[str, Any] = torch.utils.data.default_collate(samples)
    return collated
