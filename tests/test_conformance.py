"""The cells of the conformance matrix: right for loops of known behaviour, and able to be wrong in every column."""

from dataclasses import dataclass
from functools import partial

import pytest
from accumcheck.adapters import Adapter
from accumcheck.adapters.conformance import COLUMNS, conformance
from accumcheck.corpus import published as loops
from accumcheck.corpus import wrong as bugs
from accumcheck.probing.run import LOW, probe
from torch import nn

from tests.expectations import PLAIN


@dataclass(frozen=True)
class Loop(Adapter):
    """A loop of our own in an adapter's place."""

    train: object = None

    def read(self, sizes, objective="sample", *, gain=LOW, max_norm=None):
        train = partial(self.train, max_norm=max_norm) if self.clips else self.train
        return probe(train, sizes, objective, gain=gain)


def cells_of(train, clips=False):
    return {
        column: str(cell) for column, cell in conformance(Loop("x", "", "", "torch", clips, train=train)).cells.items()
    }


def clipping(task, max_norm, per_micro_batch=False, factor=1):
    for _ in range(task.epochs):
        for window in loops.windows(task.loader, task.accumulation_steps):
            samples = sum(len(targets) for _, targets in window)
            task.optimizer.zero_grad()
            for inputs, targets in window:
                divisor = samples / (factor if len(window) > 1 else 1)
                (task.loss_fn(task.model(inputs), targets) * len(targets) / divisor).backward()
                if max_norm and per_micro_batch:
                    nn.utils.clip_grad_norm_(task.model.parameters(), max_norm)
            if max_norm:
                nn.utils.clip_grad_norm_(task.model.parameters(), max_norm)
            task.optimizer.step()
            task.scheduler.step()


def test_a_correct_loop_is_equal_in_all_columns():
    cells = cells_of(loops.accumulate_tokens)
    assert cells.pop("clipping") == "no setting"
    assert cells.pop("leftover") == "own step"
    assert set(cells.values()) == {"equal"}
    assert list(conformance(Loop("x", "", "", "torch", False, train=loops.accumulate_tokens)).cells) == list(COLUMNS)


SEEN = ("full window", "tail", "short last micro-batch", "schedule", "last window")


@pytest.mark.parametrize("name", PLAIN)
def test_windows_and_tails_of_correct_loops_are_equal(name):
    cells = cells_of(PLAIN[name])
    assert {cells[column] for column in SEEN} == {"equal"}
    assert cells["leftover"] == "own step"


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        (
            loops.published_fix_undivided,
            {"full window": "1/2 for 1/8", "tail": "1 for 1/3", "last window": "1 for 1/3"},
        ),
        (loops.published_fix, {"full window": "equal", "tail": "1/4 for 1/3", "short last micro-batch": "1/4 for 1/7"}),
        (loops.early_first_step, {"full window": "at first micro-batch 1 of 4", "tail": "windows are shifted"}),
        (loops.full_batch, {"full window": "only micro-batch 1 of 4", "tail": "windows are shifted"}),
        (loops.accumulate_samples, {"tokens": "3/4 to 3 ×", "short last micro-batch": "equal"}),
        (bugs.whole_windows_only, {"tail": "dropped", "leftover": "dropped", "last window": "dropped"}),
        (bugs.endless_stream, {"tail": "stream", "leftover": "stream"}),
        (bugs.splits_tail, {"tail": "split over 3 steps", "leftover": "split over 3 steps"}),
        (
            bugs.leaks_into_next_epoch,
            {
                "tail": "1/4 for 1/3, with 4 others",
                "leftover": "joins the next window: 7 for 4",
                "last window": "dropped",
            },
        ),
    ],
)
def test_each_defect_shows_in_its_column(train, expected):
    cells = cells_of(train)
    assert {column: cells[column] for column in expected} == expected


def scheduler_per_micro_batch(task):
    for _ in range(task.epochs):
        for window in loops.windows(task.loader, task.accumulation_steps):
            task.optimizer.zero_grad()
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) / len(window)).backward()
                task.scheduler.step()
            task.optimizer.step()


def test_a_schedule_that_runs_too_fast_shows():
    assert cells_of(scheduler_per_micro_batch)["schedule"] == "moves 4 steps per update"


def test_clipping_of_partial_gradients_shows():
    assert cells_of(clipping, clips=True)["clipping"] == "equal"
    found = cells_of(partial(clipping, per_micro_batch=True), clips=True)
    assert found["clipping"].endswith("× the clipped full batch")
    assert found["full window"] == "equal"


