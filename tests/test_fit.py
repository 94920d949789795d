"""From matrices that are written out to the program that makes them, the rule of its rates, and clipping in numbers."""

import math

import pytest
from accumcheck.explaining.fit import Case, fit, makes, rates_go_by
from accumcheck.programs.clip import Clipper
from accumcheck.programs.rules import RIGHT, SLOTS, TABLES, Program, Shape
from accumcheck.programs.simulate import Units, matrix, ratio, structure

from tests.literals import TOKENS, floats

# Two epochs of 7 samples in windows of 4, and of 3 in windows of 2; then the same without accumulation.
LONG, SHORT = (7, 1, 4, 2), (3, 1, 2, 2)
OWN = "1/4*4 0*3 / 0*4 1/3*3 / 1/4*4 0*3 / 0*4 1/3*3", "1/2*2 0 / 0*2 1 / 1/2*2 0 / 0*2 1"


def case(sizes: tuple[int, ...], text: str, objective: str = "sample") -> Case:
    shape = Shape(*sizes)
    return Case.of(shape, Units(TOKENS[: shape.n] if objective == "token" else (1,) * shape.n), floats(text))


def both(sizes: tuple[int, ...], ours: str, own: str, objective: str = "sample") -> list[Case]:
    """A loop's matrix, and that of its own full batch."""
    n, b, k, epochs = sizes
    return [case(sizes, ours, objective), case((n, b * k, 1, epochs), own, objective)]


