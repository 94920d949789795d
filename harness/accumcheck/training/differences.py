"""Differences between the tensors of two runs, by name, in Euclidean norms."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_SMALL = 2**12  # elements; smaller tensors are compared all at once and in float64


@dataclass(frozen=True)
class Difference:
    """How a candidate's tensor differs from the reference's, in Euclidean norms.

    ``magnitude`` is the size of the numbers that were subtracted to get the reference, and so the scale of rounding.
    ``candidate`` is measured for gradients only.

    >>> half = Difference(reference=2.0, distance=1.0, magnitude=2.0, candidate=1.0)
    >>> half.error, half.ratio
    (0.5, 0.5)
    """

    reference: float
    distance: float
    magnitude: float
    candidate: float = math.nan

    @property
    def error(self) -> float:
        """‖candidate − reference‖ / ‖reference‖."""
        if self.distance == 0:
            return 0.0
        return self.distance / self.reference if self.reference else math.inf

    @property
    def ratio(self) -> float:
        """The multiple of the reference that lies nearest to the candidate: ⟨candidate, reference⟩ / ‖reference‖²."""
        if not self.reference:
            return math.nan
        projection = self.reference**2 + self.candidate**2 - self.distance**2
        return projection / (2 * self.reference**2)


Differences = dict[str, Difference]


class Packed:
    """Tensors by name, laid out so that many small ones take one operation, and large ones are not copied.

    With ``like`` they are laid out as those are: names that only the other has read as zeros, extra ones are left out.

    >>> ours, theirs = Packed({"w": torch.tensor([3.0, 4.0])}), Packed({"w": torch.tensor([3.0, 0.0])})
    >>> ours.norms(), ours.norms(theirs)
    ([5.0], [4.0])
    """

    @torch.no_grad()
    def __init__(self, tensors: dict[str, Tensor], like: Packed | None = None) -> None:
        if like is None:
            self._small_names = [name for name, tensor in tensors.items() if tensor.numel() <= _SMALL]
            self._large_names = [name for name, tensor in tensors.items() if tensor.numel() > _SMALL]
            sizes = torch.tensor([tensors[name].numel() for name in self._small_names], dtype=torch.int64)
            self._device = next(iter(tensors.values())).device if tensors else torch.device("cpu")
            self._owner = torch.repeat_interleave(sizes).to(self._device)  # of each packed element, its tensor's place
        else:
            self._small_names, self._large_names = like._small_names, like._large_names
            self._device, self._owner = like._device, like._owner
            absent = [name for name in like.names if name not in tensors]
            tensors = {**tensors, **{name: torch.zeros_like(like._tensors[name]) for name in absent}}
        self._tensors: dict[str, Tensor] = tensors
        small = [tensors[name].reshape(-1) for name in self._small_names]
        if any(tensor.device != self._device for tensor in small):  # some optimizers count their steps on the CPU
            small = [tensor.to(self._device) for tensor in small]
        self._large = [tensors[name].reshape(-1) for name in self._large_names]
        self._small = torch.cat(small).double() if small else torch.zeros(0, dtype=torch.float64, device=self._device)

    @property
    def names(self) -> list[str]:
        """In the order of ``norms``."""
        return self._small_names + self._large_names

    @torch.no_grad()
    def norms(self, minus: Packed | None = None) -> list[float]:
        """‖tensor‖, or ‖tensor − other‖, in the order of ``names``."""
        values = self._small if minus is None else self._small - minus._small
        sums = torch.zeros(len(self._small_names), dtype=values.dtype, device=values.device)
        squares = sums.index_add_(0, self._owner, values * values).tolist()
        if self._large:
            large = self._large if minus is None else map(torch.sub, self._large, minus._large)
            squares += torch.stack([_square(tensor) for tensor in large]).tolist()
        return [math.sqrt(square) for square in squares]

    def differences(self, *norms: list[float]) -> Differences:
        """One ``Difference`` per name, from its fields' norms."""
        return {name: Difference(*values) for name, values in zip(self.names, zip(*norms, strict=True), strict=True)}


def _square(tensor: Tensor) -> Tensor:
    # Float32 stays as it is: to widen large tensors costs more than the difference.
    wide = tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
    return torch.dot(wide, wide)
