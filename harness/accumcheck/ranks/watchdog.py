"""Ends a rank that hangs where no alarm wakes it, and keeps where that was."""

from __future__ import annotations

import faulthandler
import re
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

GRACE = 0.5  # seconds that a block may be late, so that an alarm of its own can say why
FRAME = re.compile(r'^  File "(.*)", line (\d+) in (.*)$')


class Watchdog:
    """Ends this process when a block takes too long; ``path`` then says which, and where; see ``read_hang``."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w")

    @contextmanager
    def limit(self, seconds: float, what: str, advice: str = "") -> Iterator[None]:
        """End the process with status 1 unless the block ends in time. Blocks do not nest."""
        self._file.seek(0)
        self._file.truncate()
        self._file.write(f"{what} did not end within {seconds:g} seconds{advice}\n")
        self._file.flush()
        faulthandler.dump_traceback_later(seconds + GRACE, exit=True, file=self._file)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


def read_hang(path: Path) -> str | None:
    """What a watchdog has written when it ended its process; None if it has not.

    The place is the innermost call in code that is neither Python's own nor installed: in the loop.
    """
    message, *dump = path.read_text(errors="replace").splitlines() or [""]
    if not dump:
        return None
    installed = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]
    main = dump[max((i for i, line in enumerate(dump) if "most recent call first" in line), default=0) :]
    for found in filter(None, map(FRAME.match, main)):
        file = Path(found[1])
        if not any(folder in file.parents for folder in installed):
            return f"{message}; it hangs at {file.name}:{found[2]}, in {found[3]}"
    return message
