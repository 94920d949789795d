"""Every published loop trains by its contribution matrix; wrong windows and scales are what their names say."""

from fractions import Fraction

import pytest
from accumcheck.corpus import wrong
from accumcheck.corpus.problems import PROBLEMS
from accumcheck.corpus.published import LOOPS, accumulate_samples, windows
from accumcheck.probing.run import probe
from accumcheck.programs.simulate import window_mean
from accumcheck.strategies import cases, even_sizes, ragged_sizes
from accumcheck.task import Sizes
from accumcheck.training.lockstep import Run, lockstep
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from experiments.lab.oracle import expected
from tests.oracles import units_of, weighted

small = ragged_sizes(max_micro_batch=2, max_steps=4, max_epochs=2) | even_sizes(max_micro_batch=2, max_steps=3)


@pytest.mark.parametrize("name", LOOPS)
@settings(max_examples=8)
@given(cases(small, problems=[PROBLEMS["mlp"], PROBLEMS["gpt-lines"]], dtypes=["float64"]))
def test_loop_trains_by_its_matrix(name, case):
    units = units_of(case)
    assume(name != "accumulate_tokens" or case.problem.objective == "token")
    oracle = weighted(expected(name, case.sizes, units), units)
    [trajectory] = lockstep(Run(oracle, case.task()), Run(LOOPS[name], case.task()))
    assert trajectory.reference_steps == trajectory.candidate_steps == len(trajectory.pairs)
    for pair in trajectory.pairs:
        gradients = pair.gradient.values()
        assert max(d.distance for d in gradients) < 1e-12 * max(d.reference for d in gradients)


@given(small, st.data())
def test_window_mean_weighs_every_unit_of_a_window_alike(sizes, data):
    units = data.draw(st.lists(st.integers(1, 9), min_size=sizes.samples, max_size=sizes.samples))
    for row, length in zip(window_mean(sizes, units), sizes.window_lengths(), strict=True):
        inside = [i for i, weight in enumerate(row) if weight]
        assert len(inside) == length
        assert {row[i] for i in inside} == {Fraction(1, sum(units[i] for i in inside))}


@given(small)
def test_who_is_right_for_samples(sizes):
    due = window_mean(sizes)
    assert expected("accumulate_samples", sizes) == due
    assert (expected("published_fix", sizes) == due) == (not sizes.is_ragged)
    assert (expected("published_fix_undivided", sizes) == due) == (sizes.micro_batches == 1)
    assert expected("early_first_step", sizes) != due


@given(small, st.data())
def test_who_is_right_for_tokens(sizes, data):
    units = data.draw(st.lists(st.integers(1, 9), min_size=sizes.samples, max_size=sizes.samples))
    assert expected("accumulate_tokens", sizes, units) == window_mean(sizes, units)


def test_the_published_fix_on_a_ragged_tail():
    """n=7, k=4: the tail of 3 is updated with 3/4 of its gradient."""
    *_, tail = expected("published_fix", Sizes(samples=7, accumulation_steps=4, epochs=1))
    assert tail[4:] == [Fraction(1, 4)] * 3
    assert sum(tail) == Fraction(3, 4)


def test_unknown_loops_are_quoted():
    with pytest.raises(ValueError, match="no expected matrix for loop 'mine': choose one of full_batch, accumulate_s"):
        expected("mine", Sizes(1))


@given(st.integers(0, 9), st.integers(1, 4))
def test_windows_keep_all_micro_batches_in_order(count, steps):
    lists = list(windows(((i,) for i in range(count)), steps))
    assert [i for window in lists for (i,) in window] == list(range(count))
    assert all(len(window) == steps for window in lists[:-1])


SIZES = Sizes(samples=14, micro_batch_size=1, accumulation_steps=3, epochs=1)


@pytest.mark.parametrize(
    ("train", "lengths"),
    [
        (accumulate_samples, [3, 3, 3, 3, 2]),
        (wrong.windows_of_k_plus_one, [4, 4, 4, 2]),
        (wrong.windows_of_k_minus_one, [2] * 7),
        (wrong.counts_from_one_then_zero, [3, 4, 4, 3]),
        (wrong.steps_by_a_constant, [4, 4, 4, 2]),
        (wrong.steps_once_an_epoch, [14]),
    ],
)
def test_wrong_windows_have_these_lengths(train, lengths):
    assert [sum(weight > 0 for weight in row) for row in probe(train, SIZES).matrix] == lengths


@pytest.mark.parametrize(
    ("train", "weights"),
    [
        (accumulate_samples, ["1/3", "1/3", "1/3"]),
        (wrong.divides_by_a_constant, ["1/8", "1/8", "1/8"]),
        (wrong.divides_by_the_epoch, ["1/14", "1/14", "1/14"]),
        (wrong.divides_by_k_plus_one, ["1/4", "1/4", "1/4"]),
        (wrong.divides_by_k_minus_one, ["1/2", "1/2", "1/2"]),
        (wrong.divides_by_the_place, ["1", "1/2", "1/3"]),
    ],
)
def test_wrong_scales_have_these_weights(train, weights):
    for start, row in zip(range(0, 12, 3), probe(train, SIZES).exact, strict=False):
        assert [str(weight) for weight in row[start : start + 3]] == weights
        assert sum(weight > 0 for weight in row) == 3
