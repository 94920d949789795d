"""Programs in numbers: structures, window means, conventions and ranks, each on literals that were counted by hand."""

import pytest
from accumcheck.programs.rules import RIGHT, TABLES, Program, Shape
from accumcheck.programs.simulate import (
    Structure,
    Units,
    Visit,
    conventions,
    equivalent,
    leftover,
    simulate,
    structure,
    window_mean,
    windows_by,
)
from accumcheck.task import Sizes

from tests.literals import TOKENS, floats, row, rows

SHAPE = Shape(n=3, b=1, k=2, epochs=1)
TWICE = SHAPE._replace(epochs=2)


def ones(shape: Shape) -> Units:
    return Units((1,) * shape.n)


def followed(shape: Shape, **rules: str) -> Structure:
    program = Program(**rules)
    return structure(program.visit, program.step, program.reset, shape)


def events(found: Structure) -> str:
    return " ".join(event.kind + "".join(map(str, event.visits)) for event in found.events)


def test_micro_batches_know_their_window() -> None:
    assert followed(SHAPE).visits == (
        Visit(0, ((0, 0, 1),), ((0, 0, 2),), 2, 0),
        Visit(0, ((0, 1, 2),), ((0, 0, 2),), 2, 1),
        Visit(0, ((0, 2, 3),), ((0, 2, 3),), 1, 0),
    )


def test_micro_batches_of_a_stream_run_on() -> None:
    found = followed(SHAPE._replace(b=2, epochs=2), visit="stream of samples").visits
    assert [visit.spans for visit in found] == [
        ((0, 0, 2),),
        ((0, 2, 3), (1, 0, 1)),
        ((1, 1, 3),),
        ((2, 0, 2),),
    ]
    assert found[1].window == ((0, 0, 2), (0, 2, 3), (1, 0, 1))


@pytest.mark.parametrize(
    ("rules", "happens", "made_of", "left"),
    [
        ({}, "add0 add1 step01 clear add2 step2 clear", ((0, 1), (2,)), ()),
        ({"step": "window"}, "add0 add1 step01 clear add2", ((0, 1),), (2,)),
        ({"step": "k + 1, then k"}, "add0 add1 add2 step012 clear", ((0, 1, 2),), ()),
        ({"step": "late"}, "add0 add1 step01 clear add2", ((0, 1),), (2,)),
        ({"reset": "never"}, "add0 add1 step01 add2 step2", ((0, 1), (0, 1, 2)), ()),
        ({"reset": "before step"}, "add0 add1 clear step01 add2 clear step2", ((), ()), ()),
        ({"reset": "every"}, "add0 clear add1 step01 clear add2 step2", ((1,), (2,)), ()),
        ({"reset": "first only"}, "add0 seen1 step01 clear add2 step2", ((0,), (2,)), ()),
        ({"reset": "window end"}, "add0 add1 step01 clear add2 step2", ((0, 1), (2,)), ()),
        ({"visit": "whole windows"}, "add0 add1 step01 clear", ((0, 1),), ()),
        ({"step": "2 * k"}, "add0 add1 add2", (), (0, 1, 2)),
    ],
    ids=str,
)
def test_what_happens_to_the_gradient(
    rules: dict[str, str], happens: str, made_of: tuple[tuple[int, ...], ...], left: tuple[int, ...]
) -> None:
    found = followed(SHAPE, **rules)
    assert (events(found), found.rows, found.left) == (happens, made_of, left)


def test_structures_that_do_the_same_have_one_key() -> None:
    assert followed(SHAPE).key == followed(SHAPE, step="by samples or end").key
    assert followed(SHAPE).key != followed(SHAPE, step="window").key
    assert followed(SHAPE).supports == [{0, 1}, {2}]
    assert followed(SHAPE, reset="before step").supports == []  # updates without gradients have no samples


@pytest.mark.parametrize(
    ("program", "shape", "weights"),
    [
        (Program(), SHAPE, "0*3"),
        (Program(step="window"), SHAPE, "0*2 1"),
        (Program(step="window", scale="1/k"), TWICE, "0*2 1/2"),  # the first epoch's was used
        (Program(step="2 * k", scale="1/k"), SHAPE, "1/2*3"),
        (Program(step="late", scale="sum, items"), SHAPE, "0*2 1"),
        (Program(step="count", scale="mean, count"), Shape(3, 1, 4, 1), "1/3*3"),
    ],
    ids=str,
)
def test_leftover(program: Program, shape: Shape, weights: str) -> None:
    assert leftover(program, shape, ones(shape)) == row(weights)


MEAN = "1/2*2 0 / 0*2 1"


