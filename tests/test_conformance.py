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


def clipping(task, max_norm, per_micro_batch=False):
    for _ in range(task.epochs):
        for window in loops.windows(task.loader, task.accumulation_steps):
            samples = sum(len(targets) for _, targets in window)
            task.optimizer.zero_grad()
            for inputs, targets in window:
                (task.loss_fn(task.model(inputs), targets) * len(targets) / samples).backward()
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
        (loops.early_first_step, {"full window": "only micro-batch 1 of 4", "tail": "windows are shifted"}),
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


def test_a_loop_that_never_steps_has_cells_too():
    cells = cells_of(lambda task: None)
    assert cells["full window"] == cells["tokens"] == "no step"
    assert cells["tail"] == "dropped"
