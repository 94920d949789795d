"""The results folder: tables, figures and a summary, each written whole or not at all, with where they come from."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from experiments.lab.runner import ROOT, Bench

RESULTS = ROOT / "results"
NARROW = ".narrow"  # how the title of a figure for a narrow screen ends


def write(
    folder: Path,
    name: str,
    frame: pd.DataFrame,
    *,
    figures: dict[str, Figure],
    numbers: dict[str, Any],
    bench: Bench,
    tables: dict[str, pd.DataFrame] | None = None,
    documents: dict[str, str] | None = None,
) -> None:
    """Write data/NAME.csv, figures/NAME.svg and .png, and the experiment's entry in summary.json.

    ``tables`` are written in place of the frame, by their names, and ``documents`` by their paths. CSV and SVG of one
    frame are the same bytes whenever they are written.
    """
    for title, table in (tables or {name: frame}).items():
        write_atomically(folder / f"data/{title}.csv", partial(Path.write_text, data=as_csv(table)))
    for title, figure in figures.items():
        draw(folder, title, figure)
    for where, text in (documents or {}).items():
        write_atomically(folder / where, partial(Path.write_text, data=text))
    path = folder / "summary.json"
    summary = json.loads(path.read_text()) if path.exists() else {}
    summary[name] = {"provenance": provenance(bench), **numbers}
    text = json.dumps(summary, indent=2, sort_keys=True, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text))


def as_csv(table: pd.DataFrame) -> str:
    """A table as it is written, with six digits."""
    text: str = table.to_csv(index=False, float_format="%.6g")
    return text


def draw(folder: Path, title: str, figure: Figure) -> None:
    """Write figures/TITLE.svg, and TITLE.png but for figures of a narrow screen."""
    # Element ids of an SVG are random, and its date is now, unless told otherwise.
    with mpl.rc_context({"svg.hashsalt": title, "svg.fonttype": "none", "savefig.bbox": "tight", "savefig.dpi": 150}):
        svg = partial(figure.savefig, format="svg", metadata={"Date": None})
        write_atomically(folder / f"figures/{title}.svg", svg)
        if not title.endswith(NARROW):
            write_atomically(folder / f"figures/{title}.png", partial(figure.savefig, format="png"))


def write_atomically(path: Path, write_to: Callable[[Path], object]) -> None:
    """Let ``write_to`` fill a temporary file beside ``path``, then put it in place in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        write_to(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def provenance(bench: Bench) -> dict[str, Any]:
    """Versions, settings, commit and machine that an experiment ran with."""
    return {
        "versions": {
            "python": platform.python_version(),
            **{
                package: version(package) for package in ("accumcheck", "torch", "pandas", "matplotlib", "scikit-learn")
            },
        },
        "settings": {"quick": bench.quick, "full": bench.full, "device": bench.device},
        "commit": _commit(),
        "machine": {"system": sys.platform, "architecture": platform.machine(), "cores": os.cpu_count()},
    }


def _commit() -> str | None:
    """The commit of the working tree, with a plus where code was changed since; None outside a repository."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        code = [*git, "status", "--porcelain", "harness", "experiments"]
        changed = subprocess.run(code, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + "+" * bool(changed)
