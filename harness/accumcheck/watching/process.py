"""The state of the process that a training loop may change, and how it is put back; and silence while it runs."""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import IO, Any

import torch

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGALRM") if hasattr(signal, name)]


class Streams:
    """The random streams of the process: torch's (all devices), ``random``'s and NumPy's global ones."""

    def __init__(self, seed: int) -> None:
        self._cpu = torch.Generator().manual_seed(seed).get_state()
        self._cuda = None
        if torch.cuda.is_initialized():
            devices = range(torch.cuda.device_count())
            self._cuda = [torch.Generator(f"cuda:{i}").manual_seed(seed).get_state() for i in devices]
        self._python = random.Random(seed).getstate()
        self._numpy: Any = None
        if numpy := sys.modules.get("numpy"):
            self._numpy = numpy.random.MT19937()
            numpy.random.RandomState(self._numpy).seed(seed % 2**32)  # seeds the generator that it was given
        self._position: Any = None

    @classmethod
    def capture(cls, *, position: bool = True) -> Streams:
        """The streams where they are.

        NumPy's stream is a generator that others may go on with; ``position`` remembers where it stands as well, which
        takes ten times as long as all the rest.
        """
        streams = cls.__new__(cls)
        streams._cpu, streams._python = torch.get_rng_state(), random.getstate()
        # Asking an uninitialised CUDA for its state would initialise it.
        streams._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
        streams._numpy = sys.modules["numpy"].random.get_bit_generator() if "numpy" in sys.modules else None
        streams._position = streams._numpy.state if streams._numpy and position else None
        return streams

    def restore(self) -> None:
        """Make these the process's streams."""
        torch.set_rng_state(self._cpu)
        random.setstate(self._python)
        if self._cuda is not None:
            torch.cuda.set_rng_state_all(self._cuda)
        if self._numpy is not None:
            sys.modules["numpy"].random.set_bit_generator(self._numpy)
            if self._position is not None:
                self._numpy.state = self._position


class RandomStream:
    """A random stream of one's own, in the place of all those of the process.

    >>> stream = RandomStream(seed=0)
    >>> with stream.active():
    ...     first = torch.rand(2)
    >>> with stream.active():  # goes on where it paused; the caller's own stream never moved
    ...     second = torch.rand(2)
    >>> bool((first == second).any())
    False
    """

    def __init__(self, seed: int) -> None:
        self._streams = Streams(seed)

    def pause(self) -> None:
        """Remember the process's current position as this stream's own."""
        self._streams = Streams.capture(position=False)

    def resume(self) -> None:
        """Make this position the process's current one."""
        self._streams.restore()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Draw from this stream inside the block; all of the process is then as before, see ``preserved``."""
        with preserved():
            self.resume()
            try:
                yield
            finally:
                self.pause()


class Modes:
    """What a loop may switch on for itself, and must not switch on for others: torch's modes, warnings, output.

    ``Modes()`` is what a new run starts with: gradients recorded, no autocast, all else as it is.
    """

    def __init__(self) -> None:
        self._grad = True
        self._autocast = {device: (False, torch.get_autocast_dtype(device)) for device in ("cpu", "cuda")}
        self._nesting = 0
        self._settings = _settings()

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
        for (_, put), value, now in zip(_SETTINGS, self._settings, _settings(), strict=True):
            if value != now:
                put(value)


def _put_warnings(value: tuple[Any, ...]) -> None:
    setattr(warnings, "filters", list(value[0]))  # noqa: B010 - as catch_warnings does, which type stubs do not know
    warnings.showwarning = value[1]
    getattr(warnings, "_filters_mutated", lambda: None)()


_SETTINGS: list[tuple[Callable[[], Any], Callable[[Any], object]]] = [
    (torch.get_default_dtype, torch.set_default_dtype),
    (
        lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        lambda value: torch.set_anomaly_enabled(*value),
    ),
    (
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
    ),
    (gc.isenabled, lambda value: gc.enable() if value else gc.disable()),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.enable_flash_sdp),
    (torch.backends.cuda.mem_efficient_sdp_enabled, torch.backends.cuda.enable_mem_efficient_sdp),
    (torch.backends.cuda.math_sdp_enabled, torch.backends.cuda.enable_math_sdp),
    (lambda: (tuple(warnings.filters), warnings.showwarning), _put_warnings),
    (lambda: _default_device(), torch.set_default_device),  # noqa: PLW0108 - it is defined below
    (lambda: sys.stdout, lambda value: setattr(sys, "stdout", value)),
    (lambda: sys.stderr, lambda value: setattr(sys, "stderr", value)),
]


def _default_device() -> torch.device | None:
    # torch.get_default_device() does not tell "cpu" from unset, which is faster.
    context = getattr(getattr(torch, "_GLOBAL_DEVICE_CONTEXT", None), "device_context", None)
    return None if context is None else context.device


def _settings() -> list[Any]:
    return [get() for get, _ in _SETTINGS]


def _autocast_nesting() -> int:
    torch.autocast_increment_nesting()
    depth: int = torch.autocast_decrement_nesting()
    return depth


class State:
    """What a loop may change of its process, as it is now: streams, modes, threads, environment, directory, signals."""

    def __init__(self) -> None:
        self._streams, self._modes = Streams.capture(), Modes.current()
        self._threads, self._environment = torch.get_num_threads(), dict(os.environ)
        self._directory, self._umask = _directory(), _umask()
        self._handlers = {number: signal.getsignal(number) for number in SIGNALS}

    def restore(self) -> None:
        """Make it the current state again; signal handlers only in the main thread, as others cannot set them."""
        self._streams.restore()
        self._modes.resume()
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        if dict(os.environ) != self._environment:
            os.environ.clear()
            os.environ.update(self._environment)
        if self._directory is not None and _directory() != self._directory:
            os.chdir(self._directory)
        os.umask(self._umask)
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._handlers.items():
                if handler is not None and signal.getsignal(number) != handler:  # None was not set by Python
                    signal.signal(number, handler)


def _directory() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:  # somebody has deleted it
        return None


def _umask() -> int:
    umask = os.umask(0o077)  # it cannot be asked for without being set
    os.umask(umask)
    return umask


@contextmanager
def preserved() -> Iterator[None]:
    """Undo, when the block ends, what it did to the process: see ``State``.

    >>> with preserved():
    ...     torch.set_default_dtype(torch.float64)
    >>> torch.get_default_dtype()
    torch.float32
    """
    state = State()
    try:
        yield
    finally:
        state.restore()


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: a pool of workers, woken for eight numbers, takes far longer where cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def quiet() -> Iterator[None]:
    """Drop what the block prints or warns of: a loop is run hundreds of times.

    Its standard streams are real files, on the null device, with ``buffer``, ``fileno``, ``encoding`` and all else.

    >>> with quiet():
    ...     print("not seen", sys.stdout.isatty())
    """
    out, err = _nowhere("stdout"), _nowhere("stderr")
    with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _nowhere(name: str) -> IO[str]:
    # Left open: a loop's logging may hold on to it until its next run.
    if name not in _NOWHERE or _NOWHERE[name].closed:
        _NOWHERE[name] = open(os.devnull, "w", encoding="utf-8", errors="replace")  # noqa: SIM115
    return _NOWHERE[name]


_NOWHERE: dict[str, IO[str]] = {}
