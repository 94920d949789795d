"""Claim: what a framework does with gradient accumulation comes and goes with its releases.

``python -m experiments history`` (installs old releases with pip: minutes, and some 300 MB)

Each release is installed into an environment of its own, which is kept, and read there by ``accumcheck frameworks``,
with the torch that is here. A release that cannot be installed or read is in the table with the reason. Dates are those
of PyPI's index. What is pinned beside a release is what was current when it came out, and what it asks for.
"""

from __future__ import annotations

import tempfile
import textwrap
from collections.abc import Iterator
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

from experiments.history.environments import UnavailableError, prepare, read
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
    Release("accelerate", "0.20.3", "2023-06-08"),
    Release("accelerate", "0.34.2", "2024-09-05"),
    Release("accelerate", "1.0.1", "2024-10-12"),
    Release("accelerate", "1.15.0", "2026-09-09"),
    Release("lightning", "2.0.9.post0", "2023-09-28", OLD + APPS),
    Release("lightning", "2.2.5", "2024-05-22", OLD),
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
COLOURS = {"equal": "#DDEEF8", "policy": "#FFF2CC", "differs": "#F6C6A6"}  # as in the matrix of frameworks
UNKNOWN = "#F2F2F2"
SIGNS = {"equal": "=", "policy": "≈", "differs": "≠"}
FIX = ("transformers", "4.45.2", "hf_trainer", "tokens")  # the last release before models were given the count


def run(bench: Bench) -> pd.DataFrame:
    """A row for every cell of every release, and one for every setting that could not be read."""
    quick = bench.quick  # what is installed here already, as a rule
    releases = [release for release in RELEASES if not quick or release.title == "accelerate-1.15.0"]
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
                    **{"before": signed(before), "after": signed(after)},
                }
                for before, after in pairwise(cells)
                if (before["kind"], before["text"]) != (after["kind"], after["text"])
            ]
    return found


def signed(cell: Any) -> str:
    """What a cell says, behind its sign."""
    return "=" if cell["text"] == "equal" else f"{SIGNS.get(cell['kind'], '')} {cell['text']}".strip()


def skipped(frame: pd.DataFrame) -> list[dict[str, str]]:
    """Each setting of a release that could not be read, and why."""
    rows = frame.loc[frame["kind"] == "skipped", ["package", "version", "name", "text"]]
    return [{str(key): str(value) for key, value in row.items()} for row in rows.to_dict("records")]


def summarise(frame: pd.DataFrame) -> dict[str, Any]:
    """The changes, the releases, what could not be read, and the kind of the token cell in each release."""
    changed, unread = changes(frame), skipped(frame)
    package, before, name, column = FIX
    tokens = frame[(frame["name"] == name) & (frame["column"] == column)]
    releases = frame[["package", "version"]].drop_duplicates()
    count = {str(each): sum(row["package"] == each for row in changed) for each in releases["package"].unique()}
    moved = [f"{number} of {each}" for each, number in count.items() if number]
    still = [each for each, number in count.items() if not number]
    right = [str(version) for version in tokens.loc[tokens["kind"] == "equal", "version"]]
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
            f"read. Where a model uses the count, {package} is not right for token means in {before}, and is in "
            f"{', '.join(right) or 'no release'}"
        ),
    }


def check(numbers: dict[str, Any]) -> None:
    """Token means are wrong before the fix of October 2024 and right in each release after it; all is accounted for."""
    package, before, _, _ = FIX
    tokens = numbers["tokens"]
    assert tokens.get(before) == "differs", f"{package} {before} is {tokens.get(before)} for tokens"
    later = [release.version for release in RELEASES if release.package == package and release.version != before]
    wrong = [version for version in later if tokens.get(version) != "equal"]
    assert not wrong, f"{package} {', '.join(wrong)} is not right for tokens"
    for release in RELEASES:
        assert release.version in numbers["releases"].get(release.package, []), f"{release.title} is not in the table"
    for row in numbers["skipped"]:
        assert row["text"], f"no reason why {row['package']} {row['version']} was skipped"


def plot(frame: pd.DataFrame) -> Figure:
    """A panel for each framework: a column for each release, a row for each behaviour that changed or differs."""
    panels = list(_panels(frame))
    heights = [len(rows) + 1.6 for _, _, rows in panels]
    widest = max(len(versions) for _, versions, _ in panels)
    figure = Figure(figsize=(11, 0.31 * sum(heights) + 0.5), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for axis, (package, versions, rows) in zip(axes, panels, strict=True):
        _draw(axis, frame[frame["package"] == package], versions, rows)
        axis.set(xlim=(-0.5, widest - 0.5), ylim=(len(rows) - 0.5, -0.5))
    axes[-1].set_xlabel(
        "= as full-batch training     ≈ another declared policy     ≠ differs, weight for the weight that is due\n"
        "columns are releases; only behaviours that changed or differ have a row",
        labelpad=8,
    )
    return figure


def _panels(frame: pd.DataFrame) -> Iterator[tuple[str, list[tuple[str, str]], list[tuple[str, str]]]]:
    """Of each package its releases with their dates, and the settings' columns that changed or differ."""
    for package, own in frame.groupby("package", sort=False):
        versions = list(own[["version", "date"]].drop_duplicates().itertuples(index=False, name=None))
        rows = []
        for name in dict.fromkeys(own["name"]):
            cells = own[own["name"] == name]
            for column in COLUMNS:
                kinds = cells.loc[cells["column"] == column, "kind"]
                if set(kinds) - {"equal", "none"} or kinds.nunique() > 1:
                    rows.append((str(name), column))
        yield str(package), versions, rows


def _draw(axis: Axes, own: pd.DataFrame, versions: list[tuple[str, str]], rows: list[tuple[str, str]]) -> None:
    cells = {(row["name"], row["column"], row["version"]): row for row in own.to_dict("records")}
    settings = {row["name"]: row["setting"] for row in own.to_dict("records")}
    for y, (name, column) in enumerate(rows):
        for x, (version, _) in enumerate(versions):
            cell = cells.get((name, column, version))
            text = signed(cell) if cell else "not read"
            colour = COLOURS.get(cell["kind"], UNKNOWN) if cell else UNKNOWN
            axis.add_patch(Rectangle((x - 0.49, y - 0.45), 0.98, 0.9, facecolor=colour, edgecolor="none"))
            wrapped = textwrap.fill(text, 22)
            size = 6.5 if "\n" in wrapped else 8
            axis.text(x, y, wrapped, ha="center", va="center", fontsize=size, linespacing=0.9)
        if y and name != rows[y - 1][0]:
            axis.axhline(y - 0.5, color="#555555", linewidth=0.8)
    labels = [
        f"{settings[name]}: {column}" if not y or name != rows[y - 1][0] else column
        for y, (name, column) in enumerate(rows)
    ]
    axis.set_yticks(range(len(rows)), labels, fontsize=8.5)
    axis.set_xticks(range(len(versions)), [f"{version}\n{date}" for version, date in versions], fontsize=8.5)
    axis.xaxis.tick_top()
    axis.set_title(f"{own['framework'].iloc[0]} ({own['package'].iloc[0]})", loc="left", fontsize=10, fontweight="bold")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
