"""The post: no number in its prose that is not read from the results, and none that has gone stale."""

import copy
import json
import re

import jupytext
import nbformat
import pytest

from experiments.lab.notebook import SCRIPT, fill, filled_notebook
from experiments.lab.writer import RESULTS

SUMMARY = json.loads((RESULTS / "summary.json").read_text())


def prose(notebook):
    """Text cells, and the comments of code, which caption figures."""
    return [
        cell.source if cell.cell_type == "markdown" else "\n".join(re.findall(r"^# .*", cell.source, flags=re.M))
        for cell in notebook.cells
    ]


def matches(notebook, summary):
    return prose(notebook) == prose(filled_notebook(SCRIPT, summary))


def committed():
    return nbformat.read(SCRIPT.with_suffix(".ipynb"), as_version=4)


def test_the_notebook_says_what_the_results_say():
    assert matches(committed(), SUMMARY)


def test_a_stale_number_is_noticed():
    changed = copy.deepcopy(SUMMARY)
    changed["drift"]["steps"] += 1
    assert not matches(committed(), changed)


def test_all_numbers_in_the_prose_come_from_the_results():
    for cell in prose(jupytext.read(SCRIPT)):
        text = re.sub(
            r"\{\{.*?\}\}|`[^`]*`|\]\([^)]*\)|\b(?:float|bfloat)\d+\b|\b20\d\d\b|&nbsp;", " ", cell, flags=re.S
        )
        assert not re.search(r"\d", text), re.search(r".*\d.*", text)[0]


def test_the_notebook_has_run():
    notebook = committed()
    nbformat.validate(notebook)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    text = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "def accumulate_tokens(task: Task) -> None:" in text
    assert "✗ published_fix is NOT full-batch training, if your loss is a mean over samples" in text


def figures(notebook):
    """The addresses of the figures that a notebook shows."""
    found = [data.get("text/html", "") for data in data_of(notebook)]
    return [address for html in found for address in re.findall(r'<img src="([^"]+)"', html)]


def data_of(notebook):
    """What its cells display, by MIME type."""
    return [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]


def embedded(notebook):
    """The types of images that are part of a notebook."""
    return {kind for data in data_of(notebook) for kind in data if kind.startswith("image/")}


def test_the_notebook_shows_figures_by_their_address():
    addresses = figures(committed())
    assert len(addresses) == SCRIPT.read_text().count("display(Image(") >= 14
    assert [address for address in addresses if not (SCRIPT.parent / address).is_file()] == []
    assert embedded(committed()) == set()


def test_an_image_within_the_notebook_is_noticed():
    output = nbformat.v4.new_output("display_data", data={"image/svg+xml": "<svg/>"})
    assert embedded(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(outputs=[output])])) == {"image/svg+xml"}


def test_comments_are_filled_and_code_is_not(tmp_path):
    script = tmp_path / "post.py"
    script.write_text("# %%\n# Caption: {{ drift.steps }} steps.\nx = f'{{ drift.steps }}'\n")
    assert filled_notebook(script, {"drift": {"steps": 64}}).cells[0].source == (
        "# Caption: 64 steps.\nx = f'{{ drift.steps }}'"
    )


def test_missing_numbers_are_named():
    with pytest.raises(
        KeyError, match=r"summary\.json has no 'drift\.speed': run the experiments again, or mend the prose"
    ):
        fill("{{ drift.speed }}", {"drift": {}})


def test_a_finding_gets_its_capital_letter():
    assert fill("{{ drift.finding | sentence }}.", {"drift": {"finding": "it drifts"}}) == "It drifts."
