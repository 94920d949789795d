"""What a run draws: samples from its data set, pass by pass, and numbers from torch's global random stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset


@dataclass
class Pass:
    """One iteration over a data loader: the samples that were drawn, and whether a gradient was computed meanwhile."""

    samples: list[int] = field(default_factory=list)
    trains: bool = False


class Drawn(TensorDataset):
    """A data set that notes in ``passes`` which samples are drawn while loaders go through it."""

    passes: list[Pass]

    def __init__(self, *tensors: Tensor) -> None:
        super().__init__(*tensors)
        self.passes = []

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        if self.passes and isinstance(index, int):
            self.passes[-1].samples.append(index)
        found: tuple[Tensor, ...] = super().__getitem__(index)  # type: ignore[no-untyped-call]
        return found

    def trained(self) -> None:
        """A gradient was computed, or a step made."""
        if self.passes:
            self.passes[-1].trains = True

    def orders(self, *, plain: bool = False) -> tuple[tuple[int, ...], ...]:
        """The samples of each pass that was trained on, each once; none if all are in the data set's order, unless
        these are asked for as well."""
        found = [tuple(dict.fromkeys(each.samples)) for each in self.passes if each.trains and each.samples]
        as_stored = all(each == tuple(range(len(each))) for each in found)
        return () if as_stored and not plain else tuple(found)


@contextmanager
def loaders_watched(dataset: Drawn) -> Iterator[None]:
    """Inside the block, each iteration over a data loader begins a new pass of ``dataset``."""
    original = DataLoader.__iter__

    def iterate(loader: DataLoader[Any]) -> Any:
        dataset.passes.append(Pass())
        return original(loader)

    DataLoader.__iter__ = iterate  # type: ignore[method-assign]
    try:
        yield
    finally:
        DataLoader.__iter__ = original  # type: ignore[method-assign]


class Draws(TorchDispatchMode):
    """Counts operations that draw from a global random stream."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: dict[str, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def] # noqa: ANN001,ANN204
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded in func.tags and kwargs.get("generator") is None:
            name = func.overloadpacket.__name__.strip("_").removeprefix("native_")
            self.counts[name] = self.counts.get(name, 0) + 1
        return func(*args, **kwargs)


@contextmanager
def scalers_on() -> Iterator[None]:
    """Inside the block, a GradScaler for CUDA scales on the CPU too, instead of switching itself off."""
    from torch.cuda.amp import common  # noqa: PLC0415 - deprecated, and where GradScaler asks

    original = common.amp_definitely_not_available
    common.amp_definitely_not_available = lambda: False
    try:
        yield
    finally:
        common.amp_definitely_not_available = original
