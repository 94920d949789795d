"""Checks beside the weights: each with loops that it must fail, and none with a loop that is right."""

import copy
import json
import random

import pytest
import torch
from accumcheck import check_equivalence
from accumcheck.checks import FULL, RAGGED, side_checks
from accumcheck.checks.observe import Setup, observe
from accumcheck.cli import main
from accumcheck.corpus import published, right
from accumcheck.corpus.expectations import cases_of
from accumcheck.corpus.published import accumulate_samples, windows
from torch.amp.grad_scaler import GradScaler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

DECAY = 0.9


class Loop:
    """A loop that is right, with hooks for what mutants do beside it."""

    def __init__(self, task):
        self.task, self.kept = task, {}

    def begin(self):
        pass

    def window(self):
        pass

    def loss(self, loss, share):
        (loss * share).backward()

    def micro_batch(self):
        pass

    def step(self):
        self.task.optimizer.step()

    def stepped(self):
        pass

    def end(self):
        pass

    def run(self):
        task = self.task
        self.begin()
        for _ in range(task.epochs):
            for window in windows(task.loader, task.accumulation_steps):
                samples = sum(len(targets) for _, targets in window)
                task.optimizer.zero_grad()
                self.window()
                for inputs, targets in window:
                    self.loss(task.loss_fn(task.model(inputs), targets), len(targets) / samples)
                    self.micro_batch()
                self.step()
                task.scheduler.step()
                self.stepped()
        return self.end()


def loop(**methods):
    """A loop with some of these methods replaced."""
    made = type("Mutant", (Loop,), methods)

    def train(task):
        return made(task).run()

    return train


def checked(train, name, objective="sample"):
    return next(check for check in side_checks(train, objective) if check.name == name)


# Averages of the weights, as people write them: how they begin, and how they move.


def averaged_model(self):
    self.kept["ema"] = AveragedModel(self.task.model, multi_avg_fn=get_ema_multi_avg_fn(DECAY))


def moves_averaged_model(self):
    self.kept["ema"].update_parameters(self.task.model)


def copies(self):
    self.kept = {name: p.detach().clone() for name, p in self.task.model.named_parameters()}


def deep_copies(self):
    self.kept = copy.deepcopy(self.task.model.state_dict())


def zeros(self):
    self.kept = {name: torch.zeros_like(p) for name, p in self.task.model.named_parameters()}


def multiplies(self):
    for name, p in self.task.model.named_parameters():
        self.kept[name].mul_(DECAY).add_(p.detach(), alpha=1 - DECAY)


@torch.no_grad()
def interpolates(self):
    for name, p in self.task.model.named_parameters():
        self.kept[name].lerp_(p, 1 - DECAY)


@torch.no_grad()
def copies_in(self):
    for name, p in self.task.model.named_parameters():
        self.kept[name].copy_(DECAY * self.kept[name] + (1 - DECAY) * p)


def binds_anew(self):
    for name, p in self.task.model.named_parameters():
        self.kept[name] = DECAY * self.kept[name] + (1 - DECAY) * p.data


def binds_clones(self):
    for name, p in self.task.model.named_parameters():
        self.kept[name] = (DECAY * self.kept[name] + (1 - DECAY) * p.clone()).detach()


@torch.no_grad()
def interpolates_all(self):
    torch._foreach_lerp_(list(self.kept.values()), list(self.task.model.parameters()), 1 - DECAY)


AVERAGES = [
    (averaged_model, moves_averaged_model),
    *((copies, each) for each in (multiplies, interpolates, copies_in, binds_anew, binds_clones, interpolates_all)),
    (deep_copies, multiplies),
    (zeros, multiplies),
    (zeros, binds_anew),
]


@pytest.mark.parametrize(("begin", "move"), AVERAGES, ids=lambda value: value.__name__)
def test_an_average_that_moves_at_every_micro_batch_is_seen(begin, move):
    wrong = observe(loop(begin=begin, micro_batch=move), FULL, Setup())
    good = observe(loop(begin=begin, stepped=move), FULL, Setup())
    first = 1 + (begin is averaged_model)  # which only copies at first
    assert good.moves == list(range(first, len(good.steps)))  # the last one dies with the loop
    assert wrong.moves == sorted([*range(len(wrong.steps))] * 4)[first - 1 :]


def every(number, move):
    def moves_now_and_then(self):
        self.kept["calls"] = calls = self.kept.get("calls", 0) + 1
        if calls % number == 0:
            kept, self.kept = self.kept, self.kept["ema"]
            move(self)
            self.kept = kept

    return moves_now_and_then


def nested(begin):
    def begins(self):
        begin(self)
        self.kept = {"ema": self.kept}

    return begins


