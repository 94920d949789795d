"""Claim: what a framework does with gradient accumulation comes and goes with its releases.

``python -m experiments history`` (installs old releases with pip: minutes, and a gigabyte)

Each release is installed into an environment of its own, which is kept, and read there by ``accumcheck frameworks``,
with the torch that is here. A release that cannot be installed or read is in the table with the reason. Dates are those
of PyPI's index. What is pinned beside a release is what was current when it came out, and what it asks for.
"""

from __future__ import annotations

import tempfile
import textwrap
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
from accumcheck.adapters import ADAPTERS
from accumcheck.adapters.conformance import COLUMNS
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from experiments.lab import look
from experiments.lab.environments import UnavailableError, missing, prepare, read
from experiments.lab.runner import Bench, Row


@dataclass(frozen=True)
class Release:
    """A framework in one version; ``beside`` are the pins of what else is installed for it."""

    package: str
    version: str
    date: str
    beside: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """As a folder is called."""
        return f"{self.package}-{self.version}"

    @property
    def pins(self) -> list[str]:
        """All that pip installs."""
        return [f"{self.package}=={self.version}", *self.beside]


def _transformers(version: str, date: str, accelerate: str, tokenizers: str, hub: str) -> Release:
    beside = (f"accelerate=={accelerate}", f"tokenizers=={tokenizers}", f"huggingface-hub=={hub}")
    return Release("transformers", version, date, beside)


OLD = ("packaging==24.2", "fsspec==2024.12.0")  # lightning 2.0 to 2.4 ask for less than 25, and for less than 2025
OLDEST = ("setuptools==75.8.0",)  # newer ones have no pkg_resources
APPS = (  # lightning 2.0 imports its apps, and those all this
    *("fastapi==0.103.2", "starlette==0.27.0", "pydantic==1.10.21", "anyio==3.7.1", "croniter==1.4.1", "pytz==2024.2"),
    *("arrow==1.3.0", "backoff==2.2.1", "beautifulsoup4==4.12.3", "soupsieve==2.6", "dateutils==0.6.12"),
    *("deepdiff==6.7.1", "ordered-set==4.1.0", "inquirer==3.4.0", "blessed==1.20.0", "editor==1.6.6"),
    *("readchar==4.2.1", "runs==1.2.2", "xmod==1.8.1", "lightning-cloud==0.5.70", "pyjwt==2.9.0"),
    *("python-multipart==0.0.12", "starsessions==1.3.0", "uvicorn==0.31.0", "websockets==12.0", "itsdangerous==2.2.0"),
    *("six==1.16.0", "types-python-dateutil==2.9.0.20241003", "rich==13.9.2"),
)
CHEX = ("chex==0.1.87", "toolz==1.0.0", "etils==1.10.0", "importlib-resources==6.4.5", "zipp==3.20.2")
RELEASES = (
    _transformers("4.45.2", "2024-10-07", "1.0.1", "0.20.1", "0.25.2"),
    _transformers("4.46.0", "2024-10-24", "1.0.1", "0.20.1", "0.26.1"),
    _transformers("4.46.3", "2024-11-18", "1.1.1", "0.20.3", "0.26.2"),
    _transformers("4.48.0", "2025-01-10", "1.2.1", "0.21.0", "0.27.1"),
    _transformers("4.50.3", "2025-03-28", "1.5.2", "0.21.1", "0.29.3"),
    _transformers("4.57.6", "2026-01-16", "1.12.0", "0.22.2", "0.36.0"),
    _transformers("5.24.0", "2026-11-21", "1.15.0", "0.23.3", "2.4.0"),
    Release("accelerate", "0.20.3", "2023-06-08", OLDEST),
    Release("accelerate", "0.34.2", "2024-09-05"),
    Release("accelerate", "1.0.1", "2024-10-12"),
    Release("accelerate", "1.15.0", "2026-09-09"),
    Release("lightning", "2.0.9.post0", "2023-09-28", OLD + OLDEST + APPS),
    Release("lightning", "2.2.5", "2024-05-22", OLD + OLDEST),
    Release("lightning", "2.4.0", "2024-08-07", OLD),
    Release("lightning", "2.6.6", "2026-09-10"),
    Release("skorch", "0.15.0", "2023-09-04"),
    Release("skorch", "1.4.0", "2026-05-14"),
    Release("keras", "3.3.3", "2024-04-26"),
    Release("keras", "3.5.0", "2024-08-12"),
    Release("keras", "3.15.1", "2026-07-29"),
    Release("fastai", "2.7.19", "2025-03-12", ("fastcore==1.7.29", "fastprogress==1.0.3")),
    Release("fastai", "2.8.12", "2026-09-09"),
    Release("optax", "0.2.4", "2024-11-12", CHEX),
    Release("optax", "0.2.8", "2026-03-20"),
)
NAMES = {
    "transformers": ("hf_trainer", "hf_trainer_no_count", "hf_trainer_count_ignored"),
    "accelerate": ("accelerate", "accelerate_zero_grad_first"),
    "lightning": ("lightning",),
    "skorch": ("skorch", "skorch_accelerate"),
    "keras": ("keras_torch",),
    "fastai": ("fastai",),
    "optax": ("optax",),
}
COLOURS = {**look.CELLS, "differs": "#F6C6A6"}
UNKNOWN = look.CELLS["none"]
LABELS, ABOVE = 2.6, 2.9  # width of labels in cells, height of titles in rows
FIX = ("transformers", "hf_trainer", "tokens")  # where the fix of October 2024 shows
BEFORE, LOST = "4.45.2", "4.48.0"  # the last release without it, and one whose model that takes the count gets none


