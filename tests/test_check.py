import itertools
import re
from dataclasses import replace

import pytest
import torch
from accumcheck import LoopError, Problem, Sizes, check_equivalence
from accumcheck.corpus import right, wrong
from accumcheck.corpus.problems import PROBLEMS
from accumcheck.corpus.published import (
    accumulate_samples,
    accumulate_tokens,
    early_first_step,
    full_batch,
    published_fix,
    windows,
)
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from tests.oracles import drops_tail

SIZES = (Sizes(samples=3, accumulation_steps=2), Sizes(samples=4, accumulation_steps=2))


def flat(report):
    """The text without its line breaks."""
    return " ".join(str(report).split())


def check(train, **options):
    return check_equivalence(train, **{"sizes": SIZES, "problem": PROBLEMS["mlp"], **options})


@pytest.mark.parametrize(("objective", "train"), [("sample", accumulate_samples), ("token", accumulate_tokens)])
def test_a_right_loop_on_a_right_model(objective, train):
    problem = PROBLEMS["gpt-windows" if objective == "sample" else "gpt-lines"]
    report = check_equivalence(train, objective=objective, problem=problem, sizes=SIZES)
    assert report
    text = flat(report)
    assert text.startswith(f"✓ {train.__name__} is full-batch training, if your loss is a mean over {objective}s")
    assert f"2 sizes were trained on {problem}: the largest error lies " in text
    assert "decades below its tolerance." in text


def test_objectives_differ():
    report = check_equivalence(accumulate_samples, objective="token")
    assert report.verdict == "diverges"
    assert report.findings[0].id == "token-weighting"
    both = check_equivalence(accumulate_samples, objective="both")
    assert both.verdict == "diverges"
    sample = check_equivalence(accumulate_samples)
    assert sample
    other = "✗ If your loss is a mean over tokens, it is NOT full-batch training (--objective token says more) [token"
    assert other in flat(sample)


def test_text_of_a_divergence():
    text = str(check(published_fix))
    lines = text.splitlines()
    assert lines[0] == "✗ published_fix is NOT full-batch training, if your loss is a mean over samples"
    start = lines.index("  let n=3, b=1, k=2, epochs=2: mlp with sgd in float64, seed 0")
    assert lines[start + 1] == "  step 1 (epoch 0, window of 1 sample): the gradient is 0.5 times the full"
    # Which tensor is worst, and by how many units in the last place, is the machine's own.
    pattern = r"gradient of [\w.]+: error 0.5, tolerance \S+e-15, 1[34].\d decades beyond it"
    assert re.search(pattern, flat(text))


def test_text_when_only_learning_rates_and_steps_differ():
    def schedules_per_micro_batch(task):
        accumulate_samples(replace(task, scheduler=_Twice(task.scheduler), epochs=1))

    text = flat(check(schedules_per_micro_batch, sizes=SIZES[:1], reference=full_batch))
    assert "step 1: the learning rate is [0.09604], the full batch's is [0.098]; call scheduler.step() once per" in text
    assert "2 optimizer steps were made, there should be 4" in text


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
    assert str(report).startswith("? accumulate_samples cannot be judged, if your loss is a mean over samples")
    assert [finding.id for finding in report.findings] == ["low-precision-accumulation"]
    assert "every gradient's tolerance is above 0.001, the error of the smallest bug; use a wider dtype" in flat(report)


def test_a_problem_of_ones_own():
    def data(samples, seed):
        inputs = torch.randn(samples, 3, generator=torch.Generator().manual_seed(seed))
        return TensorDataset(inputs, inputs.sum(dim=1, keepdim=True))

    mine = Problem("mine", lambda: nn.Linear(3, 1), data, F.mse_loss)
    assert check(accumulate_samples, problem=mine)
    assert check(early_first_step, problem=mine).verdict == "diverges"