def test_a_norm_that_only_one_side_exceeds_is_tried():
    """Where both exceed it, a sum is clipped to what its mean is clipped to."""
    assert cells_of(partial(clipping, factor=4), clips=True)["clipping"] == "clips a norm 4 × too large"


def test_a_loop_that_never_steps_has_cells_too():
    cells = cells_of(lambda task: None)
    assert cells["full window"] == cells["tokens"] == "no step"
    assert cells["tail"] == "dropped"


def test_windows_that_are_too_full_show_how_full():
    def counts_samples(task):
        held = 0
        for _ in range(task.epochs):
            for inputs, targets in task.loader:
                loss = task.loss_fn(task.model(inputs), targets)
                (loss * len(targets) / task.micro_batch_size / task.accumulation_steps).backward()
                held += len(targets)
                if held >= task.micro_batch_size * task.accumulation_steps:
                    task.optimizer.step()
                    task.optimizer.zero_grad()
                    held = 0

    assert cells_of(counts_samples)["short last micro-batch"] == "a window of 9 samples for 8"


def test_cells_that_differ_have_the_finding_of_the_diagnosis():
    cells = conformance(Loop("x", "", "", "torch", False, train=loops.published_fix)).cells
    found = {column: (cell.kind, cell.finding) for column, cell in cells.items() if cell.kind == "differs"}
    assert found == {
        "tail": ("differs", "tail-scaled-by-k"),
        "short last micro-batch": ("differs", "mean-of-means"),
        "tokens": ("differs", "token-weighting"),
        "last window": ("differs", "tail-scaled-by-k"),
    }


def test_what_the_end_of_training_adds_to_others_differs():
    """A leftover that joins the next epoch's first window, and at the end of training a window of its own."""

    def joins(task):
        for _ in range(task.epochs):
            for window in loops.windows(task.loader, task.accumulation_steps):
                for inputs, targets in window:
                    (task.loss_fn(task.model(inputs), targets) / len(window)).backward()
                if len(window) == task.accumulation_steps:
                    task.optimizer.step()
                    task.optimizer.zero_grad()
        for inputs, targets in next(iter(loops.windows(task.loader, task.accumulation_steps))):
            (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
        task.optimizer.step()

    cells = cells_of(joins)
    assert cells["last window"] == "1/3, with 4 others"


def test_what_does_not_occur_or_is_left_to_the_user_is_no_difference():
    adapter = Loop(
        "x", "", "", "torch", False, train=loops.published_fix, yours=("schedule",), absent=(("tokens", "x.py:1"),)
    )
    cells = conformance(adapter).cells
    assert (cells["tokens"].text, cells["tokens"].kind) == ("does not occur", "none")
    assert (cells["schedule"].text, cells["schedule"].kind) == ("yours to write", "none")


def test_windows_that_run_on_may_end_with_a_short_one():
    """Part of the last tail went into the window before; what is left is divided by its own size."""

    def streams_to_the_end(task):
        batches = [batch for _ in range(task.epochs) for batch in task.loader]
        for window in loops.windows(batches, task.accumulation_steps):
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) / len(window)).backward()
            task.optimizer.step()
            task.optimizer.zero_grad()

    cells = conformance(Loop("x", "", "", "torch", False, train=streams_to_the_end)).cells
    assert (cells["tail"].text, cells["last window"].text) == ("stream", "own step")
    assert cells["last window"].kind == "equal"


def test_a_factor_of_all_updates_is_told_by_the_full_window_alone():
    """Sums over windows that run on across epochs: a stream, and token weights without the factor of the sum."""

    def sums(task):
        batches = [batch for _ in range(task.epochs) for batch in task.loader]
        for window in loops.windows(batches, task.accumulation_steps):
            if len(window) == task.accumulation_steps:
                for inputs, targets in window:
                    (task.loss_fn(task.model(inputs), targets) * len(targets)).backward()
                task.optimizer.step()
                task.optimizer.zero_grad()

    cells = conformance(Loop("x", "", "", "torch", False, train=sums)).cells
    assert (cells["tail"].text, cells["leftover"].kind, cells["last window"].text) == ("stream", "policy", "dropped")
    assert cells["tail"].finding == "carried-tail"
    assert (cells["full window"].text, cells["tokens"].text) == ("as without accumulation", "3/4 to 3 ×")