# The rules, by slot; what the loop makes of LONG and of SHORT; what its full batches are, where these are wrong too.
BUGS: dict[str, tuple[dict[str, str], str, str, tuple[str, str]]] = {
    "no bug": ({}, *OWN, OWN),
    "early first step": (
        {"step": "early", "scale": "1/k"},
        "1/4 0*6 / 0 1/4*4 0*2 / 1/4 0*4 1/4*2 / 0 1/4*4 0*2",
        "1/2 0*2 / 0 1/2*2 / 1/2 0*2 / 0 1/2*2",
        OWN,
    ),
    "tail scaled by k": (
        {"scale": "1/k"},
        "1/4*4 0*3 / 0*4 1/4*3 / 1/4*4 0*3 / 0*4 1/4*3",
        "1/2*2 0 / 0*2 1/2 / 1/2*2 0 / 0*2 1/2",
        OWN,
    ),
    "dropped tail": ({"visit": "whole windows"}, "1/4*4 0*3 / 1/4*4 0*3", "1/2*2 0 / 1/2*2 0", OWN),
    "carried tail": ({"step": "window", "scale": "1/k"}, "1/4*4 0*3 / 1/4*7", "1/2*2 0 / 1/2*3", OWN),
    "carried tail of a stream": (
        {"visit": "stream"},
        "1/4*4 0*3 / 1/4 0*3 1/4*3 / 0 1/4*4 0*2",
        "1/2*2 0 / 1/2 0 1/2 / 0 1/2*2",
        OWN,
    ),
    "step per micro-batch": (
        {"step": "every"},
        "1/4 0*6 / 0 1/4 0*5 / 0*2 1/4 0*4 / 0*3 1/4 0*3 / 0*4 1/3 0*2 / 0*5 1/3 0 / 0*6 1/3 / "
        "1/4 0*6 / 0 1/4 0*5 / 0*2 1/4 0*4 / 0*3 1/4 0*3 / 0*4 1/3 0*2 / 0*5 1/3 0 / 0*6 1/3",
        "1/2 0*2 / 0 1/2 0 / 0*2 1 / 1/2 0*2 / 0 1/2 0 / 0*2 1",
        OWN,
    ),
    "split tail": (
        {"step": "split", "scale": "1/k"},
        "1/4*4 0*3 / 0*4 1/4 0*2 / 0*5 1/4 0 / 0*6 1/4 / 1/4*4 0*3 / 0*4 1/4 0*2 / 0*5 1/4 0 / 0*6 1/4",
        "1/2*2 0 / 0*2 1/2 / 1/2*2 0 / 0*2 1/2",
        OWN,
    ),
    "never reset": (
        {"reset": "never"},
        "1/4*4 0*3 / 1/4*4 1/3*3 / 1/2*4 1/3*3 / 1/2*4 2/3*3",
        "1/2*2 0 / 1/2*2 1 / 1*3 / 1*2 2",
        ("1/4*4 0*3 / 1/4*4 1/3*3 / 1/2*4 1/3*3 / 1/2*4 2/3*3", "1/2*2 0 / 1/2*2 1 / 1*3 / 1*2 2"),
    ),
    "reset before each backward pass": (
        {"reset": "every", "scale": "1/k"},
        "0*3 1/4 0*3 / 0*6 1/4 / 0*3 1/4 0*3 / 0*6 1/4",
        "0 1/2 0 / 0*2 1/2 / 0 1/2 0 / 0*2 1/2",
        OWN,
    ),
    "reset before each step": (
        {"reset": "before step"},
        "0*7 / 0*7 / 0*7 / 0*7",
        "0*3 / 0*3 / 0*3 / 0*3",
        ("0*7", "0*3"),
    ),
    "a window of k + 1": (
        {"step": "k + 1 unless k is 1 or end"},
        "1/4*4 1/3 0*2 / 0*5 1/3*2 / 1/4*4 1/3 0*2 / 0*5 1/3*2",
        "1/2*2 1 / 1/2*2 1",
        OWN,
    ),
    "counted over epochs": (
        {"step": "count or end", "scale": "1/k"},
        "1/4*4 0*3 / 0*4 1/4*3 / 1/4 0*6 / 0 1/4*4 0*2 / 0*5 1/4*2",
        "1/2*2 0 / 0*2 1/2 / 1/2 0*2 / 0 1/2*2",
        OWN,
    ),
    "unscaled": ({"scale": "1"}, "1*4 0*3 / 0*4 1*3 / 1*4 0*3 / 0*4 1*3", "1*2 0 / 0*2 1 / 1*2 0 / 0*2 1", OWN),
    "scaled twice": (
        {"scale": "1/k/k"},
        "1/16*4 0*3 / 0*4 1/16*3 / 1/16*4 0*3 / 0*4 1/16*3",
        "1/4*2 0 / 0*2 1/4 / 1/4*2 0 / 0*2 1/4",
        OWN,
    ),
    "never reset, and unscaled": (
        {"reset": "never", "scale": "1"},
        "1*4 0*3 / 1*7 / 2*4 1*3 / 2*7",
        "1*2 0 / 1*3 / 2*2 1 / 2*3",
        ("1/4*4 0*3 / 1/4*4 1/3*3 / 1/2*4 1/3*3 / 1/2*4 2/3*3", "1/2*2 0 / 1/2*2 1 / 1*3 / 1*2 2"),
    ),
    "early first step, and unscaled": (
        {"step": "early or end", "scale": "1"},
        "1 0*6 / 0 1*4 0*2 / 0*5 1*2 / 1 0*6 / 0 1*4 0*2 / 0*5 1*2",
        "1 0*2 / 0 1*2 / 1 0*2 / 0 1*2",
        OWN,
    ),
}


def slots(program: Program | None) -> dict[str, str] | None:
    """The rules that are not the right ones."""
    if program is None:
        return None
    return {slot: getattr(program, slot) for slot in SLOTS if getattr(program, slot) != RIGHT[slot]}


@pytest.mark.parametrize(("rules", "long", "short", "own"), BUGS.values(), ids=list(BUGS))
def test_famous_bugs(rules: dict[str, str], long: str, short: str, own: tuple[str, str]) -> None:
    cases = [*both(LONG, long, own[0]), *both(SHORT, short, own[1])]
    assert slots(fit(cases, "sample")) == rules
    assert all(makes(Program(**rules), each) for each in cases)


