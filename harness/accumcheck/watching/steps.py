"""Watches the optimizer steps of a loop from outside: final gradients, the update they make, learning rates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

Tensors = dict[str, Tensor]


class HasParameters(Protocol):
    """A model, or whatever knows the parameters to be watched."""

    def named_parameters(self) -> Iterator[tuple[str, Any]]:
        """All of them, by unique names."""


@dataclass
class Update:
    """One optimizer step while it happens. Its tensors are the live ones: clone what must outlast the step."""

    step: int
    optimizer: Optimizer
    parameters: Tensors
    evaluations: int = 0  # calls of a closure so far

    @property
    def gradients(self) -> Tensors:
        """The gradients in the buffers, by parameter name; a missing one reads as zeros, a sparse one as dense.

        A sharded one (a DTensor, under FSDP) is gathered: then all ranks must ask.
        """
        scale = getattr(self.optimizer, "grad_scale", None)  # set while a fused optimizer is to unscale by itself
        gradients = {}
        for name, parameter in self.parameters.items():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.detach()
            gradient = gradient.to_dense() if gradient.is_sparse else gradient
            if hasattr(gradient, "full_tensor"):  # a DTensor, whose import costs a second
                gradient = gradient.full_tensor()
            gradients[name] = gradient if scale is None else gradient / scale
        return gradients

    @property
    def settings(self) -> dict[str, dict[str, float]]:
        """The numbers of each parameter's group (lr, momentum, ...), by parameter name."""
        names = {id(parameter): name for name, parameter in self.parameters.items()}
        found = {}
        for group in self.optimizer.param_groups:
            numbers = dict(_numbers(group, self.optimizer.defaults))
            found.update({names[id(each)]: numbers for each in group["params"] if id(each) in names})
        return found

    @property
    def learning_rates(self) -> dict[str, float]:
        """By parameter name, as loops are free to group their parameters."""
        return {name: numbers["lr"] for name, numbers in self.settings.items() if "lr" in numbers}

    @property
    def state(self) -> Tensors:
        """The optimizer's state tensors, as ``name/key``; on torch's own optimizers scalars such as ``step`` too."""
        return {
            f"{name}/{key}": torch.as_tensor(value)
            for name, parameter in self.parameters.items()
            for key, value in self.optimizer.state.get(parameter, {}).items()
            if isinstance(value, Tensor | float | int)
        }


def _numbers(group: dict[str, Any], known: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """A parameter group's numbers that the optimizer knows; of a pair such as Adam's betas each."""
    for key, value in group.items():
        if key != "lr" and key not in known:
            continue
        several = value if isinstance(value, tuple | list) else (value,)
        for place, each in enumerate(several):
            if isinstance(each, Tensor) and each.numel() == 1:
                each = each.item()  # noqa: PLW2901
            if isinstance(each, int | float) and not isinstance(each, bool):
                yield key if len(several) == 1 else f"{key}[{place}]", float(each)


@contextmanager
def watch(
    model: HasParameters,
    before: Callable[[Update], object],
    after: Callable[[Update], object],
    stranger: Callable[[Optimizer], object] | None = None,
) -> Iterator[None]:
    """Call ``before`` and ``after`` around every update that any optimizer makes to ``model`` inside the block.

    ``before`` sees the gradients that the update is made with. They are final later than one may think: a step hook of
    the optimizer may still change them, and a closure computes them inside ``step``. So ``before`` runs after the last
    hook, and after the closure where there is one (after its first call, where an optimizer such as LBFGS makes
    several). A step inside another step, as wrappers and subclasses make, is part of the outer one.

    All hooks are gone when the block ends, however it ends. An optimizer without any of the model's parameters is not
    watched; ``stranger`` is told of its steps. An update without ``torch.optim.Optimizer.step`` is not seen either.
    """
    steps = 0
    stepping: list[Optimizer] = []  # the outermost first
    current: Update | None = None
    seen = False
    handles = ExitStack()

    def see() -> None:
        nonlocal seen
        if current is not None and not seen:
            seen = True
            before(current)

    def on_step(optimizer: Optimizer, *_: Any) -> None:
        nonlocal current, seen
        # Anew at each step: the loop may give the model other parameters, as fully_shard does.
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        parameters = {
            names[id(parameter)]: parameter
            for group in optimizer.param_groups
            for parameter in group["params"]
            if id(parameter) in names
        }
        if not parameters:
            if stranger is not None and not stepping:
                stranger(optimizer)
            return
        stepping.append(optimizer)
        if len(stepping) == 1:
            current, seen = Update(steps, optimizer, parameters), False
            # Registered now, so that it runs behind every hook that the loop has given its optimizer.
            handles.callback(optimizer.register_step_pre_hook(on_final_gradients).remove)

    def on_final_gradients(
        optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if not callable(closure):
            see()
            return None

        def watched_closure() -> Any:
            with torch.enable_grad():
                loss = closure()
            if current is not None:
                current.evaluations += 1
            see()
            return loss

        if len(args) > 1:
            return (args[0], watched_closure, *args[2:]), kwargs
        return args, {**kwargs, "closure": watched_closure}

    def on_stepped(optimizer: Optimizer, *_: Any) -> None:
        nonlocal current, steps
        if not stepping or stepping[-1] is not optimizer:
            return
        stepping.pop()
        if current is None or stepping:
            return
        see()  # an optimizer that was given a closure and never called it
        handles.close()
        update, current = current, None
        steps += 1
        after(update)

    with ExitStack() as hooks:
        hooks.callback(register_optimizer_step_pre_hook(on_step).remove)
        hooks.callback(register_optimizer_step_post_hook(on_stepped).remove)
        hooks.callback(handles.close)
        yield


def copied(tensors: Tensors) -> Tensors:
    """Detached clones, by the same names."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
