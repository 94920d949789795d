import contextlib
import gc
import io
import os
import random
import sys
import warnings
import weakref
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from accumcheck.corpus import models
from accumcheck.corpus.models import GPT, GPTConfig
from accumcheck.corpus.problems import PROBLEMS
from accumcheck.corpus.published import accumulate_samples, full_batch, published_fix_undivided, windows
from accumcheck.task import LoopError, Sizes
from accumcheck.training.lockstep import Run, lockstep
from accumcheck.training.problem import Case
from torch import nn
from torch.optim import optimizer as optim

CASE = Case(PROBLEMS["mlp"], Sizes(samples=6, micro_batch_size=1, accumulation_steps=2, epochs=2))


def against_full_batch(train, case=CASE, **options):
    [trajectory] = lockstep(Run(full_batch, case.full_batch().task()), Run(train, case.task()), **options)
    return trajectory


def errors(trajectory, kind="displacement"):
    return [max((d.error for d in getattr(pair, kind).values()), default=0) for pair in trajectory.pairs]


def test_every_step_is_compared():
    trajectory = against_full_batch(accumulate_samples, state=True, case=replace(CASE, optimizer="adamw"))
    assert (trajectory.reference_steps, trajectory.candidate_steps, len(trajectory.pairs)) == (6, 6, 6)
    names = set(dict(CASE.task().model.named_parameters()))
    for step, pair in enumerate(trajectory.pairs):
        assert pair.step == step
        assert set(pair.gradient) == set(pair.displacement) == names
        assert set(pair.state) == {f"{name}/{key}" for name in names for key in ("step", "exp_avg", "exp_avg_sq")}
        assert (
            pair.learning_rates[0] == pair.learning_rates[1] == dict.fromkeys(names, pytest.approx(1e-3 * 0.98**step))
        )
    for kind in ("gradient", "displacement", "state"):
        assert max(errors(trajectory, kind)) < 1e-12


def test_the_pauses_change_nothing():
    bare = CASE.task()
    accumulate_samples(bare)
    watched = CASE.task()
    lockstep(Run(full_batch, CASE.full_batch().task()), Run(accumulate_samples, watched), resynchronise=False)
    for alone, beside in zip(bare.model.parameters(), watched.model.parameters(), strict=True):
        assert torch.equal(alone, beside)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adamw"])
def test_resynchronised_steps_are_judged_each_on_its_own(optimizer):
    """A loop that errs at one step only diverges there, and nowhere later."""

    def errs_once(task):
        count = 0
        for _ in range(task.epochs):
            for inputs, targets in task.loader:
                task.optimizer.zero_grad()
                (task.loss_fn(task.model(inputs), targets) * (3 if count == 1 else 1)).backward()
                task.optimizer.step()
                task.scheduler.step()
                count += 1

    case = replace(CASE, optimizer=optimizer).full_batch()
    judged = against_full_batch(errs_once, case, state=True)
    wrong = [
        max(e) > 1e-9 for e in zip(errors(judged), errors(judged, "gradient"), errors(judged, "state"), strict=True)
    ]
    assert wrong == [False, True, False, False, False, False]
    free = errors(against_full_batch(errs_once, case, resynchronise=False))
    assert [error > 1e-9 for error in free] == [False, True, True, True, True, True]


def test_free_displacements_count_from_the_start():
    case = replace(CASE, optimizer="sgd")
    task = case.full_batch().task()
    start = [parameter.detach().clone() for parameter in task.model.parameters()]
    [trajectory] = lockstep(Run(full_batch, task), Run(published_fix_undivided, case.task()), resynchronise=False)
    moved = [(p - s).norm().item() for p, s in zip(task.model.parameters(), start, strict=True)]
    last = trajectory.pairs[-1].displacement.values()
    assert [d.reference for d in last] == pytest.approx(moved)
    assert [d.magnitude for d in last] == pytest.approx([s.norm().item() for s in start])


def test_buffers_are_synchronised():
    """Running statistics of micro-batches would otherwise reach the next step."""
    case = replace(CASE, problem=PROBLEMS["cnn-batchnorm"])
    reference, candidate = case.full_batch().task(), case.task()
    lockstep(Run(full_batch, reference), Run(accumulate_samples, candidate))
    assert torch.equal(reference.model[1].running_mean, candidate.model[1].running_mean)


