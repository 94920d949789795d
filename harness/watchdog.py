"""Ends a process that hangs where no alarm wakes it, or that nobody waits for any more."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

GRACE = 0.5  # seconds that a block may be late, so that an alarm of its own can say why
POLL = 0.1  # seconds between two looks at the clock


class Watchdog(threading.Thread):
    """Watches over the process's main thread once started; ``fail(message)`` must end the process.

    The process also ends, silently, when its parent does, or the process ``caller``, which may be further up.
    """

    def __init__(self, fail: Callable[[str], NoReturn], caller: int) -> None:
        super().__init__(daemon=True)
        self.fail, self.caller, self.parent = fail, caller, os.getppid()
        self.end, self.message = float("inf"), ""

    @contextmanager
    def limit(self, seconds: float, what: str, advice: str = "") -> Iterator[None]:
        """Fail with a message on ``what`` unless the block ends in time. Blocks do not nest."""
        self.message = f"{what} did not end within {seconds:g} seconds{advice}"
        self.end = time.monotonic() + seconds + GRACE
        try:
            yield
        finally:
            self.end = float("inf")

    def run(self) -> None:
        """Look at the clock and at who waits, until the process ends."""
        while os.getppid() == self.parent and _exists(self.caller):
            if time.monotonic() > self.end:
                self.fail(self.message)
            time.sleep(POLL)
        os._exit(1)


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
