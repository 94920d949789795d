"""Draw figures again from the tables in results/data, without measuring.

``python -m experiments.lab.redraw [NAME ...]``

Writes figures/NAME.svg and .png as a run does, and figures/NAME.narrow.svg for a phone, whose panels stand in one
column. Tables, numbers and provenance stay as they are. An experiment that writes its frame as several tables has a
function ``from_tables(read)``, which puts together what ``plot`` and ``figures`` need.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from types import ModuleType

import pandas as pd
from matplotlib.figure import Figure

import experiments
from experiments.lab import look
from experiments.lab.writer import NARROW, RESULTS, as_csv, draw

Read = Callable[[str], pd.DataFrame]


class CannotRedrawError(ValueError):
    """The tables of an experiment are not enough to draw it."""


def redraw(name: str, folder: Path) -> list[str]:
    """Draw an experiment's figures from the tables in ``folder``; their titles."""

    def read(title: str) -> pd.DataFrame:
        path = folder / f"data/{title}.csv"
        if not path.is_file():
            raise CannotRedrawError(f"{name} cannot be drawn: there is no table {path}")
        return pd.read_csv(path)

    figures = drawn(name, read)
    for title, figure in figures.items():
        draw(folder, title, figure)
    return [*figures]


def drawn(name: str, read: Read) -> dict[str, Figure]:
    """The figures of an experiment by their titles, as they are and for a narrow screen, from its tables."""
    experiment = importlib.import_module(f"experiments.{name}")
    if hasattr(experiment, "from_tables"):
        frame = experiment.from_tables(read)
    elif hasattr(experiment, "tables"):
        raise CannotRedrawError(f"{name} cannot be drawn from its tables: it has no from_tables(read)")
    else:
        frame = read(name)
    figures = figures_of(experiment, name, frame)
    # Those of another width are legible as they are, or do not ask look for their panels.
    wide = [title for title, figure in figures.items() if figure.get_figwidth() == look.WIDE]
    with look.narrow():
        narrow = figures_of(experiment, name, frame) if wide else {}
    return figures | {f"{title}{NARROW}": narrow[title] for title in wide}


def as_read(tables: dict[str, pd.DataFrame]) -> Read:
    """Tables as they will be read when they are written, so that a run draws what is drawn again later."""
    return lambda title: pd.read_csv(StringIO(as_csv(tables[title])))


def figures_of(experiment: ModuleType, name: str, frame: pd.DataFrame) -> dict[str, Figure]:
    """All figures of an experiment by their titles, drawn from its frame."""
    more: dict[str, Figure] = experiment.figures(frame) if hasattr(experiment, "figures") else {}
    return {name: experiment.plot(frame), **more}


def main(arguments: list[str] | None = None) -> int:
    """Draw the experiments that the command line names, or all that can be; 0, or 2 if one of them cannot be drawn."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.lab.redraw", description=(__doc__ or "").split("\n", 1)[0]
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="by default all that can be drawn again")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder of tables and figures (default: results/)"
    )
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in experiments.NAMES]:
        parser.error(f"no experiment {unknown[0]!r}: choose from {', '.join(experiments.NAMES)}")
    for name in options.names or experiments.NAMES:
        try:
            print(f"{name}: {', '.join(redraw(name, options.results))}")
        except CannotRedrawError as error:
            print(error, file=sys.stderr)
            if options.names:
                return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
