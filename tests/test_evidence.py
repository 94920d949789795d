"""What readings prove, on readings that are written out: no loop is run."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from accumcheck.explaining.evidence import (
    Evidence,
    Pair,
    common_convention,
    consistent,
    convention_of_ours,
    directions,
    reference_of,
)
from accumcheck.probing.model import MATRIX, SHARED, VECTOR
from accumcheck.probing.reading import Facts, Reading
from accumcheck.programs.rules import Shape
from accumcheck.ranks.judge import RankSizes
from accumcheck.task import Sizes
from torch import Tensor

from tests.literals import TOKENS, floats

SIZES = Sizes(samples=3, micro_batch_size=1, accumulation_steps=2, epochs=2)
MEAN = "1/2*2 0 / 0*2 1 / 1/2*2 0 / 0*2 1"
SUMS = "1*2 0 / 0*2 1 / 1*2 0 / 0*2 1"
DROPPED = "1/2*2 0 / 1/2*2 0"
STREAM = "1/2*2 0 / 1/2 0 1/2 / 0 1/2*2"
ALL = "1/3*3 / 1/3*3"  # an update of two windows


def reading(text: str, sizes: Sizes = SIZES, bias: str | None = None, rate: float = 0.1, **changes: Any) -> Reading:
    """Both kinds of parameters have these weights, unless the bias has others."""
    matrices = {MATRIX: floats(text), VECTOR: floats(text if bias is None else bias)}
    settings = {kind: [{"lr": rate, "momentum": 0.9}] * len(rows) for kind, rows in matrices.items()}
    known = {"matrices": matrices, "settings": settings, "units": (1,) * sizes.samples}
    return Reading(loop="hand", objective="sample", sizes=sizes, **{**known, **changes})


def pair(ours: str, own: str | None = MEAN, sizes: Sizes = SIZES, **changes: Any) -> Pair:
    theirs = None if own is None else reading(own, sizes.full_batch(), **changes)
    return Pair(reading(ours, sizes, **changes), theirs)


def evidence(ours: str, own: str | None = MEAN, sizes: Sizes = SIZES) -> Evidence:
    return Evidence(pair(ours, own, sizes), pair(ours, own, sizes))


# A pair


def test_what_is_due() -> None:
    of_sums = pair(SUMS, SUMS)
    assert of_sums.mean == floats(MEAN)
    assert of_sums.due(MATRIX, "mean") == floats(MEAN)
    assert of_sums.due(MATRIX, "own") == floats(SUMS)
    assert of_sums.due("another kind", "own") == []
    assert pair(SUMS, None).due(MATRIX, "own") == floats(MEAN)  # without a run of its own, the mean is all there is


def test_the_mean_counts_units() -> None:
    assert pair(MEAN, units=TOKENS[:3]).mean == floats("1/3*2 0 / 0*2 1/4 / 1/3*2 0 / 0*2 1/4")


@pytest.mark.parametrize(
    ("ours", "own", "mean", "same"),
    [
        (MEAN, MEAN, True, True),
        (SUMS, SUMS, False, True),
        (MEAN, SUMS, True, False),
        (DROPPED, MEAN, False, False),
        (DROPPED, DROPPED, False, True),
        (MEAN, None, True, True),
        (SUMS, None, False, False),
    ],
)
def test_a_pair_equals_a_reference(ours: str, own: str | None, mean: bool, same: bool) -> None:
    assert pair(ours, own).equals("mean") is mean
    assert pair(ours, own).equals("own") is same


def test_each_kind_of_parameter_counts() -> None:
    ours = Pair(reading(MEAN, bias=SUMS), reading(MEAN))
    assert list(ours.differing("mean")) == [VECTOR]
    assert not ours.equals("mean")
    assert list(pair(SUMS, MEAN).differing("own")) == [MATRIX, VECTOR]
    assert list(pair(SUMS, SUMS).differing("own")) == []


def test_both_runs_train_the_same_parameters() -> None:
    ours = reading(MEAN)
    del ours.matrices[VECTOR], ours.settings[VECTOR]
    assert not Pair(ours, reading(MEAN)).same_kinds
    assert not Pair(ours, reading(MEAN)).equals("mean")
    assert not Pair(ours, reading(MEAN)).is_own()
    assert Pair(ours, None).same_kinds
    assert Pair(ours, None).equals("mean")


def test_sizes_are_those_of_the_run_with_micro_batches() -> None:
    assert pair(MEAN).shape == Shape(3, 1, 2, 2)
    assert pair(MEAN, None).shape == Shape(3, 1, 2, 2)
    two = RankSizes(samples=7, micro_batch_size=4, accumulation_steps=2, epochs=1, ranks=2)
    assert Pair(reading("1/7*7", two), None).shape == Shape(7, 2, 2, 1, 2)


def test_an_epoch_is_what_is_drawn() -> None:
    ours = pair(DROPPED, DROPPED, orders=((0, 1), (0, 1)))
    assert ours.shape.n == 2
    assert ours.mean == floats(DROPPED)
    assert ours.conventions == {"window", "dropped", "stream", "samples"}


def test_a_loop_may_have_its_own_number_of_epochs() -> None:
    longer = f"{MEAN} / 1/2*2 0 / 0*2 1"
    assert pair(longer, longer).shape.epochs == 3
    assert pair(longer, longer).equals("mean")
    assert pair(MEAN, f"{MEAN} / 0 1/2*2 / 1 0*2").shape.epochs == 2  # these are no windows of a third epoch
    assert pair(longer, None).shape.epochs == 2


@pytest.mark.parametrize(
    ("own", "names"),
    [
        (MEAN, {"window"}),
        (SUMS, {"window"}),
        (DROPPED, {"dropped"}),
        (STREAM, {"stream", "samples"}),
        (ALL, set()),
        (None, set()),
    ],
)
def test_conventions_of_a_pair(own: str | None, names: set[str]) -> None:
    assert pair(MEAN, own).conventions == names


def test_conventions_are_those_of_all_kinds() -> None:
    assert Pair(reading(MEAN), reading(MEAN, bias=DROPPED)).conventions == set()


# The order of samples

TURNED = "0 1/2*2 / 1 0*2 / 0 1/2*2 / 1 0*2"
BACKWARDS = ((2, 1, 0), (2, 1, 0))


def test_the_order_is_that_of_full_batches() -> None:
    own = reading(TURNED, orders=BACKWARDS)
    ours = Pair(reading(TURNED, orders=((2, 1, 0), (2,))), own)
    assert (ours.orders, ours.our_orders) == (BACKWARDS, ((2, 1, 0), (2,)))
    assert ours.units.orders == BACKWARDS
    assert ours.our_units.orders == BACKWARDS  # what is not drawn to the end is taken from the full batches
    assert ours.mean == floats(TURNED)
    assert ours.equals("mean")
    assert Pair(reading(TURNED, orders=BACKWARDS), None).orders == BACKWARDS
    assert pair(MEAN).our_units == pair(MEAN).units


def test_each_run_may_have_its_own_order() -> None:
    ours = Pair(reading(MEAN, orders=((0, 2, 1), (0, 2, 1))), reading(MEAN, orders=((0, 1, 2), (0, 1, 2))))
    assert ours.our_units.orders == ((0, 2, 1), (0, 2, 1))
    assert ours.units.orders == ((0, 1, 2), (0, 1, 2))


def test_the_order_is_what_the_model_saw_where_what_was_drawn_makes_no_windows() -> None:
    drawn = ((0, 1, 2), (0, 1, 2))
    seen: dict[str, Any] = {"orders": drawn, "looked": BACKWARDS}
    assert pair(TURNED, TURNED, **seen).looks
    assert pair(TURNED, TURNED, **seen).orders == BACKWARDS
    assert pair(TURNED, TURNED, **seen).our_orders == BACKWARDS
    assert not pair(MEAN, MEAN, **seen).looks  # the windows are of what was drawn
    assert not pair(ALL, ALL, **seen).looks  # of neither
    assert not pair(TURNED, TURNED, orders=drawn).looks
    assert not pair(TURNED, None, **seen).looks


# Settings, places, directions


def test_settings_that_differ() -> None:
    ours = Pair(reading(MEAN), reading(MEAN, rate=0.2))
    assert ours.settings_differ == (MATRIX, 0, "lr", 0.1, 0.2)
    assert not ours.is_own()
    assert pair(MEAN).settings_differ is None
    assert pair(MEAN, None).settings_differ is None
    later = reading(MEAN)
    later.settings[VECTOR] = [*later.settings[VECTOR][:2], {"lr": 0.1, "momentum": 0.5}, {"lr": 0.1, "momentum": 0.5}]
    assert Pair(later, reading(MEAN)).settings_differ == (VECTOR, 2, "momentum", 0.5, 0.9)


def test_numbers_that_only_one_run_has_do_not_differ() -> None:
    ours = reading(MEAN, settings={MATRIX: [{"lr": 0.1}], VECTOR: [{"lr": 0.1, "dampening": 1.0}]})
    assert Pair(ours, reading(MEAN)).settings_differ is None


def test_parameters_that_were_moved() -> None:
    still, moved = Facts(moved=(0.0, 0.0, 0.0, 0.0)), Facts(moved=(0.0, 0.0, 0.3, 0.3))
    assert Pair(reading(MEAN, facts=moved), reading(MEAN, facts=still)).moved_differs == 2
    assert Pair(reading(MEAN, facts=moved), reading(MEAN, facts=moved)).moved_differs is None
    assert Pair(reading(MEAN, facts=moved), None).moved_differs is None


def test_a_loop_that_is_its_own_full_batch() -> None:
    assert pair(ALL, ALL).is_own()
    assert not pair(ALL, MEAN).is_own()
    assert not pair(ALL, None).is_own()
    assert not Pair(reading(MEAN, bias=SUMS), reading(MEAN)).is_own()
    assert not Pair(reading(MEAN, shared=[[1.0]]), reading(MEAN, shared=[[2.0]])).is_own()


def gradients(*updates: list[list[float]]) -> dict[str, Tensor]:
    """Of each update, what each sample sends into two elements of its own."""
    return {MATRIX: torch.tensor(updates, dtype=torch.float64).flatten(1)}


def test_directions_are_those_of_the_first_gradient() -> None:
    found = directions(gradients([[3, 4], [0, 0], [0, 0]], [[0, 9], [0, 2], [0, 0]])[MATRIX], 3)
    assert found.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0, 1], [0, 0]]


def test_without_updates_there_are_no_directions() -> None:
    assert not directions(torch.zeros(0, 6), 3).any()


def test_gradients_that_point_elsewhere_are_coupled() -> None:
    straight = gradients([[1, 0], [1, 0], [0, 0]], [[0, 0], [0, 0], [1, 0]])
    turned = gradients([[2, 0], [1, 1], [0, 0]], [[0, 0], [0, 0], [9, 0]])
    own = reading(MEAN, gradients=straight)
    assert Pair(reading(MEAN, gradients=turned), own).coupled == [1]  # length is another matter
    assert Pair(reading(MEAN, gradients=straight), own).coupled == []
    assert Pair(reading(MEAN, gradients=turned), None).coupled == []
    assert Pair(reading(MEAN, gradients=turned), reading(MEAN)).coupled == []
    slightly = gradients([[1, 0.04], [1, 0], [0, 0]], [[0, 0], [0, 0], [1, 0]])
    assert Pair(reading(MEAN, gradients=slightly), own).coupled == []  # as bfloat16 turns them


def test_gradients_that_are_not_there_do_not_point_anywhere() -> None:
    own = reading(MEAN, gradients=gradients([[1, 0], [1, 0], [0, 0]], [[0, 0], [0, 0], [0, 0]]))
    ours = reading(MEAN, gradients=gradients([[0, 1], [0, 0], [0, 1]], [[0, 0], [0, 0], [0, 0]]))
    assert Pair(ours, own).coupled == [0]


def test_directions_from_an_update_on() -> None:
    own = reading(MEAN, gradients=gradients([[1, 0], [1, 0], [1, 0]], [[1, 0], [1, 0], [1, 0]]))
    ours = reading(MEAN, gradients=gradients([[0, 1], [1, 0], [1, 0]], [[1, 0], [1, 0], [0, 1]]))
    assert Pair(ours, own).turned() == [0]
    assert Pair(ours, own).turned(1) == [2]
    assert Pair(ours, own).turned(2) == []


# What all samples share

RESPONSES = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]], dtype=torch.float64)
IMPLIED = [[0.5, 0.5], [2.0, 2.0], [0.5, 0.5], [2.0, 2.0]]  # by MEAN


def sharing(text: str, shared: list[list[float]], **changes: Any) -> Reading:
    found = reading(text, shared=shared, responses=RESPONSES, **changes)
    found.settings[SHARED] = [{"lr": 0.1}] * len(shared)
    return found


def blocks(text: str) -> Tensor:
    """The gradients of the samples' own parameters, by their weights."""
    weights = torch.tensor(floats(text), dtype=torch.float64)
    return (weights[:, :, None] * RESPONSES).flatten(1)


