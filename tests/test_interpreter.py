"""Programs as loops: what the probe reads off them is what is simulated, and the program is found again."""

import random

import pytest
from accumcheck.corpus.interpreter import loop_of
from accumcheck.explaining.fit import Case, fit, makes
from accumcheck.explaining.judge import judge_exactly
from accumcheck.probing.run import probe
from accumcheck.programs.rules import TABLES, Program, Shape
from accumcheck.programs.simulate import Units, simulate
from accumcheck.task import OBJECTIVES, Sizes

from experiments.round_trip import edits

STREAMS = [
    Program(visit=visit, step=step)
    for visit in TABLES["visit"]
    for step in ("count or last", "window or last", "k + 1, counted, or last")
    if visit.startswith("stream")
]
LISTS = [
    Program(step=step, reset="epoch's list") for step in ("by samples", "by samples or end", "count", "late count")
]
SIZES = (Sizes(7, 1, 4), Sizes(11, 2, 4, 3), Sizes(7, 2, 4), Sizes(13, 1, 8), Sizes(14, 1, 4))
PROGRAMS = [*edits(1), *STREAMS, *LISTS, *random.Random(1).sample(list(edits(2)), 150)]


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


@pytest.mark.parametrize("objective", ["sample", pytest.param("token", marks=pytest.mark.slow)])
def test_a_program_is_found_again(objective):
    assert_found_again(random.Random(2).sample(PROGRAMS, 75), objective)


GATES = ("window or end", "every", "count", "late count")


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [each for each in TABLES["schedule"] if each != "other"])
def test_a_schedule_is_read_and_judged_for_itself(schedule):
    for step in GATES:
        outcome = judge_exactly(loop_of(Program(step=step, schedule=schedule)), search=False)
        plain = judge_exactly(loop_of(Program(step=step)), search=False)
        found = [f.id for f in outcome.findings]
        assert found[: len(plain.findings)] == [f.id for f in plain.findings] or TABLES["schedule"][schedule].law, step
        # Where every micro-batch makes a step, there is no difference.
        wrong = bool(TABLES["schedule"][schedule].law) and step != "every"
        assert ("scheduler-per-micro-batch" in found) is wrong, (step, found)


@pytest.mark.slow
@pytest.mark.parametrize("clip", [each for each in TABLES["clip"] if each != "other"])
def test_a_way_to_clip_is_read_and_judged_for_itself(clip):
    for program in (Program(clip=clip), Program(clip=clip, scale="1/k"), Program(clip=clip, step="early or end")):
        outcome = judge_exactly(loop_of(program), search=False)
        rules = [f.rule for f in outcome.findings]
        assert set(rules) == set(program.wrong), (str(program), [f.id for f in outcome.findings])


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_many_programs_are_found_again(objective):
    assert_found_again(random.Random(3).sample([*edits(1), *edits(2)], 150), objective)