def test_the_check_of_averages():
    check = checked(loop(begin=copies, micro_batch=multiplies), "per-step state")
    assert check.status == "failed"
    assert check.reason == (
        "the average of the weights moves 4 times as often as without accumulation: move it behind optimizer.step()"
    )
    assert checked(loop(begin=copies, stepped=multiplies), "per-step state").status == "passed"
    now_and_then = every(10, multiplies)
    assert checked(loop(begin=nested(copies), stepped=now_and_then), "per-step state").status == "passed"
    assert checked(loop(begin=nested(copies), micro_batch=now_and_then), "per-step state").status == "failed"


def test_what_is_no_average():
    def copies_again(self):
        for name, p in self.task.model.named_parameters():
            self.kept[name] = p.detach().clone()

    def adds_gradients(self):
        for name, p in self.task.model.named_parameters():
            self.kept[name] = self.kept.get(name, torch.zeros_like(p)) + p.grad + 0.1 * p.detach()

    def penalty(self, loss, share):
        near = sum(((p - self.kept[name]) ** 2).sum() for name, p in self.task.model.named_parameters())
        ((loss + near) * share).backward()

    for train in (
        loop(begin=copies, micro_batch=copies_again),
        loop(micro_batch=adds_gradients),
        loop(begin=copies, loss=penalty),
    ):
        assert checked(train, "per-step state").status == "not applicable"


# Optimizer state


def clears_state(self):
    self.task.optimizer.state.clear()


def builds_it_anew(self):
    old = self.task.optimizer
    self.task.optimizer = type(old)(old.param_groups, lr=old.param_groups[0]["lr"])


def steps_twice(self):
    self.task.optimizer.step()
    self.task.optimizer.zero_grad(set_to_none=False)
    self.task.optimizer.step()


def steps_without_gradients(self):
    self.task.optimizer.step()
    self.task.optimizer.zero_grad()
    self.task.optimizer.step()


def has_another(self):
    self.kept["optimizer"] = torch.optim.Adagrad(self.task.model.parameters(), lr=0.0)


def steps_another(self):
    self.kept["optimizer"].step()
    self.task.optimizer.step()


@pytest.mark.parametrize(
    ("train", "reason"),
    [
        (
            loop(window=clears_state),
            "at update 2, AdamW's 'step' of embedding.weight is not what all updates so far make of it",
        ),
        (
            loop(stepped=builds_it_anew),
            "at update 2, AdamW's 'step' of embedding.weight is not what all updates so far make of it",
        ),
        (loop(step=steps_twice), "update 2 is made with gradients that are all zero: AdamW's state moves all the"),
    ],
    ids=["clears", "builds", "zero"],
)
def test_optimizer_state_that_is_cleared_or_moved(train, reason):
    check = checked(train, "optimizer state")
    assert check.status == "failed"
    assert check.reason.startswith(reason)


def test_two_optimizers_of_the_same_weights_are_not_judged():
    check = checked(loop(begin=has_another, step=steps_another), "optimizer state")
    assert (check.status, check.reason) == ("not run", "Adagrad and AdamW step the same weights in turn")


def test_optimizer_state_that_is_right():
    for train in (loop(), loop(step=steps_without_gradients)):
        check = checked(train, "optimizer state")
        assert (check.status, check.reason) == (
            "passed",
            "AdamW and SGD: that of one step for each update",
        )


def test_momentum_that_is_cleared_is_seen_where_the_weights_are_right():
    report = check_equivalence(loop(window=clears_state), checks=True)
    assert report
    assert [check.name for check in report.checks if check.status == "failed"] == ["optimizer state"]
    found = json.loads(report.to_json())
    assert found["verdict"] == "equivalent"
    statuses = ["not applicable", "failed", "passed", "not applicable", "not applicable"]
    assert [check["status"] for check in found["checks"]] == statuses
    assert set(found["checks"][0]) == {"name", "status", "reason"}


def test_checks_are_made_only_if_asked_for():
    report = check_equivalence(loop())
    assert report.checks is None
    assert "checks" not in report.as_dict()
    assert "Beside the weights" not in str(report)


# Memory


def sums_losses(self, loss, share):
    self.kept["total"] = self.kept.get("total", 0) + loss * share


def steps_once(self):
    self.kept.pop("total").backward()
    self.task.optimizer.step()


def keeps_losses(self, loss, share):
    (loss * share).backward()
    self.kept.setdefault("losses", []).append(loss)


def keeps_numbers(self, loss, share):
    (loss * share).backward()
    self.kept.setdefault("losses", []).append(loss.detach())


