import json
import re
from fractions import Fraction
from itertools import pairwise

import pytest
from accumcheck.explaining.finding import Finding
from accumcheck.programs.laws import LAWS, runs, severity
from accumcheck.report import finding_as_dict
from accumcheck.task import Sizes
from accumcheck.text import WRONG
from hypothesis import given
from hypothesis import strategies as st

IDS = (
    "early-first-step",
    "step-per-micro-batch",
    "wrong-window",
    "dropped-tail",
    "carried-tail",
    "split-tail",
    "tail-scaled-by-k",
    "unscaled-loss",
    "over-scaled-loss",
    "wrong-scale",
    "mean-of-means",
    "token-weighting",
    "gradients-not-reset",
    "gradients-lost",
    "clipped-per-micro-batch",
    "scheduler-per-micro-batch",
    "sample-order",
    "batch-coupled",
    "low-precision-accumulation",
    "nondeterministic",
    "unsynchronised-replicas",
    "unexplained",
)


def test_ids_are_these():
    """They are what scripts and suppressions rely on."""
    assert set(LAWS) == set(IDS)
    assert sorted(IDS, key=severity) == list(LAWS)


@pytest.mark.parametrize("name", IDS)
def test_laws_say_how_to_mend_it(name):
    law = LAWS[name]
    assert law.text
    assert law.fix
    assert "\n" not in law.text + law.fix
    assert not law.thread or re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+/(issues|pull)/\d+", law.thread)


@pytest.mark.parametrize("name", IDS)
def test_the_json_form(name):
    finding = Finding(name, Sizes(7, 1, 4), 1, 0, (4, 5, 6), weight=Fraction(1, 4), due=Fraction(1, 3))
    form = json.loads(json.dumps(finding_as_dict(finding)))
    message = form.pop("message")
    assert message.startswith(WRONG[name])
    assert form == {
        "id": name,
        "step": 1,
        "epoch": 0,
        "samples": [4, 5, 6],
        "weight": "1/4",
        "due": "1/3",
        "ratio": 0.75,
        "fix": LAWS[name].fix,
        "where": None,
    }


def test_words_and_laws_are_about_the_same_findings():
    assert set(WRONG) == set(LAWS)


@given(st.lists(st.integers(0, 30)))
def test_runs_read_back(numbers):
    text = runs(numbers)
    read = []
    for part in text.split(", ") if text else []:
        first, _, last = part.partition(" to ")
        read.append(range(int(first), int(last or first) + 1))
    assert [number for part in read for number in part] == sorted(set(numbers))
    assert all(before[-1] + 1 < after[0] for before, after in pairwise(read))
