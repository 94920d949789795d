"""Programs as loops: what the probe reads off them is what is simulated, and the program is found again."""

import random

import pytest
from accumcheck.corpus.interpreter import loop_of
from accumcheck.explaining.fit import Case, fit, makes
from accumcheck.probing.run import probe
from accumcheck.programs.rules import Shape
from accumcheck.programs.simulate import Units, simulate
from accumcheck.task import OBJECTIVES, Sizes

from tests.test_diagnose import edits

SIZES = (Sizes(7, 1, 4), Sizes(11, 2, 4, 3), Sizes(7, 2, 4), Sizes(13, 1, 8), Sizes(14, 1, 4))
PROGRAMS = [*edits(1), *random.Random(1).sample(list(edits(2)), 150)]


def rows_of(program, sizes, objective):
    reading = probe(loop_of(program), sizes, objective)
    return reading, Units(reading.units)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_program_is_read_as_it_is_simulated(objective):
    for number, program in enumerate(PROGRAMS):
        sizes = SIZES[number % len(SIZES)]
        reading, units = rows_of(program, sizes, objective)
        due = [row for row in simulate(program, Shape.of(sizes), units) if any(row)]
        found = [row for row in reading.exact if any(row)]
        assert [[float(w) for w in row] for row in found] == [pytest.approx([float(w) for w in row]) for row in due], (
            str(program),
            str(sizes),
        )


def assert_found_again(programs, objective):
    for program in programs:
        cases = []
        for sizes in SIZES:
            for each in (sizes, sizes.full_batch()):
                reading, units = rows_of(program, each, objective)
                cases.append(Case.of(Shape.of(each), units, reading.matrix))
        if not any(case.rows for case in cases):
            continue  # it makes no update at these sizes
        found = fit(cases, objective)
        assert found is not None, str(program)
        assert found.cost[0] <= program.cost[0], (str(found), str(program))
        assert all(makes(found, case) for case in cases)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_program_is_found_again(objective):
    assert_found_again(random.Random(2).sample(PROGRAMS, 75), objective)


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_many_programs_are_found_again(objective):
    assert_found_again(random.Random(3).sample([*edits(1), *edits(2)], 600), objective)
