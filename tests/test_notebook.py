"""The post: no number in its prose that is not read from the results, and none that has gone stale."""

import copy
import json
import re

import jupytext
import nbformat
import pytest
from accumcheck import check_equivalence

from experiments.lab.notebook import SCRIPT, SCRIPTS, fill, filled_notebook
from experiments.lab.writer import RESULTS

SUMMARY = json.loads((RESULTS / "summary.json").read_text())


def prose(notebook):
    """Text cells, and the comments of code, which caption figures."""
    return [
        cell.source if cell.cell_type == "markdown" else "\n".join(re.findall(r"^# .*", cell.source, flags=re.M))
        for cell in notebook.cells
    ]


def matches(script, summary):
    return prose(committed(script)) == prose(filled_notebook(script, summary))


def committed(script):
    return nbformat.read(script.with_suffix(".ipynb"), as_version=4)


every_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)


@every_script
def test_the_notebook_says_what_the_results_say(script):
    assert matches(script, SUMMARY)


def test_a_stale_number_is_noticed():
    changed = copy.deepcopy(SUMMARY)
    changed["drift"]["steps"] += 1
    assert not matches(SCRIPT, changed)


@every_script
def test_all_numbers_in_the_prose_come_from_the_results(script):
    for cell in prose(jupytext.read(script)):
        text = re.sub(r"```.*?```|\{\{.*?\}\}|`[^`]*`|\]\([^)]*\)", " ", cell, flags=re.S)
        text = re.sub(r"(?<![^\W_])b?float\d+|\b20\d\d(?!\d)", " ", text)
        assert not re.search(r"\d", text), re.search(r".*\d.*", text)[0]


@every_script
def test_the_notebook_has_run(script):
    notebook = committed(script)
    nbformat.validate(notebook)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert outputs
    assert not [output for output in outputs if output.output_type == "error"]


def loop_of(diff, mark):
    """The function that a diff shows before (-) or behind (+) the change, as a loop that accumcheck can check."""
    lines = [line[1:] for line in diff.splitlines() if line[:1] in (" ", mark)]
    names = {}
    exec("\n".join(lines), names)

    def loop(task):
        names["train"](task.model, task.optimizer, task.loss_fn, task.loader, task.accumulation_steps, task.epochs)

    return loop


@pytest.mark.parametrize("script", [path for path in SCRIPTS if path.stem.startswith("blog_post")], ids=str)
def test_the_loop_to_copy_is_right_and_the_one_that_it_replaces_is_not(script):
    (diff,) = re.findall(r"```diff\n(.*?)```", "\n".join(prose(jupytext.read(script))), flags=re.S)
    assert check_equivalence(loop_of(diff, "+"))
    assert [each.id for each in check_equivalence(loop_of(diff, "-")).findings] == [
        *("carried-tail", "tail-scaled-by-k", "mean-of-means"),
    ]


def test_a_cell_of_the_scorecard_has_at_most_twelve_words():
    rows = re.findall(r"^\| \[.*\| (.*) \|$", "\n".join(prose(committed(SCRIPT))), flags=re.M)
    assert len(rows) == 11
    assert [row for row in rows if len(row.split()) > 12] == []


def test_the_post_is_short():
    words = [re.sub(r"```.*?```|^\|.*$", "", cell, flags=re.S | re.M).split() for cell in prose(committed(SCRIPT))]
    text = [len(each) for each, cell in zip(words, committed(SCRIPT).cells, strict=True) if cell.cell_type != "code"]
    assert 600 < sum(text) < 1000


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


@every_script
def test_the_notebook_shows_figures_by_their_address(script):
    addresses = figures(committed(script))
    assert len(addresses) == len(re.findall(r"(?<!\]\()\.\./results/figures/", script.read_text())) >= 5
    assert [address for address in addresses if not (script.parent / address).is_file()] == []
    assert embedded(committed(script)) == set()


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
        KeyError, match=r"summary\.json has no 'drift\.speed': run the experiments again, or correct the prose"
    ):
        fill("{{ drift.speed }}", {"drift": {}})


@pytest.mark.parametrize(
    ("place", "text"),
    [("a b.c, d × e | .1f", "2.5"), ("list | count", "2"), ("list.1", "5"), ("bytes | MiB", "1.5"), ("no.9", "nine")],
)
def test_places(place, text):
    summary = {"a b": {"c, d × e": 2.5}, "list": [4, 5], "bytes": 3 * 2**19, "no": {"9": "nine"}}
    assert fill(f"{{{{ {place} }}}}", summary) == text