def test_leaked_gradients_are_not_synchronised_away():
    def leaks(task):
        for _ in range(task.epochs):
            for inputs, targets in task.loader:
                task.loss_fn(task.model(inputs), targets).backward()
                task.optimizer.step()
                task.scheduler.step()

    assert [error > 1e-9 for error in errors(against_full_batch(leaks, CASE.full_batch()))] == [False] + [True] * 5


def test_a_run_that_ends_early_is_a_result():
    def one_epoch(task):
        accumulate_samples(replace(task, epochs=1))

    trajectory = against_full_batch(one_epoch)
    assert (trajectory.reference_steps, trajectory.candidate_steps, len(trajectory.pairs)) == (6, 3, 3)


def test_a_run_that_steps_more_often_is_a_result():
    trajectory = against_full_batch(full_batch)
    assert (trajectory.reference_steps, trajectory.candidate_steps, len(trajectory.pairs)) == (6, 12, 6)


def test_a_candidate_that_never_steps_is_a_result():
    trajectory = against_full_batch(lambda task: None)
    assert (trajectory.reference_steps, trajectory.candidate_steps, trajectory.pairs) == (6, 0, [])


def test_several_candidates_share_one_reference():
    alone = [against_full_batch(train).pairs for train in (accumulate_samples, published_fix_undivided)]
    both = lockstep(
        Run(full_batch, CASE.full_batch().task()),
        Run(accumulate_samples, CASE.task()),
        Run(published_fix_undivided, CASE.task()),
    )
    assert [trajectory.pairs for trajectory in both] == alone


def test_every_run_draws_from_its_own_stream():
    """With dropout, the same loop beside itself is equal to the bit only if neither takes the other's numbers."""
    model = partial(GPT, GPTConfig(width=8, layers=1, dropout=0.3))
    case = replace(CASE, problem=replace(PROBLEMS["gpt-windows"], model=model))
    [same, other] = lockstep(*[Run(accumulate_samples, case.task()) for _ in range(3)])
    assert max(errors(same)) == max(errors(other)) == 0


def test_dropout_masks_come_from_the_seed():
    case = replace(CASE, problem=replace(CASE.problem, model=lambda: nn.Sequential(models.mlp(), nn.Dropout())))
    task = case.task()
    state = torch.get_rng_state()
    [trajectory] = lockstep(Run(accumulate_samples, task), Run(accumulate_samples, case.task()), seed=5)
    [other] = lockstep(Run(accumulate_samples, case.task()), Run(accumulate_samples, case.task()), seed=6)
    assert trajectory.pairs[0].gradient != other.pairs[0].gradient
    assert torch.equal(state, torch.get_rng_state())


def raises(task):
    task.loss_fn(task.model(next(iter(task.loader))[0]), task.dataset.tensors[1][:1]).backward()
    task.optimizer.step()
    raise KeyError("lost")


def quits(task):
    raise SystemExit(3)


def steps_nan(task):
    for inputs, targets in task.loader:
        (task.loss_fn(task.model(inputs), targets) * float("nan")).backward()
        task.optimizer.step()


def steps_adam(task):
    accumulate_samples(replace(task, optimizer=torch.optim.Adam(task.model.parameters())))


def reinitialises(task):
    torch.nn.init.ones_(task.model[1].weight)
    accumulate_samples(task)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (raises, "^raises raised KeyError after 1 optimizer steps: 'lost'$"),
        (quits, "^quits raised SystemExit after 0 optimizer steps: 3$"),
        (
            steps_nan,
            "^steps_nan has a gradient of 1.weight whose norm is nan at step 0: lower the learning rate, or look for",
        ),
        (steps_adam, "^steps_adam steps Adam where full_batch steps SGD: only runs with the same optimizer can be"),
        (reinitialises, "^reinitialises starts from another 1.weight than the reference: build both models from one"),
    ],
)
def test_loops_that_cannot_be_compared(train, message):
    with pytest.raises(LoopError, match=message):
        against_full_batch(train)


def dead(**changes):
    return replace(CASE, problem=replace(CASE.problem, **changes))


def zero_loss(outputs, targets):
    return outputs.sum() * 0


@pytest.mark.parametrize(
    ("case", "reference", "message"),
    [
        (dead(loss=zero_loss), full_batch, "^every gradient is zero in 6 steps of full_batch: two dead models agree"),
        (CASE, lambda task: None, r"^<lambda> never called optimizer.step\(\) on a parameter of task.model: nothing"),
    ],
)
def test_comparisons_that_would_prove_nothing(case, reference, message):
    with pytest.raises(LoopError, match=message):
        lockstep(Run(reference, case.full_batch().task()), Run(accumulate_samples, case.task()))


