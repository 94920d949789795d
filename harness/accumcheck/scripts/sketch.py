"""Runs a script in a process of ``accumcheck compare``, and writes down what each of its updates is made with.

A *sketch* of a gradient is 64 sums of its elements, each element with a random sign that depends on the tensor's name
and shape only. Distances, norms and ratios of sketches are, in the mean, those of the gradients.

torch is imported before the script runs, as by ``accumcheck run``. What torch reads once, when it is imported, is set
before the command (``OMP_NUM_THREADS=1 python train.py``): in the script it is too late.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import hashlib
import json
import os
import signal
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.weak import WeakTensorKeyDictionary

from accumcheck.scripts.batches import Draws, Pass, tensors_of
from accumcheck.scripts.execute import EnoughError, start
from accumcheck.scripts.log import Log
from accumcheck.scripts.watch import Wrapper, watch_loaders
from accumcheck.watching.steps import Update, watch

WIDTH = 64  # numbers in a sketch
CHUNK = 1 << 20  # elements that are summed at a time, in float64
PR_SET_PDEATHSIG = 1
DROPOUT = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")


def main() -> None:
    """Run the script that the request, the only argument, asks for; its exit status is the script's."""
    request = json.loads(sys.argv[1])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    observer = Observer(request)
    observer.install()
    try:
        start(request["script"], request["arguments"], module=request["module"])
    except BaseException:
        if not observer.enough:
            raise


@dataclass
class Drawn(Draws):
    """What loaders gave since the last step: number of the data set, its length, samples, what they hold."""

    since: list[tuple[int, int | None, list[str], list[str]]] = field(default_factory=list)

    def drawn(self, each: Pass, data: object) -> None:
        """A batch has come out of a loader."""
        index = each.indices.popleft() if each.indices else None
        if torch.is_grad_enabled():
            dataset: Any = self.kept[each.loader]
            length = None
            with suppress(Exception):  # not every data set has one
                length = len(dataset)
            self.since.append((each.loader, length, *_samples(index, data)))


