"""Verdicts at many sizes: the smallest case, errors, conventions, what cannot be judged."""

import itertools

import accumcheck.explaining.judge
import pytest
import torch
from accumcheck.corpus import happened, wrong
from accumcheck.corpus.published import accumulate_samples, published_fix, windows
from accumcheck.corpus.right import drops_the_last_window, streams_rows
from accumcheck.corpus.wrong import clips_every_time, means_of_means, whole_windows_only
from accumcheck.explaining.judge import DEFAULT_SIZES, judge_exactly
from accumcheck.task import OBJECTIVES, LoopError, NotRepeatable, Sizes
from accumcheck.text import message


@pytest.mark.parametrize(
    ("loop", "smallest"),
    [
        (published_fix, "n=1, b=1, k=2, epochs=1"),
        (means_of_means, "n=3, b=2, k=2, epochs=1"),
        (clips_every_time, "n=2, b=1, k=2, epochs=1"),
    ],
)
def test_the_smallest_case_is_found(loop, smallest):
    outcome = judge_exactly(loop)
    assert str(outcome.counterexample.sizes) == smallest
    assert outcome.findings[0].sizes == outcome.counterexample.sizes


def test_the_search_ends(monkeypatch):
    monkeypatch.setattr(accumcheck.explaining.judge, "PATIENCE", -1.0)
    assert judge_exactly(published_fix).counterexample.sizes in DEFAULT_SIZES


def test_an_error_at_some_sizes_is_no_end():
    def fails_on_short(task):
        if len(task.dataset) % task.micro_batch_size:
            raise ValueError("short")
        published_fix(task)

    outcome = judge_exactly(fails_on_short)
    assert outcome.verdict == "diverges"
    assert "ValueError" in outcome.notes[0]


def asserts_divisibility(task):
    assert len(task.dataset) % (task.micro_batch_size * task.accumulation_steps) == 0, "not even"
    accumulate_samples(task)


def test_sizes_take_the_place_of_the_default_ones():
    with pytest.raises(LoopError, match=r"(?s)AssertionError at n=7.*not even.*; at 1 other size it ran"):
        judge_exactly(asserts_divisibility)
    sizes = Sizes(8, 1, 4)
    outcome = judge_exactly(asserts_divisibility, sizes=[sizes])
    assert (outcome.verdict, outcome.sizes) == ("equivalent", (sizes,))


@pytest.mark.parametrize("number", [1, 2])
def test_a_loop_that_does_not_repeat_itself_is_no_loop_to_judge(number):
    """Seen at the first size that is repeated, or at the second one."""
    calls = itertools.count()

    def forgetful(task):
        b = task.micro_batch_size
        scale = 1 + 0.1 * next(calls) if b == number and task.accumulation_steps == 4 else 1
        for inputs, targets in task.loader:
            (task.loss_fn(task.model(inputs), targets) * scale).backward()
            task.optimizer.step()
            task.optimizer.zero_grad()

    with pytest.raises(NotRepeatable, match="forgetful does not repeat itself under one seed") as raised:
        judge_exactly(forgetful)
    assert raised.value.finding == "nondeterministic"


def test_conventions_are_named():
    assert judge_exactly(drops_the_last_window).convention == "dropped"
    assert judge_exactly(streams_rows).convention in ("stream", "samples")
    outcome = judge_exactly(whole_windows_only)
    assert (outcome.verdict, outcome.equals) == ("diverges", "dropped")


def evaluates_again(task):
    optimizer = torch.optim.LBFGS(task.model.parameters(), lr=0.1, max_iter=4)
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):

            def closure(window=window):
                optimizer.zero_grad()
                items = sum(len(targets) for _, targets in window)
                loss = sum(task.loss_fn(task.model(x), y) * len(y) / items for x, y in window)
                loss.backward()
                return loss

            optimizer.step(closure)


def trains_copies(task):
    copies = [parameter.detach().clone() for parameter in task.model.parameters()]
    optimizer = torch.optim.SGD(copies, lr=0.1)
    for inputs, targets in task.loader:
        task.loss_fn(task.model(inputs), targets).backward()
        for copy, parameter in zip(copies, task.model.parameters(), strict=True):
            copy.grad, parameter.grad = parameter.grad, None
        optimizer.step()


@pytest.mark.parametrize(
    ("loop", "reason"), [(evaluates_again, "evaluated its closure"), (trains_copies, "holds none of task.model's")]
)
def test_what_was_not_seen_is_not_judged(loop, reason):
    outcome = judge_exactly(loop)
    assert outcome.verdict == "inconclusive"
    assert reason in outcome.reasons[0]


def contrasts_samples(task):
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):
            for inputs, _ in window:
                outputs = task.model(inputs)
                similar = outputs @ outputs.T
                (torch.logsumexp(similar, dim=1) - similar.diagonal()).mean().div(len(window)).backward()
            task.optimizer.step()
            task.optimizer.zero_grad()
            task.scheduler.step()


def test_where_gradients_are_zero_at_zero_others_are_read():
    outcome = judge_exactly(contrasts_samples)
    assert [f.id for f in outcome.findings] == ["batch-coupled"]


def test_signs_of_gradients_are_no_weights():
    def signs(task):
        for _ in range(task.epochs):
            for window in windows(task.loader, task.accumulation_steps):
                items = sum(len(targets) for _, targets in window)
                for x, y in window:
                    (task.loss_fn(task.model(x), y) * len(y) / items).backward()
                for parameter in task.model.parameters():
                    parameter.grad.sign_()
                task.optimizer.step()
                task.optimizer.zero_grad()

    outcome = judge_exactly(signs)
    assert outcome.verdict == "inconclusive"
    assert "the same ones without accumulation" in outcome.reasons[0]


