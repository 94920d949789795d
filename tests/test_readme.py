"""The README and the pages of docs: their code runs, their commands say what is shown, numbers are the results'."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from accumcheck import check_equivalence
from accumcheck.programs.laws import LAWS

from experiments.lab.notebook import fill
from experiments.lab.runner import ROOT
from experiments.lab.writer import RESULTS

README = (ROOT / "README.md").read_text()
DOCS = sorted((ROOT / "docs").glob("*.md"))
NUMBERS = ["{{ tolerance.safety | .0f }} times", "{{ tolerance.cases | , }} random cases"]

CATALOGUE = [
    "{{ detection.bugs }} bugs that people reported",
    "Of the {{ detection.usual_tried }} bugs that they can be tried on, "
    "{{ detection.usual_all_miss | count }} pass every one",
    "together find {{ detection.ours }};",
    "{{ reliability.right.verdicts | , }} verdicts on right loops",
    "{{ reliability.bugs.cases | , }} wrong ones",
    "In {{ reliability.bugs.named_first | , }} of {{ reliability.bugs.causes_tell | , }} cases",
]


def blocks(text, kind):
    return re.findall(rf"```{kind}\n(.*?)\n```", text, flags=re.S)


def told(folder, *words):
    """What a command prints, at 80 columns."""
    done = subprocess.run(
        [sys.executable, "-m", "accumcheck", *words], cwd=folder, capture_output=True, text=True, check=False
    )
    return done.stdout, done.stderr


@pytest.fixture
def here(tmp_path):
    """What the README asks its reader to have: a script, and the loop that it shows."""
    shutil.copy(ROOT / "tests/scripts/known/published_fix.py", tmp_path / "train.py")
    loop = next(code for code in blocks(README, "python") if "task.loader" in code)
    (tmp_path / "my_loop.py").write_text(loop + "\n")
    return tmp_path


def test_commands_say_what_is_shown(here):
    script, loop = blocks(README, "text")
    assert "$ accumcheck run train.py\n" in README
    assert told(here, "run", "train.py")[1].strip() == script
    assert "$ accumcheck check my_loop.py:train\n" in README
    assert told(here, "check", "my_loop.py:train")[0].strip() == loop


def test_the_recipe_is_as_shown(here):
    assert told(here, "recipe")[0].strip() in blocks(README, "python")


def test_the_test_for_pytest_runs(here):
    code = next(code for code in blocks(README, "python") if "accumcheck_run" in code)
    (here / "test_training.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "test_training.py", "-p", "no:cacheprovider"],
        cwd=here, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "is NOT full-batch training" in done.stdout
    assert "fixture" not in done.stdout


def test_loops_of_ones_own_run():
    names = {}
    for code in blocks((ROOT / "docs/your_loop.md").read_text(), "python"):
        exec(code, names)
    for name in ("wrapped", "train_dicts", "train_with_trainer"):
        assert check_equivalence(names[name]).findings[0].id == "tail-scaled-by-k"


@pytest.mark.slow
def test_the_command_for_ranks_says_what_is_shown(here):
    page = (ROOT / "docs/data_parallel.md").read_text()
    (shown,) = blocks(page, "console")
    command, _, said = shown.partition("\n")
    assert told(here, *command.split()[2:])[0].strip() == said.strip()


def test_the_table_of_findings_is_complete():
    table = re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", README, flags=re.M)
    assert [row for row in table if row[0] in LAWS] == [(name, law.text) for name, law in LAWS.items()]


def test_numbers_are_those_of_the_results():
    summary = json.loads((RESULTS / "summary.json").read_text())
    text = " ".join((ROOT / "docs/proofs.md").read_text().split())
    for number in NUMBERS:
        assert fill(number, summary) in text
    for number in CATALOGUE:
        assert fill(number, summary) in " ".join(README.split())


@pytest.mark.parametrize("path", [ROOT / "README.md", *DOCS], ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\((?!https?:|#)([^)]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target
