"""Runs a script under observation in a process of its own: there is an answer whatever it does. No torch here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accumcheck.failure import Failure

START = "import sys; sys.path[:] = {path!r}; from accumcheck.auditing import main; main()"


def run(script: str, arguments: Sequence[str], options: dict[str, Any]) -> dict[str, Any]:
    """The report on one run of a script: its JSON form, and its text. What the script prints passes through."""
    name = " ".join([script, *arguments])
    if problem := _problem(script, module=bool(options.get("module"))):
        return failed(name, problem)
    with tempfile.TemporaryDirectory(prefix="accumcheck-") as folder:
        result = Path(folder) / "result.json"
        request = {**options, "script": script, "arguments": list(arguments), "result": str(result), "name": name}
        command = [sys.executable, "-c", START.format(path=sys.path), json.dumps(request)]
        process = subprocess.Popen(command)
        with _terminated_together(process):
            try:
                status = process.wait()
            except KeyboardInterrupt:  # the script gets it too, and what was seen until then is reported
                status = process.wait()
        if result.exists():
            found: dict[str, Any] = json.loads(result.read_text())
            return found
    if status < 0:
        return failed(name, f"it was ended by {signal.Signals(-status).name}: there is no verdict")
    return failed(
        name, f"it ended its process with exit status {status} before there was a verdict; look for os._exit in it"
    )


@contextmanager
def _terminated_together(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Who ends this process ends the script."""

    def end(*_: object) -> None:
        process.terminate()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, kept)


def failed(name: str, error: str) -> dict[str, Any]:
    """The report on a run without a verdict."""
    failure = Failure(name, error)
    return {"object": failure.as_dict(), "text": str(failure)}


def _problem(script: str, *, module: bool) -> str:
    """Why a script cannot be started, if it cannot."""
    if module:
        if all(part.isidentifier() for part in script.split(".")):
            return ""
        return f"-m takes the name of a module, such as package.train, got {script!r}"
    if os.path.isdir(script):
        return f"{script!r} is a directory: name the script in it"
    if not os.path.isfile(script):
        hint = "; for a module, type accumcheck run -m" if "." in script and not script.endswith(".py") else ""
        return f"there is no script {script!r} here{hint}"
    return ""