def summed(text: str, shared: list[list[float]]) -> Reading:
    given = {MATRIX: blocks(text), SHARED: torch.tensor(shared, dtype=torch.float64)}
    return sharing(text, shared, gradients=given, matrices={MATRIX: floats(text)})


def test_shared_parameters_get_the_sum_of_the_samples_own() -> None:
    wrong = [[5.0, 0.0], *IMPLIED[1:]]
    assert consistent(summed(MEAN, IMPLIED))
    assert not consistent(summed(MEAN, wrong))
    assert consistent(
        summed(
            MEAN,
            [[0.5, 0.505], *IMPLIED[1:]],
        ),
        0.1,
    )
    assert consistent(reading(MEAN))  # none are shared
    assert Pair(summed(MEAN, IMPLIED), None).shared_is_right("mean")
    assert not Pair(summed(MEAN, wrong), None).shared_is_right("mean")
    assert not Pair(summed(MEAN, wrong), None).equals("mean")
    assert Pair(reading(MEAN), None).shared_is_right("mean")


def test_shared_parameters_are_compared_with_those_of_full_batches() -> None:
    twice = [[2 * each for each in row] for row in IMPLIED]
    assert Pair(sharing(MEAN, IMPLIED), sharing(MEAN, IMPLIED)).shared_is_right("own")
    assert not Pair(sharing(MEAN, IMPLIED), sharing(MEAN, twice)).shared_is_right("own")


