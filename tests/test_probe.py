import os
import random
import sys
import time
import warnings
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from accumcheck.corpus.published import LOOPS, accumulate_samples, accumulate_tokens, published_fix, windows
from accumcheck.corpus.right import clips_once, joins_micro_batches, last_backward_inside_step, trains_biases_only
from accumcheck.corpus.wrong import clears_before_step, divides_the_rate_of_biases, never_clears_biases
from accumcheck.numbers import exact
from accumcheck.probing.model import KINDS, MATRIX, VECTOR
from accumcheck.probing.run import HIGH, LOW, probe
from accumcheck.programs.simulate import window_mean
from accumcheck.strategies import even_sizes, ragged_sizes, small_sizes
from accumcheck.task import OBJECTIVES, LoopError, Sizes, unmasked
from accumcheck.watching.process import Modes
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.optim import optimizer as optimizers
from torch.utils.data import DataLoader

from experiments.lab.oracle import expected
from tests.expectations import PLAIN

RAGGED = Sizes(samples=7, accumulation_steps=4)
NAMES = r"n=7, b=1, k=4, epochs=2"


def close(ours, theirs):
    return torch.allclose(torch.tensor(ours), torch.tensor(theirs), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("objective", OBJECTIVES)
@settings(max_examples=60)
@given(ragged_sizes() | even_sizes(), st.sampled_from(sorted(LOOPS)), st.sampled_from([LOW, HIGH]), st.integers(0, 99))
def test_matrices_are_those_of_theory(objective, sizes, name, gain, seed):
    reading = probe(LOOPS[name], sizes, objective, gain=gain, seed=seed)
    due = expected(name, sizes, reading.units)
    assert reading.exact == due
    assert len(reading.units) == sizes.samples
    assert set(reading.units) == {1} if objective == "sample" else set(reading.units) <= {1, 2, 3, 4}
    assert close(reading.shared, reading.implied(reading.matrix))
    assert reading.learning_rates == pytest.approx([0.1 * 0.98**step for step in range(len(due))], rel=1e-12)
    assert (reading.loop, reading.sizes, reading.passes, reading.random_draws) == (name, sizes, 0, {})


@pytest.mark.parametrize("train", [*PLAIN.values(), joins_micro_batches])
@settings(max_examples=6)
@given(small_sizes(), st.sampled_from(OBJECTIVES))
def test_correct_loops_of_all_styles_have_the_window_mean(train, sizes, objective):
    reading = probe(train, sizes, objective)
    due = window_mean(sizes, reading.units)
    if train is joins_micro_batches:  # a sum by design
        due = [[Fraction(weight > 0) for weight in row] for row in due]
    assert reading.exact == due


def steps_with_lbfgs(task):
    optimizer = torch.optim.LBFGS(task.model.parameters(), lr=0.1, max_iter=4)
    for _ in range(task.epochs):
        for window in windows(task.loader, task.accumulation_steps):

            def closure(window=window):
                optimizer.zero_grad()
                items = sum(unmasked(targets) for _, targets in window)
                losses = [task.loss_fn(task.model(x), y) * unmasked(y) / items for x, y in window]
                sum(losses).backward()
                return sum(losses)

            optimizer.step(closure)


def test_an_optimizer_that_evaluates_again_is_told_of():
    reading = probe(steps_with_lbfgs, Sizes(samples=11, micro_batch_size=2, accumulation_steps=4))
    assert reading.exact == window_mean(reading.sizes, reading.units)
    assert reading.facts.evaluations > 1
    assert probe(last_backward_inside_step, RAGGED).facts.evaluations == 1


def test_every_kind_of_parameter_is_read_by_itself():
    reading = probe(never_clears_biases, RAGGED)
    assert reading.trained == set(KINDS)
    assert reading.exact == window_mean(RAGGED)
    assert reading.matrices[VECTOR][1][:4] == reading.matrices[VECTOR][0][:4] == [0.25] * 4
    assert probe(trains_biases_only, RAGGED).trained == {VECTOR}


def test_settings_are_those_of_each_parameters_group():
    reading = probe(divides_the_rate_of_biases, RAGGED)
    assert [each["lr"] for each in reading.settings[MATRIX]] == [0.1] * 4
    assert [each["lr"] for each in reading.settings[VECTOR]] == [0.025] * 4
    assert {"lr", "momentum", "weight_decay"} <= set(reading.settings[MATRIX][0])


def test_a_right_loop_reads_the_same_at_other_parameters():
    zero, other = (probe(accumulate_samples, RAGGED, gain=1.0, point=point) for point in ("zero", "other"))
    # The first update is made where the run began.
    assert close(zero.matrix[1:], other.matrix[1:])
    assert not torch.equal(zero.gradients[MATRIX], other.gradients[MATRIX])


def test_orders_are_what_loaders_drew_for_training():
    drawn = []

    def train(task):
        loader = DataLoader(task.dataset, 2, shuffle=True, generator=torch.Generator().manual_seed(3))
        for _ in range(task.epochs):
            sum(len(targets) for _, targets in loader)  # not trained on
            for inputs, targets in loader:
                drawn.extend(inputs.tolist())
                task.loss_fn(task.model(inputs), targets).backward()
                task.optimizer.step()
                task.optimizer.zero_grad()

    reading = probe(train, RAGGED)
    assert reading.orders == (tuple(drawn[:7]), tuple(drawn[7:]))
    assert probe(accumulate_samples, RAGGED).orders == ()


def test_parameters_that_change_between_steps_are_seen():
    def decays(task):
        for inputs, targets in task.loader:
            task.loss_fn(task.model(inputs), targets).backward()
            with torch.no_grad():
                for parameter in task.model.parameters():
                    parameter.mul_(0.5)
            task.optimizer.step()
            task.optimizer.zero_grad()

    assert not any(probe(decays, RAGGED).facts.moved)
    assert all(probe(decays, RAGGED, gain=1.0, point="other").facts.moved[1:])


def test_a_scaler_for_cuda_is_on_without_it():
    factors = []

    def train(task):
        scaler = torch.amp.GradScaler("cuda")
        for inputs, targets in task.loader:
            scaler.scale(task.loss_fn(task.model(inputs), targets)).backward()
            factors.append(scaler.get_scale())
            scaler.step(task.optimizer)
            scaler.update()
            task.optimizer.zero_grad()

    reading = probe(train, replace(RAGGED, epochs=1))
    assert factors[0] == 65536
    assert [sum(row) for row in reading.exact] == [1] * 7
    assert not torch.amp.GradScaler("cuda").is_enabled() or torch.cuda.is_available()


by_hand = {
    "class": lambda logits, targets: nn.CrossEntropyLoss()(logits.reshape(-1, 8), targets.reshape(-1)),
    "sum": lambda logits, targets: (
        F.cross_entropy(logits.mT if logits.dim() == 3 else logits, targets, reduction="sum") / (targets != -100).sum()
    ),
    "nll": lambda logits, targets: F.nll_loss(F.log_softmax(logits, -1).flatten(0, -2), targets.flatten()),
    "float32": lambda logits, targets: F.cross_entropy(logits.float().flatten(0, -2), targets.flatten()),
}


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", by_hand)
def test_losses_of_ones_own(name, objective):
    def train(task):
        optimizer = torch.optim.RMSprop(task.model.parameters(), lr=0.02)
        for _ in range(task.epochs):
            for batch_idx, (inputs, targets) in enumerate(task.loader):
                (by_hand[name](task.model(inputs), targets) / task.accumulation_steps).backward()
                if (batch_idx + 1) % task.accumulation_steps == 0 or batch_idx + 1 == len(task.loader):
                    optimizer.step()
                    optimizer.zero_grad()

    sizes = Sizes(samples=11, micro_batch_size=2, accumulation_steps=4)
    reading = probe(train, sizes, objective)
    assert reading.exact == expected("published_fix", sizes, reading.units)
    assert reading.learning_rates == [0.02] * 4


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_clipping_shows_at_the_high_gain_only(objective):
    low, high = (probe(clips_once, RAGGED, objective, gain=gain) for gain in (LOW, HIGH))
    assert low.exact == window_mean(RAGGED, low.units)
    for clipped, row in zip(high.matrix, low.matrix, strict=True):
        scales = [a / b for a, b in zip(clipped, row, strict=True) if b]
        assert scales == pytest.approx([scales[0]] * len(scales))
        assert 0 < scales[0] < 0.1


def upsets_everything(task):
    print("out " * 1000)
    sys.stderr.write("err\n" * 1000)
    warnings.warn("beware", stacklevel=1)
    warnings.simplefilter("error")
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    task.optimizer.register_step_pre_hook(lambda *_: print("hook"))
    LOOPS["accumulate_samples"](task)
    torch.set_num_threads(torch.get_num_threads() + 1)
    torch.set_default_dtype(torch.bfloat16)
    torch.set_default_device("meta")
    torch.set_grad_enabled(False)
    torch.use_deterministic_algorithms(True)
    sys.stdout = sys.stderr
    os.environ["ACCUMULATION"] = "4"
    os.environ.pop("PATH")


def upsets_and_raises(task):
    upsets_everything(task)
    raise KeyError


def upsets_and_hangs(task):
    upsets_everything(task)
    time.sleep(60)


def state():
    hooks = optimizers._global_optimizer_pre_hooks, optimizers._global_optimizer_post_hooks
    return (
        torch.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state()[1].tolist(),
        vars(Modes.current()),
        torch.get_default_dtype(),
        torch.zeros(1).device,
        torch.get_num_threads(),
        dict(os.environ),
        [list(each) for each in hooks],
        sys.stdout,
        sys.stderr,
    )


@pytest.mark.parametrize("train", [upsets_everything, upsets_and_raises, upsets_and_hangs])
@pytest.mark.parametrize("shuffle", [False, True])
def test_nothing_is_left_behind(train, shuffle, capfd):
    before = state()
    if train is upsets_everything:
        reading = probe(train, RAGGED, shuffle=shuffle)
        assert len(reading.matrix) == 4
        assert shuffle or reading.exact == window_mean(RAGGED)
    else:
        with pytest.raises(LoopError):
            probe(train, RAGGED, shuffle=shuffle, time_limit=0.5)
    assert state() == before
    assert capfd.readouterr() == ("", "")


def test_the_state_that_a_loop_meets_is_the_same_every_time():
    drawn = []

    def train(task):
        drawn.append((torch.rand(1).item(), random.random(), np.random.rand(), torch.is_grad_enabled()))

    probe(train, RAGGED)
    with torch.no_grad():
        torch.rand(3)
        probe(train, RAGGED)
    probe(train, RAGGED, seed=1)
    assert drawn[0] == drawn[1]
    assert drawn[0][3]
    assert all(a != b for a, b in zip(drawn[0][:3], drawn[2][:3], strict=True))


def raises(error):
    def broken_loop(task):
        task.loss_fn(task.model(task.dataset.tensors[0]), task.dataset.tensors[1]).backward()
        task.optimizer.step()
        raise error

    return broken_loop


def hangs(task):
    while True:
        try:
            time.sleep(60)
        except Exception:  # noqa: BLE001, S112, RUF100
            continue


def loses_its_loss(task):
    for step, (inputs, targets) in enumerate(task.loader):
        (task.loss_fn(task.model(inputs), targets) * (float("nan") if step == 2 else 1)).backward()
        task.optimizer.step()
        task.optimizer.zero_grad()


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (
            raises(ValueError("no such key")),
            rf"broken_loop raised ValueError at {NAMES}, after 1 optimizer .*: no such",
        ),
        (raises(SystemExit(2)), rf"broken_loop raised SystemExit at {NAMES}, after 1 optimizer steps: 2"),
        (
            hangs,
            rf"hangs did not end within 0\.3 seconds at {NAMES} \(0 optimizer steps\): look for a loop without end",
        ),
        (
            loses_its_loss,
            rf"loses_its_loss steps with a gradient that is not finite at step 2, {NAMES}: look for a div",
        ),
    ],
)
def test_loops_that_cannot_be_read(train, message):
    with pytest.raises(LoopError, match=message):
        probe(train, RAGGED, time_limit=0.3)


