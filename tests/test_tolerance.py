import itertools
import math
from dataclasses import replace

import pytest
import torch
from accumcheck.check import compare
from accumcheck.corpus.problems import PROBLEMS
from accumcheck.corpus.published import accumulate_samples, accumulate_tokens, full_batch, published_fix
from accumcheck.strategies import cases, ragged_sizes
from accumcheck.task import Sizes
from accumcheck.training.differences import Difference
from accumcheck.training.lockstep import Run, StepPair, Trajectory, lockstep
from accumcheck.training.problem import DTYPES, Case
from accumcheck.training.tolerance import SAFETY, SMALLEST_BUG, judge, neutral_runs, permuted, perturbed
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from experiments.tolerance import TRAINED

CASE = Case(PROBLEMS["mlp"], Sizes(samples=7, micro_batch_size=1, accumulation_steps=4, epochs=1))


@given(st.integers(1, 20), st.integers(1, 8), st.integers(0, 99))
def test_permutation_stays_within_windows(samples, window, seed):
    dataset = TensorDataset(torch.arange(samples), torch.arange(samples) * 2)
    inputs, targets = permuted(dataset, window, torch.Generator().manual_seed(seed)).tensors
    assert torch.equal(targets, inputs * 2)
    assert (inputs // window).tolist() == [i // window for i in range(samples)]
    assert sorted(inputs.tolist()) == list(range(samples))


@pytest.mark.parametrize("dtype", DTYPES.values())
def test_perturbation_is_a_unit_in_the_last_place(dtype):
    values = torch.randn(1000).to(dtype)
    [moved] = perturbed(TensorDataset(values), torch.Generator().manual_seed(0)).tensors
    relative = ((moved.double() - values.double()) / values.double()).abs()
    assert relative.max() <= 2 * torch.finfo(dtype).eps
    assert (moved != values).double().mean() > 0.9


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=str)
def test_neutral_runs_differ_by_rounding_only(problem):
    case = replace(CASE, problem=problem)
    trajectories = lockstep(Run(full_batch, case.full_batch().task()), *neutral_runs(case, full_batch))
    errors = [max(d.distance for d in t.pairs[0].gradient.values()) for t in trajectories]
    assert 0 < max(errors) < 1e-12
    assert errors[1] > 0
    assert errors[3] > 0
    assert errors[1] != errors[3]


@settings(max_examples=8)
@given(cases(ragged_sizes(max_steps=4, max_epochs=2), problems=[PROBLEMS["gpt-windows"], PROBLEMS["mlp"]]))
def test_the_full_batch_loop_passes_its_own_tolerance(case):
    [comparison] = compare(case.full_batch(), full_batch)
    assert comparison.margin == -math.inf
    assert comparison.verdict != "diverges"


def trajectory(error, *, reference=1.0, rates=({"w": 0.1}, {"w": 0.1}), steps=1):
    pairs = [
        StepPair(
            step, rates, {"w": Difference(reference, error * reference, reference)}, {"w": Difference(1.0, 0.0, 1.0)}
        )
        for step in range(steps)
    ]
    return Trajectory("reference", "candidate", pairs, steps, steps)


@given(st.floats(1e-15, 5e-5), st.floats(1e-16, 10))
def test_verdict_follows_from_error_and_noise(noise, error):
    comparison = judge(CASE, trajectory(error), [trajectory(noise), trajectory(noise / 2)])
    floor = max(noise, torch.finfo(torch.float64).eps)
    doubtful = error < torch.finfo(torch.float64).eps ** 0.5
    beyond = "inconclusive" if doubtful else "diverges"
    assert comparison.verdict == (beyond if error > SAFETY * floor else "equivalent")
    assert (comparison.first_doubt is not None) == (doubtful and error > SAFETY * floor)
    assert comparison.margin == pytest.approx(math.log10(error / (SAFETY * floor)))