def test_where_nothing_else_is_trained_shared_parameters_tell() -> None:
    twice = [[2 * each for each in row] for row in IMPLIED]
    assert Pair(sharing(MEAN, IMPLIED, matrices={}), None).shared_is_right("mean")
    assert not Pair(sharing(MEAN, twice, matrices={}), None).shared_is_right("mean")


# Evidence


def test_evidence_is_of_small_and_of_large_gradients() -> None:
    small, large = pair(MEAN), pair(SUMS)
    assert Evidence(small, large).pairs == (small, large)
    assert Evidence(small, large).sizes == SIZES
    assert Evidence(small, small).equals("mean")
    assert not Evidence(small, large).equals("mean")
    assert not Evidence(large, small).equals("mean")


@pytest.mark.parametrize("large", [False, True])
def test_evidence_is_against_a_loop_with_other_settings_or_coupled_gradients(large: bool) -> None:
    straight, turned = (gradients([[1, 0], [1, 0], [1, y]]) for y in (0, 1))
    right, other = pair(MEAN), Pair(reading(MEAN), reading(MEAN, rate=0.2))
    coupled = Pair(reading(MEAN, gradients=turned), reading(MEAN, gradients=straight))
    for wrong in (other, coupled):
        assert wrong.equals("mean")
        assert not Evidence(*((right, wrong) if large else (wrong, right))).equals("mean")


