"""The terms of a loss, and with what weight each sample or token enters them, read from the autograd graph.

From the root of a backward pass the graph is followed through sums, means, products with numbers and views, to the
nodes where the losses of single samples, tokens or elements come from: a loss operation of torch, or the first
operation of a formula that is not linear. What arrives there in the backward pass is the weight of each. No loss
function is patched, and nothing is added to the graph but hooks that read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from accumcheck.scripts.log import Reduction

Node = Any  # torch.autograd.graph.Node, with what its operation has saved
LOSSES = ("NllLoss", "MseLoss", "SmoothL1Loss", "HuberLoss", "BinaryCrossEntropy", "SoftMarginLoss", "MultiMarginLoss",
          "MultilabelMarginLoss")  # fmt: skip
VIEWS = frozenset((
    "View", "UnsafeView", "ReshapeAlias", "Reshape", "Squeeze", "Unsqueeze", "Expand", "ToCopy", "Clone", "Alias",
    "Slice", "Transpose", "Permute", "T", "Select", "Index", "IndexSelect", "MaskedSelect", "MaskedFill", "Where",
    "Stack", "Cat", "Neg", "Unbind", "Split", "SplitWithSizes", "Rsub", "Copy", "NanToNum",
))  # fmt: skip
CURVED = frozenset((
    "Sqrt", "Log", "Exp", "Pow", "Clamp", "ClampMin", "Abs", "Maximum", "Minimum", "Logsumexp", "Log1P", "Sigmoid",
    "Tanh", "Relu", "Reciprocal", "Rsqrt",
))  # fmt: skip
CHOOSING = frozenset(("Topk", "Sort", "Kthvalue", "Median", "Quantile", "Max", "Min"))  # among the losses of samples
HEAVY = (
    "Addmm",
    "Mm",
    "Mv",
    "Dot",
    "Bmm",
    "Convolution",
    "Embedding",
    "NativeLayerNorm",
    "Baddbmm",
    "LogSoftmax",
    "Compiled",
)
REDUCTIONS: tuple[Reduction, ...] = ("none", "mean", "sum")  # by torch's own numbers
DEEPEST = 5000  # nodes between the root and its terms


@dataclass(eq=False)
class Term:
    """One term of a loss, with what is known of it before and after a backward pass.

    ``units`` and ``weights`` (rows,) are there after it: how many losses each row has, and their weights summed.
    """

    name: str
    node: Node
    order: int
    reduction: Reduction
    shape: tuple[int, ...]
    nonlinear: str = ""
    output: int = 0  # of the node's, the one that the loss is made of
    hidden: bool = False  # a whole loss, computed where its terms cannot be seen
    summed_inside: bool = False  # a mean of sums over a row's elements
    target: Tensor | None = None
    copy: Tensor | None = None  # of the target, on the CPU
    ignore: int | None = None
    class_weights: Tensor | None = None
    classes: int = 0
    mask: Tensor | None = None
    class_dim: int | None = None  # where the node is the log-softmax of a cross-entropy
    source: Node = None  # what the loss operation is applied to
    arrived: Tensor | None = None
    units: Tensor = field(default_factory=lambda: torch.zeros(0))
    weights: Tensor = field(default_factory=lambda: torch.zeros(0))
    even: bool = True

    def finish(self) -> None:
        """Work out units and weights from the gradient that has arrived."""
        if self.arrived is None:
            return
        with torch.no_grad():
            each, counted = self._elements(self.arrived.detach())
        self.arrived = None
        if each.dim() == 0:
            each, counted = each.view(1), counted.view(1)
        each, counted = each.reshape(len(each), -1), counted.reshape(len(counted), -1)
        self.weights, self.units = each.sum(1), counted.sum(1)
        self.even = is_even(each, counted)
        if self.summed_inside and self.even and len(set(self.units.tolist())) == 1:
            self.weights, self.units = self.weights / self.units, torch.ones(len(self.units), dtype=torch.float64)

    def _elements(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """The weight of every element's loss, and how much it counts."""
        if self.class_dim is not None:
            gradient = -gradient.sum(self.class_dim, dtype=torch.float64)
        gradient = gradient.double().cpu()
        counted = self._counted(gradient)
        if gradient.dim() == 0 and counted.dim():  # a loss operation has reduced by itself
            total = counted.sum()
            gradient = counted * (gradient / total if self.reduction == "mean" and total else gradient)
        return torch.where(counted != 0, gradient, 0.0), counted

    @property
    def here(self) -> Tensor | None:
        """The target, on the CPU: copied there once, as each copy waits for the device."""
        if self.target is not None and self.target.device.type != "cpu":
            if self.copy is None:
                self.copy = self.target.detach().cpu()
            return self.copy
        return self.target

    def _counted(self, gradient: Tensor) -> Tensor:
        if (target := self.here) is not None and self.ignore is not None:
            kept = target != self.ignore
            counted = kept.double()
            if self.class_weights is not None:
                counted = counted * self.class_weights.cpu().double()[target.where(kept, 0)]
            return counted
        if gradient.dim() == 0:
            return torch.ones(self.shape, dtype=torch.float64)
        if self.mask is not None:
            return self.mask.cpu().double().expand(gradient.shape)
        return (gradient != 0).double()


