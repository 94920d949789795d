"""Are parameters changed between an optimizer's first backward pass and its step, by something else than an optimizer?

A few elements of each parameter are read at both times. Who swaps averaged weights in and out again changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from accumcheck.scripts.buffers import WIDTH

DENSE = {4: (torch.contiguous_format, torch.channels_last), 5: (torch.contiguous_format, torch.channels_last_3d)}
ROUNDINGS = 4  # as where something is added and taken away again


@dataclass
class Marks:
    """The elements of each optimizer's parameters, as they were at the first backward pass of its window."""

    kept: dict[int, list[Tensor]] = field(default_factory=dict)

    def keep(self, owner: int, parameters: Iterable[Tensor]) -> None:
        """A window begins."""
        self.kept[owner] = _elements(parameters)

    def moved(self, owner: int, parameters: Iterable[Tensor]) -> bool:
        """Whether any has changed since; a window ends."""
        before = self.kept.pop(owner, [])
        now = _elements(parameters) if before else []
        if len(before) != len(now) or any(a.shape != b.shape for a, b in zip(before, now, strict=True)):
            return False
        return any(_differ(a, b) for a, b in zip(before, now, strict=True))


@torch.no_grad()
def _elements(parameters: Iterable[Tensor]) -> list[Tensor]:
    """Those of all parameters of a dtype on a device, one behind the other."""
    groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for parameter in parameters:
        # What is sharded or quantised is kept in ways of its own.
        if type(parameter) in (Tensor, nn.Parameter) and parameter.numel() and parameter.is_floating_point():
            value = parameter.detach()
            formats = DENSE.get(value.dim(), (torch.contiguous_format,))
            if value.layout == torch.strided and any(value.is_contiguous(memory_format=each) for each in formats):
                stride = max(1, value.numel() // WIDTH)
                few = value.as_strided((min(WIDTH, value.numel()),), (stride,), value.storage_offset())
                groups.setdefault((value.dtype, value.device), []).append(few)
    return [torch.cat(pieces) for pieces in groups.values()]


def _differ(before: Tensor, now: Tensor) -> bool:
    if torch.equal(before, now):
        return False
    size = torch.maximum(before.abs(), now.abs())
    allowed = ROUNDINGS * torch.finfo(now.dtype).eps * size.clamp(min=torch.finfo(now.dtype).tiny)
    return bool(((now - before).abs() > allowed).any())


__all__ = ["Marks"]