def dead(text: str = "0*3 / 0*3 / 0*3 / 0*3") -> Reading:
    return reading(text, facts=Facts(backward=False))


def test_two_dead_runs_agree() -> None:
    nothing = Pair(dead(), dead())
    assert Evidence(nothing, nothing).is_dead
    assert Evidence(nothing, nothing).equals("mean")
    assert Evidence(nothing, Pair(dead(), None)).is_dead
    assert not Evidence(nothing, Pair(dead(), reading(MEAN))).is_dead
    assert not Evidence(nothing, Pair(dead(), reading(MEAN))).equals("mean")
    assert not evidence(MEAN).is_dead


def test_runs_without_updates_are_dead_only_beside_one_that_steps() -> None:
    idle = reading("", facts=Facts(backward=False))
    assert not Evidence(Pair(idle, idle), Pair(idle, idle)).is_dead
    assert Evidence(Pair(idle, dead()), Pair(idle, dead())).is_dead


# All sizes together

OTHER = Sizes(samples=5, micro_batch_size=1, accumulation_steps=4, epochs=1)
OTHER_MEAN = "1/4*4 0 / 0*4 1"


def test_the_common_convention() -> None:
    assert common_convention([evidence(SUMS, MEAN)]) == "window"
    assert common_convention([evidence(SUMS, STREAM)]) == "stream"
    assert common_convention([evidence(SUMS, DROPPED)]) == "dropped"
    assert common_convention([evidence(SUMS, DROPPED), evidence("1/4*4 0", "1/4*4 0", OTHER)]) == "dropped"
    assert common_convention([evidence(SUMS, DROPPED), evidence(OTHER_MEAN, OTHER_MEAN, OTHER)]) is None
    assert common_convention([evidence(SUMS, ALL)]) is None
    assert common_convention([evidence(SUMS, None)]) is None


