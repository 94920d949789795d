"""Judges loops in a process of their own, so that there is an answer whatever they do. It needs no torch itself."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from accumcheck.failure import Failure

START_LIMIT = 300.0  # seconds for the process to import torch
IMPORT_LIMIT = 60.0  # seconds for importing a loop, at least
GRACE = 5.0  # seconds beyond a time limit, after which a loop that cannot be interrupted is killed
SILENCE = 600.0  # seconds without a sign of life, where no time limit runs
EXIT_LIMIT = 3.0  # seconds for the process to end once all is said
TICK = 0.1  # seconds between two looks at it
HINTS = {
    "SIGKILL": "is there too little memory?",
    **dict.fromkeys(("SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE", "SIGILL"), "look for a crash of native code"),
}


def judged(
    loops: Sequence[str], options: dict[str, Any], show: Callable[[Child], None] = lambda child: None
) -> Iterator[dict[str, Any]]:
    """The result of each loop, as ``worker.judge`` returns it, as soon as it is there; ``show`` is called meanwhile.

    A loop that ends or blocks its process gets a failure for a result; the loops after it get a new process.
    """
    rest = list(loops)
    while rest:
        with Child(rest, options) as child:
            for event in child.events():
                show(child)
                if result := event.get("result"):
                    rest.pop(0)
                    yield result
                    if not rest:
                        return
        for target in rest[: 1 if child.ready else None]:
            failure = Failure(target, child.end)
            yield {"object": failure.as_dict(), "text": str(failure)}
        del rest[: 1 if child.ready else None]


class Child:
    """A process that judges loops one after the other.

    ``target`` is the loop that it is at, ``runs`` how often that has run so far, ``sizes`` those of the last run;
    ``end`` says why the process came to an end before it was through.
    """

    def __init__(self, loops: Sequence[str], options: dict[str, Any]) -> None:
        self.target, self.sizes, self.runs, self.ready, self.end = loops[0], "", 0, False, ""
        request = {"loops": loops, "parent": os.getpid(), "options": options}
        code = f"import sys; sys.path[:] = {sys.path!r}; from accumcheck.worker import main; main()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, json.dumps(request)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the parent, which then ends it and all that it has started
        )
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None and not self.end:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(EXIT_LIMIT)
        self._kill()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(b"")

    def _kill(self) -> None:
        if self._process.poll() is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()
            self._process.wait()

    def events(self) -> Iterator[dict[str, Any]]:
        """What it says; an empty event now and then while it says nothing; until it ends, or has to be ended."""
        limits: list[float] = []  # that run at the moment, the innermost last
        deadline = time.monotonic() + START_LIMIT
        while True:
            try:
                line = self._lines.get(timeout=TICK)
            except queue.Empty:
                if self._process.poll() is not None and self._lines.empty():  # others may hold the pipe open
                    break
                if time.monotonic() > deadline:
                    self._kill()
                    self.end = self._too_long(limits)
                    return
                yield {}
                continue
            if not line:
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(EXIT_LIMIT)
                self._kill()
                break
            try:
                event = json.loads(line)
            except ValueError:  # somebody else has written it
                continue
            self._note(event, limits)
            deadline = time.monotonic() + (min(limits) + GRACE if limits else SILENCE)
            yield event
        self.end = self._ended(self._process.returncode)

    def _note(self, event: dict[str, Any], limits: list[float]) -> None:
        self.ready |= "ready" in event
        if "target" in event:
            self.target, self.sizes, self.runs = event["target"], "", 0
            limits.clear()
        if "sizes" in event:
            self.sizes, self.runs = event["sizes"], self.runs + 1
        if "limit" in event:
            if event["limit"] is None:
                limits.pop()
            else:
                limits.append(event["limit"])

    @property
    def _name(self) -> str:
        return self.target.rpartition(":")[2]

    @property
    def _place(self) -> str:
        return f"at {self.sizes}, in run {self.runs}" if self.runs else "before its first run"

    def _too_long(self, limits: list[float]) -> str:
        if not self.ready:
            return f"the process that judges loops did not start within {START_LIMIT:g} seconds"
        if not limits:
            return f"accumcheck itself gave no sign of life for {SILENCE:g} seconds, {self._place}"
        what = f"{self._name}, {self._place}," if self.runs else f"importing {self.target.rpartition(':')[0]!r}"
        return (
            f"{what} did not end within {min(limits):g} seconds, and could not be interrupted: "
            "look for a loop without end, or raise --time-limit"
        )

    def _ended(self, status: int) -> str:
        if not self.ready:
            return f"the process that judges loops did not start (exit status {status}); what it says stands above"
        if status >= 0:
            return (
                f"{self._name} ended its process {self._place}, with exit status {status}: there is no verdict; "
                "look for os._exit"
            )
        name = signal.Signals(-status).name
        return (
            f"the process of {self._name} was ended by {name} {self._place}: there is no verdict; "
            f"{HINTS.get(name, 'somebody has sent that signal')}"
        )
