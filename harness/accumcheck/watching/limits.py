"""A time limit for code that may never come back."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

from accumcheck.watching import progress

TIME_LIMIT = 60.0  # seconds for one run of a loop, if nothing else is said

T = TypeVar("T")


class TimeUpError(BaseException):
    """Raised inside code that has run too long; not an ``Exception``, so that the code does not catch it by mistake."""


def require_limit(seconds: float) -> None:
    """Raise ValueError unless a time limit is a number above 0."""
    if not isinstance(seconds, int | float) or not seconds > 0:
        raise ValueError(f"a time limit must be above 0 seconds, got {seconds!r}")


def within(seconds: float, call: Callable[[], T]) -> T:
    """``call()``, in which ``TimeUpError`` is raised after ``seconds``, and again each second until it ends.

    Only in the main thread, where an alarm does it; in other threads, and where the system has no alarms, there is no
    limit. An alarm that the caller has set is put back. Code that catches everything, or puts a handler of its own in
    place, is not stopped; the command ends such a loop from outside.

    It is a function and no context manager, since an exception that is raised just as a block ends, before ``__exit__``
    has begun, leaves its alarm behind.

    >>> within(60, lambda: 1 + 1)
    2
    """
    require_limit(seconds)
    progress.report({"limit": seconds})
    try:
        if threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer"):
            return _by_alarm(min(seconds, threading.TIMEOUT_MAX), call)
        return call()
    finally:
        progress.report({"limit": None})


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
