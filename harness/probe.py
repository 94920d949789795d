"""Reads the contribution matrix off a running loop: which sample went into which update, and with what weight.

The loop trains a model in which every sample (for token objectives, every token) owns a row of parameters; its inputs
are the numbers of those rows. So a row of the gradient holds one sample's contribution and nothing else, and no two
contributions are rounded together. Parameters are put back to zero after every step, where all responses are alike.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import count

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD
from torch.optim.lr_scheduler import ExponentialLR
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

from harness.ambient import Modes, RandomStream
from harness.data import unmasked
from harness.deadline import TimeUpError, within
from harness.problems import cross_entropy
from harness.recorder import Update, watch
from harness.task import IGNORE_INDEX, Loop, LoopError, Objective, Sizes, Task, as_loader, name_of

LOW, HIGH = 2.0**-10, 2.0**10  # gains: gradients of order 1e-3 stay below a clipping threshold, of order 1e3 do not
CLASSES = 8  # softmax of zeros is 1/8, which is exact
TOKENS = 4  # the longest sample
RATE, DECAY = 0.1, 0.98  # the first learning rate, and what it is multiplied with at each scheduler step
TIME_LIMIT = 60.0  # seconds for one training run of a probe

Row = list[float]


@dataclass(frozen=True)
class Contribution:
    """What a backward pass sent into the samples of one micro-batch, on the way to optimizer step ``step``.

    ``weights`` are in units of the gradient of each sample's summed loss, before anything is done to ``.grad``.
    """

    step: int
    samples: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass
class Reading:
    """What one run of a loop showed.

    ``matrix[s][i]`` is the weight with which sample i went into update s: the factor before the gradient of its summed
    loss. ``contributions`` are in the order of forward passes; those whose ``step`` is ``len(matrix)`` were never
    applied. ``shared[s]`` is the gradient of parameters that all samples share, and ``implied[s]`` what the matrix
    makes of it. ``directions`` (samples, elements) holds each sample's first gradient at length 1, and
    ``random_draws`` counts, by operation, what drew from torch's global random stream. ``dtypes`` are those of the
    gradients.
    """

    loop: str
    objective: Objective
    sizes: Sizes
    units: tuple[int, ...]
    matrix: list[Row]
    learning_rates: list[float]
    contributions: list[Contribution]
    shared: list[Row]
    implied: list[Row]
    directions: Tensor
    passes: int = 0
    random_draws: dict[str, int] = field(default_factory=dict)
    dtypes: frozenset[torch.dtype] = frozenset()

    @cached_property
    def exact(self) -> list[list[Fraction | float]]:
        """The matrix with each weight as the fraction that it is, where it is one."""
        return [[exact(weight) for weight in row] for row in self.matrix]


def probe(
    train: Loop,
    sizes: Sizes,
    objective: Objective = "sample",
    *,
    gain: float = LOW,
    seed: int = 0,
    shuffle: bool = False,
    micro_batches: list[list[int]] | None = None,
    device: str = "cpu",
    time_limit: float = TIME_LIMIT,
) -> Reading:
    """Run a loop on a probe model and read its contribution matrix.

    ``gain`` scales all gradients, for clipping. With ``shuffle`` the loader draws its order from the global random
    stream, as most loaders do, and draws are counted. ``micro_batches`` lists the samples of each, where they are not
    the next b of the data set: such as a data-parallel rank's. What the loop prints is dropped; random streams, modes,
    default dtype, threads and environment are as before when it returns.

    The matrix is the loop's own if its weights do not depend on the data or the model; and if its loss is ``loss_fn``,
    or cross-entropy on the model's logits.

    Raises LoopError when the loop raises, takes longer than ``time_limit`` seconds, or yields gradients that are not
    finite. A loop that makes no step has a matrix without rows.

    >>> from harness.loops import published_fix
    >>> for row in probe(published_fix, Sizes(samples=3, accumulation_steps=2, epochs=1)).exact:
    ...     print(*row)
    1/2 1/2 0
    0 0 1/2
    """
    with _one_thread():
        run = _Run(sizes, objective, gain, seed, shuffle, micro_batches, device)
        try:
            with RandomStream(seed).active(), _quiet(), run.watched():
                Modes().resume()
                within(time_limit, lambda: train(run.task))
        except TimeUpError:
            raise LoopError(
                f"{name_of(train)} did not end within {time_limit:g} seconds at {sizes} ({run.steps} optimizer steps): "
                "look for a loop without end, or raise the time limit"
            ) from None
        except LoopError:
            raise
        except (Exception, SystemExit) as error:
            where = f"at {sizes}, after {run.steps} optimizer steps"
            raise LoopError(f"{name_of(train)} raised {type(error).__name__} {where}: {error}") from error
        return run.reading(name_of(train))


class ProbeModel(nn.Module):
    """Row i of ``weight`` is all that the output for input i depends on, but for ``bias``, which all outputs share."""

    def __init__(self, rows: int, gain: float) -> None:
        super().__init__()
        self.gain = gain
        self.weight = nn.Parameter(torch.zeros(rows, CLASSES, dtype=torch.float64))
        self.bias = nn.Parameter(torch.zeros(CLASSES, dtype=torch.float64))
        self.passes: list[tuple[int, Tensor, Tensor]] = []  # forward pass, its inputs, the gradient of its outputs
        self.numbers = count()

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (batch, classes) for rows (batch,), or (batch, time, classes) for rows (batch, time)."""
        logits = self.gain * (F.embedding(inputs.long(), self.weight) + self.bias)
        if logits.requires_grad:
            number = next(self.numbers)
            logits.register_hook(lambda gradient: self.passes.append((number, inputs.detach(), gradient.detach())))
        return logits