# Samples hold 1, 2, 4, 3 and 1 tokens. Full batches are right.
TOKEN_BUGS = {
    "mean of means": ("1/count", "1/2 1/4 0*2 / 0*2 1/8 1/6", "1/2 1/4 0*3 / 0*2 1/8 1/6 0 / 0*4 1"),
    "tail scaled by k": ("1/k", "1/2 1/4 0*2 / 0*2 1/8 1/6", "1/2 1/4 0*3 / 0*2 1/8 1/6 0 / 0*4 1/2"),
    "no bug": ("share", "1/3*2 0*2 / 0*2 1/7*2", "1/3*2 0*3 / 0*2 1/7*2 0 / 0*4 1"),
}


@pytest.mark.parametrize(("scale", "even", "odd"), TOKEN_BUGS.values(), ids=list(TOKEN_BUGS))
def test_famous_bugs_of_tokens(scale: str, even: str, odd: str) -> None:
    cases = [
        *both((4, 1, 2, 1), even, "1/3*2 0*2 / 0*2 1/7*2", "token"),
        *both((5, 1, 2, 1), odd, "1/3*2 0*3 / 0*2 1/7*2 0 / 0*4 1", "token"),
    ]
    assert slots(fit(cases, "token")) == ({} if scale == RIGHT["scale"] else {"scale": scale})


def test_samples_that_weigh_the_same_are_no_token_means() -> None:
    """Each micro-batch of two is a mean over tokens, and both are weighed alike, by samples."""
    cases = [case((4, 2, 2, 1), "1/6*2 1/14*2", "token"), case((3, 2, 2, 1), "2/9*2 1/12", "token")]
    assert slots(fit(cases, "token")) == {"scale": "len/len"}


def test_means_of_sequences() -> None:
    found = fit([case((3, 2, 2, 1), "3/14 3/28 1/7", "token")], "token")
    assert slots(found) == {"loss": "mean of sequences"}
    assert fit([case((3, 2, 2, 1), "3/14 3/28 1/7", "token")], "sample") is None  # where there are no sequences


def test_ranks_are_tried_where_there_are_several() -> None:
    text = "1/12*2 1/20*2 1/12*2 1/20"
    assert slots(fit([case((7, 2, 2, 1, 2), text, "token")], "token")) == {"ranks": "local"}
    assert fit([case((7, 4, 2, 1), text, "token")], "token") is None


@pytest.mark.parametrize(
    "text",
    [
        "1/2 1/6*3 0*3 / 0*4 1/3*3 / 1/2 1/6*3 0*3 / 0*4 1/3*3",
        "0*4 1/3*3 / 1/4*4 0*3",
        "1/4*4 0*3 / 0*4 1/3*3 / 1/4*4 0*3 / 0*4 1/5*3",
        "1/4*3 0*4 / 1/4 0*3 1/4*3",
    ],
)
def test_nobody_makes_this(text: str) -> None:
    assert fit(both(LONG, text, OWN[0]), "sample") is None


def test_own_full_batches_have_to_fit_too() -> None:
    assert fit(both(LONG, OWN[0], "1/4*4 0*3 / 0*4 1/5*3 / 1/4*4 0*3 / 0*4 1/3*3"), "sample") is None


def test_without_rows_there_is_no_program() -> None:
    assert fit([], "sample") is None
    assert fit([case(LONG, "")], "sample") is None


def test_how_close_is_close() -> None:
    near = Case(Shape(*SHORT), Units((1,) * 3), tuple(tuple(w * 1.001 for w in row) for row in floats(OWN[1])))
    assert fit([near], "sample") is None
    assert fit([near], "sample", relative=0.01) == Program()


def test_updates_without_gradients_are_left_out() -> None:
    assert case(SHORT, "1/2*2 0 / 0*3 / 0*2 1").rows == ((0.5, 0.5, 0), (0, 0, 1))
    assert case(SHORT, "0*3 / 0*3").rows == ((0, 0, 0), (0, 0, 0))
    assert case(SHORT, "1/2*2 0 / 0*2 1").supports == [{0, 1}, {2}]