def test_the_common_convention_is_of_small_and_of_large_gradients() -> None:
    assert common_convention([Evidence(pair(MEAN), pair(MEAN, DROPPED))]) is None
    assert common_convention([Evidence(pair(MEAN, DROPPED), pair(MEAN))]) is None


def test_full_batches_that_are_not_consistent_have_no_convention() -> None:
    good, bad = summed(MEAN, IMPLIED), summed(MEAN, [[5.0, 0.0], *IMPLIED[1:]])
    assert common_convention([Evidence(Pair(good, good), Pair(good, good))]) == "window"
    assert common_convention([Evidence(Pair(good, bad), Pair(good, good))]) is None
    rounded = summed(MEAN, [[0.5, 0.501], *IMPLIED[1:]])
    assert common_convention([Evidence(Pair(good, rounded), Pair(good, good))]) == "window"


def test_the_reference() -> None:
    right, sums = evidence(MEAN), evidence(SUMS, SUMS)
    assert reference_of([right], "window") == "mean"
    assert reference_of([right], None) == "mean"
    assert reference_of([right, sums], "window") == "own"
    assert reference_of([sums], "window") == "own"
    assert reference_of([sums], None) == "mean"


def test_the_convention_of_a_loop() -> None:
    assert convention_of_ours([evidence(MEAN)]) == "window"
    assert convention_of_ours([evidence(DROPPED)]) == "dropped"
    assert convention_of_ours([evidence(STREAM)]) == "stream"
    assert convention_of_ours([evidence(SUMS)]) is None
    assert convention_of_ours([evidence(DROPPED), evidence(OTHER_MEAN, OTHER_MEAN, OTHER)]) is None
    assert convention_of_ours([evidence(MEAN), evidence(OTHER_MEAN, OTHER_MEAN, OTHER)]) == "window"


def test_a_stream_may_drop_what_is_left_at_its_end() -> None:
    stream = "1/4*4 0 / 1/4*3 0 1/4"
    sizes = replace(OTHER, epochs=2)  # windows are 0 to 3, then 4 and 0 to 2, then 3 and 4
    assert convention_of_ours([evidence(stream, stream, sizes)]) == "stream"
    assert convention_of_ours([evidence(f"{stream} / 0*3 1/2*2", stream, sizes)]) == "stream"
    assert convention_of_ours([evidence(f"{stream} / 1/4*2 0 1/4*2", stream, sizes)]) == "samples"  # 3, 4, 0, 1


def test_an_endless_repetition_uses_samples_again() -> None:
    assert convention_of_ours([evidence("1/4*4 0 / 1/4*3 0 1/4", sizes=OTHER)]) == "samples"


def test_the_convention_of_a_loop_counts_units_in_its_own_order() -> None:
    ours = reading("1/5 0 1/5 / 0 1/2 0", replace(SIZES, epochs=1), orders=((0, 2, 1),), units=TOKENS[:3])
    each = Evidence(Pair(ours, None), Pair(ours, None))
    assert convention_of_ours([each]) == "window"
    straight = replace(ours, orders=())
    assert convention_of_ours([Evidence(Pair(straight, None), Pair(straight, None))]) is None
