"""What was seen of a run of a script: micro-batches drawn, backward passes, optimizer steps. Data only."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

Reduction = Literal["mean", "sum", "none"]
Law = Literal["sample", "token"]


@dataclass(eq=False, slots=True)
class Batch:
    """A micro-batch as a loader gave it; ``place`` counts those of its epoch. ``loader`` is -1 where there is none."""

    number: int
    loader: int
    epoch: int
    place: int
    rows: int
    counts: tuple[
        float, ...
    ] = ()  # of its whole numbers: those not ignored, all, those not zero; what a loss may divide by
    samples: tuple[int, ...] = ()  # their indices, where several ranks train together and a sampler draws them
    tensors: list[Tensor] = field(default_factory=list, repr=False)  # dropped when the batch is used or passed over

    @property
    def key(self) -> tuple[int, int]:
        """Epoch and place."""
        return self.epoch, self.place


@dataclass(frozen=True, slots=True)
class Part:
    """What one backward pass sent into one micro-batch by one term of the loss.

    Of each row of the micro-batch: ``units`` (its unmasked tokens or elements, or its class weight) and ``weights``,
    the factors before the losses of its units, summed. ``even`` tells whether units of one row weigh the same.
    """

    term: str
    batch: Batch
    reduction: Reduction
    units: tuple[float, ...]
    weights: tuple[float, ...]
    even: bool = True
    sure: bool = False  # the term's target is the micro-batch's own
    contrasts: bool = False  # as many classes as rows, and targets that are not the loader's
    formula: bool = False  # no loss operation of torch, so its rows may be something else than samples
    hidden: bool = False  # the loss as a whole: what it is made of was not seen
    nonlinear: str = ""  # what is applied to the micro-batch's mean

    @property
    def total(self) -> float:
        """The factor before the micro-batch's mean loss."""
        return sum(self.weights)


@dataclass(frozen=True, slots=True)
class Pass:
    """A backward pass; ``opaque`` says why its loss could not be read."""

    number: int
    parts: tuple[Part, ...]
    opaque: str = ""
    rates: dict[int, tuple[float, ...]] = field(default_factory=dict)  # by optimizer, when it was made


@dataclass(frozen=True, slots=True)
class Update:
    """An optimizer step: how each pass in its gradient was scaled since, clipping apart.

    ``since`` are the passes since the step before. ``clips`` counts, for each pass, the clippings that changed the
    gradient and all calls; ``spread`` tells whether a pass was scaled differently in different tensors, though all
    passes alike; ``lost`` are passes that are in some tensors only, ``changed`` is set where buffers were changed in an
    unknown way.
    """

    optimizer: int
    rates: tuple[float, ...]
    calls: int  # of scheduler.step() since the update before
    factors: dict[int, float]
    since: tuple[int, ...]
    clips: dict[int, tuple[int, int]]
    lost: dict[int, tuple[str, ...]] = field(default_factory=dict)  # pass -> names of tensors without it
    kept: dict[int, tuple[str, ...]] = field(default_factory=dict)  # pass of an earlier window -> tensors that hold it
    spread: bool = False
    changed: bool = False
    clipped: bool = False
    evaluations: int = 0
    dtypes: frozenset[str] = frozenset()
    empty: bool = False
    exchanged: dict[int, tuple[int, ...]] = field(default_factory=dict)  # pass -> exchanges since, as they are numbered
    values: Tensor | None = None  # of several ranks: the elements of its gradients that are read
    apart: bool = False  # ranks step with different gradients or learning rates


@dataclass(frozen=True)
class Exchange:
    """A change of gradients that was no pass, clearing or scaling, where several ranks train: perhaps a sum over them.

    ``before`` and ``after`` are the elements that are read, a row for each gradient that changed.
    """

    before: Tensor
    after: Tensor


@dataclass
class Loader:
    """A data loader, or several over one data set; ``ends`` are the epochs that were drawn to their end."""

    number: int
    length: int | None = None
    ends: set[int] = field(default_factory=set)


@dataclass
class Schedule:
    """A learning-rate scheduler; ``length`` is how many calls it is made for, where it has such a number."""

    kind: str
    length: int | None
    calls: int = 0


@dataclass
class Log:
    """All that was seen."""

    batches: list[Batch] = field(default_factory=list)
    passes: list[Pass] = field(default_factory=list)
    updates: list[Update] = field(default_factory=list)
    touched: dict[int, list[int]] = field(default_factory=dict)  # optimizer -> passes that reached its parameters
    overflowed: dict[int, set[int]] = field(default_factory=dict)  # optimizer -> passes cleared while not finite
    loaders: dict[int, Loader] = field(default_factory=dict)
    optimizers: list[str] = field(default_factory=list)
    schedules: dict[int, Schedule] = field(default_factory=dict)
    hints: dict[str, set[int]] = field(default_factory=dict)  # values of what may be named for accumulation steps
    facts: Counter[str] = field(default_factory=Counter)
    exchanges: list[Exchange] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)  # why the run cannot be judged, nor ranks be put together
    notes: list[str] = field(default_factory=list)  # what was taken for granted when they were
    uneven: dict[tuple[str, Law], str] = field(default_factory=dict)  # term, law -> where ranks hold unequal shares
    ranks: int = 1
    sites: dict[str, str] = field(default_factory=dict)  # lines of the script that call backward, step, zero_grad
    error: str | None = None  # how the script failed, on this rank
