import io
import json

import pytest
from rich.console import Console

from harness import check_equivalence
from harness.bugs import SAMPLE_BUGS, TOKEN_BUGS, leaks_into_next_epoch, windows_of_k_plus_one
from harness.loops import accumulate_tokens, published_fix

LOOPS = [("sample", id, loop) for id, found in SAMPLE_BUGS.items() for loop in found if id != "nondeterministic"]
LOOPS += [("token", id, loop) for id, found in TOKEN_BUGS.items() for loop in found]


@pytest.mark.parametrize(("objective", "id", "loop"), LOOPS, ids=lambda value: getattr(value, "__name__", value))
def test_every_divergence_is_told_in_every_form(objective, id, loop):
    report = check_equivalence(loop, objective=objective)
    assert not report
    assert report.findings[0].id == id
    text = str(report)
    for part in (f"\n  {id}: ", "    Let n=", "    Hence the law is broken: ", "    Fix: "):
        assert part in text
    loaded = json.loads(report.to_json())
    assert loaded["verdict"] == "diverges"
    assert loaded["findings"][0]["id"] == id
    counterexample = report.counterexample
    assert loaded["counterexample"]["samples"] == counterexample.samples
    frame = report.frame()
    assert list(frame) == ["step", "sample", "weight", "due"]
    assert set(frame["sample"]) == set(range(counterexample.samples))


def test_weights_in_the_frame_are_those_of_the_matrix():
    frame = check_equivalence(published_fix).frame()
    assert frame.to_dict("records") == [{"step": 0, "sample": 0, "weight": 0.5, "due": 1.0}]


def test_an_unexplained_matrix_is_printed():
    text = str(check_equivalence(windows_of_k_plus_one))
    assert "    update 0: 1/2 1/2 1/2" in text


def test_a_policy_is_named():
    text = str(check_equivalence(SAMPLE_BUGS["dropped-tail"][1]))
    assert "Note: the matrix equals full-batch training with drop_last=True." in text
    assert "drop_last" not in str(check_equivalence(leaks_into_next_epoch))


def test_equivalence_has_no_matrix_to_show():
    report = check_equivalence(accumulate_tokens)
    assert report
    assert (
        str(report)
        .splitlines()[1]
        .startswith("  8 sizes were probed (sample objective): n from 5 to 15, b from 1 to 2")
    )
    with pytest.raises(ValueError, match="accumulate_tokens has no counterexample: there is no matrix to show"):
        report.frame()


def test_rich_shows_the_same_text():
    report = check_equivalence(published_fix)
    file = io.StringIO()
    Console(file=file, width=200, color_system=None).print(report, soft_wrap=True)
    assert file.getvalue() == str(report) + "\n"
