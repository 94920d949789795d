"""Tiny models of real architectures, and lines of text with labels for each of their heads."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from accumcheck.corpus.data import text_lines
from accumcheck.task import IGNORE_INDEX
from torch import Tensor, nn

HEADS = {
    "causal language model": "AutoModelForCausalLM",
    "masked language model": "AutoModelForMaskedLM",
    "sequence classifier": "AutoModelForSequenceClassification",
    "token classifier": "AutoModelForTokenClassification",
    "sequence to sequence": "AutoModelForSeq2SeqLM",
}
# Sizes, by every name that configurations have for them.
TINY: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "embedding_size", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("intermediate_size", "d_ff", "dff", "hidden_dim", "ffn_dim", "dim_ff"), 64),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "max_position_embeddings"), 64),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "num_decoder_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads"), 4),
    **{"attention_types": [[["global"], 2]], "head_dim": 8, "dim_head": 8, "d_kv": 8, "num_key_value_heads": 2},
    **{"vocab_size": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    **{"cls_token_id": 1, "sep_token_id": 2, "mask_token_id": 3, "decoder_start_token_id": 0},
}


def build(family: str, head: str) -> nn.Module | None:
    """A tiny model of the family with this head and no dropout; None if the family has no such head."""
    transformers = transformers_library()
    config = transformers.AutoConfig.for_model(family)
    for name, value in TINY.items():
        if name in vars(config) or name in config.attribute_map or name.endswith("token_id"):
            setattr(config, name, value)
    config.num_labels = 3
    for name, value in list(vars(config).items()):
        if "drop" in name and isinstance(value, float | None):
            setattr(config, name, 0.0)
    if head == "causal language model":
        config.is_decoder = True  # encoders have such heads too
    auto = getattr(transformers, HEADS[head])
    if type(config) not in auto._model_mapping or (config.is_encoder_decoder and "masked" in head):
        return None  # what is called masked is the sequence-to-sequence model there
    torch.manual_seed(0)
    model: nn.Module = auto.from_config(config)
    for module in model.modules():
        if isinstance(module, nn.Dropout):  # some heads have a rate that no configuration sets
            module.p = 0.0
    return model


def examples(head: str, samples: int) -> list[dict[str, Tensor]]:
    """Lines of text with labels: their own bytes, or what kind of byte each is, or the line begins with."""
    found = []
    for ids in text_lines(samples, seed=1).tensors[0]:
        ids[ids.count_nonzero() - 1] = TINY["eos_token_id"]  # where some classifiers look
        kinds = (ids == ord(" ")).long() + 2 * (ids >= ord("a")).long()
        labels = kinds[0] if head == "sequence classifier" else kinds if head == "token classifier" else ids
        labels = labels if labels.ndim == 0 else labels.where(ids != 0, IGNORE_INDEX)
        found.append({"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels})
    return found


def transformers_library() -> Any:
    """The library; ImportError, with the way to install it, where it or accelerate is not there."""
    try:
        importlib.import_module("accelerate")
        return importlib.import_module("transformers")
    except ImportError as error:
        raise ImportError(
            f"architectures needs {error.name}, which is not installed: pip install 'accumcheck[frameworks]'"
        ) from error
