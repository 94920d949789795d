"""What a training loop holds, in bytes and exactly: the tensors that are alive."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Ledger(TorchDispatchMode):
    """Counts the storages of floating-point tensors from the operation that makes them until nobody holds them.

    Each storage counts once, however many tensors share it. What kernels use inside of one operation is not seen, and
    neither are integers, which token indices are. Tensors made earlier are entered with ``add``.

    >>> import torch
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
