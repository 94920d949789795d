"""The README: its code runs, and its numbers are those of the results."""

import json
import re
from dataclasses import replace

from accumcheck import audit, check_equivalence, text
from accumcheck.programs.laws import LAWS

from experiments.lab.notebook import fill
from experiments.lab.runner import ROOT
from experiments.lab.writer import RESULTS

TEXT = (ROOT / "README.md").read_text()
NUMBERS = ["{{ tolerance.safety | .0f }} times", "{{ tolerance.cases | , }} random cases"]


def test_the_examples_say_what_the_text_shows():
    wrong, right, last = re.findall(r"```python\n(.*?)```", TEXT, flags=re.S)
    _, *shown = re.findall(r"```text\n(.*?)\s*(?:…\n)?```", TEXT, flags=re.S)
    for code, said in zip((wrong, right), shown, strict=True):
        names = {}
        exec(code, names)
        assert str(check_equivalence(names["train"])).startswith(said)
    exec(last, names)


def test_the_table_of_findings_is_complete():
    table = re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", TEXT, flags=re.M)
    assert [row for row in table if row[0] in LAWS] == [(name, law.text) for name, law in LAWS.items()]


def test_numbers_are_those_of_the_results():
    summary = json.loads((RESULTS / "summary.json").read_text())
    for number in NUMBERS:
        assert fill(number, summary) in " ".join(TEXT.split())


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", TEXT):
        assert (ROOT / target).exists(), target


def test_the_report_on_a_script_is_as_shown():
    shown = re.search(r"```text\n(train.py .*?)\s*…\n```", TEXT, flags=re.S)[1]
    report = audit(str(ROOT / "tests/scripts/known/published_fix.py"))
    lines = text.script_lines("train.py", replace(report.judgement, source="argument grad_accum"), None)
    assert "\n".join(lines).startswith(shown)
