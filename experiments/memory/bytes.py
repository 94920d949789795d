"""What a training loop holds, in bytes and exactly: tensors that are alive, and those that autograd has saved."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Ledger(TorchDispatchMode):
    """Counts the storages of floating-point tensors from the operation that makes them until nobody holds them.

    Each storage counts once, however many tensors share it. What kernels use inside of one operation is not seen, and
    neither are integers, which token indices are. Tensors made earlier are entered with ``add``.

    >>> with Ledger() as ledger:
    ...     half = torch.zeros(8)[:4]
    >>> ledger.live, ledger.peak
    (32, 32)
    >>> del half
    >>> ledger.live, ledger.peak
    (0, 32)
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._entered: dict[int, int] = {}

    def __torch_dispatch__(
        self, operation: Callable[..., Any], types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        """Do the operation, and enter what it returns."""
        result = operation(*arguments, **(keywords or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return result

    def add(self, tensor: Tensor) -> None:
        """Count a tensor's storage, unless it is counted already."""
        storage = tensor.untyped_storage()
        if not tensor.is_floating_point() or storage._cdata in self._entered:
            return
        self._entered[storage._cdata] = storage.nbytes()
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._remove, storage._cdata)

    def _remove(self, key: int) -> None:
        self.live -= self._entered.pop(key)


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