class _Loader(DataLoader[tuple[Tensor, ...]]):
    """A data loader that counts how often it is gone through."""

    passes = 0

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:  # type: ignore[override]
        self.passes += 1
        return super().__iter__()


class _Draws(TorchDispatchMode):
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


class _Run:
    """One run while it happens: its task, and the notes taken at its steps."""

    def __init__(
        self,
        sizes: Sizes,
        objective: Objective,
        gain: float,
        seed: int,
        shuffle: bool,
        micro_batches: list[list[int]] | None,
        device: str,
    ) -> None:
        self.sizes, self.objective, self.gain = sizes, objective, gain
        inputs, targets = samples_of(sizes.samples, objective, seed)
        self.targets = targets.flatten().clone()  # the loop may change the data set
        self.units = [1] * len(targets) if objective == "sample" else [unmasked(row) for row in targets]
        self.model = ProbeModel(targets.numel(), gain).to(device)
        optimizer = SGD(self.model.parameters(), lr=RATE)
        dataset = TensorDataset(inputs.to(device), targets.to(device))
        self.loader = _Loader(dataset, sizes.micro_batch_size, shuffle=True) if shuffle else None
        self.task = Task(
            model=self.model,
            optimizer=optimizer,
            scheduler=ExponentialLR(optimizer, gamma=DECAY),
            loss_fn=cross_entropy,
            loader=self.loader or as_loader(dataset, sizes.micro_batch_size, micro_batches),
            dataset=dataset,
            micro_batch_size=sizes.micro_batch_size,
            accumulation_steps=sizes.accumulation_steps,
            epochs=sizes.epochs,
            device=torch.device(device),
        )
        self.draws = _Draws() if shuffle else None
        self.gradients: list[tuple[Tensor, Tensor]] = []
        self.seen: list[int] = []  # passes that each step has seen; later ones are the next step's
        self.learning_rates: list[float] = []
        self.empty_steps: list[tuple[int, float]] = []

    @property
    def steps(self) -> int:
        return len(self.gradients)

    @contextmanager
    def watched(self) -> Iterator[None]:
        with watch(self.model, self.before, self.after):
            if self.draws:
                with self.draws:
                    yield
            else:
                yield

    def before(self, update: Update) -> None:
        weight = update.parameters.get("weight")
        self.inside = len(self.model.passes)
        if weight is None or all(parameter.grad is None for parameter in update.parameters.values()):
            # Torch's optimizers do nothing at such a step.
            self.empty_steps.append((len(self.model.passes), max(update.learning_rates.values(), default=0.0)))
            return
        gradients = update.gradients
        shared = gradients.get("bias")
        self.gradients.append((gradients["weight"].clone(), torch.zeros(CLASSES) if shared is None else shared.clone()))
        self.seen.append(len(self.model.passes))
        self.learning_rates.append(update.learning_rates["weight"])

    def after(self, update: Update) -> None:
        # Further evaluations that an optimizer makes inside of its step are its own business.
        del self.model.passes[self.inside :]
        with torch.no_grad():
            for parameter in (self.model.weight, self.model.bias):
                parameter.zero_()

    def reading(self, loop: str) -> Reading:
        if not self.gradients:
            self._empty_steps_count()
        rows = self.targets.numel() // self.sizes.samples
        responses = responses_of(self.targets)
        squares = (responses * responses).sum(dim=1).clamp(min=1e-30)
        width = torch.tensor(self.units, dtype=torch.float64)

        def weights(gradients: Tensor) -> Tensor:
            by_row = (gradients * responses).sum(dim=-1) / squares
            per_sample: Tensor = by_row.unflatten(-1, (self.sizes.samples, rows)).sum(dim=-1) / width
            return per_sample

        none = torch.zeros(0, len(self.targets), CLASSES), torch.zeros(0, CLASSES)
        weight, bias = map(torch.stack, zip(*self.gradients, strict=True)) if self.gradients else none
        found, shared = weight.double().cpu() / self.gain, bias.double().cpu() / self.gain
        wrong = ~torch.cat([found.flatten(1), shared], dim=1).isfinite().all(dim=1)
        if wrong.any():
            raise LoopError(
                f"{loop} steps with a gradient that is not finite at step {int(wrong.nonzero()[0])}, {self.sizes}: "
                "look for a division by zero, or a loss that is not finite"
            )
        matrix = weights(found)
        sums = responses.view(self.sizes.samples, rows, CLASSES).sum(dim=1)
        return Reading(
            loop=loop,
            objective=self.objective,
            sizes=self.sizes,
            units=tuple(self.units),
            matrix=matrix.tolist(),
            learning_rates=self.learning_rates,
            contributions=self._contributions(responses, squares, rows),
            shared=shared.tolist(),
            implied=(matrix @ sums).tolist(),
            directions=_directions(found.view(len(found), self.sizes.samples, rows * CLASSES)),
            passes=self.loader.passes if self.loader else 0,
            random_draws=self.draws.counts if self.draws else {},
            dtypes=frozenset(weight.dtype for weight, _ in self.gradients),
        )

    def _empty_steps_count(self) -> None:
        """No step had a gradient: then those steps are the loop's updates, and made of nothing."""
        for passes, learning_rate in self.empty_steps:
            zeros = torch.zeros(len(self.targets), CLASSES)
            self.gradients.append((zeros, zeros[0]))
            self.seen.append(passes)
            self.learning_rates.append(learning_rate)

    def _contributions(self, responses: Tensor, squares: Tensor, rows: int) -> list[Contribution]:
        if not self.model.passes:
            return []
        numbers = [number for number, *_ in self.model.passes]
        inputs = torch.cat([inputs.reshape(-1) for _, inputs, _ in self.model.passes]).long().cpu()
        gradients = torch.cat([g.reshape(-1, CLASSES) for *_, g in self.model.passes]).double().cpu()
        values = ((gradients * responses[inputs]).sum(dim=1) / squares[inputs]).tolist()
        samples = (inputs // rows).tolist()
        lengths = [inputs.numel() for _, inputs, _ in self.model.passes]
        found, start, step = [], 0, 0
        for place, (number, length) in enumerate(zip(numbers, lengths, strict=True)):
            while step < len(self.seen) and self.seen[step] <= place:
                step += 1
            sums: dict[int, float] = {}
            for sample, value in zip(samples[start : start + length], values[start : start + length], strict=True):
                sums[sample] = sums.get(sample, 0.0) + value / self.units[sample]
            found.append((step, number, Contribution(step, tuple(sums), tuple(sums.values()))))
            start += length
        return [contribution for *_, contribution in sorted(found, key=lambda item: item[:2])]


def samples_of(samples: int, objective: Objective, seed: int) -> tuple[Tensor, Tensor]:
    """Row numbers, and targets; for tokens (samples, TOKENS), of unequal lengths, the rest masked."""
    generator = torch.Generator().manual_seed(seed)
    if objective == "sample":
        return torch.arange(samples), torch.randint(CLASSES, (samples,), generator=generator)
    inputs = torch.arange(samples * TOKENS).view(samples, TOKENS)
    targets = torch.randint(CLASSES, (samples, TOKENS), generator=generator)
    # Neighbours never have equally many tokens, so that even micro-batches of one sample differ.
    steps = torch.randint(1, TOKENS, (samples,), generator=generator)
    lengths = steps.cumsum(dim=0) % TOKENS + 1
    targets[torch.arange(TOKENS) >= lengths[:, None]] = IGNORE_INDEX
    return inputs, targets


def responses_of(targets: Tensor) -> Tensor:
    """The gradient of each row's own cross-entropy at logits of zero, softmax − one-hot; zero for masked rows."""
    kept = targets != IGNORE_INDEX
    responses = 1 / CLASSES - F.one_hot(targets.where(kept, 0), CLASSES).double()
    return responses * kept[:, None]


def _directions(gradients: Tensor) -> Tensor:
    """The first gradient that each sample gets, scaled to length 1; from (steps, samples, elements)."""
    if not len(gradients):
        return gradients.new_zeros(gradients.shape[1:])
    norms = gradients.norm(dim=2)
    first = (norms > 0).double().argmax(dim=0)
    samples = torch.arange(len(first))
    directions: Tensor = gradients[first, samples] / norms[first, samples].clamp(min=1e-300)[:, None]
    return directions


def exact(weight: float) -> Fraction | float:
    """The fraction that a weight is, to the precision of float64, else of float32; else the weight itself.

    >>> print(exact(1 / 3), exact(0.1428571492433548), exact(0.7310585786300049))
    1/3 1/7 0.7310585786300049
    """
    for denominator, precision in ((10_000, 1e-13), (300, 2e-7)):
        fraction = Fraction(weight).limit_denominator(denominator)
        if abs(weight - fraction) <= precision * abs(weight):
            return fraction
    return weight


@contextmanager
def _one_thread() -> Iterator[None]:
    # A pool of workers, woken for eight numbers, takes up to a hundred times longer where cores are busy.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop what the loop prints or warns of: it is run hundreds of times."""
    with redirect_stdout(_Nowhere()), redirect_stderr(_Nowhere()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class _Nowhere(io.TextIOBase):
    def write(self, text: str) -> int:
        return len(text)