@given(st.floats(0.9, 1.1).map(lambda factor: factor * SMALLEST_BUG / SAFETY))
def test_noise_as_large_as_the_smallest_bug_is_inconclusive(noise):
    comparison = judge(CASE, trajectory(0.0, steps=2), [trajectory(noise, steps=2)])
    blind = SAFETY * noise >= SMALLEST_BUG
    assert comparison.verdict == ("inconclusive" if blind else "equivalent")
    assert comparison.blind_steps == ([0, 1] if blind else [])
    assert judge(CASE, trajectory(1e3), [trajectory(noise)]).verdict == "diverges"


def test_learning_rates_and_steps_count_as_well():
    late = judge(CASE, trajectory(0.0, rates=({"w": 0.1}, {"w": 0.1000001})), [trajectory(0.0)])
    assert (late.verdict, late.first_learning_rate) == ("diverges", 0)
    short = trajectory(0.0)
    short.candidate_steps = 0
    assert judge(CASE, short, [trajectory(0.0)]).verdict == "diverges"


def test_a_zero_gradient_is_judged_by_its_noise():
    """As the key bias of attention: the relative error is of order 1, and means nothing."""
    nothing = {"error": 1.0, "reference": 1e-17}
    assert judge(CASE, trajectory(**nothing), [trajectory(**nothing)]).first_divergence is None
    assert judge(CASE, trajectory(1e9, reference=1e-17), [trajectory(**nothing)]).verdict == "diverges"


def test_steps_made_out_of_noise_prove_nothing():
    """Adam turns a gradient that is all rounding into a step of any size; only a gradient that is seen can vouch."""
    moved = Difference(1.0, 0.5, 1.0)
    for reference, verdict in ((1e-17, "inconclusive"), (1.0, "diverges")):
        noise = trajectory(1e-17 / reference, reference=reference)
        found = trajectory(1e-17 / reference, reference=reference)
        found.pairs[0].displacement["w"] = found.pairs[0].state["w/exp_avg"] = moved
        noise.pairs[0].state["w/exp_avg"] = replace(moved, distance=0.0)
        assert judge(CASE, found, [noise]).verdict == verdict


def test_bfloat16_is_inconclusive_where_noise_hides_the_smallest_bug():
    case = Case(PROBLEMS["gpt-lines"], Sizes(samples=7, accumulation_steps=8, epochs=1), dtype="bfloat16")
    right, wrong = compare(case, accumulate_tokens, published_fix)
    assert right.verdict == "inconclusive"
    assert wrong.verdict in ("inconclusive", "diverges")
    assert compare(replace(case, dtype="float32"), accumulate_tokens)[0].verdict == "equivalent"


def test_trained_models_that_read_whole_numbers():
    """Their gradient is what is left of large terms, and no perturbation of the inputs moves them."""
    for problem, seed in itertools.product(TRAINED, range(4)):
        case = replace(CASE, problem=problem, seed=seed)
        right, wrong = compare(case, accumulate_samples, published_fix)
        assert (right.verdict, wrong.verdict) == ("equivalent", "diverges")
        assert compare(replace(case, dtype="float32"), accumulate_samples)[0].verdict != "diverges"


def test_a_fixed_tolerance_on_parameters_would_pass_the_bug():
    """At a learning rate of 5e-5 an update that is off by a quarter passes torch.testing.assert_close."""
    case = replace(CASE, problem=PROBLEMS["gpt-windows"], dtype="float32")
    tasks = [case.full_batch().task(), case.task()]
    for task, train in zip(tasks, (full_batch, published_fix), strict=True):
        task.optimizer.param_groups[0]["lr"] = 5e-5
        train(replace(task, scheduler=torch.optim.lr_scheduler.ConstantLR(task.optimizer, 1.0)))
    for a, b in zip(tasks[0].model.parameters(), tasks[1].model.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    right, wrong = compare(case, accumulate_samples, published_fix)
    assert right.verdict == "equivalent"
    assert wrong.margin > 2