def test_interrupts_are_the_callers():
    with pytest.raises(KeyboardInterrupt):
        probe(raises(KeyboardInterrupt()), RAGGED)


def test_loops_that_step_with_nothing_or_never():
    reading = probe(clears_before_step, RAGGED)
    assert reading.matrix == [[0.0] * 7] * 4
    assert reading.facts.backward
    assert probe(lambda task: None, RAGGED).matrix == []
    assert not probe(lambda task: task.optimizer.step(), RAGGED).facts.backward


def shuffles_in_place(task):
    order = torch.randperm(len(task.dataset))
    for tensor in task.dataset.tensors:
        tensor.copy_(tensor[order])
    accumulate_tokens(task)


def spoils_its_data(task):
    accumulate_tokens(task)
    for tensor in task.dataset.tensors:
        tensor.zero_()


def spoils_its_batches(task):
    for batch in task.loader:
        for tensor in batch:
            tensor.zero_()
    accumulate_tokens(task)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("train", [shuffles_in_place, spoils_its_data, spoils_its_batches])
def test_data_sets_may_be_changed(train, objective):
    reading = probe(train, RAGGED, objective)
    for row, length in zip(reading.exact, RAGGED.window_lengths(), strict=True):
        inside = [i for i, weight in enumerate(row) if weight]
        assert len(inside) == length
        assert {row[i] for i in inside} == {Fraction(1, sum(reading.units[i] for i in inside))}
    assert probe(accumulate_tokens, RAGGED, objective).exact == window_mean(RAGGED, reading.units)


