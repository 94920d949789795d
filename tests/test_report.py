import io
import json
import re

import pytest
from accumcheck import check_equivalence
from accumcheck.corpus.published import accumulate_tokens, published_fix
from accumcheck.corpus.wrong import leaks_into_next_epoch, whole_windows_only, windows_of_k_plus_one
from accumcheck.text import WRONG as WORDS
from rich.console import Console

from tests.expectations import WRONG

# Each costs a second or two; the same verdicts are under test elsewhere.
FORMS = [case if place % 5 == 0 else pytest.param(*case, marks=pytest.mark.slow) for place, case in enumerate(WRONG)]


@pytest.mark.parametrize(("loop", "objective", "id"), FORMS, ids=lambda value: getattr(value, "__name__", value))
def test_every_divergence_is_told_in_every_form(loop, objective, id):
    report = check_equivalence(loop, objective=objective)
    assert not report
    assert report.findings[0].id == id
    text = str(report)
    assert max(map(len, text.splitlines())) <= 100  # the code of a rule is never cut
    first = f"{WORDS[id]} [{id}]"
    assert first in " ".join(text.split())
    assert "  Fix: " in text or "\n    + " in text
    for row in re.findall(r"\n +your loop(.*)\n +should be(.*)", text):
        ours, due = ([cell for cell in re.split(r"  +", part) if cell] for part in row)
        assert ours != due[: len(ours)], "a row that is right is shown as wrong"
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
    text = str(report)
    assert "\n    -     if (i + 1) % (k + 1) == 0 or i + 1 == len(loader):\n" in text
    assert "\n    +     if (i + 1) % k == 0 or i + 1 == len(loader):\n" in text


def test_a_policy_is_named():
    text = " ".join(str(check_equivalence(whole_windows_only)).split())
    assert "Note: these are the weights of full-batch training in which what does not fill a window" in text
    assert "full-batch training in which" not in str(check_equivalence(leaks_into_next_epoch))


def test_equivalence_has_no_matrix_to_show():
    report = check_equivalence(accumulate_tokens)
    assert report
    assert "  9 sizes compared, exactly: 5 to 15 samples, micro-batches of 1 to 2, k = 3 to" in str(report)
    with pytest.raises(ValueError, match="accumulate_tokens has no counterexample: there is no matrix to show"):
        report.frame()


def test_rich_shows_the_same_text():
    report = check_equivalence(published_fix)
    file = io.StringIO()
    Console(file=file, width=200, color_system=None).print(report, soft_wrap=True)
    assert file.getvalue() == str(report) + "\n"


def test_the_first_report_that_a_user_sees():
    assert str(check_equivalence(published_fix)) == FIRST


FIRST = """\
✗ published_fix is NOT full-batch training, if your loss is a mean over samples
✗ If your loss is a mean over tokens, it is NOT full-batch training (--objective
  token says more)  [token-weighting, tail-scaled-by-k]

  The last, short window of each epoch is divided by k, though it holds fewer
  than k micro-batches. Its update is too small.              [tail-scaled-by-k]

  7 samples, micro-batches of 1, k = 4, the second update of each epoch:

      sample       0    1    2    3    4    5    6
      your loop    ·    ·    ·    ·  1/4  1/4  1/4
      should be    ·    ·    ·    ·  1/3  1/3  1/3    25% too small

  A micro-batch with few samples counts as much as a full one.   [mean-of-means]

  11 samples, micro-batches of 2, k = 4, the second update of each epoch:

      sample       8    9   10
      your loop  1/8  1/8  1/4
      should be  1/3  1/3  1/3

  At all 10 sizes your loop acts like this (+ is the fix):

      for epoch in range(epochs): for i, batch in enumerate(loader): ...
    -     loss = loss_fn(outputs, targets) / k
    +     loss = loss_fn(outputs, targets) * len(targets) / samples_in_window
          loss.backward()              harness/accumcheck/corpus/published.py:68
          if (i + 1) % k == 0 or i + 1 == len(loader):
              optimizer.step(); optimizer.zero_grad()

  A right loop to copy: accumcheck recipe
  Smallest case: 1 sample, micro-batches of 1, k = 2, 1 epoch
  Others had it: https://github.com/Lightning-AI/pytorch-lightning/issues/19987"""


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("loop", [published_fix, leaks_into_next_epoch, windows_of_k_plus_one])
def test_words_stay_within_the_width(loop, width):
    lines = check_equivalence(loop, objective="both").text(width).splitlines()
    assert all(len(line) <= width or "loss_fn" in line for line in lines)
    assert not any(line.startswith(" ") and line.strip() in ("", ".") for line in lines if line)