def test_models_that_do_not_move():
    runs = []
    for _ in range(2):
        task = CASE.full_batch().task()
        task.optimizer.param_groups[0]["lr"] = 0.0
        runs.append(Run(full_batch, replace(task, scheduler=torch.optim.lr_scheduler.ConstantLR(task.optimizer, 1.0))))
    for run in runs:
        run.task.optimizer.param_groups[0]["lr"] = 0.0
    with pytest.raises(LoopError, match="no parameter moved in 6 steps of full_batch: two dead models agree, which"):
        lockstep(*runs)


def test_an_interrupt_stops_everything():
    def interrupted(task):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        against_full_batch(interrupted)
    assert not optim._global_optimizer_pre_hooks


def messes_up(task):
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(3)
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    os.environ["MESS"] = "1"
    torch.set_grad_enabled(False)
    with torch.enable_grad():
        accumulate_samples(task)
    raise ValueError("and no word of it")


def test_nothing_is_left_behind():
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist(), dict(os.environ)
    threads = torch.get_num_threads()
    with pytest.raises(LoopError):
        against_full_batch(messes_up)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), np.random.get_state()[1].tolist(), dict(os.environ))
    assert torch.get_default_dtype() is torch.float32
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()
    assert not optim._global_optimizer_pre_hooks
    assert not optim._global_optimizer_post_hooks


def test_paused_runs_are_unwound_and_freed():
    unwound = []

    def stubborn(task):
        try:
            accumulate_samples(task)
        finally:
            unwound.append(True)

    reference, candidate = CASE.full_batch().task(), CASE.task()
    models_alive = [weakref.ref(reference.model), weakref.ref(candidate.model)]
    with pytest.raises(LoopError):
        lockstep(Run(stubborn, reference), Run(raises, candidate))
    assert unwound == [True]
    del reference, candidate
    gc.collect()
    assert [ref() for ref in models_alive] == [None, None]


def test_runs_that_unwind_badly_do_no_harm():
    def refuses(task):
        for _ in range(3):
            try:
                accumulate_samples(task)
            except BaseException:
                continue

    def cleans_up_badly(task):
        with torch.no_grad():
            try:
                task.optimizer.step()
            finally:
                raise OSError

    with torch.no_grad(), pytest.raises(LoopError, match="raises raised KeyError"):
        lockstep(*(Run(train, CASE.task()) for train in (accumulate_samples, raises, refuses)))
    with torch.no_grad():
        with pytest.raises(LoopError, match="raises raised KeyError"):
            lockstep(*(Run(train, CASE.task()) for train in (accumulate_samples, raises, cleans_up_badly)))
        assert not torch.is_grad_enabled()


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    "context",
    [
        partial(warnings.catch_warnings, action="ignore"),
        partial(torch.autograd.set_detect_anomaly, True),
        lambda: contextlib.redirect_stdout(io.StringIO()),
        partial(torch.nn.attention.sdpa_kernel, torch.nn.attention.SDPBackend.MATH),
        deterministic,
    ],
)
def test_what_loops_switch_on_for_themselves(context):
    """Runs take turns, so one restores what another has set; each must have its own."""

    def state():
        return (
            list(warnings.filters),
            sys.stdout,
            torch.is_anomaly_enabled(),
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cuda.flash_sdp_enabled(),
        )

    def inside(task):
        with context():
            accumulate_samples(task)

    before = state()
    with context():
        assert state() != before
    seen = []

    def outside(task):
        for _ in range(task.epochs):
            for window in windows(task.loader, task.accumulation_steps):
                task.optimizer.zero_grad()
                for inputs, targets in window:
                    (task.loss_fn(task.model(inputs), targets) / len(window)).backward()
                seen.append(state())
                task.optimizer.step()

    lockstep(*(Run(train, CASE.task()) for train in (accumulate_samples, inside, outside, inside)))
    assert state() == before
    assert all(one == before for one in seen)


def test_modes_of_one_run_do_not_reach_another():
    def steps_inside_autocast(task):
        with torch.autocast("cpu", torch.bfloat16, enabled=False), torch.no_grad():
            for inputs, targets in task.loader:
                with torch.enable_grad():
                    task.optimizer.zero_grad()
                    task.loss_fn(task.model(inputs), targets).backward()
                task.optimizer.step()
                task.scheduler.step()

    case = replace(CASE, sizes=Sizes(6, 2, 1, 1))
    assert max(errors(against_full_batch(steps_inside_autocast, case))) == 0
    assert torch.is_grad_enabled()
