"""The classifier that is fine-tuned: a small SigLIP that knows the digits 0 to 4, and the digits 5 to 9 to learn.

The model is ``transformers.SiglipForImageClassification``, a vision transformer whose ``forward`` takes ``**kwargs``
and whose loss is a plain mean; ``ViTForImageClassification`` would heed the count that Trainer hands to it. The digits
are scikit-learn's. Nothing is downloaded, so the model is trained on the first five of them here, and its body is kept;
a new head is put on it for the other five.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from accumcheck.adapters import need
from accumcheck.corpus.data import digits
from accumcheck.task import cross_entropy
from accumcheck.watching.process import RandomStream
from torch import Tensor, nn
from torch.optim import AdamW
from torch.utils.data import DataLoader, TensorDataset

CLASSES, WIDTH, LAYERS = 5, 32, 2
ALL = 1797  # digits that scikit-learn ships
PRETRAINING_RATE = 2e-3


class Logits(nn.Module):
    """A model of transformers as plain loops call it: images in, logits out."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes) for images (n, 1, 8, 8)."""
        logits: Tensor = self.model(pixel_values=images).logits
        return logits


def fine_tuned(seed: int, pretrained: int) -> Any:
    """The model as fine-tuning starts: a body after so many epochs of pretraining, a new head, and no dropout."""
    with RandomStream(seed).active():
        model = _new()
    model.vision_model.load_state_dict(_body(pretrained))
    return model


def images(samples: int, seed: int) -> tuple[TensorDataset, TensorDataset]:
    """So many of the digits 5 to 9 to train on, and all others of them held out; the seed draws."""
    inputs, targets = _digits(first_half=False)
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    parts = order[:samples], order[samples:]
    train, held_out = (TensorDataset(inputs[part], targets[part]) for part in parts)
    return train, held_out


def _digits(*, first_half: bool) -> tuple[Tensor, Tensor]:
    inputs, targets = digits(ALL).tensors
    chosen = (targets < CLASSES) == first_half
    return inputs[chosen].float(), targets[chosen] % CLASSES


def _new() -> Any:
    transformers = need("transformers", "transformers accelerate")
    vision = {
        "image_size": 8,
        "patch_size": 2,
        "num_channels": 1,
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "intermediate_size": 4 * WIDTH,
        "attention_dropout": 0.0,
    }
    text = {"bos_token_id": 0, "eos_token_id": 1}  # it has no text model, and the default is complained about
    config = transformers.SiglipConfig(vision_config=vision, text_config=text, num_labels=CLASSES)
    return transformers.SiglipForImageClassification(config)


@cache
def _body(epochs: int) -> dict[str, Tensor]:
    """The weights below the head after training on the digits 0 to 4, as a state of its own."""
    with RandomStream(0).active():
        model = _new()
        loader = DataLoader(TensorDataset(*_digits(first_half=True)), 32, shuffle=True)
        optimizer = AdamW(model.parameters(), lr=PRETRAINING_RATE, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, epochs * len(loader))
        for _ in range(epochs):
            for inputs, targets in loader:
                optimizer.zero_grad()
                cross_entropy(model(pixel_values=inputs).logits, targets).backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
    return {name: value.clone() for name, value in model.vision_model.state_dict().items()}
