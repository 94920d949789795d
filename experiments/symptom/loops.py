"""The same fine-tuning, and a small language model, in plain loops: as they should be and as people write them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from accumcheck.corpus.data import text_lines
from accumcheck.corpus.models import GPT, GPTConfig
from accumcheck.corpus.published import accumulate_samples, accumulate_tokens, early_first_step, full_batch
from accumcheck.corpus.published import published_fix as divides_by_k
from accumcheck.corpus.wrong import leaks_into_next_epoch
from accumcheck.task import Loop, Sizes, Task, cross_entropy, unmasked
from accumcheck.training.problem import seeded
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset

from experiments.lab.runner import Row
from experiments.symptom.classifier import Logits, fine_tuned, images
from experiments.symptom.record import Record

STEPS = 4
IMAGES, LINES = 8, 2  # in a micro-batch
CONTEXT, HELD_OUT = 64, 200  # bytes of a line, and lines to measure on
_OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"sgd": SGD, "adamw": partial(AdamW, weight_decay=0.0)}


@dataclass(frozen=True)
class Variant:
    """A loop in k steps. ``short`` says whether the short window at an epoch's end has an update of its own, and
    ``by_count`` whether a micro-batch's loss is logged by its count, as it is weighed."""

    loop: Loop
    steps: int = STEPS
    short: Callable[[int], int] = lambda rest: int(rest > 0)
    by_count: bool = False


TAILS = {
    "right": Variant(accumulate_samples),
    "divided_by_k": Variant(divides_by_k),
    "early": Variant(early_first_step),
    "carried": Variant(leaks_into_next_epoch, short=lambda _: 0),
}
TOKENS = {
    "k1": Variant(full_batch, steps=1),
    "mean_of_means": Variant(divides_by_k),
    "token_mean": Variant(accumulate_tokens, by_count=True),
}


def tail(variant: str, optimizer: str, rate: float, seed: int, samples: int, epochs: int, pretrained: int) -> list[Row]:
    """One fine-tuning of the classifier whose epochs end with a short window."""
    model = Logits(fine_tuned(seed, pretrained))
    train, held_out = images(samples, seed)
    record = Record(model, train, held_out, every=2 * epochs, epochs=epochs)
    return _train(TAILS[variant], IMAGES, optimizer, rate, seed, epochs, record)


def tokens(variant: str, optimizer: str, rate: float, seed: int, samples: int, epochs: int) -> list[Row]:
    """One training of a small GPT, from new weights, on lines of unequal length."""
    model = seeded(partial(GPT, GPTConfig(context=CONTEXT)), seed)
    everything = text_lines(samples + HELD_OUT, seed, context=CONTEXT).tensors
    parts = slice(samples), slice(samples, None)
    train, held_out = (TensorDataset(*(tensor[part] for tensor in everything)) for part in parts)
    some = TensorDataset(*(tensor[:HELD_OUT] for tensor in train.tensors))
    every = max(1, samples * epochs // (LINES * STEPS) // 12)
    record = Record(model, some, held_out, every, epochs)
    return _train(TOKENS[variant], LINES, optimizer, rate, seed, epochs, record, train)


def _train(
    how: Variant,
    micro_batch: int,
    optimizer: str,
    rate: float,
    seed: int,
    epochs: int,
    record: Record,
    data: TensorDataset | None = None,
) -> list[Row]:
    """Run a loop on batches that are shuffled at each epoch, alike for all loops, at a rate that falls to 0."""
    data = data or record.train
    size = micro_batch * STEPS // how.steps
    generator = torch.Generator().manual_seed(seed)
    loader: DataLoader[tuple[Tensor, ...]] = DataLoader(data, size, shuffle=True, generator=generator)
    full, rest = divmod(len(loader), how.steps)
    updates = epochs * (full + how.short(rest))
    made = _OPTIMIZERS[optimizer](record.model.parameters(), lr=rate)
    falling = LambdaLR(made, lambda update: max(0.0, 1 - update / updates))
    since: list[tuple[float, int]] = []  # the last update: losses, and what they are logged by
    norm = 0.0

    def loss_fn(outputs: Tensor, targets: Tensor) -> Tensor:
        loss = cross_entropy(outputs, targets)
        since.append((loss.item(), unmasked(targets) if how.by_count else 1))
        return loss

    def before(*_: Any) -> None:
        nonlocal norm
        norm = float(nn.utils.get_total_norm([p.grad for p in record.model.parameters() if p.grad is not None]))

    def after(*_: Any) -> None:
        record.update(sum(loss * count for loss, count in since) / sum(count for _, count in since), norm)
        since.clear()

    made.register_step_pre_hook(before)
    made.register_step_post_hook(after)
    sizes = Sizes(len(data), size, how.steps, epochs)
    how.loop(Task.build(record.model, made, loss_fn, data, sizes, loader=loader, scheduler=falling))
    return record.rows()


def spread(samples: int, seed: int) -> float:
    """The coefficient of variation of the number of tokens in a micro-batch."""
    _, targets = text_lines(samples, seed, context=CONTEXT).tensors
    counts = torch.tensor([unmasked(part) for part in targets.split(LINES)], dtype=torch.float64)
    return float(counts.std() / counts.mean())
