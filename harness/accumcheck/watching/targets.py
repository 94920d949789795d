"""Loops by name, as a command line gives them: ``FILE.py:FUNCTION`` or ``package.module:FUNCTION``."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from accumcheck.task import Loop, LoopError

NAMED = "FILE.py:FUNCTION or package.module:FUNCTION"
ONE_ARGUMENT = "a loop is a function of one argument: def train(task): ..."


def load(target: str) -> Loop:
    """The loop that ``FILE.py:FUNCTION`` or ``package.module:FUNCTION`` names.

    The file's directory, or the current one, is put on ``sys.path``, and stays there for what the loop imports later.

    Raises LoopError that quotes the target where there is no such file, module or function, where importing fails, or
    where what is found is no loop.
    """
    where, colon, function = target.rpartition(":")
    if not colon or not where or not function:
        raise LoopError(f"a loop is named {NAMED}, got {target!r}")
    try:
        module = _from_file(Path(where)) if where.endswith(".py") else _by_name(where)
    except LoopError:
        raise
    except (Exception, SystemExit) as error:
        raise LoopError(_why_not_imported(where, function, error)) from error
    found: Any = module
    for part in function.split("."):
        if not hasattr(found, part):
            names = [
                n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__
            ]
            raise LoopError(f"{where!r} has no function {function!r}; it has {', '.join(names) or 'none'}")
        found = getattr(found, part)
    if reason := why_no_loop(found):
        raise LoopError(f"{target!r} {reason}")
    loop: Loop = found
    return loop


def why_no_loop(found: object) -> str | None:
    """What is wrong with an object that should be a loop, as the end of a sentence; None if nothing is.

    >>> why_no_loop(3)
    'is a int, not a function of one argument: def train(task): ...'
    >>> why_no_loop(lambda model, loader: None)
    'takes (model, loader): a loop is a function of one argument: def train(task): ...'
    """
    if not callable(found):
        return f"is a {type(found).__name__}, not a function of one argument: def train(task): ..."
    if inspect.isclass(found):
        return f"is a class: calling it makes an object, and trains nothing; {ONE_ARGUMENT}"
    call = found if inspect.isroutine(found) else getattr(found, "__call__", found)  # noqa: B004
    for kind, is_kind in (
        ("a coroutine", inspect.iscoroutinefunction),
        ("a generator", inspect.isgeneratorfunction),
        ("an asynchronous generator", inspect.isasyncgenfunction),
    ):
        if is_kind(found) or is_kind(call):
            return f"returns {kind} when it is called: nothing runs; {ONE_ARGUMENT}"
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):  # some that are written in C have none
        return None
    try:
        signature.bind(None)
    except TypeError:
        return (
            f"takes {signature.replace(return_annotation=signature.empty)}: {ONE_ARGUMENT}{_wrapper(found, signature)}"
        )
    return None


# What arguments of training functions are usually called, and what a task has for them.
USUAL = {
    "model": "model", "net": "model", "optimizer": "optimizer", "opt": "optimizer", "scheduler": "scheduler",
    "lr_scheduler": "scheduler", "loss_fn": "loss_fn", "criterion": "loss_fn", "loader": "loader",
    "train_loader": "loader", "dataloader": "loader", "train_dataloader": "loader", "data_loader": "loader",
    "dataset": "dataset", "epochs": "epochs", "num_epochs": "epochs", "n_epochs": "epochs", "device": "device",
    "batch_size": "micro_batch_size", "micro_batch_size": "micro_batch_size", "k": "accumulation_steps",
    "accumulation_steps": "accumulation_steps", "accum_steps": "accumulation_steps",
    "grad_accum": "accumulation_steps", "gradient_accumulation_steps": "accumulation_steps",
}  # fmt: skip


def _wrapper(found: Any, signature: inspect.Signature) -> str:
    """A loop around a function that takes other arguments, to type next."""
    needed = [
        p for p in signature.parameters.values()
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and (p.default is p.empty or p.name in USUAL)
    ]  # fmt: skip
    if not needed or "self" in signature.parameters:
        return ""
    name = getattr(found, "__name__", "")
    name = name if name.isidentifier() else "your_function"
    given = [f"task.{USUAL[p.name]}" if p.name in USUAL else "task" if p.name == "task" else "..." for p in needed]
    words = [f"{p.name}={value}" for p, value in zip(needed, given, strict=True)]
    return f"\nPut a wrapper beside it, and check that:\n\n    def wrapped(task):\n        {name}({', '.join(words)})\n"


def _by_name(name: str) -> Any:
    _search(os.getcwd())
    return importlib.import_module(name)


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise LoopError(f"there is no file {str(path)!r}")
    name = f"accumcheck_loop_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    _search(str(path.parent.resolve()))  # as when Python runs the file
    spec.loader.exec_module(module)
    return module


def _search(directory: str) -> None:
    if directory in sys.path:
        sys.path.remove(directory)
    sys.path.insert(0, directory)


def _why_not_imported(where: str, function: str, error: BaseException) -> str:
    """What importing it raised, and what to do where that is known."""
    said = f"importing {where!r} raised {type(error).__name__}: {error}"
    path = Path(where)
    if isinstance(error, SystemExit):
        frames = traceback.extract_tb(error.__traceback__)
        runs = (
            "runs its command line"
            if any(frame.filename == argparse.__file__ for frame in frames)
            else f"ends the program (SystemExit: {error})"
        )
        return f"importing {path.name} {runs}: put that below `if __name__ == '__main__':`"
    if isinstance(error, ImportError) and "relative import" in str(error) and where.endswith(".py"):
        top, parts = _package(path.resolve())
        return f"{said}; name it {'.'.join(parts)}:{function}, from the directory above, {str(top)!r}"
    if (
        isinstance(error, ModuleNotFoundError)
        and f"{where}.".startswith(f"{error.name}.")
        and Path(f"{where}.py").is_file()
    ):
        return f"{said}; did you mean {where}.py:{function}?"
    return said


def _package(path: Path) -> tuple[Path, list[str]]:
    """The directory above a file's outermost package, and the file's name from there."""
    top, parts = path.parent.parent, [path.parent.name, path.stem]
    while (top / "__init__.py").is_file():
        top, parts = top.parent, [top.name, *parts]
    return top, parts