def test_dead_loops_prove_nothing():
    def dead(task):
        for inputs, targets in task.loader:
            (0 * task.loss_fn(task.model(inputs), targets)).backward()
            task.optimizer.step()

    with pytest.raises(LoopError, match=r"dead stepped, but no gradient reached task\.model"):
        judge_exactly(dead)
    with pytest.raises(LoopError, match="stepped; other updates are not seen"):
        judge_exactly(lambda task: None)


def test_a_loop_that_cannot_take_float64_is_read_in_float32():
    def weighted(task):
        criterion = torch.nn.CrossEntropyLoss(weight=torch.ones(8))
        for _ in range(task.epochs):
            for i, (x, y) in enumerate(task.loader):
                (criterion(task.model(x), y) / task.accumulation_steps).backward()
                if (i + 1) % task.accumulation_steps == 0 or i + 1 == len(task.loader):
                    task.optimizer.step()
                    task.optimizer.zero_grad()

    assert judge_exactly(weighted).findings[0].id == "tail-scaled-by-k"


def two_terms(divide_both):
    """A loss of two terms, of which the first is divided by k, or both are."""

    def train(task):
        k = task.accumulation_steps
        for _ in range(task.epochs):
            for window in windows(task.loader, k):
                for inputs, targets in window:
                    outputs = task.model(inputs)
                    term = 0.1 * torch.logsumexp(outputs, dim=-1).mean()
                    (task.loss_fn(outputs, targets) / k + term / (k if divide_both else 1)).backward()
                task.optimizer.step()
                task.optimizer.zero_grad()

    return train


@pytest.mark.parametrize("sizes", [(), [Sizes(18, 3, 3, 2)]], ids=["default", "one"])
def test_a_term_that_is_not_divided_is_told_from_samples_that_meet_in_a_batch(sizes):
    outcome = judge_exactly(two_terms(divide_both=False), sizes=sizes)
    assert [f.id for f in outcome.findings] == ["wrong-scale"]
    assert "one term of the loss is divided by the accumulation steps" in message(outcome.findings[0])
    both = judge_exactly(two_terms(divide_both=True), sizes=sizes)
    assert "wrong-scale" not in [f.id for f in both.findings]
    for loop in (wrong.contrasts_within_the_batch, contrasts_samples):
        assert judge_exactly(loop, sizes=sizes).findings[0].id == "batch-coupled"


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_first_micro_batch_that_is_kept_alone_is_told_from_a_step_behind_it(objective):
    """Both make the same updates."""

    def steps_there(task):
        k = task.accumulation_steps
        for _ in range(task.epochs):
            for i, (inputs, targets) in enumerate(task.loader):
                (task.loss_fn(task.model(inputs), targets) / k).backward()
                if i % k == 0:
                    task.optimizer.step()
                task.optimizer.zero_grad()

    def keeps_it(task):
        k = task.accumulation_steps
        for _ in range(task.epochs):
            for window in windows(task.loader, k):
                for j, (inputs, targets) in enumerate(window):
                    kept = [None if p.grad is None else p.grad.clone() for p in task.model.parameters()]
                    (task.loss_fn(task.model(inputs), targets) / k).backward()
                    if j:
                        for parameter, grad in zip(task.model.parameters(), kept, strict=True):
                            parameter.grad = grad
                task.optimizer.step()
                task.optimizer.zero_grad()

    early, late = judge_exactly(steps_there, objective), judge_exactly(keeps_it, objective)
    assert early.example.small.ours.matrices == late.example.small.ours.matrices
    assert (early.findings[0].id, late.findings[0].id) == ("early-first-step", "gradients-lost")
    assert "kept" in str(late.program)


def test_gradients_that_are_lost_at_a_windows_start_are_no_tail_that_is_dropped():
    outcome = judge_exactly(happened.validates_within_a_window, "token", sizes=[Sizes(16, 3, 5, 3)])
    assert outcome.findings[0].id == "gradients-lost"


def test_weights_that_fall_by_chance_are_no_clipping():
    """The losses are divided by k, and of three micro-batches the later ones have fewer tokens."""
    outcome = judge_exactly(wrong.runs_on_over_epochs, "token", sizes=[Sizes(15, 2, 3, 3)], seed=668763)
    assert outcome.findings[0].id == "token-weighting"
    assert "clipped-per-micro-batch" not in [f.id for f in outcome.findings]


@pytest.mark.parametrize(("sizes", "seed"), [(Sizes(13, 2, 5, 2), 44157), (Sizes(17, 2, 3, 2), 807215)], ids=str)
def test_short_batches_among_the_others_are_an_order(sizes, seed):
    outcome = judge_exactly(happened.shuffles_whole_batches, sizes=[sizes], seed=seed)
    assert outcome.findings[0].id == "sample-order"


def test_a_step_without_gradients_moves_the_schedule_all_the_same():
    """The full batch leaves out its short last batch, and steps; the loop has no short micro-batch at this size."""
    outcome = judge_exactly(wrong.skips_short_batches, sizes=[Sizes(39, 3, 6, 3)], seed=861644)
    assert outcome.verdict == "diverges"
    assert "scheduler-per-micro-batch" not in [f.id for f in outcome.findings]
