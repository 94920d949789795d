"""The book's text classifier in small: a GPT that reads a line and says which chapter it is from.

After chapter 6 and its additional experiments in Raschka, *Build a Large Language Model (From Scratch)*, 2024. There it
is spam or ham; here, lines of the interpreter's help text: from the chapter on the special methods of classes, or from
those on strings and sequences. That is a label of the text's own, about as hard for a small model as it is useful: it
is not told by a single character, and accuracy stays below 100 %, so that differences show.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Literal

import torch
from accumcheck.corpus.models import GPT, GPTConfig
from torch import Tensor, nn
from torch.utils.data import TensorDataset

LONGEST = 48  # bytes; longer lines are left out
CHAPTERS = (("string-methods", "formatstrings", "typesseq"), ("specialnames",))
PADDING = 0  # no byte of the text

Padding = Literal["data set", "batch", "left", "last real token", "none", "one token", "one token, far off"]
ONE_BY_ONE: tuple[Padding, ...] = (
    "none",
    "one token",
    "one token, far off",
)  # samples of unequal length: one at a time


class Classifier(GPT):
    """The GPT with two outputs in place of its vocabulary, of which those at one position count.

    Lines come padded on the right to the longest of the data set. ``padding`` says what is made of that:

    - ``"data set"``: nothing, and the last position is read, as the book does; for most lines it is padding
    - ``"batch"``: lines are cut to the longest of their batch, and the last position is read
    - ``"left"``: padding is moved before the line, and the last position is read, which is the line's end
    - ``"last real token"``: the position of the line's end is read
    - ``"none"``: lines are cut to their own length, and the last position is read
    - ``"one token"``: one padding token is left behind the line, and is read
    - ``"one token, far off"``: the same, but at the last position of the data set

    With ``alone`` a batch goes through the model sample by sample, and dropout draws for each sample by itself.
    """

    def __init__(self, padding: Padding = "data set", dropout: float = 0.0, alone: bool = False) -> None:
        super().__init__(GPTConfig(context=LONGEST, dropout=dropout, tied=False))
        self.head = nn.Linear(self.config.width, 2)
        self.padding, self.alone = padding, alone or padding in ONE_BY_ONE

    def forward(self, indices: Tensor) -> Tensor:
        """Logits (batch, 2) for padded lines (batch, time)."""
        if self.alone and len(indices) > 1:
            return torch.cat([self(line) for line in indices.split(1)])
        lengths = (indices != PADDING).sum(dim=1)
        places = torch.arange(indices.shape[1], device=indices.device)
        read = torch.full_like(lengths, -1)
        if self.padding == "batch":
            places = places[: lengths.max()]
        elif self.padding == "left":
            indices = torch.stack([line.roll(-int(length)) for line, length in zip(indices, lengths, strict=True)])
        elif self.padding == "last real token":
            read = lengths - 1
        elif self.padding == "none":
            places = places[: lengths[0]]
        elif self.padding == "one token":
            places = places[: lengths[0] + 1]
        elif self.padding == "one token, far off":
            places = torch.cat([places[: lengths[0]], places[-1:]]) if lengths[0] < len(places) else places
        hidden = self.dropout(self.tokens(indices[:, places]) + self.positions(places))
        logits: Tensor = self.head(self.norm(self.blocks(hidden)))
        return logits[torch.arange(len(indices)), read]


def lines(samples: int, seed: int = 0) -> TensorDataset:
    """Lines (n, longest) int64, padded on the right, and chapters (n,) int64; both chapters are equally frequent.

    The seed shuffles: other samples for other seeds, and the first n of one seed are the same for every n.
    """
    inputs, targets = _table()
    if not 1 <= samples <= len(inputs):
        raise ValueError(f"there are {len(inputs)} lines, got samples={samples}")
    chosen = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))[:samples]
    return TensorDataset(inputs[chosen].clone(), targets[chosen].clone())


@cache
def _table() -> tuple[Tensor, Tensor]:
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    chapter: dict[bytes, int] = {}
    for label, names in enumerate(CHAPTERS):
        for line in (line.strip().encode() for name in names for line in topics[name].splitlines()):
            if 8 <= len(line) <= LONGEST:
                chapter.setdefault(line, label)
    by_label = [[line for line in chapter if chapter[line] == label] for label in (0, 1)]
    generator = torch.Generator().manual_seed(0)
    fewer = min(map(len, by_label))
    chosen = [
        (own[i], label)
        for label, own in enumerate(by_label)
        for i in torch.randperm(len(own), generator=generator)[:fewer]
    ]
    inputs = torch.full((len(chosen), LONGEST), PADDING)
    for row, (line, _) in enumerate(chosen):
        inputs[row, : len(line)] = torch.tensor(list(line))
    return inputs, torch.tensor([label for _, label in chosen])
