import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import bugs
from harness.bugs import SAMPLE_BUGS, TOKEN_BUGS
from harness.contributions import window_mean
from harness.diagnose import Probed, diagnose, policy
from harness.findings import LAWS
from harness.loops import accumulate_samples, accumulate_tokens, published_fix, published_fix_undivided, windows
from harness.probe import HIGH, LOW, probe
from harness.strategies import small_sizes
from harness.styles import STYLES
from harness.task import OBJECTIVES, Sizes

FIXED = Sizes(samples=11, micro_batch_size=2, accumulation_steps=4, epochs=3)
BUGS = {
    objective: [
        (name, train)
        for name, loops in bugs_by_name.items()
        for train in loops
        if name not in ("nondeterministic", "unexplained")
    ]
    for objective, bugs_by_name in (("sample", SAMPLE_BUGS), ("token", SAMPLE_BUGS | TOKEN_BUGS))
}
# These weigh every sample as is due, apart from their one bug.
PURE = (
    bugs.weighs_and_divides,
    bugs.clips_values_every_time,
    bugs.clips_each_gradient,
    bugs.schedules_every_time,
    bugs.schedules_over_micro_batches,
    bugs.shuffles_from_the_common_stream,
    bugs.contrasts_within_the_batch,
    bugs.sums_in_half_precision,
)
# The others divide by k or by the window's length as well, and what outlives an epoch is lost after the last one.
WEIGHTS = {"tail-scaled-by-k", "mean-of-means", "token-weighting"}
TAILS = {"carried-tail": {"dropped-tail"}, "early-first-step": {"dropped-tail", "carried-tail"}}


def probed(train, sizes, objective="sample"):
    return Probed(*(probe(train, each, objective, gain=g) for g in (LOW, HIGH) for each in (sizes, sizes.full_batch())))


def suspects(train, sizes, objective="sample"):
    return diagnose(probed(train, sizes, objective))


def ids(suspicions):
    return {name for suspicion in suspicions for name in suspicion.ids}


@st.composite
def telling_sizes(draw):
    """Full windows, then a tail of at least two micro-batches, the last of which may be short."""
    batch, steps = draw(st.integers(1, 3)), draw(st.integers(3, 6))
    micro_batches = steps * draw(st.integers(1, 2)) + draw(st.integers(2, steps - 1))
    short = draw(st.integers(0, batch - 1))
    return Sizes(micro_batches * batch - short, batch, steps, draw(st.integers(2, 3)))


@pytest.mark.parametrize(
    ("name", "train", "objective"),
    [(*bug, objective) for objective, loops in BUGS.items() for bug in loops]
    + [("unexplained", bugs.windows_of_k_plus_one, objective) for objective in OBJECTIVES],
)
def test_bugs_are_suspected(name, train, objective):
    found = suspects(train, FIXED, objective)
    names = ids(found)
    assert name in names or (name, objective) == ("mean-of-means", "token")
    assert "unexplained" not in names - {name}
    for suspicion in found:
        assert set(suspicion.ids) <= set(LAWS)
        assert suspicion.samples == tuple(sorted(set(suspicion.samples)))


@pytest.mark.parametrize("objective", OBJECTIVES)
@settings(max_examples=100)
@given(st.data())
def test_bugs_are_taken_for_nothing_else(objective, data):
    name, train = data.draw(st.sampled_from(BUGS[objective]))
    possible = {name} if train in PURE else {name, *WEIGHTS, *TAILS.get(name, ())}
    for suspicion in suspects(train, data.draw(small_sizes()), objective):
        assert possible.intersection(suspicion.ids)


@settings(max_examples=50)
@given(st.sampled_from(BUGS["sample"]), telling_sizes())
def test_bugs_show_wherever_there_is_a_tail(bug, sizes):
    name, train = bug
    if name in ("sample-order", "low-precision-accumulation"):  # may be right by chance
        return
    if name == "mean-of-means" and sizes.samples % sizes.micro_batch_size == 0:
        return
    assert name in ids(suspects(train, sizes))


@pytest.mark.parametrize("name", STYLES)
@settings(max_examples=6)
@given(small_sizes(), st.sampled_from(OBJECTIVES))
def test_correct_loops_are_never_suspected(name, sizes, objective):
    found = probed(STYLES[name], sizes, objective)
    assert found.equivalent
    assert diagnose(found) == []


@settings(max_examples=30)
@given(small_sizes(max_steps=4, max_epochs=2))
def test_the_published_fix_is_wrong_just_where_the_length_does_not_divide(sizes):
    assert bool(suspects(published_fix, sizes)) == sizes.is_ragged


RAGGED = Sizes(samples=7, accumulation_steps=4)


