"""A time limit for code that may never come back."""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class TimeUpError(BaseException):
    """Raised inside code that has run too long; not an ``Exception``, so that the code does not catch it by mistake."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise ``TimeUpError`` in this thread if the block is still running after ``seconds``, and again until it ends.

    In the main thread by an alarm, which interrupts sleep and waiting as well; elsewhere between two bytecodes only.
    An alarm that the caller has set is put back.

    >>> with deadline(60):
    ...     fast = 1 + 1
    """
    if not seconds > 0:
        raise ValueError(f"a time limit must be above 0 seconds, got {seconds!r}")
    if threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer"):
        yield from _by_alarm(seconds)
    else:
        yield from _by_thread(seconds)


def _by_alarm(seconds: float) -> Iterator[None]:
    def on_alarm(*_: object) -> None:
        raise TimeUpError

    timer = signal.setitimer(signal.ITIMER_REAL, 0)
    handler = signal.signal(signal.SIGALRM, on_alarm)
    # The alarm may ring while the inner clause runs; it does not ring again within the second that the outer one takes.
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if timer[0]:
            signal.setitimer(signal.ITIMER_REAL, *timer)


def _by_thread(seconds: float) -> Iterator[None]:
    raise_in: Callable[..., int] = ctypes.pythonapi.PyThreadState_SetAsyncExc
    caller, ended = ctypes.c_ulong(threading.get_ident()), threading.Event()
    lock = threading.Lock()

    def watch() -> None:
        wait = seconds
        while not ended.wait(wait):
            with lock:
                if not ended.is_set():
                    raise_in(caller, ctypes.py_object(TimeUpError))
            wait = 1.0

    watcher = threading.Thread(target=watch, daemon=True)
    try:  # twice, as above
        try:
            watcher.start()
            yield
        finally:
            with lock:
                ended.set()
    finally:
        ended.set()
        watcher.join()