def test_a_loop_may_end_early() -> None:
    assert makes(Program(), case(SHORT, "1/2*2 0 / 0*2 1"))
    assert not makes(Program(), case(SHORT, f"{OWN[1]} / 1/2*2 0"))
    assert not makes(Program(), case(SHORT, "1/2*2 0 / 0*2 1/2"))
    three = "1/4*4 0*3 / 0*4 1/4*3 / 1/4*4 0*3", "1/4*4 0*3 / 0*4 1/3*3 / 1/4*4 0*3"
    assert slots(fit(both(LONG, *three), "sample")) == {"scale": "1/k"}


# Learning rates: the first is 1, and each call of the scheduler halves it.
def rates(calls: str) -> list[float]:
    return [0.5 ** int(each) for each in calls.split()]


def goes_by(program: Program, *pairs: tuple[tuple[int, ...], list[float], list[float]]) -> str:
    cases = []
    for (n, b, k, epochs), ours, own in pairs:
        for shape, each in ((Shape(n, b, k, epochs), ours), (Shape(n, b * k, 1, epochs), own)):
            cases.append((Case.of(shape, Units((1,) * n), [[1.0] * n for _ in each]), each))
    return rates_go_by(program, cases, 0.5, 1.0)


@pytest.mark.parametrize(
    ("ours", "own", "rule"),
    [
        ("0 1 2 3", "0 1 2 3", "step"),
        ("0 0 0 0", "0 0 0 0", "step"),  # no schedule at all
        ("0 0 1 1", "0 0 1 1", "step"),  # whatever full batches do, too
        ("2 3 5 6", "1 2 3 4", "every"),
        ("1 2 4 5", "0 1 2 3", "every, behind"),
        ("0 1 3 4", "0 1 2 3", "other"),
        ("2 3 5 6", "0 1 2 3", "other"),
        ("2 3 5", "1 2 3 4", "every"),  # it ends early
        ("2 3 5 6 8", "1 2 3 4", "other"),  # more updates than it makes
    ],
)
def test_rates_go_by(ours: str, own: str, rule: str) -> None:
    assert goes_by(Program(), (SHORT, rates(ours), rates(own))) == rule


def test_a_rule_of_rates_holds_at_all_sizes() -> None:
    one = (SHORT, rates("2 3 5 6"), rates("1 2 3 4"))
    assert goes_by(Program(), one, ((2, 1, 2, 2), rates("2 4"), rates("1 2"))) == "every"
    assert goes_by(Program(), one, ((2, 1, 2, 2), rates("1 3"), rates("0 1"))) == "other"


def test_rates_go_by_steps_that_have_no_gradient_too() -> None:
    """Of full batches, the short one at the end of an epoch is left out; with micro-batches half of it is not."""
    program = Program(visit="leaves out short")
    assert goes_by(program, ((7, 2, 2, 2), rates("0 1 2 3"), rates("0 2"))) == "step"
    assert goes_by(program, ((7, 2, 2, 2), rates("0 1 2 3"), rates("0 1"))) == "step"  # as far as both go, the same
    assert goes_by(program, ((7, 2, 2, 2), rates("0 1 2 3"), rates("0 3"))) == "other"


CARRIED = Program(step="count or last")  # updates end with micro-batches 4, 8, 12 and 14 of 2 · 7


def test_rates_by_epochs() -> None:
    assert goes_by(CARRIED, (LONG, rates("0 1 1 1"), rates("0 0 1 1"))) == "epoch"
    assert goes_by(CARRIED, (LONG, rates("0 0 1 1"), rates("0 0 1 2"))) == "other"


def test_by_epochs_comes_before_by_micro_batches() -> None:
    """Of epochs with one micro-batch each, both make the same rates: those of the task's own schedule by epochs."""
    assert goes_by(Program(step="count"), ((1, 1, 4, 4), rates("3"), rates("0 1 2 3"))) == "epoch"


