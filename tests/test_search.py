from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import harness.search
from harness.bugs import SAMPLE_BUGS, TOKEN_BUGS, skips_at_random, steps_every_time
from harness.data import unmasked
from harness.findings import LAWS
from harness.loops import accumulate_samples, accumulate_tokens, early_first_step, published_fix, windows
from harness.probe import probe
from harness.search import BUDGET, DEFAULT_SIZES, judge_exactly
from harness.strategies import small_sizes
from harness.styles import STYLES
from harness.task import OBJECTIVES, LoopError, Sizes

BUGS = [(loop, "sample", name) for name, loops in SAMPLE_BUGS.items() for loop in loops if name != "nondeterministic"]
BUGS += [(loop, "token", name) for name, loops in TOKEN_BUGS.items() for loop in loops]


@pytest.fixture(autouse=True)
def no_hurry(monkeypatch):
    """What is found must not depend on how busy the machine is."""
    monkeypatch.setattr(harness.search, "PATIENCE", 600.0)


@pytest.mark.parametrize(("train", "objective", "name"), BUGS, ids=lambda value: getattr(value, "__name__", value))
def test_bugs_are_called_by_their_names(train, objective, name):
    outcome = judge_exactly(train, objective, search=False)
    assert (outcome.verdict, outcome.findings[0].id) == ("diverges", name)
    assert "unexplained" not in {finding.id for finding in outcome.findings[1:]}
    for finding in outcome.findings:
        assert finding.message == f"{LAWS[finding.id].text}; but at {_at(finding)}: {finding.detail}"
        witness = outcome.witnesses[finding.id]
        assert witness.sizes == finding.sizes
        assert not witness.equivalent
        assert all(0 <= sample < witness.sizes.samples for sample in finding.samples)
        assert finding.epoch is None or 0 <= finding.epoch < witness.sizes.epochs
    assert not outcome.counterexample.equivalent
    assert outcome.counterexample.sizes == outcome.findings[0].sizes


def _at(finding):
    return f"{finding.sizes}" + (f", optimizer step {finding.step}" if finding.step is not None else "")


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("train", [*STYLES.values(), accumulate_tokens])
def test_correct_loops_are_equivalent(train, objective):
    outcome = judge_exactly(train, objective)
    assert (outcome.verdict, outcome.findings, outcome.counterexample, outcome.notes) == ("equivalent", (), None, ())
    assert outcome.sizes == DEFAULT_SIZES


@pytest.mark.parametrize(
    ("train", "smallest"),
    [
        (published_fix, Sizes(1, 1, 2, 1)),
        (early_first_step, Sizes(2, 1, 2, 1)),
        (steps_every_time, Sizes(2, 1, 2, 1)),
        (SAMPLE_BUGS["gradients-not-reset"][0], Sizes(1, 1, 2, 2)),
        (SAMPLE_BUGS["mean-of-means"][0], Sizes(3, 2, 2, 1)),
    ],
)
def test_counterexamples_are_the_smallest(train, smallest):
    assert judge_exactly(train).counterexample.sizes == smallest


def test_the_objective_decides():
    assert judge_exactly(accumulate_samples).verdict == "equivalent"
    [finding] = judge_exactly(accumulate_samples, "token").findings
    assert finding.id == "token-weighting"


@settings(max_examples=12)
@given(st.lists(small_sizes(), max_size=2), st.sampled_from([*BUGS, (accumulate_tokens, "token", None)]))
def test_sizes_that_are_asked_for_come_on_top(sizes, case):
    train, objective, name = case
    outcome = judge_exactly(train, objective, sizes=sizes, search=False)
    assert set(outcome.sizes) == {*sizes, *DEFAULT_SIZES}
    assert [finding.id for finding in outcome.findings[:1]] == [name] * (name is not None)


@settings(max_examples=2)
@given(small_sizes())
def test_the_search_may_run_inside_of_a_hypothesis_test(sizes):
    outcome = judge_exactly(published_fix, sizes=[sizes])
    assert outcome.findings[0].id == "tail-scaled-by-k"
    assert outcome.counterexample.sizes == Sizes(1, 1, 2, 1)


@pytest.mark.parametrize("train", [published_fix, SAMPLE_BUGS["carried-tail"][1], SAMPLE_BUGS["sample-order"][0]])
def test_the_budget_is_kept(train, monkeypatch):
    seen = []
    monkeypatch.setattr(harness.search, "probe", lambda *a, **k: seen.append(a[1]) or probe(*a, **k))
    judge_exactly(train, search=False)
    once = {replace(each, epochs=1) for each in DEFAULT_SIZES}  # at the high gain
    assert {each for each in seen if each.accumulation_steps > 1} == {*DEFAULT_SIZES, *once}
    before = len(seen)
    judge_exactly(train)
    assert len(seen) - 2 * before <= 4 * BUDGET + 4
    monkeypatch.setattr(harness.search, "PATIENCE", -1.0)
    seen.clear()
    judge_exactly(train)
    assert before <= len(seen) <= before + 2  # to say what moves the stream


def never_steps(task):
    for inputs, targets in task.loader:
        task.loss_fn(task.model(inputs), targets).backward()


def steps_another_model(task):
    other = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    other(torch.ones(1)).backward()
    optimizer.step()


def detaches(task):
    for inputs, targets in task.loader:
        task.loss_fn(task.model(inputs).detach().requires_grad_(), targets).backward()
        task.optimizer.step()


def sends_zeros(task):
    for inputs, targets in task.loader:
        (0 * task.loss_fn(task.model(inputs), targets)).backward()
        task.optimizer.step()


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (never_steps, r"^never_steps never called optimizer\.step\(\) on a parameter of task\.model$"),
        (steps_another_model, r"^steps_another_model never called optimizer\.step\(\) on a parameter of task\.model$"),
        (
            detaches,
            r"^detaches has only gradients of zero: two dead runs agree, .* check that backward\(\) starts from",
        ),
        (sends_zeros, r"^sends_zeros has only gradients of zero: two dead runs agree, which proves nothing"),
    ],
)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_dead_loops_are_errors(train, message, objective):
    with pytest.raises(LoopError, match=message) as raised:
        judge_exactly(train, objective)
    assert raised.value.finding is None


def test_loops_that_do_not_repeat_themselves():
    with pytest.raises(LoopError, match=r"skips_at_random does not repeat itself under one seed, at n=7") as raised:
        judge_exactly(skips_at_random)
    assert raised.value.finding == "nondeterministic"
    assert LAWS["nondeterministic"].fix in str(raised.value)


def draws_noise(task):
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            items = sum(unmasked(targets) for _, targets in window)
            task.optimizer.zero_grad()
            for inputs, targets in window:
                loss = task.loss_fn(task.model(inputs), targets) + 0 * torch.randn(())
                (loss * unmasked(targets) / items).backward()
            task.optimizer.step()
            task.scheduler.step()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_draws_that_would_change_the_order_are_noted(objective):
    outcome = judge_exactly(draws_noise, objective)
    assert outcome.verdict == "equivalent"
    [note] = outcome.notes
    expected = (
        "sample-order: with a loader that shuffles from the global random stream, the order of samples depends on"
    )
    assert note.startswith(expected)
    assert "the stream is moved by randn (18 times, 6 in the full batch)" in note
    assert note.endswith(LAWS["sample-order"].fix)
