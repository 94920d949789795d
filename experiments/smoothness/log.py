"""What a training shows of its loss: the log of every sample, and the curves that three loggers make of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from accumcheck.corpus.problems import PROBLEMS
from accumcheck.corpus.published import accumulate_samples
from accumcheck.task import Sizes
from accumcheck.training.problem import Case
from torch import Tensor
from torch.nn import functional as F
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import TensorDataset

from experiments.lab.runner import Row

HELD_OUT = 256  # samples behind those that are trained on, which tell the mean and the variance of the loss


@dataclass
class Log:
    """The loss of every sample that a training learns from, and mean and variance of held-out ones at each update."""

    b: int
    k: int
    samples: list[Tensor] = field(default_factory=list)
    curve: list[float] = field(default_factory=list)
    variance: list[float] = field(default_factory=list)

    def recordings(self) -> dict[str, Tensor]:
        """The curve as three loggers draw it."""
        micro = torch.stack([losses.mean() for losses in self.samples])
        windows = micro.view(-1, self.k)
        return {"micro-batch": micro, "last micro-batch": windows[:, -1], "window": windows.mean(dim=1)}

    def jumps(self) -> list[Row]:
        """For every recording its jumpiness, and in theory: of the noise, of the expected loss, and of both."""
        variance, own = sum(self.variance) / len(self.variance), jumpiness(torch.tensor(self.curve))
        rows = []
        for recording, points in self.recordings().items():
            m = self.b * self.k if recording == "window" else self.b
            # The expected loss changes at updates alone, so only one in so many differences has its share.
            points_per_update = len(points) / len(self.curve)
            noise, curve = math.sqrt(variance / m), own / math.sqrt(points_per_update)
            measured = {"recording": recording, "m": m, "points": len(points), "jumpiness": jumpiness(points)}
            theory = {"theory": math.hypot(noise, curve), "noise": noise, "curve": curve}
            rows.append({**measured, **theory, "final": self.curve[-1]})
        return rows


def train(problem: str, b: int, k: int, rate: float, seed: int, samples: int) -> Log:
    """One pass over the data with the correct loop at a constant rate, logged."""
    case = Case(PROBLEMS[problem], Sizes(samples + HELD_OUT, b, k, epochs=1), dtype="float32", seed=seed)
    tensors = case.dataset().tensors
    inputs, targets = (tensor[samples:] for tensor in tensors)
    task = case.task(TensorDataset(*(tensor[:samples] for tensor in tensors)))
    optimizer = SGD(task.model.parameters(), lr=rate)
    log = Log(b, k)

    def loss_fn(outputs: Tensor, targets: Tensor) -> Tensor:
        log.samples.append(_sample_losses(outputs.detach(), targets))
        return task.loss_fn(outputs, targets)

    def survey(*_: object) -> None:
        with torch.no_grad():
            every = _sample_losses(task.model(inputs), targets)
        log.curve.append(float(every.mean()))
        log.variance.append(float(every.var()))

    optimizer.register_step_pre_hook(survey)
    constant = LambdaLR(optimizer, lambda _: 1.0)
    accumulate_samples(replace(task, optimizer=optimizer, scheduler=constant, loss_fn=loss_fn))
    return log


def jumpiness(points: Tensor) -> float:
    """Root mean square difference of neighbours, over √2: the standard deviation where there is no trend.

    >>> round(jumpiness(torch.tensor([1.0, -1.0, 1.0, -1.0])), 3)
    1.414
    """
    return math.sqrt(float(points.diff().square().mean()) / 2)


def _sample_losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of every sample: of its class, or the mean over its tokens."""
    every = F.cross_entropy(outputs.flatten(0, -2), targets.flatten(), reduction="none")
    return every.view(len(targets), -1).mean(dim=1)
