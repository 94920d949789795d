import io
import json

import pytest
from accumcheck import check_equivalence
from accumcheck.corpus.published import accumulate_tokens, published_fix
from accumcheck.corpus.wrong import leaks_into_next_epoch, whole_windows_only, windows_of_k_plus_one
from accumcheck.text import WRONG as WORDS
from rich.console import Console

from tests.expectations import WRONG


@pytest.mark.parametrize(("loop", "objective", "id"), WRONG, ids=lambda value: getattr(value, "__name__", value))
def test_every_divergence_is_told_in_every_form(loop, objective, id):
    report = check_equivalence(loop, objective=objective)
    assert not report
    assert report.findings[0].id == id
    text = str(report)
    for part in (f"\n  {id}: {WORDS[id]}", "    At n=", "    Fix: "):
        assert " ".join(part.split()) in " ".join(text.split())
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
    def weighs_by_no_rule(task):
        for _ in range(task.epochs):
            for number, (inputs, targets) in enumerate(task.loader):
                (task.loss_fn(task.model(inputs), targets) / (7 + 3 * (number % task.accumulation_steps))).backward()
                if (number + 1) % task.accumulation_steps == 0 or number + 1 == len(task.loader):
                    task.optimizer.step()
                    task.optimizer.zero_grad()

    report = check_equivalence(weighs_by_no_rule)
    assert [finding.id for finding in report.findings] == ["unexplained"]
    assert report.as_dict()["program"] is None
    assert "    update 0: 1/7 1/10" in str(report)


def test_the_program_is_told():
    report = check_equivalence(windows_of_k_plus_one)
    assert report.as_dict()["program"]["step"] == report.program.rule("step").code
    assert f"    step: {report.program.rule('step').code}" in str(report)


def test_a_policy_is_named():
    text = str(check_equivalence(whole_windows_only))
    assert "Note: the matrix is that of full-batch training in which what does not fill a window" in text
    assert "full-batch training in which" not in str(check_equivalence(leaks_into_next_epoch))


def test_equivalence_has_no_matrix_to_show():
    report = check_equivalence(accumulate_tokens)
    assert report
    assert (
        str(report)
        .splitlines()[1]
        .startswith("  9 sizes were probed (sample objective): n from 5 to 15, b from 1 to 2")
    )
    with pytest.raises(ValueError, match="accumulate_tokens has no counterexample: there is no matrix to show"):
        report.frame()


def test_rich_shows_the_same_text():
    report = check_equivalence(published_fix)
    file = io.StringIO()
    Console(file=file, width=200, color_system=None).print(report, soft_wrap=True)
    assert file.getvalue() == str(report) + "\n"
