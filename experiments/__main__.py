"""Run experiments and write their tables, figures and numbers to results/.

python -m experiments [NAME ...] [--quick | --full] [--jobs N] [--dask ADDRESS] [--device D] [--results FOLDER]
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rich.console
import rich.progress

from experiments import NAMES, SLOW
from experiments.lab.redraw import as_read, drawn, figures_of
from experiments.lab.runner import Bench
from experiments.lab.writer import RESULTS, write

PARTS = ("tables", "documents")  # what a module may have beside plot(frame)


def main(arguments: list[str] | None = None) -> int:
    """Run the experiments that the command line names; 0, or 2 for a call that makes no sense."""
    parser = argparse.ArgumentParser(prog="python -m experiments", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"any of {', '.join(NAMES)}; by default all but {', '.join(SLOW)}"
    )
    parser.add_argument("--quick", action="store_true", help="fewer cases, to try things out")
    parser.add_argument("--full", action="store_true", help="also what takes long or needs much memory")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="worker processes (default: all cores)")
    parser.add_argument("--dask", metavar="ADDRESS", help="a dask cluster that cases are sent to, but those of time")
    parser.add_argument("--device", default="cpu", help="torch device, such as cuda (default: cpu)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to (default: results/)")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in NAMES]:
        parser.error(f"no experiment {unknown[0]!r}: choose from {', '.join(NAMES)}")
    if options.jobs < 1:
        parser.error(f"--jobs must be at least 1, got {options.jobs}")
    console = rich.console.Console()
    with rich.progress.Progress(
        *rich.progress.Progress.get_default_columns(), rich.progress.TimeElapsedColumn(), console=console
    ) as progress:
        partial = options.results / "partial"
        bench = Bench(options.quick, options.full, options.device, options.jobs, partial, progress, options.dask)
        for name in options.names or [name for name in NAMES if options.full or name not in SLOW]:
            started = time.perf_counter()
            experiment = importlib.import_module(f"experiments.{name}")
            frame = experiment.run(bench)
            numbers = experiment.summarise(frame)
            more = {part: getattr(experiment, part)(frame) for part in PARTS if hasattr(experiment, part)}
            if hasattr(experiment, "from_tables") or "tables" not in more:  # as whoever redraws them later
                figures = drawn(name, as_read(more.get("tables") or {name: frame}))
            else:
                figures = figures_of(experiment, name, frame)
            write(options.results, name, frame, figures=figures, numbers=numbers, bench=bench, **more)
            console.print(
                f"[bold]{name}[/bold] ({time.perf_counter() - started:.0f} s): {numbers['finding']}", highlight=False
            )
            if not bench.quick and (complaint := complaint_of(experiment.check, numbers)):
                console.print(f"[bold red]not as claimed:[/bold red] {complaint}", highlight=False)
            bench.forget(name)
    return 0


def complaint_of(check: Callable[[dict[str, Any]], None], numbers: dict[str, Any]) -> str:
    """What a check says against these numbers; nothing if they are as claimed."""
    try:
        check(numbers)
    except AssertionError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted: what is finished is kept, the same command goes on from there")