def test_the_window_mean() -> None:
    assert window_mean(SHAPE) == window_mean(Sizes(3, 1, 2, 1)) == rows(MEAN)
    assert window_mean(TWICE) == rows(f"{MEAN} / {MEAN}")
    assert window_mean(Shape(5, 2, 2, 1)) == window_mean(Shape(5, 1, 4, 1)) == rows("1/4*4 0 / 0*4 1")
    assert window_mean(Shape(5, 1, 2, 1, 2)) == rows("1/4*4 0 / 0*4 1")  # two ranks see two micro-batches at once


def test_the_window_mean_counts_units() -> None:
    assert window_mean(SHAPE, TOKENS[:3]) == rows("1/3*2 0 / 0*2 1/4")
    assert window_mean(SHAPE, Units(TOKENS[:3])) == rows("1/3*2 0 / 0*2 1/4")


def test_the_window_mean_follows_the_order_of_each_epoch() -> None:
    units = Units(TOKENS[:3], orders=((2, 1, 0), (0, 2, 1)))
    assert window_mean(TWICE, units) == rows("0 1/6*2 / 1 0*2 / 1/5 0 1/5 / 0 1/2 0")


def test_orders_that_are_short_repeat_the_last() -> None:
    units = Units((1, 1, 1), orders=((2, 1, 0),))
    assert units.at([(0, 0, 2), (1, 2, 3)]) == [2, 1, 0]
    assert Units((1, 1, 1), orders=((2, 0),)).length == 2  # one sample is never drawn


WINDOWS = {
    "window": [(0, 1, 2), (3, 4), (0, 1, 2), (3, 4)],
    "dropped": [(0, 1, 2), (0, 1, 2)],
    "stream": [(0, 1, 2), (0, 3, 4), (1, 2, 3), (4,)],
    "samples": [(0, 1, 2), (0, 3, 4), (1, 2, 3), (0, 1, 4)],
}


@pytest.mark.parametrize("convention", WINDOWS)
def test_windows_by(convention: str) -> None:
    shape = Shape(5, 3, 1, 2)
    assert windows_by(convention, shape, ones(shape)) == WINDOWS[convention]
    assert windows_by(convention, Shape(5, 1, 3, 2), ones(shape)) == WINDOWS[convention]


def test_windows_in_another_order() -> None:
    units = Units((1,) * 3, orders=((2, 1, 0), (1, 0, 2)))
    shape = Shape(3, 2, 1, 2)
    assert windows_by("window", shape, units) == [(1, 2), (0,), (0, 1), (2,)]
    assert windows_by("dropped", shape, units) == [(1, 2), (0, 1)]
    assert windows_by("stream", shape, units) == [(1, 2), (0, 1), (0, 2)]


def test_a_window_that_is_longer_than_the_data_set() -> None:
    shape = Shape(2, 3, 1, 1)
    assert windows_by("samples", shape, ones(shape)) == [(0, 0, 1)]
    assert windows_by("stream", shape, ones(shape)) == [(0, 1)]
    assert windows_by("dropped", shape, ones(shape)) == []


@pytest.mark.parametrize(
    ("matrix", "epochs", "names"),
    [
        ("1*2 0 / 0*2 1 / 1*2 0 / 0*2 1", 2, "window"),
        ("1*2 0 / 1*2 0", 2, "dropped"),
        ("1*2 0 / 1 0 1 / 0 1*2", 2, "stream samples"),
        ("1*2 0 / 1 0 1", 1, "samples"),
        ("1*2 0 / 0*2 1 / 1*2 0", 2, "window"),  # ends early
        ("1*2 0 / 1*2 0 / 0*2 1 / 0*2 1", 1, "window stream"),  # each window twice
        ("1*2 0 / 1*2 0 / 0*2 1", 1, ""),  # only the first twice
        ("5*2 0 / 0*2 7 / 5*2 0 / 0*2 7", 2, "window"),  # weights are not looked at
        ("1*2 0 / 0*2 1 / 2*2 0 / 0*2 2", 2, ""),  # but for their growth
        ("1 0*2 / 0*2 1", 1, "window stream"),  # no loss reaches sample 1
        ("0*2 1 / 1*2 0", 1, ""),
        ("1*3 / 1*3", 2, ""),
        ("", 2, "window dropped stream samples"),
    ],
)
def test_conventions(matrix: str, epochs: int, names: str) -> None:
    assert conventions(floats(matrix), Shape(3, 2, 1, epochs), ones(SHAPE)) == set(names.split())