def test_short_micro_batches_in_a_full_window_are_seen():
    """A loop that takes care of its tails only."""

    def half_fixed(task):
        k = task.accumulation_steps
        for _ in range(task.epochs):
            for window in windows(task.loader, k):
                samples = sum(len(targets) for _, targets in window)
                task.optimizer.zero_grad()
                for inputs, targets in window:
                    weight = 1 / k if len(window) == k else len(targets) / samples
                    (task.loss_fn(task.model(inputs), targets) * weight).backward()
                task.optimizer.step()
                task.scheduler.step()

    report = check_equivalence(half_fixed, problem=PROBLEMS["mlp"])
    assert report.findings[0].id == "mean-of-means"
    assert [str(c.case.sizes) for c in report.comparisons if c.verdict != "equivalent"] == ["n=7, b=2, k=4, epochs=2"]


def test_parameter_groups_are_the_loops_own():
    def grouped(task):
        groups = [{"params": [p]} for p in task.model.parameters()]
        optimizer = torch.optim.AdamW(groups, lr=1e-3)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.98)
        accumulate_samples(replace(task, optimizer=optimizer, scheduler=scheduler))

    assert check(grouped, optimizer="adamw")


def test_clipping_once_per_step_equals_itself_without_accumulation():
    def clips(task):
        for _ in range(task.epochs):
            for window in windows(task.loader, task.accumulation_steps):
                samples = sum(len(targets) for _, targets in window)
                task.optimizer.zero_grad()
                for inputs, targets in window:
                    (task.loss_fn(task.model(inputs), targets) * len(targets) / samples).backward()
                nn.utils.clip_grad_norm_(task.model.parameters(), 0.1)
                task.optimizer.step()
                task.scheduler.step()

    assert check(clips)
    assert not check(clips, reference=full_batch)


SHARED = nn.Linear(64, 10)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"model": lambda: nn.Sequential(nn.Flatten(), SHARED)},
            LoopError,
            "1.weight is shared by the models of two runs, which would train one another: a problem's model",
        ),
        (
            {"data": lambda n, seed: TensorDataset(torch.randn(n, 64), torch.zeros(n).long())},
            ValueError,
            "data(3, 0) returns other samples at every call: draw them from a generator that is seeded",
        ),
        (
            {"data": lambda n, seed: (torch.ones(n, 64), torch.zeros(n))},
            ValueError,
            "data(4, 0) must return TensorDataset(inputs, targets), got tuple",
        ),
    ],
)
def test_problems_that_are_not_fit(changes, error, message):
    with pytest.raises(error, match=re.escape(message)):
        check(accumulate_samples, problem=replace(PROBLEMS["mlp"], **changes))


def test_a_window_without_gradient_is_judged():
    """As under a hinge loss, where every sample of a window may be on the right side."""

    def data(samples, seed):
        return TensorDataset(torch.tensor([[0.1], [0.2], [9.0], [0.3]])[:samples], torch.ones(samples, 1))

    def model():
        line = nn.Linear(1, 1)
        nn.init.constant_(line.weight, 0.5)
        nn.init.zeros_(line.bias)
        return line

    hinge = Problem("hinge", model, data, lambda out, targets: F.relu(1 - out * targets).mean())
    assert check(accumulate_samples, problem=hinge, sizes=SIZES[:1])

    def leaks(task):
        for _ in range(task.epochs):
            for window in windows(task.loader, task.accumulation_steps):
                for inputs, targets in window:
                    (task.loss_fn(task.model(inputs), targets) / len(window)).backward()
                task.optimizer.step()
                task.scheduler.step()

    text = flat(check(leaks, problem=hinge, sizes=SIZES[:1]))
    assert "the full batch's gradient is zero, the loop's is not" in text


def test_loops_that_never_step():
    with pytest.raises(
        LoopError,
        match=r"^idle: no torch optimizer that holds task.model's parameters stepped; other updates are not seen. Did",
    ):
        check_equivalence(idle)


def idle(task):
    pass


calls = itertools.count()


def forgetful(task):
    for inputs, targets in task.loader:
        (task.loss_fn(task.model(inputs), targets) * next(calls)).backward()
        task.optimizer.step()


def test_loops_that_do_not_repeat_themselves():
    with pytest.raises(LoopError, match="forgetful does not repeat itself under one seed, at n=") as error:
        check(forgetful)
    assert error.value.finding == "nondeterministic"