@pytest.mark.parametrize(
    ("train", "status", "reason"),
    [
        (loop(loss=sums_losses, step=steps_once), "failed", "at k = 8 the loop keeps 4 times as much"),
        (loop(loss=keeps_losses), "failed", "the graphs of 16 micro-batches are alive at once: keep loss.item()"),
        (loop(loss=keeps_numbers), "passed", "the same at k = 2 and at k = 8"),
    ],
    ids=["one_backward", "losses", "numbers"],
)
def test_memory(train, status, reason):
    check = checked(train, "memory per window")
    assert check.status == status
    assert check.reason.startswith(reason)


# Gradient scalers


def makes_scaler(self):
    self.kept["scaler"] = torch.amp.GradScaler("cpu", growth_interval=1)


def scales(self, loss, share):
    self.kept["scaler"].scale(loss * share).backward()


def steps_scaler(self):
    self.kept["scaler"].step(self.task.optimizer)
    self.kept["scaler"].update()


def unscales_and_updates(self):
    self.kept["scaler"].unscale_(self.task.optimizer)
    self.kept["scaler"].update()


def unscales_first(self, loss, share):
    scales(self, loss, share)
    if not self.kept.get("unscaled"):
        self.kept["scaler"].unscale_(self.task.optimizer)
        self.kept["unscaled"] = True


def steps_unscaled(self):
    steps_scaler(self)
    self.kept["unscaled"] = False


@pytest.mark.parametrize(
    ("methods", "status", "reason"),
    [
        ({}, "passed", "its methods are called once for each update"),
        ({"micro_batch": unscales_and_updates}, "failed", "update() is called within a window"),
        ({"loss": unscales_first, "step": steps_unscaled}, "failed", "unscale_() is called within a window"),
    ],
    ids=["right", "update", "unscale"],
)
def test_scalers(methods, status, reason):
    check = checked(loop(**{"begin": makes_scaler, "loss": scales, "step": steps_scaler, **methods}), "gradient scaler")
    assert check.status == status
    assert check.reason.startswith(reason)


# Reported losses


def returns(of):
    """A loop that returns what ``of`` makes of the losses and shares of each window."""

    def loss(self, loss, share):
        (loss * share).backward()
        self.kept.setdefault("window", []).append((loss.item(), share))

    def stepped(self):
        self.kept.setdefault("said", []).append(of(self.kept.pop("window"), self.task.accumulation_steps))

    return loop(loss=loss, stepped=stepped, end=lambda self: self.kept["said"])


def true(window, k):
    return sum(loss * share for loss, share in window)


def with_(end, train=None):
    inner = train or returns(true)

    def train_and_report(task):
        return end(inner(task))

    return train_and_report


def of_each(factor):
    def loss(self, loss, share):
        (loss * share).backward()
        self.kept.setdefault("said", []).append(factor(self.task.accumulation_steps) * loss.item())

    return loop(loss=loss, end=lambda self: self.kept["said"])


@pytest.mark.parametrize(
    ("train", "status", "reason"),
    [
        (returns(true), "passed", "each number is the mean loss of its window"),
        (of_each(lambda k: 1), "passed", "each number is the mean loss of its micro-batch"),
        (with_(torch.tensor), "passed", "each number is the mean loss of its window"),
        (with_(lambda said: {"loss": said, "rate": [0.0]}), "passed", "each number is the mean loss of its window"),
        (with_(lambda said: [{"train_loss": x} for x in said]), "passed", "each number is the mean loss of its window"),
        (with_(lambda said: (None, [torch.tensor(x) for x in said])), "passed", "each number is the mean loss"),
        (with_(lambda said: [round(x, 3) for x in said]), "passed", "each number is the mean loss of its window"),
        (returns(lambda window, k: 0.1), "passed", "the loop returns other numbers than losses, the same ones without"),
        (returns(lambda window, k: sum(x for x, _ in window)), "failed", "the loss that the loop returns is k = 4 ti"),
        (of_each(lambda k: 1 / k), "failed", "the loss that the loop returns is k = 4 times too small"),
        (of_each(lambda k: k), "failed", "the loss that the loop returns is k = 4 times too large"),
        (
            returns(lambda window, k: 2 * true(window, k) if k > 1 else true(window, k)),
            "failed",
            "the loss that the lo",
        ),
        (returns(lambda window, k: sum(x for x, _ in window) / k), "failed", "number 2 is "),
        (returns(lambda window, k: sum(x for x, _ in window) / len(window)), "failed", "number 2 is "),
        (returns(lambda window, k: window[-1][0]), "failed", "number 1 is "),
        (
            with_(lambda said: said[:2]),
            "not applicable",
            "the loop returns 2 numbers, and makes 12 updates of 48 micro",
        ),
        (loop(), "not applicable", "the loop returns no losses. Return a list with one number for each update"),
    ],
    ids=lambda value: value if value in ("passed", "failed", "not applicable") else "",
)
def test_reported_losses(train, status, reason):
    check = checked(train, "reported loss")
    assert check.status == status
    assert check.reason.startswith(reason)


