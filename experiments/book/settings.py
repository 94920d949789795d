"""How the book's classifier is trained: in what batches, and what is made of their padding."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from accumcheck.corpus.published import published_fix
from accumcheck.task import Sizes, Task
from accumcheck.training.lockstep import Run
from accumcheck.training.problem import Case, Problem
from torch.utils.data import TensorDataset

from experiments.book.classifier import Classifier, Padding, lines

N = 8


@dataclass(frozen=True)
class Setting:
    """Micro-batch size, accumulation steps, and what the model makes of a batch; see ``Classifier``."""

    batch: int
    steps: int
    padding: Padding = "data set"
    dropout: float = 0.0
    alone: bool = False
    stream: int = 0  # of random numbers; the reference's is 0
    book_order: bool = False  # shuffled as the book's script does it

    def run(self, name: str, samples: int, seed: int) -> tuple[Case, Run]:
        """Its case, and the book's loop on it; batches of 1 that are not accumulated are each window's first line."""
        problem = Problem("book", partial(Classifier, self.padding, self.dropout, self.alone), lines)
        case = Case(problem, Sizes(samples, self.batch, self.steps, 1), "adamw", seed=seed)
        task = case.task()
        if self.batch * self.steps < N:
            task = case.task(TensorDataset(*(tensor[::N] for tensor in case.dataset().tensors)))

        def train(task: Task) -> None:
            torch.manual_seed(seed + self.stream)
            published_fix(task)

        return case, Run(train, task, name)


PADDED, NOT_PADDED = "batch 8, padded", "batch 8, not padded"
SETTINGS = {
    PADDED: Setting(N, 1),
    "1 × 8, padded": Setting(1, N),
    "batch 8, padded to its longest": Setting(N, 1, "batch"),
    "1 × 8, one padding token, far off": Setting(1, N, "one token, far off"),
    "1 × 8, one padding token": Setting(1, N, "one token"),
    "1 × 8, padded on the left": Setting(1, N, "left"),
    "batch 8, last real token read": Setting(N, 1, "last real token"),
    "1 × 8, last real token read": Setting(1, N, "last real token"),
    NOT_PADDED: Setting(N, 1, "none"),
    "1 × 8, not padded": Setting(1, N, "none"),
    "batch 1, not padded": Setting(1, 1, "none"),
}
DROPOUT, ALONE = "batch 8, padded, dropout", "batch 8, padded, dropout, line by line"
DROPOUT_SETTINGS = {
    DROPOUT: Setting(N, 1, dropout=0.1),
    "batch 8, padded, dropout, other masks": Setting(N, 1, dropout=0.1, stream=1),
    ALONE: Setting(N, 1, dropout=0.1, alone=True),
    "1 × 8, padded, dropout": Setting(1, N, dropout=0.1),
}
