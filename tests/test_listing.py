"""What a report shows as the change to make: applied, it makes the loop right."""

import random
from dataclasses import replace

import pytest
from accumcheck.programs.listing import fix_of, listing, mended
from accumcheck.programs.rules import Program, Shape
from accumcheck.programs.simulate import Units, equivalent

from experiments.round_trip import edits

SHAPES = [Shape(7, 1, 4, 2), Shape(11, 2, 4, 3), Shape(5, 2, 4, 2), Shape(13, 1, 8, 2)]
EVEN = {shape: Units((1,) * shape.n) for shape in SHAPES}
UNEVEN = {shape: Units(tuple(1 + i % 4 for i in range(shape.n))) for shape in SHAPES}
PROGRAMS = [*edits(1), *random.Random(1).sample(list(edits(2)), 300)]


@pytest.mark.parametrize("units", [EVEN, UNEVEN], ids=["samples", "tokens"])
def test_the_change_applied_makes_it_right(units):
    for program in PROGRAMS:
        changed = replace(mended(program), clip="none", schedule="step")
        assert not changed.wrong
        for shape in SHAPES:
            right = equivalent(changed, shape, units[shape])
            policy = equivalent(changed, shape, units[shape]) or changed.scale in ("sum/sequences", "sum, sequences")
            assert right or policy, (program, changed, shape)


def test_each_wrong_rule_is_shown_with_the_right_one_in_its_place():
    for program in PROGRAMS:
        lines = listing(program)
        marks = [line.mark for line in lines]
        wrong = [slot for slot in ("visit", "scale", "clip", "step", "reset", "schedule") if program.rule(slot).law]
        assert marks.count("-") >= len(wrong)
        assert marks.count("+") == len(wrong)
        assert fix_of(program, "sample").count("\n") == max(len(wrong) - 1, 0)


def test_the_words_are_those_of_what_is_averaged_over():
    program = Program(scale="1/k")
    assert fix_of(program, "sample") == "loss = loss_fn(outputs, targets) * len(targets) / samples_in_window"
    assert fix_of(program, "token") == "loss = loss_fn(outputs, targets) * (targets != -100).sum() / tokens_in_window"
    assert "units" not in "".join(line.code for p in PROGRAMS for line in listing(p, "token"))