def run(bench: Bench) -> pd.DataFrame:
    """A row for every cell of every release, and one for every setting that could not be read."""
    here = [release for release in RELEASES if not missing(release.pins)]
    releases = (here or RELEASES)[:1] if bench.quick else RELEASES  # quick is what needs no network
    with tempfile.TemporaryDirectory() as scratch:
        root = bench.partial / "environments" if bench.partial else Path(scratch)
        cases: list[Row] = [{"title": release.title, "root": str(root.absolute())} for release in releases]
        return pd.DataFrame(bench.map(measure, cases))


def measure(title: str, root: str) -> list[Row]:
    """All rows of one release."""
    [release] = [release for release in RELEASES if release.title == title]
    return measured(release, Path(root))


def measured(release: Release, root: Path) -> list[Row]:
    """All rows of one release, whose environment is made if it is not there."""
    known = {adapter.id: adapter for adapter in ADAPTERS}
    names = NAMES[release.package]
    rows: dict[str, Row] = {}
    versions: dict[str, str] = {}
    try:
        folder = prepare(release.title, release.pins, root)
        rows, reasons, versions = read(folder, names, release.pins)
    except UnavailableError as error:
        reasons = dict.fromkeys(names, str(error))
    shown = ["torch", "numpy", "accelerate", "jax", *(pin.partition("==")[0] for pin in release.pins)]
    imported = " ".join(f"{each}=={versions[each]}" for each in dict.fromkeys(shown) if each in versions)
    found: list[Row] = []
    for name in names:
        row = rows.get(name, {"framework": known[name].framework, "setting": known[name].setting, "cells": {}})
        named = {"package": release.package, "version": release.version, "date": release.date, "name": name}
        named |= {"framework": row["framework"], "setting": row["setting"]}
        cells = [{"column": column, **cell} for column, cell in row["cells"].items()]
        cells = cells or [{"column": "", "kind": "skipped", "text": reasons[name]}]
        found += [{**named, **cell, "imported": imported} for cell in cells]
    return found


def changes(frame: pd.DataFrame) -> list[dict[str, str]]:
    """Each cell that is another one than in the release before that could be read."""
    found = []
    for (package, name), rows in frame[frame["kind"] != "skipped"].groupby(["package", "name"], sort=False):
        for column in dict.fromkeys(rows["column"]):
            cells = rows[rows["column"] == column].to_dict("records")
            found += [
                {
                    **{"package": str(package), "name": str(name), "column": str(column)},
                    **{"from": str(before["version"]), "to": str(after["version"])},
                    **{"before": look.signed(before), "after": look.signed(after)},
                }
                for before, after in pairwise(cells)
                if (before["kind"], before["text"]) != (after["kind"], after["text"])
            ]
    return found


def skipped(frame: pd.DataFrame) -> list[dict[str, str]]:
    """Each setting of a release that could not be read, and why."""
    rows = frame.loc[frame["kind"] == "skipped", ["package", "version", "name", "text"]]
    return [{str(key): str(value) for key, value in row.items()} for row in rows.to_dict("records")]


def summarise(frame: pd.DataFrame) -> dict[str, Any]:
    """The changes, the releases, what could not be read, and the kind of the token cell in each release."""
    changed, unread = changes(frame), skipped(frame)
    package, name, column = FIX
    tokens = frame[(frame["name"] == name) & (frame["column"] == column)]
    releases = frame[["package", "version"]].drop_duplicates()
    count = {str(each): sum(row["package"] == each for row in changed) for each in releases["package"].unique()}
    moved = [f"{number} of {each}" for each, number in count.items() if number]
    still = [each for each, number in count.items() if not number]
    right, wrong = (
        [str(version) for version in tokens.loc[(tokens["kind"] == "equal") == equal, "version"]]
        for equal in (True, False)
    )
    return {
        "releases": {
            str(each): [str(version) for version in rows["version"]] for each, rows in releases.groupby("package")
        },
        "changes": changed,
        "skipped": unread,
        "tokens": {str(row["version"]): str(row["kind"]) for row in tokens.to_dict("records")},
        "finding": (
            f"in {len(releases)} releases {len(changed)} cells changed from one to the next: "
            f"{', '.join(moved) or 'none'}, none of {', '.join(still) or 'another'}; {len(unread)} rows could not be "
            f"read. For token means {package} differs from the full batch in {', '.join(wrong) or 'no release'}, and "
            f"equals it in {', '.join(right) or 'none'}, where the model uses the count"
        ),
    }


