"""Decorators say what is expected of a loop; an unknown finding ends the import."""

import pytest
from accumcheck.corpus import parallel, published, right, sharded, wrong
from accumcheck.corpus.expectations import cases_of, expectation_of, expected, loops_of
from accumcheck.corpus.expectations import right as is_right
from accumcheck.corpus.expectations import wrong as is_wrong
from accumcheck.programs.laws import LAWS
from accumcheck.task import OBJECTIVES

MODULES = (published, right, wrong, parallel, sharded)


def loop(task):
    """A loop."""


@pytest.mark.parametrize(
    ("decorator", "first"),
    [
        (is_right, {"sample": None, "token": None}),
        (is_right("sample", "token"), {"sample": None, "token": None}),
        (is_right("token"), {"token": None}),
        (is_right("sample", otherwise="token-weighting"), {"sample": None, "token": "token-weighting"}),
        (is_wrong("split-tail"), {"sample": "split-tail", "token": "split-tail"}),
        (is_wrong("split-tail", token="token-weighting"), {"sample": "split-tail", "token": "token-weighting"}),
        (is_wrong("split-tail", token=None), {"sample": "split-tail", "token": None}),
        (is_wrong(None, token="token-weighting"), {"sample": None, "token": "token-weighting"}),
    ],
)
def test_a_decorator_marks_the_function_itself(decorator, first):
    def mine(task):
        """A loop of one's own."""

    assert decorator(mine) is mine
    assert expectation_of(mine).first == first
    assert {objective: expected(mine, objective) for objective in first} == first


def test_other_findings_may_stand_behind_it():
    also = ("mean-of-means", "token-weighting")
    assert expectation_of(is_wrong("split-tail", also=also)(lambda task: None)).also == also


@pytest.mark.parametrize(
    "decorate",
    [
        lambda: is_wrong("split-tale"),
        lambda: is_wrong("split-tail", token="split-tale"),
        lambda: is_wrong("split-tail", also=["split-tale"]),
        lambda: is_right("sample", otherwise="split-tale"),
    ],
)
def test_unknown_findings_are_quoted(decorate):
    with pytest.raises(ValueError, match=r"^no finding 'split-tale': choose one of nondeterministic, batch-coupled, "):
        decorate()


def test_what_is_not_known_is_quoted():
    with pytest.raises(ValueError, match=r"^no objective 'samples': choose one of sample, token$"):
        is_right("samples")
    with pytest.raises(ValueError, match=r"^nothing is expected of 'loop': write @right or @wrong"):
        expected(loop, "sample")
    with pytest.raises(ValueError, match=r"^'classifies' is for the objective sample, not for 'token'$"):
        expected(right.classifies, "token")


def test_a_module_lists_its_own_loops_only():
    """``wrong`` imports ``windows``, and ``parallel`` loops of ``published``."""
    assert "windows" not in loops_of(wrong)
    assert "published_fix" not in loops_of(parallel)
    assert list(loops_of(published, sharded)) == [*published.LOOPS, *loops_of(sharded)]


def test_names_are_names():
    loops = loops_of(*MODULES)
    assert len(loops) == sum(len(loops_of(module)) for module in MODULES)
    assert all(name == train.__name__ and train.__doc__ for name, train in loops.items())


def test_loops_are_in_the_module_of_their_kind():
    assert all(finding is None for _, _, finding in cases_of(right))
    for train in loops_of(wrong).values():
        assert any(expected(train, objective) for objective in OBJECTIVES)


def test_every_finding_has_a_loop_that_makes_it():
    assert {finding for _, _, finding in cases_of(*MODULES)} - {None} == set(LAWS)
