"""Small models of the kinds that people accumulate gradients for; each is a factory's plain ``torch.nn.Module``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def linear() -> nn.Module:
    """Linear regression on the ten features of the diabetes data."""
    return nn.Linear(10, 1)


def mlp(width: int = 32) -> nn.Module:
    """Two layers with tanh for 8 × 8 digits."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Tanh(), nn.Linear(width, 10))


def cnn(norm: Literal["group", "batch"] = "group", channels: int = 8) -> nn.Module:
    """Two convolutions for 8 × 8 digits, normalised per sample (GroupNorm) or across the micro-batch (BatchNorm)."""

    def normalise() -> nn.Module:
        return nn.GroupNorm(2, channels) if norm == "group" else nn.BatchNorm2d(channels)

    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1),
        normalise(),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, stride=2, padding=1),
        normalise(),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(channels * 16, 10),
    )


@dataclass(frozen=True)
class GPTConfig:
    """Shape of a decoder-only transformer; ``tied`` shares the token embedding with the output head, as GPT-2 does."""

    vocabulary: int = 256
    context: int = 32
    width: int = 16
    layers: int = 2
    heads: int = 2
    dropout: float = 0.0
    qkv_bias: bool = True
    tied: bool = True

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"heads must divide width, got heads={self.heads} and width={self.width}")


GPT_SIZES = {
    "10k": GPTConfig(),
    "100k": GPTConfig(context=64, width=48, layers=3, heads=4),
    "1M": GPTConfig(context=64, width=128, layers=5, heads=4),
    "10M": GPTConfig(context=64, width=320, layers=8, heads=5),
    "124M": GPTConfig(vocabulary=50257, context=1024, width=768, layers=12, heads=12),
}


class GPT(nn.Module):
    """Decoder-only transformer: token and position embeddings, pre-norm blocks, causal multi-head attention, GELU.

    The design of GPT-2 (Radford et al., 2019) as taught in Raschka, *Build a Large Language Model (From Scratch)*,
    2024. Token indices (batch, time ≤ context) int64 in, logits (batch, time, vocabulary) out.
    """

    def __init__(self, config: GPTConfig | str = "10k") -> None:
        super().__init__()
        if isinstance(config, str):
            if config not in GPT_SIZES:
                raise ValueError(f"no GPT size {config!r}: choose one of {', '.join(GPT_SIZES)}")
            config = GPT_SIZES[config]
        self.config = config
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Embedding(config.context, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.Sequential(*(Block(config) for _ in range(config.layers)))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.vocabulary, bias=False)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02 if config.width >= 128 else 0.1)
        if config.tied:
            self.head.weight = self.tokens.weight

    def forward(self, indices: Tensor) -> Tensor:
        """Logits (batch, time, vocabulary) for token indices (batch, time)."""
        places = torch.arange(indices.shape[1], device=indices.device)
        hidden = self.dropout(self.tokens(indices) + self.positions(places))
        logits: Tensor = self.head(self.norm(self.blocks(hidden)))
        return logits


class Block(nn.Module):
    """Attention and feed-forward, each behind a LayerNorm and added to its input."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.attention = Attention(config)
        self.feed_forward = nn.Sequential(
            nn.Linear(config.width, 4 * config.width), nn.GELU(), nn.Linear(4 * config.width, config.width)
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """(batch, time, width) in and out."""
        hidden = hidden + self.dropout(self.attention(self.norm1(hidden)))
        out: Tensor = hidden + self.dropout(self.feed_forward(self.norm2(hidden)))
        return out


class Attention(nn.Module):
    """Causal multi-head attention with separate query, key and value maps.

    The key bias shifts all scores of a query alike, and softmax ignores such a shift: its true gradient is zero.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.query, self.key, self.value = (
            nn.Linear(config.width, config.width, bias=config.qkv_bias) for _ in range(3)
        )
        self.out = nn.Linear(config.width, config.width)

    def forward(self, hidden: Tensor) -> Tensor:
        """(batch, time, width) in and out."""
        batch, time, width = hidden.shape
        query, key, value = (
            project(hidden).view(batch, time, self.heads, width // self.heads).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        projected: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, time, width))
        return projected
