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
    """A random stream of one's own: torch's generators (all devices), ``random``'s and NumPy's global ones.

    >>> stream = RandomStream(seed=0)
    >>> with stream.active():
    ...     first = torch.rand(2)
    >>> with stream.active():  # goes on where it paused; the caller's own stream never moved
    ...     second = torch.rand(2)
    >>> bool((first == second).any())
    False
    """

    def __init__(self, seed: int) -> None:
        with preserved():
            torch.manual_seed(seed)
            random.seed(seed)
            if numpy := sys.modules.get("numpy"):
                numpy.random.set_bit_generator(numpy.random.MT19937())
                numpy.random.seed(seed % 2**32)
            self.pause()

    def pause(self) -> None:
        """Remember the process's current position as this stream's own."""
        self._cpu = torch.get_rng_state()
        # Asking an uninitialised CUDA for its state would initialise it.
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
        self._python = random.getstate()
        # The generator itself: copying its state takes ten times as long as all the others together.
        self._numpy: Any = sys.modules["numpy"].random.get_bit_generator() if "numpy" in sys.modules else None

    def resume(self) -> None:
        """Make this position the process's current one."""
        torch.set_rng_state(self._cpu)
        if self._cuda is not None:
            torch.cuda.set_rng_state_all(self._cuda)
        random.setstate(self._python)
        if self._numpy is not None:
            sys.modules["numpy"].random.set_bit_generator(self._numpy)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Draw from this stream inside the block; the caller's stream is untouched by it."""
        with preserved():
            self.resume()
            try:
                yield
            finally:
                self.pause()


class Modes:
    """Torch's settings of the thread: whether gradients are recorded, and autocast. Starts as a new thread does."""

    def __init__(self) -> None:
        self._grad = True
        self._autocast = {device: (False, torch.get_autocast_dtype(device)) for device in ("cpu", "cuda")}
        self._nesting = 0

    @classmethod
    def current(cls) -> Modes:
        """The settings as they are."""
        modes = cls()
        modes._grad = torch.is_grad_enabled()
        modes._autocast = {
            device: (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in modes._autocast
        }
        modes._nesting = _autocast_nesting()
        return modes

    def resume(self) -> None:
        """Make these settings the current ones. Autocast's cache of casted weights is emptied: others own it now."""
        torch.set_grad_enabled(self._grad)
        for device, (enabled, dtype) in self._autocast.items():
            torch.set_autocast_enabled(device, enabled)
            torch.set_autocast_dtype(device, dtype)
        torch.clear_autocast_cache()
        for _ in range(_autocast_nesting() - self._nesting):
            torch.autocast_decrement_nesting()
        for _ in range(self._nesting - _autocast_nesting()):
            torch.autocast_increment_nesting()


def _autocast_nesting() -> int:
    torch.autocast_increment_nesting()
    depth: int = torch.autocast_decrement_nesting()
    return depth


@contextmanager
def preserved() -> Iterator[None]:
    """Undo, when the block ends, what it did to random streams, default dtype, thread count and environment.

    >>> with preserved():
    ...     torch.set_default_dtype(torch.float64)
    >>> torch.get_default_dtype()
    torch.float32
    """
    cpu, python = torch.get_rng_state(), random.getstate()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    numpy = sys.modules.get("numpy")
    generator = numpy.random.get_bit_generator() if numpy else None
    position = generator.state if generator else None
    dtype, threads, environment = torch.get_default_dtype(), torch.get_num_threads(), dict(os.environ)
    try:
        yield
    finally:
        torch.set_rng_state(cpu)
        random.setstate(python)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        if numpy and generator:
            numpy.random.set_bit_generator(generator)
            generator.state = position
        torch.set_default_dtype(dtype)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
