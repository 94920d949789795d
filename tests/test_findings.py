import json
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import parallel_loops
from harness.bugs import SAMPLE_BUGS, TOKEN_BUGS
from harness.findings import LAWS, Finding, rank, runs
from harness.task import Sizes

IDS = (
    "early-first-step",
    "step-per-micro-batch",
    "dropped-tail",
    "carried-tail",
    "split-tail",
    "tail-scaled-by-k",
    "unscaled-loss",
    "over-scaled-loss",
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
    assert sorted(IDS, key=rank) == list(LAWS)


def test_every_finding_has_a_loop_that_makes_it():
    loops = SAMPLE_BUGS | TOKEN_BUGS
    assert set(loops) | set(parallel_loops.BUGS) == set(IDS)
    assert all(loops.values())


@pytest.mark.parametrize("name", IDS)
def test_laws_say_how_to_mend_it(name):
    law = LAWS[name]
    assert law.text
    assert law.fix
    assert "\n" not in law.text + law.fix
    assert not law.thread or re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+/(issues|pull)/\d+", law.thread)


@pytest.mark.parametrize("name", IDS)
def test_the_json_form(name):
    finding = Finding(name, Sizes(7, 1, 4), "all is wrong", step=1, epoch=0, samples=(4, 5, 6), ratio=0.75, detail="-")
    assert json.loads(json.dumps(finding.as_dict())) == {
        "id": name,
        "step": 1,
        "epoch": 0,
        "samples": [4, 5, 6],
        "ratio": 0.75,
        "message": "all is wrong",
        "fix": LAWS[name].fix,
    }
    assert list(Finding(name, None, "").as_dict().values()) == [name, None, None, [], None, "", finding.fix]


@given(st.lists(st.integers(0, 30)))
def test_runs_read_back(numbers):
    text = runs(numbers)
    read = []
    for part in text.split(", ") if text else []:
        first, _, last = part.partition(" to ")
        read.append(range(int(first), int(last or first) + 1))
    assert [number for part in read for number in part] == sorted(set(numbers))
    assert all(before[-1] + 1 < after[0] for before, after in pairwise(read))