def check(numbers: dict[str, Any]) -> None:
    """Token means differ before the fix of October 2024, and once after it; all releases are accounted for."""
    for release in RELEASES:
        if release.package == FIX[0]:
            due = "differs" if release.version in (BEFORE, LOST) else "equal"
            found = numbers["tokens"].get(release.version)
            assert found == due, f"{release.title}: token means are {found}, not {due}"
    for release in RELEASES:
        assert release.version in numbers["releases"].get(release.package, []), f"{release.title} is not in the table"
    for row in numbers["skipped"]:
        assert row["text"], f"no reason why {row['package']} {row['version']} was skipped"


def plot(frame: pd.DataFrame) -> Figure:
    """A block for each framework: a column for each release, a row for each behaviour that changed or differs."""
    first, *others = [Block.of(own) for _, own in frame.groupby("package", sort=False)]
    left = [block for block in others if len(block.versions) > 2]
    across = max(len(block.versions) for block in [*left, first][:-1] or [first])
    columns = [(0.0, left), (across + 2.2, [block for block in others if block not in left])]
    places, lowest = [(0.0, 0.0, first)], first.height
    for x, blocks in columns:
        y = first.height
        for block in blocks:
            places.append((x, y, block))
            y += block.height
        lowest = max(lowest, y)
    width = max(x + len(block.versions) for x, _, block in places)
    figure = Figure(figsize=(1.0 * (width + LABELS), 0.27 * lowest + 0.5), layout="constrained")
    axis = figure.subplots()
    for x, y, block in places:
        _draw(axis, x, y, block)
    axis.set(xlim=(-LABELS, width), ylim=(lowest, 0))
    axis.axis("off")
    look.title(
        figure,
        _told(summarise(frame)["tokens"]),
        "= as full-batch training, ≈ another policy, ≠ differs: the weight, for the weight that it should be. "
        "Only behaviours that changed or differ have a row.",
    )
    return figure


def _told(tokens: dict[str, str]) -> str:
    """The story of the token fix, if these releases have it."""
    order = list(tokens)
    if tokens.get(LOST) != "differs" or BEFORE not in tokens:
        return "What a framework does changes from release to release"
    came, back = (next(v for v in order[order.index(after) :] if tokens[v] == "equal") for after in (BEFORE, LOST))
    return f"Trainer's token fix came with {came}, was lost in {LOST} and is back since {back}"


@dataclass(frozen=True)
class Block:
    """One package: its releases with their dates, and the rows of the settings and columns that are drawn."""

    title: str
    versions: list[tuple[str, str]]
    rows: list[tuple[str, str]]
    cells: dict[tuple[str, str, str], Row]

    @property
    def height(self) -> float:
        """In rows, with what stands above them."""
        return len(self.rows) + ABOVE

    @classmethod
    def of(cls, own: pd.DataFrame) -> Block:
        """That of the rows of one package."""
        cells: list[Row] = [{str(key): value for key, value in row.items()} for row in own.to_dict("records")]
        rows = []
        for setting in dict.fromkeys(cell["setting"] for cell in cells):
            for column in COLUMNS:
                found = {(c["kind"], c["text"]) for c in cells if (c["setting"], c["column"]) == (setting, column)}
                if len(found) > 1 or {kind for kind, _ in found} - {"equal", "none"}:
                    rows.append((setting, column))
        framework, package = cells[0]["framework"], cells[0]["package"]
        return cls(
            framework if package in framework.lower() else f"{framework} ({package})",
            list(dict.fromkeys((cell["version"], cell["date"]) for cell in cells)),
            rows,
            {(cell["setting"], cell["column"], cell["version"]): cell for cell in cells},
        )


def _draw(axis: Axes, left: float, top: float, block: Block) -> None:
    """A block whose first cell has its upper left corner there, below the names of its releases."""
    axis.text(left, top + 0.85, block.title, fontsize=10, fontweight="bold", va="center")
    for x, (version, date) in enumerate(block.versions):
        axis.text(left + x + 0.5, top + ABOVE - 0.85, f"{version}\n{date}", fontsize=8, ha="center", va="center")
    for row, (setting, column) in enumerate(block.rows):
        y = top + ABOVE + row
        new = not row or setting != block.rows[row - 1][0]
        label = f"{textwrap.shorten(setting, 34)}: {column}" if new else column
        axis.text(left - 0.08, y + 0.5, label, fontsize=8, ha="right", va="center")
        if row and new:
            axis.plot([left, left + len(block.versions)], [y, y], color="#333333", linewidth=0.9)
        for x, (version, _) in enumerate(block.versions):
            cell = block.cells.get((setting, column, version))
            colour = COLOURS.get(cell["kind"], UNKNOWN) if cell else UNKNOWN
            axis.add_patch(Rectangle((left + x + 0.02, y + 0.05), 0.96, 0.9, facecolor=colour, edgecolor="none"))
            text = textwrap.fill(look.signed(cell) if cell else "not read", 18)
            size = 6.2 if "\n" in text else 7.5
            axis.text(left + x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=size, linespacing=0.95)
