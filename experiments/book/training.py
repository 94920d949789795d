"""Whole trainings of the book's classifier, and the order in which the book's script draws its samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from accumcheck.task import cross_entropy
from accumcheck.training.problem import seeded
from accumcheck.watching.process import RandomStream
from torch import Tensor
from torch.optim import AdamW
from torch.utils.data import DataLoader, TensorDataset

from experiments.book.classifier import Classifier, lines
from experiments.book.settings import PADDED, SETTINGS, N
from experiments.lab.runner import Row

TEST, RATE = 300, 3e-3
BOOK_SAMPLES, BOOK_EPOCHS, EVALUATE = 1045, 5, 50  # of the book: training set, epochs, batches between evaluations
BOOK_ORDER = {f"{name}, book's order": replace(SETTINGS[name], book_order=True) for name in (PADDED, "1 × 8, padded")}
TWINS = {  # trainings that would be one and the same if the claim were true of the padding, or of the order
    "1 × 8, padded": PADDED,
    "1 × 8, not padded": PADDED,
    "batch 8, last real token read": "1 × 8, not padded",
    "batch 1, not padded": "1 × 8, not padded",
    "1 × 8, padded, book's order": "batch 8, padded, book's order",
}
TRAININGS = {name: setting for name, setting in {**SETTINGS, **BOOK_ORDER}.items() if name in {*TWINS, *TWINS.values()}}


def train(setting: str, seed: int, epochs: int, samples: int) -> list[Row]:
    """Train a new model freely; its accuracy, its loss and its predictions on other lines."""
    how = TRAININGS[setting]
    everything = lines(samples + TEST, seed).tensors
    data, test = (TensorDataset(*(t[part] for t in everything)) for part in (slice(samples), slice(samples, None)))
    with RandomStream(seed).active():
        model = seeded(partial(Classifier, how.padding, how.dropout), seed).double()
        optimizer = AdamW(model.parameters(), lr=RATE, weight_decay=0.1)
        own = None if how.book_order else torch.Generator().manual_seed(seed)
        loader = DataLoader(data, how.batch, shuffle=True, drop_last=True, generator=own)
        for index, (inputs, targets) in book_batches(loader, epochs, evaluate=how.book_order):
            (cross_entropy(model(inputs), targets) / how.steps).backward()
            if (index + 1) % how.steps == 0 or index + 1 == len(loader):
                optimizer.step()
                optimizer.zero_grad()
        with torch.no_grad():
            outputs = model.eval()(test.tensors[0])
    predicted, targets = outputs.argmax(dim=1), test.tensors[1]
    return [
        {
            "setting": setting,
            "seed": seed,
            "accuracy": (predicted == targets).double().mean().item(),
            "loss": cross_entropy(outputs, targets).item(),
            "predictions": "".join(map(str, predicted.tolist())),
        }
    ]


def order(seed: int) -> list[Row]:
    """By epoch: optimizer steps of batch 8 and of 1 × 8 under the book's script, and windows of the same samples."""
    windows: dict[int, list[list[set[int]]]] = {}
    for batch in (1, N):
        with RandomStream(seed).active():
            loader = DataLoader(TensorDataset(torch.arange(BOOK_SAMPLES)), batch, shuffle=True, drop_last=True)
            samples = [
                (index, batch_.tolist()) for index, (batch_,) in book_batches(loader, BOOK_EPOCHS, evaluate=True)
            ]
        windows[batch] = []
        for index, drawn in samples:
            if index == 0:
                windows[batch].append([])
            if index * batch % N == 0:
                windows[batch][-1].append(set())
            windows[batch][-1][-1].update(drawn)
    return [
        {
            "seed": seed,
            "epoch": epoch + 1,
            "steps": len(full),
            "steps_accumulated": len(accumulated),
            "tail": len(accumulated[-1]),
            "same_windows": sum(a == b for a, b in zip(full, accumulated, strict=False)),
        }
        for epoch, (full, accumulated) in enumerate(zip(windows[N], windows[1], strict=True))
    ]


def book_batches(
    loader: DataLoader[tuple[Tensor, ...]], epochs: int, evaluate: bool
) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
    """Batches, numbered within each epoch, in the order in which the book's script trains on them.

    It evaluates every 50 batches, on the first ones of its training loader. That draws a shuffled order once more, from
    the global stream that the next epoch's order will come from; and batches of 1 do so eight times as often as of 8.
    Left out: it goes through its validation loader as well, which moves that stream further.
    """
    seen = 0
    for _ in range(epochs):
        for index, batch in enumerate(loader):
            yield index, batch
            if evaluate and seen % EVALUATE == 0:
                next(iter(loader))
            seen += 1
