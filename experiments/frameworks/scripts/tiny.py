"""A language model of a few parameters with a tokenizer of letters: random, and not downloaded."""

from __future__ import annotations

import json
import random
import string
import tempfile
from pathlib import Path
from typing import Any

from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed


def tokenizer() -> Any:
    """A token for each letter, one to pad and one to end with."""
    words = ["<pad>", "<end>", *string.ascii_lowercase, " "]
    content = {
        "version": "1.0",
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": ""}, "behavior": "Isolated", "invert": False},
        "model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(words)}, "unk_token": "<pad>"},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        path.write_text(json.dumps(content))
        return PreTrainedTokenizerFast(tokenizer_file=str(path), pad_token="<pad>", eos_token="<end>")


def model() -> LlamaForCausalLM:
    """Two layers, sixteen wide."""
    set_seed(0)
    config = LlamaConfig(
        vocab_size=29, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, eos_token_id=1, bos_token_id=1,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def words(count: int, shortest: int = 2, longest: int = 12) -> list[str]:
    """So many words of random length."""
    source = random.Random(0)
    return ["".join(source.choices(string.ascii_lowercase, k=source.randint(shortest, longest))) for _ in range(count)]