class Observer:
    """Writes a file for every update into the folder of the request."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        self._request = request
        self._process = os.getpid()
        self._hooks = ExitStack()
        self._names, self._neutral = Names(), Neutral(request["neutral"])
        self._draws = Drawn(Log())
        self._signs: dict[tuple[str, str], Tensor] = {}
        self._begun: set[tuple[str, ...]] = set()  # the tensors of each optimizer that has stepped
        self._clipped = WeakTensorKeyDictionary()  # sketches of what the last clipping since a step was given
        self._stepped: list[tuple[str, Tensor]] = []
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._seen: dict[str, Any] = {}
        self._updates = 0
        self.enough = False

    def install(self) -> None:
        """Hook into torch, for the rest of the process."""
        register_optimizer_step_pre_hook(self._meet)  # first, as the next one asks for the names
        self._hooks.enter_context(watch(self, self._before, self._after))
        for owner in (nn.utils, nn.utils.clip_grad):
            for name in ("clip_grad_norm_", "clip_grad_value_"):
                _patch(owner, name, _around(self._clip))
        watch_loaders(self._draws, _patch)
        if not self._request["keep_dropout"]:
            _without_dropout()
        if self._request["neutral"]:
            self._neutral.install()

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Those of the optimizer that steps."""
        return iter(self._stepped)

    def _meet(self, optimizer: Optimizer, *_: Any) -> None:
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        self._stepped = list(zip(self._names.of(parameters), parameters, strict=True))

    def _sketch(self, name: str, tensor: Tensor) -> Tensor:
        with torch.no_grad():
            tensor = tensor.detach().to_dense() if tensor.is_sparse else tensor.detach()
            tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
            flat = (torch.view_as_real(tensor) if tensor.is_complex() else tensor).reshape(-1)
            key = (f"{name} {list(tensor.shape)}", str(flat.device))
            if key not in self._signs:
                generator = torch.Generator("cpu").manual_seed(zlib.crc32(key[0].encode()))
                signs = torch.randint(0, 2, flat.shape, generator=generator, dtype=torch.int8, device="cpu") * 2 - 1
                self._signs[key] = signs.to(flat.device)
            total = torch.zeros(WIDTH, dtype=torch.float64, device="cpu")
            for part, signs in zip(flat.split(CHUNK), self._signs[key].split(CHUNK), strict=True):
                whole = functional.pad(part.double() * signs, (0, -part.numel() % WIDTH))
                total += whole.view(-1, WIDTH).sum(0).cpu()
            return total

    def _sketches(self, tensors: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([self._sketch(name, each) for name, each in tensors.items()])

    def _before(self, update: Update) -> None:
        if os.getpid() != self._process or self.enough:
            return
        names, parameters = tuple(update.parameters), list(update.parameters.values())
        gradient = self._sketches(update.gradients)
        clipped = [self._clipped.pop(each, None) for each in parameters]
        before = [row if each is None else each for row, each in zip(gradient, clipped, strict=True)]
        self._seen = {
            "update": self._updates,
            "names": names,
            "shapes": [list(each.shape) for each in parameters],
            "units": [torch.finfo((p if p.grad is None else p.grad).dtype).eps for p in parameters],
            "narrow": self._neutral.coarsest,
            "start": None if names in self._begun else self._sketches(update.parameters),
            "clipped": None if all(each is None for each in clipped) else torch.stack(before),
            "gradient": gradient,
            "rates": [update.learning_rates.get(name) for name in names],
            "drawn": self._draws.since,
            "batch_norm": self._names.batch_norm,
            "torch": str(torch.__version__),
        }
        self._begun.add(names)
        self._draws.since = []
        if self._request["pin"]:
            self._kept = [(each, each.detach().clone()) for each in parameters]

    def _after(self, _: Update) -> None:
        if os.getpid() != self._process:
            return
        if self.enough:  # the script has caught it
            os._exit(0)
        with torch.no_grad():
            for parameter, value in self._kept:
                parameter.copy_(value)
        self._kept = []
        torch.save(self._seen, Path(self._request["folder"], f"{self._updates:08}.pt"))
        self._updates += 1
        if self._updates == self._request["updates"]:
            self.enough = True
            raise EnoughError

    def _clip(self, clip: Callable[..., Any], parameters: Any, *args: Any, **kwargs: Any) -> Any:
        parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        for name, parameter in zip(self._names.of(parameters), parameters, strict=True):
            if parameter.grad is not None:
                self._clipped[parameter] = self._sketch(name, parameter.grad)
        return clip(parameters, *args, **kwargs)


class Neutral:
    """Changes that mean nothing: other threads, and numbers that move by a unit in the last place."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator("cpu").manual_seed(seed)
        self._nudged = WeakTensorKeyDictionary()
        self.coarsest = 0.0  # unit in the last place of what modules put out

    def install(self) -> None:
        """Make the changes, for the rest of the process."""
        threads = torch.get_num_threads()
        torch.set_num_threads(threads // 2 if threads > 1 else 2)
        _patch(Optimizer, "add_param_group", _around(self._nudge))
        nn.modules.module.register_module_forward_hook(self._nudge_output)

    def _nudge(self, add: Callable[..., Any], optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
        """Move the parameters of an optimizer, once."""
        add(optimizer, *args, **kwargs)
        with torch.no_grad():
            for parameter in optimizer.param_groups[-1]["params"]:
                if parameter not in self._nudged and parameter.is_floating_point():
                    self._nudged[parameter] = True
                    parameter.mul_(self._units(parameter))

    def _nudge_output(self, module: Any, _: object, output: Any) -> Any:
        """Move what a module with parameters of its own puts out: autocast rounds a nudge of parameters away."""
        own = next(module.parameters(recurse=False), None) is not None
        if own and isinstance(output, Tensor) and output.is_floating_point():
            self.coarsest = max(self.coarsest, torch.finfo(output.dtype).eps)
            return output * self._units(output)
        return output

    def _units(self, tensor: Tensor) -> Tensor:
        """One, plus or minus a unit in the last place of the tensor's dtype, for each of its elements."""
        signs = torch.randint(0, 2, tensor.shape, generator=self._generator, device="cpu") * 2 - 1
        return 1 + signs.to(tensor.device, tensor.dtype) * torch.finfo(tensor.dtype).eps


class Names:
    """What the modules of the process call parameters; a number for those that no module has."""

    def __init__(self) -> None:
        self._known = WeakTensorKeyDictionary()
        self._uses: Counter[str] = Counter()
        self.batch_norm = False

    def of(self, parameters: Sequence[Tensor]) -> list[str]:
        """Their names, each of which belongs to one parameter only."""
        found = {} if all(each in self._known for each in parameters) else self._search()
        for each in parameters:
            if each not in self._known:
                name = found.get(id(each), "tensor")
                self._uses[name] += 1
                self._known[each] = name if self._uses[name] == 1 else f"{name} ({self._uses[name]})"
        return [self._known[each] for each in parameters]

    def _search(self) -> dict[int, str]:
        # type(), as isinstance would wake up objects that imitate others.
        modules = [each for each in gc.get_objects() if issubclass(type(each), nn.Module)]
        self.batch_norm |= any(issubclass(type(each), nn.modules.batchnorm._BatchNorm) for each in modules)
        held = {id(part) for module in modules for part in module.__dict__.get("_modules", {}).values()}
        models = []
        for module in modules:
            with suppress(Exception):
                if id(module) not in held:
                    models.append({id(p): _plain(name) for name, p in module.named_parameters()})
        # The largest model first, in an order that does not depend on the garbage collector.
        models.sort(key=lambda names: (len(names), sorted(names.values())))
        return {place: name for names in models for place, name in names.items()}


def _plain(name: str) -> str:
    """Without what wrappers (DistributedDataParallel, torch.compile) put before it."""
    return ".".join(part for part in name.split(".") if part not in ("module", "_orig_mod"))


def _patch(owner: Any, name: str, wrapper: Wrapper) -> None:
    """Replace a function, for the rest of the process."""
    original = getattr(owner, name)
    setattr(owner, name, functools.wraps(original)(wrapper(original)))


def _around(call: Callable[..., Any]) -> Wrapper:
    """``call`` in the place of a function, which it gets before the arguments."""
    return lambda original: lambda *args, **kwargs: call(original, *args, **kwargs)


def _samples(index: Any, batch: Any) -> tuple[list[str], list[str]]:
    """The samples of a batch, and what they hold: indices where there are any, else twice the same hashes."""
    tensor = next(tensors_of(batch), None)
    indices = index if isinstance(index, Sequence) else [index]
    names = [str(each) for each in indices if each is not None]
    rows: Iterable[Tensor] = ()
    if tensor is not None:
        rows = tensor.unbind() if tensor.dim() and len(tensor) == (len(names) or len(tensor)) else (tensor,)
    contents = [f"{list(row.shape)} {_hash(row)}" for row in rows]
    return (names, contents if len(contents) == len(names) else []) if names else (contents, contents)


def _hash(row: Tensor) -> str:
    data = row.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.blake2b(data.numpy().tobytes(), digest_size=8).hexdigest()


def _without_dropout() -> None:
    """Let dropout do what it does in evaluation: nothing, without a draw from the random stream."""

    def same(_: Callable[..., Tensor], input: Tensor, *__: Any, **___: Any) -> Tensor:
        return input

    def attention(attend: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        kwargs.pop("dropout_p", None)
        return attend(*args[:4], 0.0, *args[5:], **kwargs) if len(args) > 4 else attend(*args, **kwargs)

    def recur(forward: Callable[..., Any], layers: Any, *args: Any, **kwargs: Any) -> Any:
        layers.dropout = 0.0
        return forward(layers, *args, **kwargs)

    for owner in (functional, torch):
        for name in DROPOUT:
            if hasattr(owner, name):
                _patch(owner, name, _around(same))
    _patch(functional, "scaled_dot_product_attention", _around(attention))
    for kind in (nn.RNN, nn.LSTM, nn.GRU):
        _patch(kind, "forward", _around(recur))
