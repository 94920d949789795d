"""The blog post: a text script whose prose takes its numbers from summary.json, and the notebook made of it.

``python -m experiments.lab.notebook`` fills, executes and writes it. In the script's Markdown and in its code's
comments, ``{{ drift.steps | .2g }}`` stands for that number of the summary, written in the format behind the bar.
Figures are shown by their address, ``Image(url="../results/figures/drift.svg")``, and are no part of the notebook.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient

from experiments.lab.runner import ROOT
from experiments.lab.writer import RESULTS, write_atomically

SCRIPT = ROOT / "notebooks" / "blog_post.py"
_PLACE = re.compile(r"\{\{\s*([\w.]+)\s*(?:\|([^}]*))?\}\}")


def fill(text: str, summary: dict[str, Any]) -> str:
    """Put the summary's numbers in their places; KeyError, with the whole path, for one that it does not have.

    The format ``sentence`` gives a finding the capital letter that it has at the start of a sentence.

    >>> fill("an error of {{ drift.sgd | .1% }}", {"drift": {"sgd": 0.25}})
    'an error of 25.0%'
    """

    def value(match: re.Match[str]) -> str:
        found: Any = summary
        for key in match[1].split("."):
            if not isinstance(found, dict) or key not in found:
                raise KeyError(f"summary.json has no {match[1]!r}: run the experiments again, or mend the prose")
            found = found[key]
        form = (match[2] or "").strip()
        if form == "sentence":
            return f"{found[0].upper()}{found[1:]}"
        return power_of_ten(format(found, form))

    return _PLACE.sub(value, text)


def power_of_ten(number: str) -> str:
    """Scientific notation as people write it.

    >>> power_of_ten("3.2e-15")
    '3.2 · 10⁻¹⁵'
    """
    mantissa, e, exponent = number.partition("e")
    if not e or not exponent.lstrip("+-").isdigit():
        return number
    return f"{mantissa} · 10{str(int(exponent)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def filled_notebook(script: Path, summary: dict[str, Any]) -> nbformat.NotebookNode:
    """The script as a notebook that has not run yet, its prose filled."""
    notebook: nbformat.NotebookNode = jupytext.read(script)
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{index}"  # random by default
        if cell.cell_type == "markdown":
            cell.source = fill(cell.source, summary)
        elif cell.cell_type == "code":  # comments caption the figures
            cell.source = re.sub(r"^# .*$", lambda comment: fill(comment[0], summary), cell.source, flags=re.M)
    notebook.metadata = nbformat.NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"}
    )
    return notebook


def build(script: Path = SCRIPT, results: Path = RESULTS) -> Path:
    """Fill and execute the script beside its results; write the notebook next to it."""
    notebook = filled_notebook(script, json.loads((results / "summary.json").read_text()))
    resources = {"metadata": {"path": str(script.parent)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times
    target = script.with_suffix(".ipynb")
    write_atomically(target, lambda path: nbformat.write(notebook, path))
    return target


if __name__ == "__main__":
    print(f"wrote {build().relative_to(ROOT)}")
