"""Gradients of one GPT, accumulated in several dtypes and taken apart into the errors of kernels and of buffers."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial

import torch
from accumcheck.corpus.data import text_windows
from accumcheck.corpus.models import GPT, GPT_SIZES
from accumcheck.task import cross_entropy
from accumcheck.training.problem import seeded
from torch import Tensor, nn

from experiments.lab.runner import Row


@dataclass(frozen=True)
class Arm:
    """How a gradient is accumulated: dtype of the parameters, of autocast and of the buffer; who divides by k."""

    parameters: torch.dtype = torch.float32
    autocast: torch.dtype | None = None
    float32_buffer: bool = False
    loss_scale: float = 1.0
    divided_once: bool = False


HALF, BRAIN = torch.float16, torch.bfloat16
ARMS = {
    "float32": Arm(),
    "float32, divided once": Arm(divided_once=True),
    "bfloat16": Arm(BRAIN),
    "bfloat16, divided once": Arm(BRAIN, divided_once=True),
    "bfloat16, float32 buffer": Arm(BRAIN, float32_buffer=True),
    "autocast bfloat16": Arm(autocast=BRAIN),
    "autocast float16": Arm(autocast=HALF),
    "autocast float16, divided once": Arm(autocast=HALF, divided_once=True),
    "autocast float16, loss scaled": Arm(autocast=HALF, loss_scale=2.0**16),  # where GradScaler starts
}


def measure(arm: str, n: int, b: int, weight: int, size: str) -> list[Row]:
    """Error of one accumulated gradient, and the buffer's part in it; the loss weighs 2 ** weight."""
    how, k, unit = ARMS[arm], n // b, 2.0**weight
    model, (inputs, targets) = build(size, how.parameters), _data(size, n)
    scaler = torch.amp.GradScaler("cpu", init_scale=how.loss_scale, enabled=how.loss_scale != 1)
    book = _Book(model, how)
    for start in range(0, n, b):
        autocast = torch.autocast("cpu", how.autocast) if how.autocast else nullcontext()
        with autocast:
            loss = cross_entropy(model(inputs[start : start + b]), targets[start : start + b]) * unit
        scaler.scale(loss if how.divided_once else loss / k).backward()
        book.enter()
    divisor = how.loss_scale * unit * (k if how.divided_once else 1)
    due = reference(size, n)
    found, exact = book.flat(book.buffers) / divisor, book.flat(book.exact) / divisor
    norm = float(due.norm())
    return [
        {
            **{"size": size, "arm": arm, "n": n, "b": b, "k": k, "weight": unit},
            "error": float((found - due).norm()) / norm,
            "kernel_error": float((exact - due).norm()) / norm,
            "buffer_error": float((found - exact).norm()) / norm,
            "predicted_buffer_error": math.sqrt(book.variance) / divisor / norm,
            "lost_additions": book.lost / book.additions if book.additions else 0.0,
            "zeros": float((found == 0).double().mean()),
            "worst_tensor": book.worst(found - due),
        }
    ]


class _Book:
    """Gradients as the loop accumulates them, and beside them what it should have added up."""

    def __init__(self, model: nn.Module, how: Arm) -> None:
        self._how = how
        named = dict(model.named_parameters())
        self._names, self._parameters = list(named), list(named.values())
        self.exact = [torch.zeros_like(p, dtype=torch.float64) for p in self._parameters]
        self.buffers: list[Tensor] = []
        self._before: list[Tensor] = []
        self.variance, self.lost, self.additions = 0.0, 0, 0
        self._new: dict[int, Tensor] = {}  # what one backward pass adds to each parameter's gradient
        for place, parameter in enumerate(self._parameters):
            parameter.register_hook(partial(self._new.__setitem__, place))

    def enter(self) -> None:
        """Note what a backward pass has added."""
        new = [self._new[place].double() for place in range(len(self._parameters))]
        grads = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        if self._how.float32_buffer:
            self.buffers = [g.float() + (self.buffers[i] if self.buffers else 0) for i, g in enumerate(grads)]
            for parameter in self._parameters:
                parameter.grad = None
        else:
            self.buffers = grads
        for place, (buffer, added) in enumerate(zip(self.buffers, new, strict=True)):
            self.exact[place] += added
            if self._before:
                self.variance += float((spacing(buffer) ** 2).sum()) / 12
                self.lost += int(((buffer == self._before[place]) & (added != 0)).sum())
                self.additions += int((added != 0).sum())
        self._before = [buffer.clone() for buffer in self.buffers]

    def worst(self, difference: Tensor) -> str:
        """The parameter that has the largest part of a difference between gradients."""
        parts = difference.split([parameter.numel() for parameter in self._parameters])
        return self._names[max(range(len(parts)), key=lambda place: float(parts[place].norm()))]

    @staticmethod
    def flat(tensors: list[Tensor]) -> Tensor:
        """All elements in one float64 vector."""
        return torch.cat([tensor.double().flatten() for tensor in tensors])


def spacing(numbers: Tensor) -> Tensor:
    """The distance between neighbours of a dtype around each number, 0 at 0, as float64.

    >>> spacing(torch.tensor([1.0, -2.0, 0.0], dtype=torch.bfloat16)).tolist()
    [0.0078125, 0.015625, 0.0]
    """
    wide = numbers.double()
    eps = torch.full_like(wide, torch.finfo(numbers.dtype).eps)
    spaced = torch.ldexp(eps, torch.frexp(wide).exponent - 1)
    return torch.where(numbers == 0, 0.0, spaced)


def build(size: str, dtype: torch.dtype) -> nn.Module:
    """The model in any dtype, with the same bfloat16 numbers as parameters."""
    return seeded(partial(GPT, size), 0).to(BRAIN).to(dtype)


@cache
def reference(size: str, n: int) -> Tensor:
    """The gradient of one float64 full batch."""
    model, (inputs, targets) = build(size, torch.float64), _data(size, n)
    gradients = torch.autograd.grad(cross_entropy(model(inputs), targets), list(model.parameters()))
    return _Book.flat(list(gradients))


@cache
def _data(size: str, n: int) -> tuple[Tensor, ...]:
    most = text_windows(256, context=GPT_SIZES[size].context).tensors
    return tuple(tensor[:n] for tensor in most)
