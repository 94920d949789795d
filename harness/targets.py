"""Loops by name, as a command line gives them: ``FILE.py:FUNCTION`` or ``package.module:FUNCTION``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from harness.task import Loop, LoopError


def load(target: str) -> Loop:
    """The loop that ``FILE.py:FUNCTION`` or ``package.module:FUNCTION`` names.

    Raises LoopError that quotes the target where there is no such file, module or function, or where importing fails.
    """
    where, colon, function = target.rpartition(":")
    if not colon or not where or not function:
        raise LoopError(f"a loop is named FILE.py:FUNCTION or package.module:FUNCTION, got {target!r}")
    try:
        module = _from_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    except LoopError:
        raise
    except (Exception, SystemExit) as error:
        raise LoopError(f"importing {where!r} raised {type(error).__name__}: {error}") from error
    found: Any = module
    for part in function.split("."):
        if not hasattr(found, part):
            names = [
                n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__
            ]
            raise LoopError(f"{where!r} has no function {function!r}; it has {', '.join(names) or 'none'}")
        found = getattr(found, part)
    if not callable(found):
        raise LoopError(f"{target!r} is a {type(found).__name__}, not a function of one argument: def train(task): ...")
    loop: Loop = found
    return loop


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise LoopError(f"there is no file {str(path)!r}")
    name = f"accumcheck_loop_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent.resolve()))  # as when Python runs the file
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent.resolve()))
    return module
