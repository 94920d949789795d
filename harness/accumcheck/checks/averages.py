"""Sees when averages of the weights move, such as exponential moving averages: from the tensor operations of a run."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# What a tensor is made of: the weights as they are now, what was kept from before, gradients.
WEIGHTS, KEPT, GRADIENT = 1, 2, 4


class Averages(TorchDispatchMode):
    """Notes in ``moves`` how many optimizer steps were done whenever a tensor that outlives its micro-batch was mixed
    from the weights and what was kept before.

    A plain copy of the weights is no average: to take it again does no harm. ``pause`` is called where one micro-batch
    ends or another begins; nothing counts while ``stepping`` is set, or in a backward pass.

    >>> model, average = nn.Linear(2, 3), torch.zeros(3, 2)
    >>> with Averages(model) as averages:
    ...     _ = average.lerp_(model.weight.detach(), 0.1)
    ...     averages.pause()
    >>> averages.moves
    [0]
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.moves: list[int] = []
        self.steps, self.stepping = 0, False
        self._model = model
        shapes = [parameter.shape for parameter in model.parameters() if parameter.numel() > 1]
        self._shapes = {*shapes, torch.Size([sum(shape.numel() for shape in shapes)])}
        self._flags: dict[int, int] = {}  # of each storage that is alive, and was made in the run
        self._mixed: set[int] = set()
        self._weights = self._current()

    def _current(self) -> set[int]:
        return {parameter.untyped_storage()._cdata for parameter in self._model.parameters()}

    def pause(self) -> None:
        """What was mixed since the last pause and is still alive has moved; all that is alive was kept."""
        self._weights = self._current()  # a loop may have given the model other tensors
        if any(key in self._flags and key not in self._weights for key in self._mixed):
            self.moves.append(self.steps)
        self._mixed.clear()
        for key, flags in self._flags.items():
            self._flags[key] = KEPT | flags & GRADIENT

    def __torch_dispatch__(
        self, operation: Callable[..., Any], types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        """Do the operation, and note what its results are made of."""
        result = operation(*arguments, **(keywords or {}))
        if not self.stepping:
            self._note(operation, arguments, keywords or {}, result)
        return result

    def _note(self, operation: Any, arguments: Any, keywords: Any, result: Any) -> None:
        name = operation.overloadpacket.__name__
        slots = operation._schema.arguments
        given = [*zip(slots, arguments, strict=False), *((slot, keywords.get(slot.name)) for slot in slots)]
        written = _tensors([each for slot, each in given if slot.alias_info and slot.alias_info.is_write])
        made = [each for each in written or _tensors(result) if each.shape in self._shapes]
        keys = {key: each for each in made if (key := _key(each)) is not None and key not in self._weights}
        if not keys:
            return
        read = _tensors([each for slot, each in given if not (slot.alias_info and slot.alias_info.is_write)])
        flags = 0
        if backward := torch._C._current_autograd_node() is not None:
            flags = GRADIENT
        elif "_like" not in name and not name.startswith("new_"):  # these take a shape, and no value
            for each in read:
                flags |= self._of(each)
        # A penalty such as (w - w0)² is part of the loss, and no average.
        recorded = torch.is_grad_enabled() and any(each.requires_grad for each in read) and name != "detach"
        for key, each in keys.items():
            mix = flags | (self._of(each) if written and name != "copy_" else 0)
            if key not in self._flags:
                weakref.finalize(each.untyped_storage(), self._flags.pop, key, None).atexit = False
            self._flags[key] = mix
            if mix == WEIGHTS | KEPT and flags & WEIGHTS and not recorded and not backward:
                self._mixed.add(key)

    def _of(self, tensor: Tensor) -> int:
        key = _key(tensor)
        if key is None:
            return 0
        if key in self._weights:
            return WEIGHTS
        # One that was not made in the run was there before.
        return self._flags.get(key, KEPT if tensor.shape in self._shapes else 0)


def _tensors(found: Any) -> list[Tensor]:
    if isinstance(found, Tensor):  # as almost always
        return [found]
    return [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor)]


def _key(tensor: Tensor) -> int | None:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):  # under torch.func, or sparse
        return None
