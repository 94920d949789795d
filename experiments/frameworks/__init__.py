"""Claim: current frameworks treat tails, short micro-batches and tokens differently from full-batch training.

``python -m experiments frameworks`` (needs ``pip install 'accumcheck[frameworks]'``; reads what is installed)

One row for each framework and setting, with the weights that its own training loop gives to samples, read by the probe.
Which behaviours are documented, and which public threads describe them, is in threads.tsv, beside this file.
"""

from __future__ import annotations

import csv
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from accumcheck.adapters import ADAPTERS
from accumcheck.adapters.conformance import AT_FIRST, COLUMNS, OTHER_UPDATES, TAIL, conformance
from accumcheck.figures import heat_map
from accumcheck.programs.simulate import window_mean
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from experiments.frameworks.document import COLOURS, SAYS, html, markdown
from experiments.frameworks.elsewhere import packages, rows_of
from experiments.lab import look
from experiments.lab.environments import UnavailableError
from experiments.lab.runner import Bench, Row

THREADS = Path(__file__).parent / "threads.tsv"
NAMED = ["name", "framework", "setting", "release", "loop"]
QUICK = ("accelerate", "nanogpt", "book_before", "book_after")
EVERY = ("full window", "clipping", "schedule")  # columns about all updates
BY_NAME = {adapter.id: adapter for adapter in ADAPTERS}


def run(bench: Bench) -> pd.DataFrame:
    """A row for every cell, and for every weight of the readings that the heat maps show."""
    names = [name for name, adapter in BY_NAME.items() if adapter.version]
    if bench.quick:
        return pd.DataFrame(bench.map(measure, [{"name": name} for name in QUICK]))
    cases: list[Row] = [{"name": name} for name in names]
    root = str((bench.partial / "environments").absolute()) if bench.partial else ""
    rows = bench.map(measure, cases) + bench.map(measure_elsewhere, [{"package": p, "root": root} for p in packages()])
    frame = pd.DataFrame(rows)
    if missing := sorted(set(BY_NAME) - set(frame["name"])):
        warnings.warn(f"not read, and left out: {', '.join(missing)}", stacklevel=2)
    order = {name: place for place, name in enumerate(BY_NAME)}
    return frame.sort_values("name", key=lambda names: names.map(order), kind="stable", ignore_index=True)


def measure(name: str) -> list[Row]:
    """All rows of one framework in one setting."""
    return _rows(name, conformance(BY_NAME[name]).as_dict())


def measure_elsewhere(package: str, root: str) -> list[Row]:
    """The same of all settings of a framework in an environment of its own; none if that cannot be had."""
    try:
        found = rows_of(package, root)
    except UnavailableError as error:
        warnings.warn(f"{package}: {error}", stacklevel=2)
        return []
    return [row for name, each in found.items() for row in _rows(name, each)]


def _rows(name: str, found: Row) -> list[Row]:
    adapter = BY_NAME[name]
    values = (name, adapter.framework, adapter.setting, found["release"], adapter.target)
    named = dict(zip(NAMED, values, strict=True))
    cells = [
        {**named, "part": "cell", "column": column, "kind": cell["kind"], "text": cell["text"]}
        for column, cell in found["cells"].items()
    ]
    weights = [
        {**named, "part": "weight", "step": step, "sample": sample, "weight": weight}
        for step, row in enumerate(found["tail"])
        for sample, weight in enumerate(row)
    ]
    return [*cells, *weights]


def tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The matrix, a row for each cell, with what is documented; and the weights of the heat maps."""
    cells = frame.loc[frame["part"] == "cell", [*NAMED, "column", "kind", "text"]]
    known = pd.read_csv(THREADS, sep="\t", keep_default_na=False, quoting=csv.QUOTE_NONE)
    cells = cells.merge(known, on=["name", "column"], how="left", validate="one_to_one")
    cells.loc[cells["kind"].isin(["equal", "none"]), list(known.columns[2:])] = ""
    for name, adapter in BY_NAME.items():
        for column, line in adapter.absent:
            cells.loc[(cells["name"] == name) & (cells["column"] == column), "source"] = line
    cells["severity"] = [severity(cell) for cell in cells.fillna("").to_dict("records")]
    cells["reproduce"] = [
        "" if kind in ("equal", "none") else f"accumcheck frameworks {name}"
        for kind, name in zip(cells["kind"], cells["name"], strict=True)
    ]
    weights = frame.loc[frame["part"] == "weight", ["name", "step", "sample", "weight"]]
    return {"frameworks": cells.fillna(""), "frameworks_weights": weights.astype({"step": int, "sample": int})}


def severity(cell: Mapping[Any, Any]) -> str:
    """What a cell is coloured by: how much of training it spoils, and whether the documentation says so."""
    if cell["kind"] != "differs":
        return str(cell["kind"])
    if cell["documented"] == "yes":
        return "documented"
    later = cell["text"] == OTHER_UPDATES or cell["text"].startswith(AT_FIRST)
    return "all" if cell["column"] in EVERY and not later else "some"


def summarise(frame: pd.DataFrame) -> dict[str, Any]:
    """How many of the settings equal full-batch training, in each column and in all; how much of the rest is known."""
    cells = tables(frame)["frameworks"]
    kinds = cells.pivot(index="name", columns="column", values="kind")
    other = cells[cells["kind"].isin(["differs", "policy"])]
    groups = Counter(BY_NAME[name].group for name in kinds.index)
    known = {
        "cells": int(cells["kind"].ne("none").sum()),
        "other": len(other),
        "documented": int((other["documented"] == "yes").sum()),
        "in_part": int((other["documented"] == "partly").sum()),
        "threads": int((other["thread"] != "").sum()),
        "neither": int(((other["documented"] == "no") & (other["thread"] == "")).sum()),
        "groups": {name: groups[name] for name in ("framework", "recipe", "misuse")},
        "frameworks": len({BY_NAME[name].framework for name in kinds.index if BY_NAME[name].group != "recipe"}),
    }
    equal = {column: int((kinds[column] == "equal").sum()) for column in COLUMNS}
    all_equal = [str(name) for name in kinds.index if set(kinds.loc[name]) <= {"equal", "none"}]
    return {
        "settings": len(kinds),
        "known": known,
        "equal": equal,
        "tail": {str(kind): int(many) for kind, many in kinds["tail"].value_counts().items()},
        "equal_everywhere": all_equal,
        "releases": sorted(cells["release"].unique()),
        "finding": (
            f"of {groups['framework']} settings of frameworks, {groups['recipe']} published recipes and "
            f"{groups['misuse']} known misuse, {equal['full window']} equal full-batch training in full windows, "
            f"{equal['tail']} in the tail, {equal['short last micro-batch']} with a short micro-batch, "
            f"{equal['tokens']} for token means, and {len(all_equal)} everywhere"
        ),
    }


def check(numbers: dict[str, Any]) -> None:
    """Every adapter is in the matrix; most settings are right in full windows, and most are not in tails."""
    assert numbers["settings"] == len(ADAPTERS), f"{numbers['settings']} of {len(ADAPTERS)} settings are there"
    assert numbers["equal"]["full window"] > numbers["settings"] / 2, "most settings are wrong in full windows"
    assert sum(numbers["known"]["groups"].values()) == numbers["settings"]
    assert numbers["known"]["neither"] < numbers["known"]["other"]
    for column in ("tail", "short last micro-batch", "tokens"):
        assert numbers["equal"][column] < numbers["settings"] / 2, f"most settings are right for {column}"


def plot(frame: pd.DataFrame) -> Figure:
    """The matrix: a row for each setting, a column for each behaviour."""
    cells = tables(frame)["frameworks"]
    names = list(dict.fromkeys(cells["name"]))
    columns = list(COLUMNS)
    figure = Figure(figsize=(10, 0.9 + 0.5 * len(names)), layout="constrained")
    axis = figure.subplots()
    for y, name in enumerate(names):
        own = cells[cells["name"] == name].set_index("column")
        for x, column in enumerate(columns):
            color = COLOURS[own.loc[column, "severity"]]
            axis.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=color, edgecolor="none"))
            axis.text(
                x,
                y,
                textwrap.fill(look.signed(own.loc[column]), 13),
                ha="center",
                va="center",
                fontsize=8.5,
                linespacing=1.0,
            )
    releases = cells.drop_duplicates("name").set_index("name")["release"]
    labels = [
        f"{BY_NAME[name].framework} ({releases[name]})\n{textwrap.shorten(BY_NAME[name].setting, 40)}" for name in names
    ]
    axis.set_yticks(range(len(names)), labels, fontsize=8.5)
    axis.set_xticks(range(len(columns)), [textwrap.fill(column, 12) for column in columns], fontsize=9.5)
    axis.xaxis.tick_top()
    axis.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(names) - 0.5, -0.5))
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_xlabel(
        "= as full-batch training     ≈ another policy     ≠ differs: a weight, for the one that it should be"
    )
    numbers = summarise(frame)
    look.title(
        figure,
        f"Of {numbers['settings']} settings, {len(numbers['equal_everywhere'])} equal full-batch training "
        "in every case that occurs",
        "Read from the weights that each sample has in each update.",
    )
    patches = [Patch(facecolor=COLOURS[name], label=says) for name, says in SAYS.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def from_tables(read: Callable[[str], pd.DataFrame]) -> pd.DataFrame:
    """The frame: cells without what is documented of them, and weights."""
    cells = read("frameworks")[[*NAMED, "column", "kind", "text"]].assign(part="cell")
    return pd.concat([cells, read("frameworks_weights").assign(part="weight")], ignore_index=True)


def figures(frame: pd.DataFrame) -> dict[str, Figure]:
    """The contribution matrix of every setting, next to the one that is due."""
    weights = frame[frame["part"] == "weight"]
    names = list(dict.fromkeys(weights["name"]))
    due = [[float(weight) for weight in row] for row in window_mean(TAIL)]
    panels: list[tuple[str, list[list[float]]]] = [("full-batch training", due)]
    for name in names:
        own = weights[weights["name"] == name].pivot(index="step", columns="sample", values="weight")
        panels.append((f"{BY_NAME[name].framework}\n{BY_NAME[name].setting}", own.to_numpy().tolist()))
    across = 3
    down = -(-len(panels) // across)
    figure, axes = look.panels(down, across, width=10.0, height=2.1)
    for axis, (title, matrix) in zip(axes.flat, panels, strict=False):
        heat_map(axis, matrix, due, TAIL.samples, steps=len(due), darkest=0.8, size=7.5)
        axis.grid(visible=False)
        axis.set_title(title, fontsize=9)
        axis.set_xticks(range(TAIL.samples))
        axis.set_yticks(range(len(due)))
        axis.tick_params(labelsize=7.5, length=2)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_axis_off()
    figure.supxlabel("sample", fontsize=9)
    figure.supylabel("optimizer step (two epochs)", fontsize=9)
    look.title(figure, "Which sample goes into which update, with what weight, in each setting")
    return {"frameworks_weights": figure}


def documents(frame: pd.DataFrame) -> dict[str, str]:
    """The matrix in Markdown, and as a table of a web page."""
    cells = tables(frame)["frameworks"]
    return {"frameworks.md": markdown(cells), "frameworks.html": html(cells)}
