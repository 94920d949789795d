"""Which paragraphs of a translated post have fallen behind: ``python -m experiments.lab.translation``.

A translation has the cells of the original, in the same order, and each says of which text it was made::

    # %% [markdown] of="3f2a9c1b"

Where the original's cell reads otherwise now, the cell is listed with its first words, and the exit status is 1. With
``--accept`` all cells are said to be up to date, once somebody has seen to them.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import jupytext

from experiments.lab.notebook import SCRIPT, SCRIPTS
from experiments.lab.runner import ROOT
from experiments.lab.writer import write_atomically


@dataclass(frozen=True)
class Stale:
    """A cell whose original has changed since it was translated, or that has none."""

    number: int
    text: str

    def __str__(self) -> str:
        return f"cell {self.number}: {self.text}"


def stamp(source: str) -> str:
    """What stands for a cell's text, whatever its line breaks.

    >>> stamp("a b") == stamp("a\\nb"), len(stamp("a"))
    (True, 8)
    """
    return hashlib.sha256(" ".join(source.split()).encode()).hexdigest()[:8]


def behind(original: Path, translation: Path) -> list[Stale]:
    """The cells of a translation that are not made of the original's text as it is now."""
    ours, theirs = (jupytext.read(path).cells for path in (original, translation))
    stale = []
    for number, (cell, made) in enumerate(zip(ours, theirs, strict=False)):
        if made.metadata.get("of") != stamp(cell.source) or made.cell_type != cell.cell_type:
            stale.append(Stale(number, " ".join(cell.source.split())[:70]))
    for number in range(min(len(ours), len(theirs)), max(len(ours), len(theirs))):
        missing, cells = ("not translated", ours) if number < len(ours) else ("has no original", theirs)
        stale.append(Stale(number, f"{missing}: {' '.join(cells[number].source.split())[:50]}"))
    return stale


def accept(original: Path, translation: Path) -> None:
    """Say that every cell is up to date."""
    stamps = iter([stamp(cell.source) for cell in jupytext.read(original).cells])

    def marked(line: re.Match[str]) -> str:
        bare = re.sub(r' of="[^"]*"', "", line[0]).rstrip()
        return f'{bare} of="{next(stamps)}"'

    text = re.sub(r"^# %%.*$", marked, translation.read_text(encoding="utf-8"), flags=re.M)
    write_atomically(translation, lambda path: path.write_text(text, encoding="utf-8"))


def main(arguments: list[str] | None = None) -> int:
    """List what has fallen behind; 1 if anything has."""
    parser = argparse.ArgumentParser(prog="python -m experiments.lab.translation", description="Is it up to date?")
    parser.add_argument("--accept", action="store_true", help="say that all cells are")
    options = parser.parse_args(arguments)
    found = 0
    for translation in SCRIPTS:
        if ".zh" not in translation.suffixes:
            continue
        if options.accept:
            accept(SCRIPT, translation)
        stale = behind(SCRIPT, translation)
        found += len(stale)
        print(f"{translation.relative_to(ROOT)}: {len(stale)} cells have fallen behind", *stale, sep="\n  ")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