def test_conventions_in_another_order() -> None:
    matrix = floats("0 1*2 / 1 0*2")
    assert conventions(matrix, Shape(3, 2, 1, 1), ones(SHAPE)) == set()
    assert conventions(matrix, Shape(3, 2, 1, 1), Units((1,) * 3, ((2, 1, 0),))) == {"window", "stream"}


@pytest.mark.parametrize(
    ("program", "n", "k", "due"),
    [
        (Program(), 7, 4, True),
        (Program(step="by samples or end"), 7, 4, True),
        (Program(visit="first epoch"), 7, 4, True),  # its own full batch trains for one epoch too
        (Program(visit="whole windows of samples"), 7, 4, True),  # and drops the same samples
        (Program(visit="whole windows"), 7, 4, False),  # of full batches, all windows are whole
        (Program(visit="whole windows"), 8, 4, True),
        (Program(visit="stream of samples"), 7, 4, True),
        (Program(visit="stream"), 7, 4, False),
        (Program(scale="sum"), 7, 4, True),  # full batches are summed as well
        (Program(scale="1"), 8, 4, False),
        (Program(scale="1/k"), 8, 4, True),
        (Program(scale="1/k"), 7, 4, False),
        (Program(step="window"), 8, 4, True),
        (Program(step="window"), 7, 4, False),
        (Program(reset="never"), 8, 4, False),  # full batches grow likewise, which makes them no windows
        (Program(reset="window start"), 7, 4, True),
        (Program(step="epoch"), 7, 4, False),  # as full batches do, over both windows
        (Program(step="epoch"), 4, 4, True),
    ],
    ids=str,
)
def test_equivalent(program: Program, n: int, k: int, due: bool) -> None:
    shape = Shape(n, 1, k, 2)
    assert equivalent(program, shape, ones(shape)) is due


def test_what_is_equivalent_depends_on_units() -> None:
    shape = Shape(4, 1, 2, 1)
    assert equivalent(Program(scale="1/count"), shape, ones(shape))
    assert not equivalent(Program(scale="1/count"), shape, Units(TOKENS[:4]))
    assert equivalent(Program(scale="sum/sequences"), shape, Units(TOKENS[:4]))


# Rank 0 holds samples 0, 1 and 4, 5 with 6 tokens, rank 1 holds 2, 3 and 6 with 10; all are one window.
ON_RANKS = {
    ("global", "share"): "1/16*7",
    ("global", "sum, items"): "1/16*7",
    ("global", "1/k"): "1/6*2 1/14*2 1/6*3",
    ("local", "share"): "1/12*2 1/20*2 1/12*2 1/20",
    ("local", "sum, items"): "1/12*2 1/20*2 1/12*2 1/20",
    ("local", "1/k"): "1/12*2 1/28*2 1/12*3",
    ("global, summed", "share"): "1/8*7",
    ("global, summed", "1/k"): "1/3*2 1/7*2 1/3*3",
    ("global, averaged", "share"): "1/32*7",
    ("local, summed", "share"): "1/6*2 1/10*2 1/6*2 1/10",
    ("local, averaged", "share"): "1/24*2 1/40*2 1/24*2 1/40",
}


@pytest.mark.parametrize(("ranks", "scale"), ON_RANKS)
def test_ranks(ranks: str, scale: str) -> None:
    shape = Shape(7, 2, 2, 1, ranks=2)
    program = Program(ranks=ranks, scale=scale)
    assert simulate(program, shape, Units(TOKENS[:7])) == rows(ON_RANKS[ranks, scale])


def test_all_rules_of_ranks_are_written_out() -> None:
    assert {ranks for ranks, _ in ON_RANKS} == set(TABLES["ranks"])


def test_one_rank_is_no_ranks() -> None:
    units = Units(TOKENS[:5])
    due = simulate(Program(), Shape(5, 2, 2, 2), units)
    assert simulate(Program(ranks="local"), Shape(5, 2, 2, 2), units) == due
    assert RIGHT["ranks"] == "global"


def test_ranks_hold_pieces_that_are_as_even_as_possible() -> None:
    shape = Shape(7, 3, 1, 1, ranks=3)  # pieces of 3, 2 and 2 samples
    assert simulate(Program(ranks="local"), shape, ones(shape)) == rows("1/9*3 1/6*4")


def test_clear_gradients_are_no_update() -> None:
    """Unless there is no other update."""
    assert simulate(Program(visit="leaves out short"), Shape(3, 2, 1, 1), ones(SHAPE)) == rows("1/2*2 0")
    assert simulate(Program(reset="before step"), SHAPE, ones(SHAPE)) == rows("0*3 / 0*3")