def is_even(weights: Tensor, units: Tensor) -> bool:
    """Whether in each row of ``[rows, elements]`` all that ``units`` counts has one weight a unit."""
    if weights.shape[1] == 1:
        return True
    there = units != 0
    each = weights[there] / units[there]
    if not each.numel() or bool(each.max() - each.min() <= 1e-5 * each.abs().max()):
        return True
    per_unit = torch.where(there, weights / units.clamp(min=1e-300), torch.nan)
    low, high = per_unit.nan_to_num(nan=torch.inf).amin(1), per_unit.nan_to_num(nan=-torch.inf).amax(1)
    uneven = (high - low) > 1e-5 * torch.maximum(low.abs(), high.abs())
    return not bool((uneven & there.any(1)).any())


def find_terms(roots: Sequence[Tensor]) -> list[Term]:
    """The terms of the losses ``roots``, in the order of the forward pass."""
    found: dict[Node, Term] = {}
    seen: set[tuple[Node, int]] = set()
    stack = [_Way(root.grad_fn, root.output_nr) for root in roots]
    while stack and len(seen) < DEEPEST:
        way = stack.pop()
        node = way.node
        if node is None or (node, way.output) in seen or _name(node) == "AccumulateGrad":
            continue
        seen.add((node, way.output))
        name, shape = _name(node), _shape(node, way.output)
        following = [each for each, _ in node.next_functions if each is not None]
        if name.startswith(LOSSES) and hasattr(node, "_saved_reduction"):
            term = _loss(name, way)
            known = found.get(term.node)
            if known is None or known.target is None:
                found[term.node] = term
            seen.add((term.node, 0))
        elif name in ("Mean", "Sum", "NanSum"):
            stack += way.on(
                reduction="mean" if name == "Mean" or way.reduction == "mean" else "sum",
                inside=way.inside or (name != "Mean" and way.reduction == "mean"),
            )
        elif (
            name in VIEWS
            or (shape == () and name in ("Add", "Sub", "Mul", "Div"))
            or (name in ("Mul", "Div") and len(following) == 1 and _by_number(node))
            or (name in ("Add", "Sub") and (len(following) == 1 or any(_name(e).startswith(LOSSES) for e in following)))
        ):
            stack += way.on()
        elif shape == () and name in CURVED:
            stack += way.on(nonlinear=f"{name.lower()} of {way.nonlinear}" if way.nonlinear else name.lower())
        elif name in CHOOSING and following and len(_shape(following[0]) or ()) < 2:
            stack += way.on(nonlinear=name.lower())
        elif not _of_parameters_only(node):
            found.setdefault(node, _formula(name, way, shape))
    return sorted(found.values(), key=lambda term: term.order)


@dataclass(frozen=True)
class _Way:
    """A node that is reached from the root, by one of its outputs, and what lies between."""

    node: Node
    output: int = 0
    reduction: Reduction = "none"
    nonlinear: str = ""
    inside: bool = False

    def on(self, **changes: Any) -> list[_Way]:
        """To the nodes behind it."""
        return [replace(self, node=node, output=output, **changes) for node, output in self.node.next_functions]


