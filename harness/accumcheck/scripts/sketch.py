"""Runs a script in a process of ``accumcheck compare``, and writes down what each of its updates is made with.

A *sketch* of a gradient is 64 sums of its elements, each element with a random sign that depends on the tensor's name
and shape only. Distances, norms and ratios of sketches are, in the mean, those of the gradients.

torch is imported when the script does it, so that what the script sets before that still counts.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import hashlib
import importlib.util
import json
import os
import runpy
import signal
import sys
import weakref
import zlib
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from accumcheck.scripts.execute import EnoughError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from accumcheck.watching.steps import Update

WIDTH = 64  # numbers in a sketch
CHUNK = 1 << 20  # elements that are summed at a time, in float64
PR_SET_PDEATHSIG = 1


def main() -> None:
    """Run the script that the request, the only argument, asks for; its exit status is the script's."""
    request = json.loads(sys.argv[1])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    observer = Observer(request)
    if "torch" in sys.modules:
        observer.install()
    else:
        sys.meta_path.insert(0, _AtImport("torch", observer.install))
    try:
        _execute(request["script"], request["arguments"], module=request["module"])
    except BaseException:
        if not observer.enough:
            raise


def _execute(script: str, arguments: Sequence[str], *, module: bool) -> None:
    """Run a script, or a module, as ``python`` does."""
    sys.argv = [script, *arguments]
    if not sys.flags.safe_path:
        sys.path.insert(0, os.getcwd() if module else os.path.dirname(os.path.realpath(script)))
    if module:
        runpy.run_module(script, run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(script, run_name="__main__")


class _AtImport(MetaPathFinder):
    """Calls ``then`` as soon as a module is imported."""

    def __init__(self, name: str, then: Callable[[], None]) -> None:
        self._name, self._then, self._asking = name, then, False

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if fullname != self._name or self._asking:
            return None
        self._asking = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._asking = False
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                    self._then()

            setattr(spec.loader, "exec_module", exec_module)  # noqa: B010 - mypy knows no other way
        return spec


class Observer:
    """Writes a line for every optimizer and update to ``log.jsonl``, and sketches to ``sketches`` beside it."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        self._request = request
        self._process = os.getpid()
        folder = Path(request["folder"])
        self._log, self._sketches = (folder / "log.jsonl").open("a"), (folder / "sketches").open("ab")
        self._hooks = ExitStack()
        self._names = Names()
        self._signs: dict[tuple[str, str], Tensor] = {}
        self._optimizers: dict[tuple[str, ...], int] = {}
        self._streams: dict[tuple[str, int | None], int] = {}
        self._drawn: list[tuple[int, list[str], list[str]]] = []  # since the last step: stream, samples, contents
        self._clipped: dict[int, tuple[int, Tensor]] = {}  # by a parameter's id: calls since its step, last sketch
        self._nudged: dict[int, weakref.ref[Tensor]] = {}
        self._generator: Any = None
        self._coarsest = 0.0  # unit in the last place of what modules put out
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._line: dict[str, Any] = {}
        self._updates = 0
        self.enough = False

    def install(self) -> None:
        """Hook into torch, for the rest of the process."""
        import torch  # noqa: PLC0415
        from torch import nn  # noqa: PLC0415
        from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook  # noqa: PLC0415
        from torch.utils.data import dataloader  # noqa: PLC0415

        from accumcheck.watching.steps import watch  # noqa: PLC0415

        class Stepped(nn.Module):
            """Stands for the model: its parameters are those of the optimizer that steps."""

            parts: tuple[tuple[str, nn.Parameter], ...] = ()

            def named_parameters(self, *_: Any, **__: Any) -> Iterator[tuple[str, nn.Parameter]]:
                return iter(self.parts)

        stepped = Stepped()

        def on_step(optimizer: Optimizer, *_: Any) -> None:
            parameters = [each for group in optimizer.param_groups for each in group["params"]]
            stepped.parts = tuple(zip(self._names.of(parameters), parameters, strict=True))

        register_optimizer_step_pre_hook(on_step)  # first, as the next one asks for the names
        self._hooks.enter_context(watch(stepped, self._before, self._after))
        _wrap(nn.utils, "clip_grad_norm_", self._clip)
        _wrap(nn.utils, "clip_grad_value_", self._clip)
        for name in ("clip_grad_norm_", "clip_grad_value_"):
            setattr(nn.utils.clip_grad, name, getattr(nn.utils, name))
        _wrap(dataloader._BaseDataLoaderIter, "_next_index", _note_index)
        _wrap(dataloader._BaseDataLoaderIter, "_reset", _forget_indices)
        _wrap(dataloader._BaseDataLoaderIter, "__next__", self._next)
        if not self._request["keep_dropout"]:
            _without_dropout()
        if self._request["neutral"]:
            threads = torch.get_num_threads()
            torch.set_num_threads(threads // 2 if threads > 1 else 2)
            _wrap(Optimizer, "add_param_group", self._nudge)
            nn.modules.module.register_module_forward_hook(self._nudge_output)
        self._write({"torch": torch.__version__})

    def _write(self, line: dict[str, Any]) -> None:
        self._sketches.flush()
        self._log.write(json.dumps(line) + "\n")
        self._log.flush()  # the script may end by os._exit

    def _put(self, sketches: Sequence[Tensor]) -> int:
        """Append sketches to the file; where the first one starts."""
        at = self._sketches.tell()
        for each in sketches:
            array("d", each.tolist()).tofile(self._sketches)
        return at

    def _sketch(self, name: str, tensor: Tensor) -> Tensor:
        import torch  # noqa: PLC0415

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
                signed = part.double() * signs
                whole = signed.numel() // WIDTH * WIDTH
                total += signed[:whole].view(-1, WIDTH).sum(0).cpu()
                total[: signed.numel() - whole] += signed[whole:].cpu()
            return total

    def _before(self, update: Update) -> None:
        import torch  # noqa: PLC0415

        if os.getpid() != self._process or self.enough:
            return
        names, parameters = list(update.parameters), list(update.parameters.values())
        key = tuple(f"{name} {list(p.shape)}" for name, p in update.parameters.items())
        if key not in self._optimizers:
            self._optimizers[key] = len(self._optimizers)
            grads = [p.dtype if p.grad is None else p.grad.dtype for p in parameters]
            self._write(
                {
                    "optimizer": self._optimizers[key],
                    "class": type(update.optimizer).__name__,
                    "names": names,
                    "shapes": [list(p.shape) for p in parameters],
                    "units": [torch.finfo(dtype).eps for dtype in grads],
                    "batch_norm": self._names.batch_norm,
                    "at": self._put([self._sketch(name, p) for name, p in update.parameters.items()]),
                }
            )
        clipped = [self._clipped.pop(id(p), None) for p in parameters]
        missing = torch.full((WIDTH,), torch.nan, dtype=torch.float64, device="cpu")
        self._line = {
            "update": self._updates,
            "optimizer": self._optimizers[key],
            "at": self._put([self._sketch(name, each) for name, each in update.gradients.items()]),
            "clips": max((each[0] for each in clipped if each), default=0),
            "clipped_at": self._put([each[1] if each else missing for each in clipped]) if any(clipped) else None,
            "rates": [update.learning_rates.get(name) for name in names],
            "drawn": self._drawn,
        }
        self._drawn = []
        if self._request["pin"]:
            self._kept = [(p, p.detach().clone()) for p in parameters]

    def _after(self, _: Update) -> None:
        import torch  # noqa: PLC0415

        if os.getpid() != self._process:
            return
        if self.enough:  # the script has caught it
            os._exit(0)
        with torch.no_grad():
            for parameter, value in self._kept:
                parameter.copy_(value)
        self._kept = []
        self._write(self._line)
        self._updates += 1
        if self._updates == self._request["updates"]:
            self.enough = True
            raise EnoughError

    def _clip(self, clip: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        import torch  # noqa: PLC0415

        given = kwargs.pop("parameters") if "parameters" in kwargs else args[0]
        rest = args[1:] if args else ()
        parameters = [given] if isinstance(given, torch.Tensor) else list(given)
        for name, parameter in zip(self._names.of(parameters), parameters, strict=True):
            if parameter.grad is not None:
                calls, _ = self._clipped.get(id(parameter), (0, None))
                self._clipped[id(parameter)] = calls + 1, self._sketch(name, parameter.grad)
        return clip(parameters, *rest, **kwargs)

    def _nudge(self, add: Callable[..., Any], optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
        """Move the parameters of an optimizer by a unit in the last place, once."""
        import torch  # noqa: PLC0415

        add(optimizer, *args, **kwargs)
        with torch.no_grad():
            for parameter in optimizer.param_groups[-1]["params"]:
                done = self._nudged.get(id(parameter), lambda: None)() is parameter
                if not done and parameter.is_floating_point():
                    self._nudged[id(parameter)] = weakref.ref(parameter)
                    parameter.mul_(self._units(parameter))

    def _nudge_output(self, module: Any, _: object, output: Any) -> Any:
        """Move what a module with parameters of its own puts out: autocast rounds a nudge of parameters away."""
        import torch  # noqa: PLC0415

        own = next(module.parameters(recurse=False), None) is not None
        if own and isinstance(output, torch.Tensor) and output.is_floating_point():
            if (unit := torch.finfo(output.dtype).eps) > self._coarsest:
                self._coarsest = unit
                self._write({"coarsest": unit})
            return output * self._units(output)
        return output

    def _units(self, tensor: Tensor) -> Tensor:
        """One, plus or minus a unit in the last place of the tensor's dtype, for each of its elements."""
        import torch  # noqa: PLC0415

        if self._generator is None:
            self._generator = torch.Generator("cpu").manual_seed(self._request["neutral"])
        signs = torch.randint(0, 2, tensor.shape, generator=self._generator, device="cpu") * 2 - 1
        return 1 + signs.to(tensor.device, tensor.dtype) * torch.finfo(tensor.dtype).eps

    def _next(self, get: Callable[..., Any], iterator: Any) -> Any:
        import torch  # noqa: PLC0415

        batch = get(iterator)
        indices = iterator.__dict__.get("_accumcheck_indices")
        index = indices.popleft() if indices else None
        if torch.is_grad_enabled() and os.getpid() == self._process:
            dataset = iterator._dataset
            length = None
            with suppress(Exception):
                length = len(dataset)
            key = (type(dataset).__name__, length)
            if key not in self._streams:
                self._streams[key] = len(self._streams)
                self._write({"stream": self._streams[key], "class": key[0], "length": length})
            self._drawn.append((self._streams[key], *_samples(index, batch)))
        return batch


class Names:
    """What the modules of the process call parameters; a number for those that no module has."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Tensor], str]] = {}
        self._uses: dict[str, int] = {}
        self.batch_norm = False

    def of(self, parameters: Sequence[Tensor]) -> list[str]:
        """Their names, each of which belongs to one parameter only."""
        if any(self._get(each) is None for each in parameters):
            found = self._search()
            for each in parameters:
                if self._get(each) is None:
                    name = found.get(id(each), "tensor")
                    self._uses[name] = self._uses.get(name, 0) + 1
                    unique = name if self._uses[name] == 1 else f"{name} ({self._uses[name]})"
                    self._known[id(each)] = weakref.ref(each), unique
        return [self._known[id(each)][1] for each in parameters]

    def _get(self, parameter: Tensor) -> str | None:
        known = self._known.get(id(parameter))
        return known[1] if known and known[0]() is parameter else None

    def _search(self) -> dict[int, str]:
        from torch import nn  # noqa: PLC0415

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


def _wrap(owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
    """Replace a function by ``wrapper``, which gets the function and its arguments."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return wrapper(original, *args, **kwargs)

    setattr(owner, name, wrapped)


def _note_index(get: Callable[..., Any], iterator: Any) -> Any:
    index = get(iterator)
    iterator.__dict__.setdefault("_accumcheck_indices", deque()).append(index)
    return index


def _forget_indices(reset: Callable[..., Any], iterator: Any, *args: Any, **kwargs: Any) -> None:
    iterator.__dict__.pop("_accumcheck_indices", None)
    reset(iterator, *args, **kwargs)


def _samples(index: Any, batch: Any) -> tuple[list[str], list[str]]:
    """The samples of a batch, and what they hold: indices where there are any, else twice the same hashes."""
    tensor = next(_tensors(batch), None)
    indices = [] if index is None else list(index) if isinstance(index, Sequence) else [index]
    names = [str(each) for each in indices if each is not None]
    rows: Iterable[Tensor] = ()
    if tensor is not None:
        rows = tensor.unbind() if tensor.dim() and len(tensor) == (len(names) or len(tensor)) else (tensor,)
    contents = [f"{list(row.shape)} {_hash(row)}" for row in rows]
    return (names, contents if len(contents) == len(names) else []) if names else (contents, contents)


def _tensors(batch: Any) -> Iterator[Tensor]:
    import torch  # noqa: PLC0415

    if isinstance(batch, torch.Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for each in batch.values():
            yield from _tensors(each)
    elif isinstance(batch, list | tuple):
        for each in batch:
            yield from _tensors(each)


def _hash(row: Tensor) -> str:
    import torch  # noqa: PLC0415

    data = row.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.blake2b(data.numpy().tobytes(), digest_size=8).hexdigest()


def _without_dropout() -> None:
    """Let dropout do what it does in evaluation: nothing, without a draw from the random stream."""
    import torch  # noqa: PLC0415
    from torch import nn  # noqa: PLC0415
    from torch.nn import functional as F  # noqa: PLC0415

    def same(_: Callable[..., Tensor], input: Tensor, *__: Any, **___: Any) -> Tensor:
        return input

    def attention(attend: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        kwargs.pop("dropout_p", None)
        return attend(*args[:4], 0.0, *args[5:], **kwargs) if len(args) > 4 else attend(*args, **kwargs)

    def recur(forward: Callable[..., Any], layers: Any, *args: Any, **kwargs: Any) -> Any:
        kept, layers.dropout = layers.dropout, 0.0
        try:
            return forward(layers, *args, **kwargs)
        finally:
            layers.dropout = kept

    for owner, names in ((F, ("", "1d", "2d", "3d")), (torch, ("",))):
        for name in names:
            _wrap(owner, f"dropout{name}", same)
        for name in ("alpha_dropout", "feature_alpha_dropout"):
            _wrap(owner, name, same)
    _wrap(F, "scaled_dot_product_attention", attention)
    for kind in (nn.RNN, nn.LSTM, nn.GRU):
        _wrap(kind, "forward", recur)
