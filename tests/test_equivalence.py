"""The proof: what is equivalent to full-batch training, what is not, and by which ratio at which step.

``pytest -k equivalence``

Hypothesis draws the data set's length, b, k, epochs, problem, optimizer, dtype and seed. In every example N × 1 and
b × k are trained from the same state, and every gradient and displacement at every step and all optimizer state are
compared, within the tolerance that is measured beside them. What a wrong loop must do is not asserted as "differs": the
step and the ratio come from its contribution matrix, and an oracle that trains by that matrix must err just as much.

Each property is a function of the loop under test, so that it can be shown to fail: ``test_..._can_fail`` runs it on a
mutant. Not covered: models that draw random numbers, other devices than the CPU.
"""

import pytest
from accumcheck.check import compare
from accumcheck.corpus.problems import PROBLEMS
from accumcheck.corpus.published import (
    accumulate_samples,
    accumulate_tokens,
    early_first_step,
    published_fix,
    published_fix_undivided,
)
from accumcheck.programs.simulate import window_mean
from accumcheck.strategies import cases, even_sizes, ragged_sizes
from hypothesis import Phase, given, settings

from experiments.lab.oracle import expected
from tests.oracles import drops_tail, units_of, weighted

PRECISE = ("float64", "float32")
COUPLED = PROBLEMS["cnn-batchnorm"]
SEPARABLE = tuple(problem for problem in PROBLEMS.values() if problem is not COUPLED)
EVEN_TOKENS = tuple(problem for problem in SEPARABLE if problem.objective == "sample")


def correct(task):
    """The correct loop for the task at hand: token weights are right for samples as well, if there are no masks."""
    tokens = task.dataset.tensors[1].dim() == 2 and not task.dataset.tensors[1].is_floating_point()
    (accumulate_tokens if tokens else accumulate_samples)(task)


def equivalent(train, case):
    [comparison] = compare(case, train, state=True)
    if case.dtype in PRECISE:
        assert comparison.verdict == "equivalent", comparison.first_divergence
    else:
        assert comparison.verdict != "diverges", comparison.first_divergence


def diverges_as_predicted(train, case, name):
    """``train`` errs where and by as much as the matrix of the loop called ``name`` says."""
    units = units_of(case)
    matrix, due = expected(name, case.sizes, units), window_mean(case.sizes, units)
    if matrix == due:
        equivalent(train, case)
        return
    found, oracle = compare(case, train, weighted(matrix, units), state=True)
    step = next(s for s, (row, right) in enumerate(zip(matrix, due, strict=True)) if row != right)
    weight = sum(w * u for w, u in zip(matrix[step], units, strict=True))
    if case.dtype not in PRECISE:
        assert found.verdict != "equivalent"  # inconclusive, if the noise hides the error
        assert found.ratio(step) == pytest.approx(oracle.ratio(step), abs=0.1)
        return
    assert found.trajectory.candidate_steps == len(matrix)
    assert found.verdict == "diverges"
    assert (found.first_divergence.step, found.first_divergence.kind) == (step, "gradient")
    precision = 1e-9 if case.dtype == "float64" else 1e-3
    if all(w == weight * right for w, right in zip(matrix[step], due[step], strict=True)):
        assert found.ratio(step) == pytest.approx(float(weight), rel=precision)
    for s in range(len(matrix)):
        assert found.ratio(s) == pytest.approx(oracle.ratio(s), rel=precision, abs=precision)
        assert found.error(s) == pytest.approx(oracle.error(s), rel=precision, abs=precision)


def property_of(check, strategy, examples, **arguments):
    """The property that ``check`` holds for all cases, as a function of the loop; a mutant needs no shrinking."""

    def run(train, *, shrink=True):
        phases = set(Phase) - (set() if shrink else {Phase.shrink, Phase.explain})

        @settings(max_examples=examples, phases=phases, database=None)
        @given(strategy)
        def prove(case):
            check(train, case, **arguments)

        prove()

    return run


correct_is_equivalent = property_of(equivalent, cases(ragged_sizes(), problems=SEPARABLE), 60)
fix_diverges = property_of(diverges_as_predicted, cases(ragged_sizes(), problems=SEPARABLE), 25, name="published_fix")
undivided_diverges = property_of(
    diverges_as_predicted, cases(ragged_sizes(), problems=SEPARABLE), 12, name="published_fix_undivided"
)
bug_diverges = property_of(
    diverges_as_predicted, cases(ragged_sizes(), problems=SEPARABLE), 25, name="early_first_step"
)
fix_is_equivalent_on_even = property_of(equivalent, cases(even_sizes(), problems=EVEN_TOKENS), 15)
tokens_diverge_on_even = property_of(
    diverges_as_predicted, cases(even_sizes(), problems=[PROBLEMS["gpt-lines"]]), 8, name="published_fix"
)
undivided_diverges_on_even = property_of(
    diverges_as_predicted, cases(even_sizes(), problems=SEPARABLE), 8, name="published_fix_undivided"
)
bug_diverges_on_even = property_of(
    diverges_as_predicted, cases(even_sizes(), problems=SEPARABLE), 8, name="early_first_step"
)


PROPERTIES = {
    "correct accumulation": (correct_is_equivalent, correct, published_fix),
    "published fix": (fix_diverges, published_fix, correct),
    "undivided loss": (undivided_diverges, published_fix_undivided, published_fix),
    "batch_idx % k == 0": (bug_diverges, early_first_step, drops_tail),
    "published fix, even lengths": (fix_is_equivalent_on_even, published_fix, early_first_step),
    "published fix, even lengths, unequal tokens": (tokens_diverge_on_even, published_fix, accumulate_tokens),
    "undivided loss, even lengths": (undivided_diverges_on_even, published_fix_undivided, correct),
    "batch_idx % k == 0, even lengths": (bug_diverges_on_even, early_first_step, published_fix),
}


@pytest.mark.parametrize("name", PROPERTIES)
def test_property(name):
    prove, train, _ = PROPERTIES[name]
    prove(train)


@pytest.mark.parametrize("name", PROPERTIES)
def test_property_can_fail(name):
    prove, _, mutant = PROPERTIES[name]
    with pytest.raises(AssertionError):
        prove(mutant, shrink=False)


@settings(max_examples=8)
@given(cases(ragged_sizes() | even_sizes(), problems=[COUPLED], dtypes=PRECISE))
def test_no_loop_is_equivalent_under_batchnorm(case):
    """Unless the whole epoch is one micro-batch."""
    [comparison] = compare(case, accumulate_samples)
    assert comparison.verdict == ("equivalent" if case.sizes.micro_batches == 1 else "diverges")
