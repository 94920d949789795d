"""Runs a script under observation in a process of its own: there is an answer whatever it does. No torch here."""

from __future__ import annotations

import json
import os
import shutil
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

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--no-python")
START = "import sys; sys.path[:] = {path!r}; from accumcheck.auditing import main; main()"


def run(script: str, arguments: Sequence[str], options: dict[str, Any]) -> dict[str, Any] | None:
    """The report on one run of a script: its JSON form, and its text. What the script prints passes through.

    With ``ranks``, torchrun starts that many here. Under torchrun, the ranks' runs are put together: rank 0 reports,
    others return None.
    """
    name = " ".join([script, *arguments])
    if problem := _problem(script, module=bool(options.get("module"))):
        return failed(name, problem)
    rank = _rank()
    ranks = options.get("ranks") or 1
    with _folder() as folder:
        result = folder / "result.json"
        request = {
            **options, "script": script, "arguments": list(arguments), "result": str(result), "name": name,
            "folder": str(folder) if ranks > 1 or rank is not None else None,
        }  # fmt: skip
        command = [sys.executable, "-c", START.format(path=sys.path), json.dumps(request)]
        if ranks > 1:
            command = [sys.executable, *TORCHRUN, "--nproc-per-node", str(ranks), *command]
        # torchrun would set as many threads, and say so at length
        threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")} if ranks > 1 else {}
        process = subprocess.Popen(command, env={**os.environ, **threads})
        with _terminated_together(process):
            try:
                status = process.wait()
            except KeyboardInterrupt:  # the script gets it too, and what was seen until then is reported
                status = process.wait()
        if rank:
            error = folder / f"error-{rank}"
            return failed(name, error.read_text()) if error.exists() else None
        if result.exists():
            found: dict[str, Any] = json.loads(result.read_text())
            return found
        errors = sorted(folder.glob("error-*"), key=lambda path: path.stat().st_mtime)
        if errors:
            return failed(name, errors[0].read_text())
    if status < 0:
        return failed(name, f"it was ended by {signal.Signals(-status).name}: there is no verdict")
    return failed(
        name, f"it ended its process with exit status {status} before there was a verdict; look for os._exit in it"
    )


def _rank() -> int | None:
    """The rank that this process is, under torchrun on one machine."""
    told = os.environ
    if int(told.get("WORLD_SIZE", "1")) > 1 and told.get("LOCAL_WORLD_SIZE") == told.get("WORLD_SIZE"):
        return int(told.get("RANK", "0"))
    return None


@contextmanager
def _folder() -> Iterator[Path]:
    """A directory for what the run leaves; all ranks under one torchrun have the same one."""
    rank = _rank()
    if rank is None:
        with tempfile.TemporaryDirectory(prefix="accumcheck-") as folder:
            yield Path(folder)
        return
    shared = Path(tempfile.gettempdir(), f"accumcheck-{os.getuid()}-{os.getppid()}")
    shared.mkdir(mode=0o700, exist_ok=True)
    if shared.stat().st_uid != os.getuid():
        raise PermissionError(f"{str(shared)!r} belongs to somebody else")
    try:
        yield shared
    finally:
        if rank == 0:
            shutil.rmtree(shared, ignore_errors=True)


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
