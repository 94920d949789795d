"""The state of the process that a training loop may change: random streams, default dtype, threads, environment."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class RandomStream:
    """A position in every random stream that a loop is likely to draw from: torch (all devices), ``random``, NumPy.

    >>> stream = RandomStream.from_seed(0)
    >>> with stream.active():
    ...     first = torch.rand(2)
    >>> with stream.active():  # goes on where it paused; the caller's own stream never moved
    ...     second = torch.rand(2)
    >>> bool((first == second).any())
    False
    """

    def __init__(self) -> None:
        self.pause()

    def pause(self) -> None:
        """Remember the process's current position as this stream's own."""
        self._cpu = torch.get_rng_state()
        # Asking an uninitialised CUDA for its state would initialise it.
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
        self._python = random.getstate()
        self._numpy: Any = sys.modules["numpy"].random.get_state() if "numpy" in sys.modules else None

    @classmethod
    def from_seed(cls, seed: int) -> RandomStream:
        """The streams as they are right after everything was seeded with ``seed``."""
        caller = cls()
        torch.manual_seed(seed)
        random.seed(seed)
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed(seed % 2**32)
        try:
            return cls()
        finally:
            caller.resume()

    def resume(self) -> None:
        """Make this position the current one."""
        torch.set_rng_state(self._cpu)
        if self._cuda is not None:
            torch.cuda.set_rng_state_all(self._cuda)
        random.setstate(self._python)
        if self._numpy is not None:
            sys.modules["numpy"].random.set_state(self._numpy)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Draw from this stream inside the block; the caller's stream is untouched by it."""
        caller = RandomStream()
        self.resume()
        try:
            yield
        finally:
            self.pause()
            caller.resume()


@contextmanager
def preserved() -> Iterator[None]:
    """Undo, when the block ends, what it did to random streams, default dtype, thread count and environment.

    >>> with preserved():
    ...     torch.set_default_dtype(torch.float64)
    >>> torch.get_default_dtype()
    torch.float32
    """
    stream, dtype, threads = RandomStream(), torch.get_default_dtype(), torch.get_num_threads()
    environment = dict(os.environ)
    try:
        yield
    finally:
        stream.resume()
        torch.set_default_dtype(dtype)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
