"""What is going on at the moment, for whoever listens: which run of a loop, and which time limit it is under."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

listener: Callable[[dict[str, Any]], None] | None = None


def report(event: dict[str, Any]) -> None:
    """Tell the listener, if there is one.

    >>> report({"loop": "train", "sizes": "n=7, b=1, k=4, epochs=2"})  # nobody listens
    """
    if listener is not None:
        listener(event)
