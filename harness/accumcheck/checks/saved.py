"""What autograd holds for backward passes, in bytes and exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class SavedBytes:
    """Counts the storages that autograd holds for backward passes, by kind, while ``counting`` is active.

    ``peak`` has the most bytes that were held at once: of parameters, of integers (a language model's inputs and
    targets) and of activations, which is all else.

    >>> weight, inputs = torch.ones(2, 3, requires_grad=True), torch.ones(5, 2)
    >>> saved = SavedBytes([weight])
    >>> with saved.counting():
    ...     loss = (inputs @ weight).exp().sum()
    >>> dict(saved.peak)  # the inputs, and what exp returned
    {'activations': 100}
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.peak: Counter[str] = Counter()
        self._held: Counter[str] = Counter()
        self._holders: Counter[int] = Counter()
        self._parameters = {parameter.untyped_storage()._cdata for parameter in parameters}

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Watch every graph that is made inside of the block, until it is freed."""
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: _Saved(self, tensor), lambda saved: saved.tensor):
            yield

    def hold(self, tensor: Tensor, change: int) -> None:
        """One holder more of a tensor's storage, or one less."""
        storage = tensor.untyped_storage()
        before = self._holders[storage._cdata]
        self._holders[storage._cdata] = before + change
        if before and before + change:
            return
        kind = "activations" if tensor.is_floating_point() else "integers"
        kind = "parameters" if storage._cdata in self._parameters else kind
        self._held[kind] += change * storage.nbytes()
        self.peak[kind] = max(self.peak[kind], self._held[kind])


class _Saved:
    """A tensor that a graph has saved; it lives as long as the graph needs it."""

    def __init__(self, book: SavedBytes, tensor: Tensor) -> None:
        self.book, self.tensor = book, tensor
        book.hold(tensor, 1)

    def __del__(self) -> None:
        self.book.hold(self.tensor, -1)
