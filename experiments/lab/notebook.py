"""The posts: text scripts whose prose takes its numbers from summary.json, and the notebooks made of them.

``python -m experiments.lab.notebook`` fills, executes and writes them. In the script's Markdown and in its code's
comments, ``{{ drift.steps | .2g }}`` stands for that number of the summary, written in the format behind the bar;
``count`` is how many things a list holds, ``MiB`` turns bytes into these, ``points`` a share into percentage points,
and ``zh`` puts a verdict into Chinese. A number in a name is a place in a list.
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

SCRIPTS = tuple(ROOT / "notebooks" / f"{name}.py" for name in ("blog_post", "claims", "blog_post.zh"))
SCRIPT = SCRIPTS[0]
_PLACE = re.compile(r"\{\{\s*([^|{}]+?)\s*(?:\|([^}]*))?\}\}")
CHINESE = {
    "true": "成立",
    "true under conditions": "有条件地成立",
    "false": "不成立",
    "differs": "有差异",
    "no difference seen": "未见差异",
}
_FILE = re.compile(r"\b(?:figures|data)/(\w+)\.")


def fill(text: str, summary: dict[str, Any]) -> str:
    """Put the summary's numbers in their places; KeyError, with the whole path, for one that it does not have.

    >>> fill("an error of {{ drift.sgd | .1% }}", {"drift": {"sgd": 0.25}})
    'an error of 25.0%'
    """

    def value(match: re.Match[str]) -> str:
        found: Any = summary
        for key in match[1].split("."):
            found = dict(enumerate(found)) if isinstance(found, list) else found
            name = int(key) if isinstance(found, dict) and key.isdigit() and key not in found else key
            if not isinstance(found, dict) or name not in found:
                raise KeyError(f"summary.json has no {match[1]!r}: run the experiments again, or correct the prose")
            found = found[name]
        form = (match[2] or "").strip()
        if form == "count":
            return str(len(found))
        if form == "points":
            return f"{100 * found:+.1f}".replace("-", "−")
        if form == "zh":
            return CHINESE[found]
        if form == "MiB":
            return f"{found / 2**20:.1f}"
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


def used(text: str, summary: dict[str, Any]) -> list[str]:
    """The experiments whose numbers, figures or tables a script shows.

    >>> used("{{ drift.sgd }} and figures/book_order.svg", {"book": {}, "drift": {}, "scale": {}})
    ['book', 'drift']
    """
    named = {match[1].split(".")[0] for match in _PLACE.finditer(text)} | set(_FILE.findall(text))
    return [each for each in sorted(summary) if any(name == each or name.startswith(f"{each}_") for name in named)]


def filled_notebook(script: Path, summary: dict[str, Any]) -> nbformat.NotebookNode:
    """The script as a notebook that has not run yet, its prose filled."""
    notebook: nbformat.NotebookNode = jupytext.read(script)
    page = {**notebook.metadata.get("accumcheck", {}), "experiments": used(script.read_text(), summary)}
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{index}"  # random by default
        if cell.cell_type == "markdown":
            cell.source = fill(cell.source, summary)
        elif cell.cell_type == "code":  # comments caption the figures
            cell.source = re.sub(r"^# .*$", lambda comment: fill(comment[0], summary), cell.source, flags=re.M)
    notebook.metadata = nbformat.NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"}, accumcheck=page
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
    for each in SCRIPTS:
        print(f"wrote {build(each).relative_to(ROOT)}")
