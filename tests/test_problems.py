import pytest
import torch
from accumcheck.corpus.problems import PROBLEMS
from accumcheck.task import Sizes
from accumcheck.training.problem import DTYPES, OPTIMIZERS, Case, Problem
from torch.utils.data import TensorDataset

SIZES = Sizes(samples=5, micro_batch_size=2, accumulation_steps=2)


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_tasks_of_one_case_are_equal_to_the_bit_and_apart(problem, dtype):
    case = Case(problem, SIZES, dtype=dtype)
    one, two = case.task(), case.full_batch().task()
    for (name, mine), theirs in zip(one.model.named_parameters(), two.model.parameters(), strict=True):
        assert mine.dtype is DTYPES[dtype], name
        assert torch.equal(mine, theirs)
        assert mine is not theirs
    assert all(torch.equal(a, b) for a, b in zip(one.dataset.tensors, two.dataset.tensors, strict=True))
    assert (one.micro_batch_size, one.accumulation_steps, len(one.loader)) == (2, 2, 3)
    assert (two.micro_batch_size, two.accumulation_steps, len(two.loader)) == (4, 1, 2)


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=str)
def test_loss_is_the_mean_of_its_units(problem):
    inputs, targets = Case(problem, SIZES).dataset().tensors
    model = Case(problem, SIZES).task().model.eval()
    losses = [problem.loss(model(inputs[i : i + 1]), targets[i : i + 1]) for i in range(5)]
    units = [1] * 5 if problem.objective == "sample" else [(row != -100).sum() for row in targets]
    mean = sum(loss * unit for loss, unit in zip(losses, units, strict=True)) / sum(units)
    assert torch.allclose(problem.loss(model(inputs), targets), mean)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_learning_rate_differs_at_every_step(optimizer):
    task = Case(PROBLEMS["linear"], SIZES, optimizer).task()
    rates = []
    for _ in range(20):
        rates.append(task.optimizer.param_groups[0]["lr"])
        task.optimizer.step()
        task.scheduler.step()
    assert len(set(rates)) == 20


def test_bad_names_are_quoted():
    with pytest.raises(ValueError, match="optimizer must be one of sgd, momentum, adamw, got 'lion'"):
        Case(PROBLEMS["linear"], SIZES, "lion")
    with pytest.raises(ValueError, match="dtype must be one of float64, float32, bfloat16, got 'fp8'"):
        Case(PROBLEMS["linear"], SIZES, dtype="fp8")
    with pytest.raises(ValueError, match="objective must be 'sample' or 'token', got 'word'"):
        Problem("p", PROBLEMS["linear"].model, PROBLEMS["linear"].data, objective="word")
    short = Problem("p", PROBLEMS["linear"].model, lambda n, seed: TensorDataset(torch.ones(2, 10), torch.ones(2, 1)))
    with pytest.raises(ValueError, match=r"data\(5, 0\) returned 2 samples"):
        Case(short, SIZES).task()