@pytest.mark.parametrize(
    ("train", "sizes", "text", "step", "samples", "ratio"),
    [
        (
            published_fix,
            RAGGED,
            "the window of micro-batches 4 to 6 is divided by k=4, not by its own 3",
            1,
            (4, 5, 6),
            0.75,
        ),
        (
            published_fix_undivided,
            RAGGED,
            "the window of micro-batches 0 to 3 goes in with 4 times its mean: nothing divides the sum",
            0,
            (0, 1, 2, 3),
            4.0,
        ),
        (
            bugs.gate_without_tail,
            RAGGED,
            "micro-batches 4 to 6 of epoch 0 went into no update",
            None,
            (4, 5, 6),
            0.0,
        ),
        (
            bugs.leaks_into_next_epoch,
            RAGGED,
            "one update is made of micro-batches 4 to 6 of epoch 0 and micro-batches 0 to 3 of epoch 1",
            1,
            tuple(range(7)),
            None,
        ),
        (
            bugs.starts_early,
            RAGGED,
            "the update is made of micro-batch 0, not of micro-batches 0 to 3 (k=4)",
            0,
            (0,),
            None,
        ),
        (
            bugs.schedules_every_time,
            RAGGED,
            "the learning rate is 0.0922368, in full-batch training 0.098: "
            "by then, scheduler.step() has been called 3 times too often",
            0,
            (),
            0.98**3,
        ),
        (
            bugs.means_of_means,
            Sizes(samples=7, micro_batch_size=2, accumulation_steps=4),
            "micro-batches 0 to 3 hold 2, 2, 2, 1 samples, but all weigh the same",
            0,
            (6,),
            1.75,
        ),
        (
            bugs.clears_every_time,
            RAGGED,
            "the gradient of micro-batches 0 to 2 was cleared before the update",
            0,
            (0, 1, 2),
            0.0,
        ),
    ],
)
def test_witnesses(train, sizes, text, step, samples, ratio):
    found = {s.text: s for s in suspects(train, sizes)}
    assert (found[text].step, found[text].samples) == (step, samples)
    assert found[text].ratio == (ratio if ratio is None else pytest.approx(ratio))


def early_undivided_and_scheduled_too_often(task):
    for _ in range(task.epochs):
        for step, (inputs, targets) in enumerate(task.loader):
            task.loss_fn(task.model(inputs), targets).backward()
            if step % task.accumulation_steps == 0:
                task.optimizer.step()
                task.optimizer.zero_grad()
            task.scheduler.step()


def divided_twice_and_never_cleared(task):
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            samples = sum(len(targets) for _, targets in window)
            for inputs, targets in window:
                loss = task.loss_fn(task.model(inputs), targets) * len(targets) / samples
                (loss / task.accumulation_steps).backward()
                task.scheduler.step()
            task.optimizer.step()


def early_and_cleared_every_time(task):
    for _ in range(task.epochs):
        for batch_idx, (inputs, targets) in enumerate(task.loader):
            task.optimizer.zero_grad()
            (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
            if batch_idx % task.accumulation_steps == 0:
                task.optimizer.step()
                task.scheduler.step()


def half_of_the_epochs(task):
    for _ in range(task.epochs // 2):
        for window in windows(task.loader, task.accumulation_steps):
            samples = sum(len(targets) for _, targets in window)
            task.optimizer.zero_grad()
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) * len(targets) / samples).backward()
            task.optimizer.step()
            task.scheduler.step()


def test_missing_updates_are_counted():
    (suspicion,) = suspects(half_of_the_epochs, Sizes(samples=3, accumulation_steps=2, epochs=2))
    assert (suspicion.ids, suspicion.text) == (("unexplained",), "2 optimizer steps were made, 4 are due")


@pytest.mark.parametrize(
    ("train", "names"),
    [
        (early_and_cleared_every_time, {"early-first-step", "gradients-lost"}),
        (
            early_undivided_and_scheduled_too_often,
            {"early-first-step", "unscaled-loss", "scheduler-per-micro-batch"},
        ),
        (
            divided_twice_and_never_cleared,
            {"over-scaled-loss", "gradients-not-reset", "scheduler-per-micro-batch"},
        ),
    ],
)
@pytest.mark.parametrize("sizes", [FIXED, Sizes(samples=13, accumulation_steps=4, epochs=2)])
def test_bugs_that_meet_are_all_found(train, names, sizes):
    assert ids(suspects(train, sizes)) == names


@pytest.mark.parametrize(
    ("train", "name"),
    [
        (bugs.gate_without_tail, "full-batch training with drop_last=True"),
        (bugs.whole_windows_only, "full-batch training with drop_last=True"),
        (bugs.endless_stream, "full-batch training on one stream, whose windows run on across epochs"),
        (published_fix, ""),
        (bugs.leaks_into_next_epoch, ""),
    ],
)
def test_policies_that_a_matrix_is_equal_to(train, name):
    assert policy(probed(train, Sizes(samples=14, accumulation_steps=4, epochs=3))) == name


def test_what_is_due_is_the_loops_own_full_batch():
    """A loop that sums by design is compared with its own sums."""
    found = probed(STYLES["joins_micro_batches"], RAGGED)
    assert found.equivalent
    assert found.due == [[float(weight > 0) for weight in row] for row in window_mean(RAGGED)]
    assert found.mean == probed(accumulate_samples, RAGGED).due


@settings(max_examples=15)
@given(small_sizes(max_samples=8, max_steps=4, max_epochs=2))
def test_dead_runs_are_known_to_be_dead(sizes):
    def steps_with_zeros(task):
        for inputs, targets in task.loader:
            (0 * task.loss_fn(task.model(inputs), targets)).backward()
            task.optimizer.step()

    assert probed(steps_with_zeros, sizes).vacuous
    assert not probed(accumulate_tokens, sizes).vacuous