def test_a_mean_over_tokens():
    def train(task, *, by_tokens):
        said = []
        for _ in range(task.epochs):
            for window in windows(task.loader, task.accumulation_steps):
                counts = [int((targets != -100).sum()) for _, targets in window]
                losses = [task.loss_fn(task.model(inputs), targets) for inputs, targets in window]
                loss = sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)
                task.optimizer.zero_grad()
                loss.backward()
                task.optimizer.step()
                said.append(float(loss if by_tokens else sum(losses) / len(losses)))
        return said

    assert checked(lambda task: train(task, by_tokens=True), "reported loss", "token").status == "passed"
    assert checked(lambda task: train(task, by_tokens=False), "reported loss", "token").status == "failed"


# All of them


SAVES_NO_MEMORY = ["one_backward_a_window", "joins_micro_batches"]
CASES = [
    case if place % 9 == 0 else pytest.param(*case, marks=pytest.mark.slow)
    for place, case in enumerate(cases_of(right, published))
    if case[2] is None
]


@pytest.mark.parametrize(("train", "objective", "_"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_no_right_loop_fails(train, objective, _):
    failed = [check.name for check in side_checks(train, objective) if check.status in ("failed", "not run")]
    assert failed == ["memory per window"] * (train.__name__ in SAVES_NO_MEMORY)


def test_a_loop_that_cannot_run_is_not_judged():
    def train(task):
        raise RuntimeError("no")

    found = side_checks(train)
    assert {check.status for check in found} == {"not run"}
    assert found[0].reason == f"the loop raised RuntimeError at {FULL}: no"


def test_a_loop_that_makes_no_update_is_not_judged():
    assert checked(lambda task: None, "optimizer state").reason == "the loop makes no update"


def test_nothing_is_left_changed():
    def train(task):
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(1)
        random.seed(1)
        torch.amp.GradScaler("cpu")
        accumulate_samples(task)

    methods = [getattr(GradScaler, name) for name in ("scale", "unscale_", "step", "update")]
    stream, python, threads = torch.get_rng_state(), random.getstate(), torch.get_num_threads()
    for each in (train, lambda task: 1 / 0):
        side_checks(each)
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(torch.get_rng_state(), stream)
    assert random.getstate() == python
    assert torch.get_num_threads() == threads
    assert [getattr(GradScaler, name) for name in ("scale", "unscale_", "step", "update")] == methods
    assert not torch.utils._python_dispatch._get_current_dispatch_mode_stack()
    saved = (torch.ones(2, requires_grad=True) ** 2).grad_fn
    assert isinstance(saved._saved_self, torch.Tensor)


def test_the_sizes_are_as_the_checks_need_them():
    assert not FULL.is_ragged
    assert RAGGED.is_ragged
    assert RAGGED.samples % RAGGED.micro_batch_size


# In the command


EMA = """
from accumcheck.corpus.published import accumulate_samples as right

def train(task):
    average = {name: p.detach().clone() for name, p in task.model.named_parameters()}

    def moves(module, inputs, outputs):
        for name, p in task.model.named_parameters():
            average[name].mul_(0.9).add_(p.detach(), alpha=0.1)

    with task.model.register_forward_hook(moves):
        right(task)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "my_loop.py").write_text(EMA)
    monkeypatch.chdir(tmp_path)


def test_the_command_prints_a_section(here, capsys):
    assert main(["check", "--checks", "my_loop.py:train"]) == 1
    said = capsys.readouterr().out
    assert said.startswith("✓ my_loop.py:train is full-batch training")  # the verdict is on the weights
    assert max(map(len, said.splitlines())) <= 80
    assert said.split("\n\n")[-1] == SECTION


SECTION = """\
  Beside the weights:
    ✗ per-step state: failed. The average of the weights moves 4 times as often
      as without accumulation: move it behind optimizer.step()
    ✓ optimizer state: passed. AdamW and SGD: that of one step for each update
    ✓ memory per window: passed. The same at k = 2 and at k = 8
    – gradient scaler: not applicable. The loop uses none
    – reported loss: not applicable. The loop returns no losses. Return a list
      with one number for each update to have them checked
"""


def test_checks_are_of_one_process(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["check", "--checks", "--ranks", "2", "a.py:f"])
    assert "--checks watches one process, got --ranks 2" in capsys.readouterr().err