def _loss(name: str, way: _Way) -> Term:
    node = way.node
    own = REDUCTIONS[int(node._saved_reduction)]
    saved, target = node._saved_self, getattr(node, "_saved_target", None)
    source = next((each for each, _ in node.next_functions if each is not None), None)
    reduction = way.reduction if own == "none" else own
    term = Term(name, node, node._sequence_nr(), reduction, tuple(saved.shape), way.nonlinear, target=target)
    term.summed_inside, term.source = way.inside and own == "none", source
    if name.startswith("NllLoss"):
        term.ignore, term.class_weights = _signed(node._saved_ignore_index), node._saved_weight
        term.classes = saved.shape[1] if saved.dim() > 1 else 0
        if source is not None and _name(source) == "LogSoftmax":
            # There everything arrives that a smoothed loss sends by other ways too.
            term.node, term.class_dim = source, _signed(source._saved_dim)
            term.source = next((each for each, _ in source.next_functions if each is not None), None)
    return term


def _formula(name: str, way: _Way, shape: tuple[int, ...] | None) -> Term:
    node = way.node
    term = Term(name, node, node._sequence_nr(), way.reduction, shape or (), way.nonlinear, summed_inside=way.inside)
    term.output, term.hidden = way.output, shape == ()
    if name == "LogSoftmax":
        term.class_dim = _signed(node._saved_dim)
        term.source = next((each for each, _ in node.next_functions if each is not None), None)
    elif (
        name == "Mul"
        and (other := _other(node)) is not None
        and tuple(other.shape) == shape
        and not other.requires_grad
        and bool(((other == 0) | (other == 1)).all())
    ):
        term.mask = other.detach()
    return term


def _signed(value: int) -> int:
    """A number that is saved as unsigned."""
    return value - 2**64 if value >= 2**63 else value


def _name(node: Node) -> str:
    name: str = node.name().split("::")[-1].split("Backward")[0]
    return name


def _shape(node: Node, output: int = 0) -> tuple[int, ...] | None:
    with suppress(Exception):
        return tuple(node._input_metadata[output].shape)
    return None


def _other(node: Node) -> Tensor | None:
    """The factor of a product that has no gradient."""
    for name in ("_saved_other", "_saved_self"):
        with suppress(RuntimeError):
            if isinstance(tensor := getattr(node, name, None), Tensor):
                return tensor
    return None


def _by_number(node: Node) -> bool:
    other = _other(node)
    return other is None or other.dim() == 0


def _of_parameters_only(node: Node, limit: int = 24) -> bool:
    """Whether a term is a penalty: nothing but parameters goes into it, through a few operations."""
    stack, count = [node], 0
    while stack:
        each = stack.pop()
        count += 1
        following = [n for n, _ in each.next_functions if n is not None]
        if count > limit or _name(each).startswith(HEAVY) or (not following and _name(each) != "AccumulateGrad"):
            return False
        data = _other(each)
        if data is not None and data.dim() and not data.requires_grad and len(following) < 2:
            return False
        stack += following
    return True


def reached(roots: Sequence[Tensor]) -> set[int]:
    """The ids of all parameters whose gradients a backward pass adds to."""
    found: set[int] = set()
    seen: set[Node] = set()
    stack = [root.grad_fn for root in roots]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        stack += [each for each, _ in node.next_functions]
    return found


@contextmanager
def reading(terms: Sequence[Term]) -> Iterator[None]:
    """Keep what arrives at each term in the backward pass inside the block."""

    def keep(term: Term) -> Callable[[Sequence[Tensor | None]], None]:
        def hook(gradients: Sequence[Tensor | None]) -> None:
            term.arrived = gradients[term.output]

        return hook

    with ExitStack() as hooks:
        for term in terms:
            hooks.callback(term.node.register_prehook(keep(term)).remove)
        yield


def joined(terms: Sequence[Term]) -> list[Term]:
    """Terms of one kind that are applied to one output, as mixup has them, put together. Call it after ``finish``."""
    found: list[Term] = []
    for term in terms:
        twin = next(
            (t for t in found if t.source is not None and t.source is term.source and t.name == term.name
             and t.weights.shape == term.weights.shape), None,
        )  # fmt: skip
        if twin is None:
            found.append(term)
        else:
            twin.weights = twin.weights + term.weights
    return found
