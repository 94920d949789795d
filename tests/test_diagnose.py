"""From readings to findings: on loops that ship, and on readings that are written out."""

import random
import re
from dataclasses import replace
from functools import cache
from itertools import product

import pytest
from accumcheck.corpus.expectations import expectation_of
from accumcheck.corpus.published import published_fix
from accumcheck.explaining.diagnose import Diagnosis
from accumcheck.explaining.evidence import Evidence, Pair
from accumcheck.explaining.judge import DEFAULT_SIZES, judge_exactly
from accumcheck.probing.model import MATRIX, VECTOR
from accumcheck.probing.reading import Reading
from accumcheck.programs.rules import RIGHT as RIGHT_RULES
from accumcheck.programs.rules import Program, Shape
from accumcheck.programs.simulate import Units, equivalent, simulate, window_mean
from accumcheck.task import Sizes
from accumcheck.text import message

from experiments.round_trip import EDITED as SLOTS
from experiments.round_trip import edits
from tests.expectations import RIGHT, WRONG

SIZES = Sizes(samples=7, accumulation_steps=4)


@cache
def judged(loop, objective):
    """The outcome; asked for by several tests."""
    return judge_exactly(loop, objective, search=False)


def named(value):
    return getattr(value, "__name__", str(value))


@pytest.mark.parametrize(("loop", "objective", "name"), WRONG, ids=named)
def test_wrong_loops_are_named(loop, objective, name):
    outcome = judged(loop, objective)
    ids = [finding.id for finding in outcome.findings]
    assert ids[0] == name
    assert "unexplained" not in ids
    expectation = expectation_of(loop)
    also = {*expectation.first.values(), *expectation.also, "tail-scaled-by-k", "mean-of-means", "token-weighting"}
    assert set(ids[1:]) <= also | {"dropped-tail", "carried-tail", "unscaled-loss", "wrong-scale"}
    for finding in outcome.findings:
        assert finding.weight is None or finding.weight != finding.due
        for ours, due in re.findall(r" is ([^ ]+), it should be ([^ ]+?)[. ]", message(finding) + " "):
            assert ours != due


@pytest.mark.parametrize(("loop", "objective", "name"), WRONG, ids=named)
def test_a_fix_that_is_followed_makes_it_right(loop, objective, name):
    outcome = judged(loop, objective)
    for explanation in outcome.explanations:
        if explanation.program is not None:
            slots = [slot for slot in RIGHT_RULES if explanation.program.rule(slot).law]
            fixed = explanation.program.right(*slots)
            for sizes in DEFAULT_SIZES:
                shape, units = Shape.of(sizes), Units(tuple(i % 4 + 1 for i in range(sizes.samples)))
                plain = units if objective == "token" else Units((1,) * sizes.samples)
                assert equivalent(replace(fixed, clip="none", schedule="step"), shape, plain)


def test_any_program_put_right_is_equivalent():
    doubles = random.Random(0).sample(list(edits(2)), 300)
    for program, sizes in product([*edits(1), *doubles], DEFAULT_SIZES[:3]):
        slots = [slot for slot in SLOTS if program.rule(slot).law]
        assert equivalent(program.right(*slots), Shape.of(sizes), Units((1,) * sizes.samples)), program


@pytest.mark.parametrize(("loop", "objective"), RIGHT, ids=named)
def test_right_loops_have_no_findings(loop, objective):
    outcome = judged(loop, objective)
    assert outcome.verdict == "equivalent", outcome.findings


def reading(matrix, sizes=SIZES, rates=None, **changes):
    rows = [[float(weight) for weight in row] for row in matrix]
    settings = [{"lr": rate, "momentum": 0.0} for rate in rates or [0.1] * len(rows)]
    both = {"matrices": {MATRIX: rows, VECTOR: rows}, "settings": {MATRIX: settings, VECTOR: settings}}
    return Reading("hand", "sample", sizes, (1,) * sizes.samples, **{**both, **changes})


def mean():
    return [[float(weight) for weight in row] for row in window_mean(SIZES)]


def diagnosed(ours, own=None, large=None, reference="mean"):
    own = own or reading(mean(), SIZES.full_batch())
    small = Pair(ours, own)
    return Diagnosis((Evidence(small, large or Pair(reading(mean()), own)),), "sample", reference).findings


