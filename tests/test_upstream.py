"""Reports to other projects: each reproduction prints what the report says, in the versions that it names."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

REPORTS = sorted((Path(__file__).parent.parent / "results/upstream").glob("*.md"))


def block(text, language):
    [found] = re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return found


def printed(code, folder):
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=folder)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.slow
@pytest.mark.parametrize("report", REPORTS, ids=lambda report: report.stem)
def test_a_reproduction_prints_what_its_report_says(report, tmp_path):
    text = report.read_text()
    [versions] = re.findall(r"^Versions?: (.*)$", text, re.MULTILINE)
    named = re.findall(r"([\w-]+) (\d+\.\d+\.\d+)", versions)
    for name, _ in named:  # torchvision, which Ultralytics needs, would break other frameworks beside torch for CPUs
        if not any(metadata.distributions(name=name)):
            pytest.skip(f"{name} is not installed: run by hand, in an environment of its own")
    for name, version in named:
        assert metadata.version(name).partition("+")[0] == version, f"{report.name} is about {name} {version}"
    assert printed(block(text, "python"), tmp_path) == block(text, "text")


def test_a_report_whose_numbers_are_not_printed_is_found(tmp_path):
    text = '```python\nprint("0.25")\n```\n\n```text\n0.5\n```\n'
    assert printed(block(text, "python"), tmp_path) != block(text, "text")


def test_every_report_has_its_parts():
    for report in REPORTS:
        text = report.read_text()
        for part in ("## Reproduction", "Expected", "## Cause", "https://github.com/", "Tried", "No duplicate found"):
            assert part in text, f"{report.name} has no {part!r}"
