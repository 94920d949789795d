"""Throw-away environments: the pinned packages of one release, and behind them what the running interpreter has.

pip installs the pins and nothing else, and of them those that the running interpreter does not have in just that
version. Its folders come through a .pth file, which Python puts behind the environment's own packages: torch and what
else is large is taken from there, and nothing that is installed here. ``read`` makes sure of it: reader.py says which
version of each distribution was imported in the end.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

import torch

from experiments.lab.runner import ROOT, Row

TORCH = f"torch=={torch.__version__.partition('+')[0]}"
READER = Path(__file__).parent / "reader.py"
MADE = "made.json"  # what is installed, written when all of it is
MINUTES = 10
Words = dict[str, str]


class UnavailableError(Exception):
    """A release that cannot be installed or read; the last line of what was said about it."""


def folder_of(name: str, pins: Iterable[str], root: Path) -> Path:
    """Where the environment of these pins is kept."""
    digest = hashlib.sha256("\n".join([sys.version, TORCH, *sorted(pins)]).encode()).hexdigest()[:10]
    return root / f"{name}-{digest}"


def missing(pins: Iterable[str]) -> list[str]:
    """Those that the running interpreter does not have in just that version."""
    return [pin for pin in pins if not _has(*pin.split("=="))]


def install_command(folder: Path, pins: Sequence[str], built: Sequence[str] = ()) -> list[str]:
    """pip of the running interpreter, for another environment: these wheels, and none that they ask for; those named
    ``built`` are built, with what is borrowed."""
    pip = [sys.executable, "-m", "pip", "--python", str(_python(folder)), "install", "--quiet", "--no-input"]
    pip += ["--no-deps", "--only-binary", ":all:", "--constraint", str(folder / "constraints.txt")]
    if built:
        pip += ["--no-build-isolation", "--no-binary", ",".join(built)]
    return [*pip, *pins]


def prepare(name: str, pins: Sequence[str], root: Path, built: Sequence[str] = ()) -> Path:
    """The environment of these pins, which is made if it is not there whole; UnavailableError if pip says no."""
    folder, needed = folder_of(name, pins, root), missing(pins)
    made = folder / MADE
    if not made.exists() or json.loads(made.read_text()) != needed:
        shutil.rmtree(folder, ignore_errors=True)
        venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
        (folder / "constraints.txt").write_text("\n".join([TORCH, *pins]) + "\n")
        _borrow(folder)
        if needed:
            done = _run(install_command(folder, needed, built))
            if done.returncode:
                raise UnavailableError(last_line(done.stderr))
        if torch.version.cuda is None:
            for library in folder.glob("lib/python*/site-packages/torchaudio/lib/*.so"):
                library.unlink()  # they are linked to CUDA's torch; without them it imports as pure Python
        made.write_text(json.dumps(needed))
    _borrow(folder)
    return folder


def _borrow(folder: Path) -> None:
    [site] = folder.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text("\n".join(_borrowed()) + "\n")


def read(folder: Path, names: Sequence[str], pins: Iterable[str]) -> tuple[dict[str, Row], Words, Words]:
    """Of each name the row that ``accumcheck frameworks`` prints there, or why there is none; the versions imported."""
    with tempfile.TemporaryDirectory() as scratch:
        where = Path(scratch) / "versions.json"
        done = _run([str(_python(folder)), "-P", str(READER), str(where), *names], scratch)
        if not where.exists():
            raise UnavailableError(last_line(done.stderr))
        versions: dict[str, str] = json.loads(where.read_text())
    for distribution, version in (pin.split("==") for pin in [TORCH, *pins]):
        found = versions.get(_plain(distribution), version)
        if found != version:
            raise RuntimeError(f"{folder.name}: {distribution} {found} was imported in place of {version}")
    rows = rows_of(done.stdout)
    return rows, {name: reason_of(name, done.stderr) for name in names if name not in rows}, versions


def audited(folder: Path, script: Path, *arguments: str) -> Row:
    """What ``accumcheck run`` says of a whole script there; UnavailableError if it says nothing."""
    done = _run([str(_python(folder)), "-P", "-m", "accumcheck", "run", "--json", str(script), *arguments])
    try:
        report: Row = json.loads(done.stdout.strip().rpartition("\n")[2])
    except ValueError as error:
        raise UnavailableError(last_line(done.stderr)) from error
    return report


def rows_of(printed: str) -> dict[str, Row]:
    """The rows of the list that is printed last, by their names; none if there is no list."""
    try:
        rows = json.loads(printed.strip().rpartition("\n")[2])
    except ValueError:
        return {}
    return {row["name"]: {key: value for key, value in row.items() if key != "name"} for row in rows}


def reason_of(name: str, said: str) -> str:
    """What was said about one name, else what was said last."""
    lines = [line for line in said.splitlines() if line.startswith(f"accumcheck: {name}: ")]
    return last_line(lines[-1].partition(f"{name}: ")[2] if lines else said)


def last_line(text: str) -> str:
    """Why a command failed, as far as one line tells; without addresses in memory."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return re.sub(r"<function (\w+) at 0x[0-9a-f]+>", r"\1", lines[-1]) if lines else "nothing was said"


def _run(command: Sequence[str], folder: str | None = None) -> subprocess.CompletedProcess[str]:
    """The finished command; UnavailableError if it does not finish."""
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    variables |= {"PYTHONPATH": str(ROOT / "harness"), "PYTHONNOUSERSITE": "1", "OMP_NUM_THREADS": "1"}
    variables |= {"DS_BUILD_OPS": "0", "DS_ACCELERATOR": "cpu"}  # DeepSpeed asks for a compiler and a device otherwise
    try:
        return subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=60 * MINUTES, env=variables, cwd=folder
        )
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"not ready in {MINUTES} minutes") from error


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _borrowed() -> list[str]:
    """The folders of packages of the running interpreter."""
    return [place for place in sys.path if Path(place).name in ("site-packages", "dist-packages")]


def _has(distribution: str, version: str) -> bool:
    try:
        return metadata.version(distribution) == version
    except metadata.PackageNotFoundError:
        return False


def _plain(distribution: str) -> str:
    """The name as packaging compares it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()
