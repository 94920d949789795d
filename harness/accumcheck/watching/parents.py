"""Ends this process when those that wait for it are gone."""

from __future__ import annotations

import os
import threading
import time

POLL = 0.1  # seconds between two looks


def end_with(parent: int, *others: int) -> None:
    """End this process, at once and silently, when ``parent``, which has started it, is gone, or one of ``others``."""

    def watch() -> None:
        while os.getppid() == parent and all(map(_exists, others)):
            time.sleep(POLL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
