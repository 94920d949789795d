"""Where in a user's code backward(), step() and zero_grad() are called."""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

BACKWARD, STEP, ZERO_GRAD = "backward", "step", "zero_grad"
HERE = Path(__file__).parents[1]
LOOPS = tuple(str(HERE / name) + os.sep for name in ("corpus", "adapters"))
OTHERS = (str(HERE) + os.sep, *(sysconfig.get_path(name) + os.sep for name in ("stdlib", "purelib", "platlib")), "<")


class Sites:
    """The first place of each call, as ``file.py:line``"""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def note(self, event: str) -> None:
        """The event happens now: look for the innermost caller that is neither installed nor of accumcheck."""
        if event not in self.found and (place := _caller()):
            self.found[event] = place

    @contextmanager
    def clearing_noted(self) -> Iterator[None]:
        """Inside the block, calls of ``zero_grad`` are noted."""
        with ExitStack() as stack:
            for owner in (Optimizer, nn.Module):
                original = owner.zero_grad
                owner.zero_grad = self._noting(original)  # type: ignore[method-assign]
                stack.callback(setattr, owner, "zero_grad", original)
            yield

    def _noting(self, original: Callable[..., Any]) -> Any:
        @functools.wraps(original)
        def zero_grad(*args: Any, **kwargs: Any) -> Any:
            self.note(ZERO_GRAD)
            return original(*args, **kwargs)

        return zero_grad


def _caller() -> str:
    frame = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(LOOPS) or not file.startswith(OTHERS):
            return f"{_short(file)}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return ""


def _short(file: str) -> str:
    """As seen from the current directory, or from where Python imports it."""
    for folder in (os.getcwd(), *sorted(filter(None, sys.path), key=len, reverse=True)):
        near = os.path.relpath(file, folder)
        if not near.startswith(os.pardir):
            return near
    return file
