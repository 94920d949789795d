"""Real data that installed packages ship, as tensors: digits, diabetes, and the interpreter's own help text.

Every function takes the number of samples and a seed that chooses which ones, and returns a
``TensorDataset(inputs, targets)``. Text is read byte by byte, so a token is an integer below 256.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from accumcheck.task import IGNORE_INDEX


def diabetes(samples: int, seed: int = 0) -> TensorDataset:
    """scikit-learn's diabetes study: inputs (n, 10) and targets (n, 1) float64, both standardised."""
    table = _sklearn_table("load_diabetes")
    inputs, targets = torch.as_tensor(table.data), torch.as_tensor(table.target)[:, None]
    return _choose(_standardise(inputs), _standardise(targets), samples, seed, "diabetes")


def digits(samples: int, seed: int = 0) -> TensorDataset:
    """scikit-learn's handwritten digits: inputs (n, 1, 8, 8) float64 in [−1, 1], targets (n,) int64 in 0 … 9."""
    table = _sklearn_table("load_digits")
    inputs = torch.as_tensor(table.images)[:, None] / 8 - 1
    return _choose(inputs, torch.as_tensor(table.target).long(), samples, seed, "digits")


def text_windows(samples: int, seed: int = 0, *, context: int = 32) -> TensorDataset:
    """Windows of the interpreter's help text: inputs and targets (n, context) int64, targets one byte ahead."""
    return _choose(*_windows(context), samples, seed, "text windows")


def text_lines(samples: int, seed: int = 0, *, context: int = 32) -> TensorDataset:
    """Lines of the interpreter's help text, of unequal length: inputs and targets (n, context) int64.

    A line longer than the context is cut; behind a shorter one the inputs are 0 and the targets −100.

    >>> inputs, targets = text_lines(4).tensors
    >>> inputs.shape == targets.shape == (4, 32)
    True
    """
    return _choose(*_lines(context), samples, seed, "text lines")


@cache
def _text() -> bytes:
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    return "\n".join(topics[name] for name in sorted(topics)).encode()


@cache
def _windows(context: int) -> tuple[Tensor, Tensor]:
    tokens = torch.frombuffer(bytearray(_text()), dtype=torch.uint8).long()
    windows = tokens[: len(tokens) // (context + 1) * (context + 1)].view(-1, context + 1)
    return windows[:, :-1], windows[:, 1:]


@cache
def _lines(context: int) -> tuple[Tensor, Tensor]:
    lines = [line for line in _text().splitlines() if len(line) > 1]
    inputs = torch.zeros(len(lines), context, dtype=torch.int64)
    targets = torch.full((len(lines), context), IGNORE_INDEX)
    for row, line in enumerate(lines):
        tokens = torch.tensor(list(line[: context + 1]))
        inputs[row, : len(tokens) - 1] = tokens[:-1]
        targets[row, : len(tokens) - 1] = tokens[1:]
    return inputs, targets


@cache
def _sklearn_table(loader: str) -> Any:
    try:
        return getattr(importlib.import_module("sklearn.datasets"), loader)()
    except ImportError as error:
        raise ImportError(
            f"{loader} comes with scikit-learn, which is not installed: pip install scikit-learn"
        ) from error


def _standardise(values: Tensor) -> Tensor:
    return (values - values.mean(dim=0)) / values.std(dim=0)


def _choose(inputs: Tensor, targets: Tensor, samples: int, seed: int, name: str) -> TensorDataset:
    if not 1 <= samples <= len(inputs):
        raise ValueError(f"{name} has {len(inputs)} samples, got samples={samples}: ask for 1 to {len(inputs)}")
    rows = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))[:samples]
    return TensorDataset(inputs[rows].clone(), targets[rows].clone())
