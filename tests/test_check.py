import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from harness import LoopError, Problem, Sizes, check_equivalence
from harness.loops import accumulate_samples, accumulate_tokens, early_first_step, published_fix
from harness.problems import PROBLEMS
from tests.oracles import drops_tail

SIZES = (Sizes(samples=3, accumulation_steps=2), Sizes(samples=4, accumulation_steps=2))


def check(train, **options):
    return check_equivalence(train, **{"sizes": SIZES, "problem": PROBLEMS["mlp"], **options})


@pytest.mark.parametrize(("objective", "train"), [("sample", accumulate_samples), ("token", accumulate_tokens)])
def test_default_problems_and_sizes(objective, train):
    report = check_equivalence(train, objective=objective)
    assert report
    assert str(report).startswith(
        f"{train.__name__} is equivalent to full-batch training at 6 sizes: the largest error"
    )
    assert str(report).endswith("decades below its tolerance.")


def test_objectives_differ():
    assert not check_equivalence(accumulate_samples, objective="token", sizes=[Sizes(samples=7, accumulation_steps=8)])


def test_text_of_a_divergence():
    assert str(check(published_fix)) == "\n".join(
        [
            "published_fix diverges from full-batch training.",
            "  let n=3, b=1, k=2, epochs=2: mlp with sgd in float64, seed 0",
            "  step 1 (epoch 0, window of 1 sample): the gradient is 0.5 times the full batch's",
            "    gradient of 1.bias: error 0.5, tolerance 3.6e-15, 14.1 decades beyond it",
        ]
    )


def test_text_when_only_learning_rates_and_steps_differ():
    def schedules_per_micro_batch(task):
        accumulate_samples(replace(task, scheduler=_Twice(task.scheduler), epochs=1))

    text = str(check(schedules_per_micro_batch, sizes=SIZES[:1]))
    assert "  step 1: the learning rate is [0.09604], the full batch's is [0.098]" in text
    assert "  2 optimizer steps were made, 4 are due" in text


class _Twice:
    def __init__(self, scheduler):
        self.scheduler = scheduler

    def step(self):
        self.scheduler.step()
        self.scheduler.step()


def test_text_of_an_inconclusive_check():
    report = check(accumulate_samples, dtype="bfloat16", sizes=[Sizes(samples=7, accumulation_steps=8)])
    assert report.verdict == "inconclusive"
    assert not report
    assert "cannot be judged: the noise is as large as the smallest bug would be." in str(report)
    assert "every gradient's tolerance is above 0.005, the error of the smallest bug; use a wider dtype" in str(report)


def test_a_problem_of_ones_own():
    def data(samples, seed):
        inputs = torch.randn(samples, 3, generator=torch.Generator().manual_seed(seed))
        return TensorDataset(inputs, inputs.sum(dim=1, keepdim=True))

    mine = Problem("mine", lambda: nn.Linear(3, 1), data, F.mse_loss)
    assert check(accumulate_samples, problem=mine)
    assert check(early_first_step, problem=mine).verdict == "diverges"


def test_loops_that_never_step():
    with pytest.raises(LoopError, match=r"^idle never called optimizer.step\(\) on a parameter of task.model$"):
        check(idle)


def idle(task):
    pass


calls = itertools.count()


def forgetful(task):
    for inputs, targets in task.loader:
        (task.loss_fn(task.model(inputs), targets) * next(calls)).backward()
        task.optimizer.step()


def test_loops_that_do_not_repeat_themselves():
    with pytest.raises(LoopError, match="forgetful does not repeat itself under one seed: draw from torch"):
        check(forgetful)


def test_loops_that_drop_a_short_epoch_still_diverge():
    """Not a single step at n < N is a finding; a loop that never steps at any size is an error."""

    report = check(drops_tail, sizes=[Sizes(samples=1, accumulation_steps=2), SIZES[1]])
    assert report.verdict == "diverges"
    assert "  0 optimizer steps were made, 2 are due" in str(report)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "word"}, "objective must be 'sample' or 'token', got 'word'"),
        ({"sizes": ()}, "sizes must hold at least one harness.Sizes, got none"),
        ({"objective": "token"}, "problem mlp averages its loss over samples: pass objective='sample'"),
        ({"optimizer": "lion"}, "optimizer must be one of sgd, momentum, adamw, got 'lion'"),
        ({"dtype": "fp8"}, "dtype must be one of float64, float32, bfloat16, got 'fp8'"),
    ],
)
def test_bad_calls(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        check(accumulate_samples, **options)
