"""A time limit for code that may never come back."""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

T = TypeVar("T")


class TimeUpError(BaseException):
    """Raised inside code that has run too long; not an ``Exception``, so that the code does not catch it by mistake."""


def within(seconds: float, call: Callable[[], T]) -> T:
    """``call()``, in which ``TimeUpError`` is raised after ``seconds``, and again each second until it ends.

    In the main thread by an alarm, which interrupts sleep and waiting as well; elsewhere between two bytecodes only.
    An alarm that the caller has set is put back. It is a function and no context manager, since an exception that is
    raised just as a block ends, before ``__exit__`` has begun, leaves its alarm behind.

    >>> within(60, lambda: 1 + 1)
    2
    """
    if not seconds > 0:
        raise ValueError(f"a time limit must be above 0 seconds, got {seconds!r}")
    if threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer"):
        return _by_alarm(seconds, call)
    return _by_thread(seconds, call)


def _by_alarm(seconds: float, call: Callable[[], T]) -> T:
    over = False

    def on_alarm(_: int, frame: FrameType | None) -> None:
        # Raised here, or in what is called below to clean up, it would leave its own alarm behind.
        if not over and (frame is None or frame.f_code is not _by_alarm.__code__):
            raise TimeUpError

    timer = signal.setitimer(signal.ITIMER_REAL, 0)
    handler = signal.signal(signal.SIGALRM, on_alarm)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
        return call()
    finally:
        over = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if timer[0]:
            signal.setitimer(signal.ITIMER_REAL, *timer)


def _by_thread(seconds: float, call: Callable[[], T]) -> T:
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
    # The exception may come while the inner clause runs; it does not come again within the second that the outer takes.
    try:
        try:
            watcher.start()
            return call()
        finally:
            with lock:
                ended.set()
    finally:
        ended.set()
        watcher.join()