def test_a_loop_may_have_its_own_schedule_by_epochs() -> None:
    assert goes_by(CARRIED, (LONG, [1, 0.3, 0.3, 0.3], [1, 1, 0.3, 0.3])) == "epoch"
    assert goes_by(CARRIED, (LONG, [1, 0.3, 0.3, 0.2], [1, 1, 0.3, 0.3])) == "other"  # two rates in one epoch
    assert goes_by(CARRIED, (LONG, [1, 0.3, 0.3, 0.3], [1, 1, 0.2, 0.2])) == "other"  # of its full batches another


def test_an_own_schedule_may_depend_on_sizes() -> None:
    one = (LONG, [1.0, 0.3, 0.3, 0.3], [1.0, 1.0, 0.3, 0.3])
    carried = ((5, 1, 4, 2), [0.9, 0.7, 0.7], [0.9, 0.9, 0.7, 0.7])  # updates end with micro-batches 4, 8 and 10
    assert goes_by(CARRIED, one, carried) == "epoch"
    assert goes_by(CARRIED, one, ((5, 1, 4, 2), [0.9, 0.9, 0.7], [0.9, 0.9, 0.7, 0.7])) == "other"


HALF = 0.5 / math.sqrt(0.5) / 2  # each of two weights of 1/2, clipped together to a norm of 1/2
CLIPPED = {
    ("none", 0.5): [0.5, 0.5],
    ("norm", 0.5): [HALF, HALF],
    ("norm", 1.0): [0.5, 0.5],  # the norm is about 0.7
    ("norm, each gradient", 0.25): [0.25, 0.25],
    ("norm, each gradient", 0.6): [0.5, 0.5],
    ("norm, every", 0.25): [0.0625 / math.sqrt(0.3125), 0.125 / math.sqrt(0.3125)],  # the first 1/4, then both again
    ("value", 0.25): [0.25, 0.25],
    ("value", 0.6): [0.5, 0.5],
    ("value, each gradient", 0.25): [0.25, 0.25],
}


@pytest.mark.parametrize(("rule", "limit"), CLIPPED)
def test_clipping(rule: str, limit: float) -> None:
    shape, program = Shape(2, 1, 2, 1), Program()
    found = structure(program.visit, program.step, program.reset, shape)
    clipper = Clipper(rule, limit, gain=1.0, own=(1.0, 1.0), shared=())
    (weights,) = matrix(program, found, shape, Units((1, 1)), ratio, clipper)
    assert weights == pytest.approx(CLIPPED[rule, limit], rel=1e-5)


def test_all_rules_of_clipping_are_written_out() -> None:
    assert {rule for rule, _ in CLIPPED} | {"other"} == set(TABLES["clip"])


def test_norms_are_of_own_and_shared_parameters() -> None:
    clipper = Clipper("norm", 1.0, gain=2.0, own=(4.0, 1.0), shared=((3.0, 0.0), (-3.0, 1.0)))
    assert clipper.norm([1.0, 0.0]) == pytest.approx(2 * math.sqrt(4 + 9))
    assert clipper.norm([1.0, 1.0]) == pytest.approx(2 * math.sqrt(4 + 1 + 1))  # 3 and -3 cancel out
    assert clipper.factor("norm", [1.0, 0.0]) == pytest.approx(1 / (2 * math.sqrt(13)))
    assert clipper.factor("norm, every", [1.0, 0.0]) == 1.0
    assert clipper.factor("norm", [0.01, 0.0]) == 1.0


def test_values_are_cut_off_element_by_element() -> None:
    """A row of 7/8 and seven of 1/8: the weight that is left is the share of it along the row."""
    clipper = Clipper("value", 0.5, gain=1.0, own=(), shared=(), largest=7 / 8, others=1 / 8, count=7)
    assert clipper.element(0.5) == 0.5
    assert clipper.element(1.0) == pytest.approx((7 / 8 * 0.5 + 7 / 64) / (56 / 64))
    assert clipper.element(-1.0) == -clipper.element(1.0)
    assert Clipper("norm", 0.5, 1.0, (), ()).element(1.0) == 1.0