def test_draws_are_counted_under_a_loader_that_shuffles():
    def train(task):
        for _ in range(task.epochs):
            for inputs, targets in task.loader:
                logits = F.dropout(task.model(inputs), 0.5) + 0 * torch.randn(8)
                torch.rand(3, generator=torch.Generator())
                task.loss_fn(logits, targets).backward()
                task.optimizer.step()
                task.optimizer.zero_grad()

    reading = probe(train, RAGGED, shuffle=True)
    assert reading.passes == 2
    assert reading.random_draws["randn"] == 14
    assert reading.random_draws["bernoulli"] == 14  # what dropout is made of
    assert "rand" not in reading.random_draws


@given(st.fractions(min_value=-50, max_value=50, max_denominator=300).filter(bool))
def test_weights_are_read_as_fractions(fraction):
    assert exact(float(fraction)) == fraction


@pytest.mark.parametrize("fraction", [Fraction(1, 3), Fraction(5, 7), Fraction(-3, 28), Fraction(13, 11)])
def test_weights_of_float32_are_read_as_fractions(fraction):
    assert exact(torch.tensor(float(fraction)).item()) == fraction


def test_other_weights_stay_as_they_are():
    assert exact(0.0) == 0
    assert exact(2**-0.5) == 2**-0.5


def test_the_published_fix_as_it_reads():
    assert probe(published_fix, RAGGED).exact[1] == [0, 0, 0, 0, *[Fraction(1, 4)] * 3]
