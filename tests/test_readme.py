"""The README: its code runs, and its numbers are those of the results."""

import json
import re

from experiments.bench import ROOT
from experiments.notebook import fill
from experiments.results import RESULTS

TEXT = (ROOT / "README.md").read_text()
NUMBERS = ["{{ tolerance.safety | .0f }} times", "{{ tolerance.cases | , }} random cases"]


def test_the_example_says_what_the_text_shows(capsys):
    names = {}
    for code in re.findall(r"```python\n(.*?)```", TEXT, flags=re.S):
        exec(code, names)
    [shown] = re.findall(r"```text\n(.*?)\s*…\n```", TEXT, flags=re.S)
    assert capsys.readouterr().out.startswith(shown)


def test_numbers_are_those_of_the_results():
    summary = json.loads((RESULTS / "summary.json").read_text())
    for number in NUMBERS:
        assert fill(number, summary) in TEXT


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", TEXT):
        assert (ROOT / target).exists(), target