def test_the_witness_is_the_first_wrong_cell():
    matrix = mean()
    matrix[1][5] = 0.5
    (finding, *_) = diagnosed(reading(matrix))
    assert (finding.step, finding.samples, finding.epoch) == (1, (5,), 0)
    assert (str(finding.weight), str(finding.due)) == ("1/2", "1/3")


def test_a_program_is_found_on_written_rows():
    matrix = simulate(Program(scale="1/k"), Shape.of(SIZES), Units((1,) * 7))
    (finding,) = diagnosed(reading(matrix))
    assert (finding.id, finding.step, finding.samples) == ("tail-scaled-by-k", 1, (4, 5, 6))
    assert finding.rule.name == "1/k"
    assert finding.ratio == 0.75


def test_parameters_that_are_wrong_alone_are_named():
    leak = [[float(w) for w in row] for row in simulate(Program(reset="never"), Shape.of(SIZES), Units((1,) * 7))]
    (finding,) = diagnosed(reading(mean(), matrices={MATRIX: mean(), VECTOR: leak}))
    assert (finding.id, finding.kinds) == ("gradients-not-reset", (VECTOR,))


def test_settings_that_differ():
    (finding,) = diagnosed(reading(mean(), rates=[0.1, 0.05, 0.1, 0.1]))
    assert (finding.id, finding.step, finding.facts["setting"]) == ("scheduler-per-micro-batch", 1, "lr")
    settings = [{"lr": 0.1, "momentum": 0.9}] * 4
    (finding,) = diagnosed(reading(mean(), settings={MATRIX: settings, VECTOR: settings}))
    assert (finding.id, finding.facts["setting"]) == ("scheduler-per-micro-batch", "momentum")


def test_a_schedule_by_epochs_is_no_schedule_by_micro_batches():
    matrix = simulate(Program(step="count or last"), Shape.of(SIZES), Units((1,) * 7))
    by_epoch = reading(matrix, rates=[0.1, 0.098, 0.098, 0.098][: len(matrix)])
    own = reading(mean(), SIZES.full_batch(), rates=[0.1, 0.1, 0.098, 0.098])
    assert {finding.id for finding in diagnosed(by_epoch, own)} == {"carried-tail"}


def test_parameters_that_only_full_batches_train():
    alone = reading(mean(), matrices={MATRIX: mean()}, settings={MATRIX: [{"lr": 0.1}] * 4})
    (finding,) = diagnosed(alone)
    assert (finding.id, finding.kinds) == ("gradients-lost", (VECTOR,))


def test_another_order_of_samples():
    rows = [row[::-1] for row in mean()]
    ours = reading(rows, orders=((6, 5, 4, 3, 2, 1, 0),) * 2)
    own = reading(mean(), SIZES.full_batch(), orders=((0, 1, 2, 3, 4, 5, 6),) * 2)
    assert [finding.id for finding in diagnosed(ours, own)] == ["sample-order"]


@pytest.mark.parametrize(("error", "name"), [(2**-8, "low-precision-accumulation"), (2**-4, "unexplained")])
def test_rounding_is_small(error, name):
    matrix = [[weight * (1 + error * (i % 2)) for i, weight in enumerate(row)] for row in mean()]
    assert [finding.id for finding in diagnosed(reading(matrix))] == [name]


def test_large_gradients_that_are_changed_in_another_way():
    own = reading([[weight / 10 for weight in row] for row in mean()], SIZES.full_batch())
    rows = mean()
    rows[0][0] /= 5
    (finding,) = diagnosed(reading(mean()), large=Pair(reading(rows), own), reference="own")
    assert (finding.id, finding.large, finding.step) == ("clipped-per-micro-batch", True, 0)


def test_what_no_detector_has_a_name_for_is_no_equivalence():
    (finding, *_) = diagnosed(reading([*mean()[:3], [0.5] * 7]))
    assert finding.id == "unexplained"


def test_samples_that_are_dropped_are_those_in_no_update():
    matrix = simulate(Program(visit="whole windows", step="window"), Shape.of(SIZES), Units((1,) * 7))
    findings = diagnosed(reading(matrix))
    assert findings[0].id == "dropped-tail"
    assert findings[0].samples == (4, 5, 6)
    assert findings[0].weight == 0


def test_the_published_fix_as_evidence():
    outcome = judge_exactly(published_fix)
    assert outcome.program == Program(scale="1/k")
    assert [finding.id for finding in outcome.findings] == ["tail-scaled-by-k", "mean-of-means"]
