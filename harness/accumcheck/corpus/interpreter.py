"""Any program as a real loop: it trains in torch what ``programs.simulate`` works out in fractions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from accumcheck.programs.rules import LISTS, TABLES, Gathered, Now, Part, Program, Ratio, Scale, Shape, Step
from accumcheck.task import Loop, Task, unmasked

Batch = tuple[Tensor, Tensor]
LIMIT = 0.5  # of norms and values, where a program clips


def loop_of(program: Program) -> Loop:
    """The loop that does what a program says, for one process.

    >>> from accumcheck.probing.run import probe
    >>> from accumcheck.task import Sizes
    >>> for row in probe(loop_of(Program(scale="1/k")), Sizes(samples=3, accumulation_steps=2, epochs=1)).exact:
    ...     print(*row)
    1/2 1/2 0
    0 0 1/2
    """

    def train(task: Task) -> None:
        _Run(program, task).train()

    train.__name__ = f"program ({program})"
    return train


def _units(targets: Tensor) -> int:
    return unmasked(targets) if targets.dim() > 1 else len(targets)


@dataclass
class _Run:
    program: Program
    task: Task
    since: list[Batch] = field(default_factory=list)
    steps: int = 0

    def __post_init__(self) -> None:
        task = self.task
        self.shape = Shape(len(task.dataset), task.micro_batch_size, task.accumulation_steps, task.epochs)
        step, scale = TABLES["step"][self.program.step], TABLES["scale"][self.program.scale]
        assert isinstance(step, Step)
        assert isinstance(scale, Scale)
        self.step_rule, self.scale_rule = step, scale

    def train(self) -> None:
        k = self.task.accumulation_steps
        streams = self.program.visit.startswith("stream")
        batches = self._stream() if streams else self._epochs()
        length = self.updates * k if streams else len(self.task.loader)
        total = length * (1 if streams or self.program.visit == "first epoch" else self.task.epochs)
        schedule, before = self.program.schedule, 0
        for number, (epoch, i, count, batch, window) in enumerate(batches):
            place = number if streams else i
            if schedule == "epoch" and epoch > before:
                self.task.scheduler.step()
            before = epoch
            if place == 0 and self.program.reset in ("epoch start", "epoch start too", LISTS):
                self.clear()
                if self.program.reset == LISTS:
                    self.since = []
            if self.step_rule.late and self.opens(place, count, length, total):
                self.step()
            anew = ("window start", "first only")
            if self.program.reset == "every" or (self.program.reset in anew and place % k == 0):
                self.clear()
            if batch is not None:
                with self.dropped() if self.program.reset == "first only" and place % k else nullcontext():
                    self.backward(batch, window, number % k if streams else i % k)
                if schedule == "every":
                    self.task.scheduler.step()
            if self.program.reset == "after first" and place % k == 0:
                self.clear()
            if not self.step_rule.late and self.opens(place, count, length, total):
                self.step()
            if batch is not None and schedule == "every, behind":
                self.task.scheduler.step()
            if self.program.reset == "window end" and (place + 1) % k == 0:
                self.clear()

    @contextmanager
    def dropped(self) -> Iterator[None]:
        """Gradients are as before afterwards."""
        parameters = list(self.task.model.parameters())
        kept = [None if each.grad is None else each.grad.clone() for each in parameters]
        yield
        for parameter, grad in zip(parameters, kept, strict=True):
            parameter.grad = grad

    def _epochs(self) -> Iterator[tuple[int, int, int, Batch | None, list[Batch]]]:
        """Epoch, place, micro-batches before, the micro-batch and its window, as loops over a loader have them."""
        rule, k, n = self.program.visit, self.task.accumulation_steps, len(self.task.dataset)
        passes = {"first epoch": 1, "until max_steps": self.shape.passes}
        for epoch in range(passes.get(rule, self.task.epochs)):
            batches = [(inputs, targets) for inputs, targets in self.task.loader]
            whole = {"whole windows": len(batches) // k, "whole windows of samples": n // self.shape.big}
            for i, batch in enumerate(batches):
                if rule == "until max_steps" and self.steps == self.shape.windows:
                    return
                short = len(batch[1]) < self.task.micro_batch_size
                if i // k >= whole.get(rule, len(batches)) or (rule == "skips short" and short):
                    continue
                window = batches[i - i % k : i - i % k + k]
                left_out = rule == "leaves out short" and short
                yield epoch, i, epoch * len(batches) + i, None if left_out else batch, window

    def _stream(self) -> Iterator[tuple[int, int, int, Batch | None, list[Batch]]]:
        k = self.task.accumulation_steps
        source = self._rows() if self.program.visit == "stream of samples" else self._cycle()
        for update in range(self.updates):
            window = [next(source) for _ in range(k)]
            for j, batch in enumerate(window):
                yield 0, j, update * k + j, batch, window

    @property
    def updates(self) -> int:
        """How many windows of k micro-batches a stream is cut into."""
        k, epochs, length = self.task.accumulation_steps, self.task.epochs, len(self.task.loader)
        return {
            "stream": epochs * length // k,
            "stream, rounded up": -(-epochs * length // k),
            "stream, by epochs": epochs * -(-length // k),
            "stream, whole windows": epochs * (length // k),
            "stream of samples": -(-len(self.task.dataset) * epochs // self.shape.big),
        }[self.program.visit]

    def _cycle(self) -> Iterator[Batch]:
        while True:
            yield from ((inputs, targets) for inputs, targets in self.task.loader)

    def _rows(self) -> Iterator[Batch]:
        row, n = 0, len(self.task.dataset)
        while True:
            rows = [(row + i) % n for i in range(self.task.micro_batch_size)]
            row += len(rows)
            inputs, targets = self.task.dataset[rows]
            yield inputs, targets

    def opens(self, place: int, count: int, length: int, total: int) -> bool:
        samples = sum(len(targets) for _, targets in self.since)
        return self.step_rule.gate(Now(place, count, len(self.since), samples, length, total, self.shape))

    def backward(self, batch: Batch, window: list[Batch], place: int) -> None:
        inputs, targets = batch
        part = Part(
            len(targets), _units(targets), sum(len(t) for _, t in window), sum(_units(t) for _, t in window),
            len(window), place, len(self.task.loader), self.shape,
        )  # fmt: skip
        logits = self.task.model(inputs)
        loss = self.task.loss_fn(logits, targets)
        if self.program.loss == "mean of sequences":
            each = F.cross_entropy(logits.mT, targets, reduction="none") if targets.dim() > 1 else None
            if each is not None:
                loss = (each.sum(dim=1) / (targets != -100).sum(dim=1)).mean()
        top, bottom = self.scale_rule.weight(part)
        self.backward_of(loss * top / bottom)
        self.since.append(batch)
        if self.scale_rule.each:
            self.multiply(self.scale_rule.each(part))
        self.clip(", every")

    def backward_of(self, loss: Tensor) -> None:
        parameters = [each for each in self.task.model.parameters() if each.requires_grad]
        held = [each.grad for each in parameters]
        if not self.program.clip.endswith(", each gradient"):
            loss.backward()
            return
        for parameter in parameters:
            parameter.grad = None
        loss.backward()
        self.clip(", each gradient")
        for parameter, gradient in zip(parameters, held, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    def clip(self, when: str) -> None:
        if self.program.clip == f"norm{when}":
            clip_grad_norm_(self.task.model.parameters(), LIMIT)
        elif self.program.clip == f"value{when}":
            clip_grad_value_(self.task.model.parameters(), LIMIT)

    def step(self) -> None:
        if self.program.reset == "before step":
            self.clear()
        if self.scale_rule.divide and self.since:
            samples, units = (sum(f(targets) for _, targets in self.since) for f in (len, _units))
            self.multiply(self.scale_rule.divide(Gathered(samples, units, len(self.since), self.shape)))
        self.clip("")
        self.task.optimizer.step()
        self.steps += 1
        if self.program.schedule == "step":
            self.task.scheduler.step()
        self.since = []
        if self.program.reset in ("after step", "epoch start too", LISTS):
            self.clear()

    def clear(self) -> None:
        self.task.optimizer.zero_grad()

    def multiply(self, ratio: Ratio) -> None:
        for parameter in self.task.model.parameters():
            if parameter.grad is not None:
                with torch.no_grad():
                    parameter.grad *= ratio[0] / ratio[1]