def test_loops_that_drop_a_short_epoch_still_diverge():
    """Not a single step at n < N is a finding; a loop that never steps at any size is an error."""

    report = check(drops_tail, sizes=[Sizes(samples=1, accumulation_steps=2), SIZES[1]])
    assert report.verdict == "diverges"
    assert "0 optimizer steps were made, there should be 2" in flat(report)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "word"}, "objective must be 'sample', 'token' or 'both', got 'word'"),
        ({"sizes": SIZES[0]}, r"sizes must be a list of accumcheck.Sizes, got Sizes\(.*\)"),
        ({"objective": "token"}, "problem mlp averages its loss over samples: pass objective='sample'"),
        ({"optimizer": "lion"}, "optimizer must be one of sgd, momentum, adamw, got 'lion'"),
        ({"dtype": "fp8"}, "dtype must be one of float64, float32, bfloat16, got 'fp8'"),
    ],
)
def test_bad_calls(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        check(accumulate_samples, **options)


def test_what_is_no_function():
    with pytest.raises(
        ValueError, match=re.escape("a loop is a function of one argument, def train(task): ..., got 3")
    ):
        check_equivalence(3)


def contrastive(outputs, targets):
    """In-batch negatives: each sample against all others of its micro-batch."""
    return F.cross_entropy(outputs @ outputs.detach().T, torch.arange(len(outputs)))


@pytest.mark.parametrize(
    ("problem", "seen"),
    [
        (PROBLEMS["cnn-batchnorm"], "1 (BatchNorm2d) mixes the samples of a micro-batch"),
        (replace(PROBLEMS["mlp"], loss=contrastive), "the loss of a batch is not the mean over its samples"),
    ],
)
def test_batch_coupling_is_named(problem, seen):
    report = check(accumulate_samples, problem=problem)
    assert report.verdict == "diverges"
    assert [finding.id for finding in report.findings] == ["batch-coupled"]
    assert seen in flat(report)


def dropping(functional):
    def build():
        layers = [nn.Flatten(), nn.Linear(64, 10)]
        return nn.Sequential(*layers, Draws() if functional else nn.Dropout(0.5))

    return replace(PROBLEMS["mlp"], model=build)


class Draws(nn.Module):
    def forward(self, inputs):
        return F.dropout(inputs, 0.5)


def test_dropout_is_told_from_a_bug():
    report = check(accumulate_samples, problem=dropping(functional=False))
    assert report
    assert "2 (Dropout) draws random numbers, others in micro-batches than in the full batch; no bug of the" in flat(
        report
    )
    assert not check(published_fix, problem=dropping(functional=False))
    undecided = check(accumulate_samples, problem=dropping(functional=True))
    assert undecided.verdict == "inconclusive"
    assert "as it draws in evaluation mode too, nothing can be compared" in flat(undecided)


@pytest.mark.parametrize(
    "loop",
    [right.schedules_once_an_epoch, right.takes_gradients, right.two_optimizers, right.evaluates_between_epochs,
     right.trains_biases_only],
    ids=lambda loop: loop.__name__,
)  # fmt: skip
def test_a_right_loop_that_trains_in_its_own_way_is_compared_with_its_own_run(loop):
    report = check_equivalence(loop, problem=PROBLEMS["mlp"], sizes=SIZES)
    assert report.verdict == "equivalent", str(report)
    assert "its own run without accumulation" in flat(report)


def test_its_own_run_clears_neither_a_model_nor_a_loop():
    coupled = check_equivalence(right.schedules_once_an_epoch, problem=PROBLEMS["cnn-batchnorm"], sizes=SIZES)
    assert (coupled.verdict, coupled.model_findings[0].id) == ("diverges", "batch-coupled")
    for loop in (wrong.never_clears_biases, wrong.schedules_every_time):
        report = check_equivalence(loop, problem=PROBLEMS["mlp"], sizes=SIZES)
        assert report.verdict == "diverges"
        assert "its own run without accumulation" not in flat(report)
    plain = check_equivalence(accumulate_samples, problem=PROBLEMS["mlp"], sizes=SIZES)
    assert "its own run without accumulation" not in flat(plain)
