"""Many trainings at once: models that differ in learning rate and seed, stacked into one task that any loop can train.

A training of a small model costs little arithmetic and many calls; stacked, dozens of them cost as many calls as one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from accumcheck.task import Sizes, Task
from accumcheck.training.problem import seeded
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset


class Stack(nn.Module):
    """One model for every learning rate and seed; parameters are (rates · seeds, ...), and no two models touch.

    Inputs are (n, seeds, ...), as every seed has samples of its own; outputs are (n, rates · seeds, ...).
    """

    def __init__(self, factory: Callable[[], nn.Module], rates: int, seeds: Sequence[int]) -> None:
        super().__init__()
        models = [seeded(factory, seed) for seed in seeds]
        self._one = [models[0]]  # in a list, so that its own parameters are not registered
        self._rates = rates
        self.stacked = nn.ParameterList(
            torch.stack(same).detach().repeat(rates, *[1] * same[0].dim())
            for same in zip(*(model.parameters() for model in models), strict=True)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """The outputs of every model."""
        [one] = self._one
        names = [name for name, _ in one.named_parameters()]

        def call(parameters: list[Tensor], inputs: Tensor) -> Tensor:
            outputs: Tensor = functional_call(one, dict(zip(names, parameters, strict=True)), (inputs,))
            return outputs

        repeated = inputs.repeat(1, self._rates, *[1] * (inputs.dim() - 2))
        outputs: Tensor = torch.vmap(call, in_dims=(0, 1), out_dims=1)(list(self.stacked), repeated)
        return outputs


def losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of every model, (rates · seeds,), from outputs (n, rates · seeds, classes)."""
    targets = targets.repeat(1, outputs.shape[1] // targets.shape[1])
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape).mean(0)


def summed_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss whose gradient is, for every model of the stack, that of its own mean loss."""
    return losses(outputs, targets).sum()


def scale_updates(optimizer: Optimizer, rates: Tensor) -> None:
    """Give every model its own learning rate: an update made at a rate of 1 is scaled by ``rates`` (rates · seeds,).

    Right for every optimizer whose update is proportional to the learning rate, such as SGD and AdamW.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    before: list[Tensor] = []

    def remember(*_: object) -> None:
        before[:] = [parameter.detach().clone() for parameter in parameters]

    def scale(*_: object) -> None:
        with torch.no_grad():
            for parameter, old in zip(parameters, before, strict=True):
                parameter.sub_(old).mul_(rates.view(-1, *[1] * (old.dim() - 1))).add_(old)

    optimizer.register_step_pre_hook(remember)
    optimizer.register_step_post_hook(scale)


def stacked_task(
    factory: Callable[[], nn.Module],
    datasets: Sequence[TensorDataset],
    make_optimizer: Callable[..., Optimizer],
    rates: Sequence[float],
    *,
    micro_batch_size: int,
    accumulation_steps: int,
    epochs: int,
) -> Task:
    """A task for every rate and every data set; a data set's place is the seed of its model. Shuffled at every epoch.

    The order of samples depends on nothing but the epoch; the learning rate is constant.
    """
    seeds = range(len(datasets))
    model = Stack(factory, len(rates), seeds)
    optimizer = make_optimizer(model.parameters(), lr=1.0)
    scale_updates(optimizer, torch.tensor(rates).repeat_interleave(len(seeds)))
    dataset = TensorDataset(
        *(torch.stack(same, dim=1) for same in zip(*(data.tensors for data in datasets), strict=True))
    )
    sizes = Sizes(len(dataset), micro_batch_size, accumulation_steps, epochs)
    loader = DataLoader(dataset, micro_batch_size, shuffle=True, generator=torch.Generator().manual_seed(0))
    constant = LambdaLR(optimizer, lambda _: 1.0)
    return Task.build(model, optimizer, summed_loss, dataset, sizes, loader=loader, scheduler=constant)
