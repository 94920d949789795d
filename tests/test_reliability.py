"""The parts of ``reliability``: the oracle, rewrites that mean nothing, edits, and what was found with them."""

import ast
import random

import pytest
import torch
from accumcheck.corpus import published, right, wrong
from accumcheck.corpus.interpreter import loop_of
from accumcheck.corpus.recipes import stream_sample
from accumcheck.explaining.judge import judge_exactly
from accumcheck.programs.rules import Program
from accumcheck.task import Sizes, name_of

from experiments import reliability
from experiments.lab.runner import Bench
from experiments.reliability import bugs, edits, oracle
from experiments.reliability import right as right_loops
from experiments.reliability.sources import Edit, compiled, edited, edits_of, rewritten, tree_of

RAGGED = [Sizes(7, 2, 3), Sizes(11, 1, 4), Sizes(5, 2, 4)]
SAMPLE = [(), (), ()]


def verdict(loop, sizes=RAGGED, counts=None):
    return oracle.judge(loop, sizes, counts or [()] * len(sizes)).verdict


# The oracle


@pytest.mark.parametrize(
    "loop",
    [published.accumulate_samples, right.clips_once, right.streams_rows, right.drops_the_last_window,
     right.takes_gradients, right.steps_with_closure, right.two_optimizers, right.trains_biases_only,
     right.stops_after_three_steps, right.shuffles_with_its_own_seed, right.schedules_once_an_epoch],
    ids=name_of,
)  # fmt: skip
def test_the_oracle_says_of_right_loops_that_they_are_the_same(loop):
    assert verdict(loop) == "same"


@pytest.mark.parametrize(
    "loop",
    [published.published_fix, published.early_first_step, wrong.clips_values_every_time, wrong.never_clears_biases,
     wrong.schedules_every_time, wrong.sums_in_half_precision, wrong.skips_at_random, wrong.clears_before_step,
     wrong.contrasts_within_the_batch, wrong.lowers_momentum_every_time, wrong.skips_short_batches],
    ids=name_of,
)  # fmt: skip
def test_the_oracle_says_of_wrong_loops_that_they_differ(loop):
    assert verdict(loop) == "differs"


def test_the_oracle_counts_tokens():
    counts = [(1, 3, 2, 1, 1, 2, 3), (1,) * 11, (3, 1, 1, 1, 2)]
    assert verdict(published.accumulate_tokens, counts=counts) == "same"
    assert verdict(published.accumulate_samples, counts=counts) == "differs"
    assert verdict(published.accumulate_samples, counts=[(2,) * 7, (2,) * 11, (2,) * 5]) == "same"


def test_the_oracle_tells_of_loops_that_fail_or_do_nothing():
    def fails(task):
        raise ValueError("no")

    assert verdict(fails) == "raises"
    assert verdict(lambda task: None) == "no update"


def test_the_oracle_leaves_the_random_stream_alone():
    state = torch.get_rng_state()
    verdict(wrong.shuffles_from_the_common_stream)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("rows", "sizes", "found"),
    [
        ([[1, 1, 0], [0, 0, 1]], Sizes(3, 2, 1, 1), {"window", "stream"}),
        ([[1, 1, 0]], Sizes(3, 2, 1, 1), {"window", "dropped", "stream", "endless"}),
        ([[1, 1, 0], [1, 0, 1]], Sizes(3, 2, 1, 2), {"stream", "endless"}),
        ([[1, 1, 0], [1, 1, 0], [0, 0, 1], [0, 0, 1]], Sizes(3, 2, 1, 1), {"window", "stream"}),
        ([[1, 1, 1]], Sizes(3, 2, 1, 1), set()),
        ([[1, 1, 0, 0], [1, 1, 0, 0]], Sizes(4, 2, 1, 2), set()),  # the first window of each epoch, and no other one
        ([], Sizes(3, 2, 2, 1), {"dropped", "stream", "endless"}),
        ([], Sizes(4, 2, 2, 1), set()),
    ],
)
def test_conventions_of_updates(rows, sizes, found):
    assert oracle.conventions_of(rows, sizes, [(i, None) for i in range(sizes.samples)]) == found


@pytest.mark.parametrize(
    ("drawn", "orders"),
    [
        ([0, 1, 2], ((0, 1, 2),)),
        ([1, 2, 0, 1, 2, 0, 1], ((1, 2, 0), (1, 2, 0), (1,))),
        ([0, 1, 2, 1, 1], ()),
        ([0, 1, 0, 1], ()),  # one is never drawn
        ([], ()),
    ],
)
def test_the_oracle_goes_by_whole_passes_over_the_samples(drawn, orders):
    dataset = oracle.Drawn(torch.zeros(3))
    for sample in drawn:
        dataset[sample]
    assert dataset.orders() == orders


# Right loops


def test_training_that_ends_in_nan_anyway_is_no_false_alarm():
    case = right_loops.Case(right_loops.PROBLEMS["gpt-windows"], Sizes(11, 1, 2, 2), "momentum", "float64", 41721)
    assert right_loops._blows_up(case, right.joins_micro_batches)
    assert not right_loops._blows_up(case, right.two_passes)


# Sources


def statements(text):
    (function,) = ast.parse(text).body
    return function


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (Edit("delete", 0), "pass"),
        (Edit("constant", 0), "== 1"),
        (Edit("constant", 2), "i + 2"),
        (Edit("operator", 0), "(i + 1) // k"),
        (Edit("comparison", 0), "!= 0"),
        (Edit("and, or", 0), "and i"),
        (Edit("count", 0), "len(x) - 1"),
    ],
    ids=str,
)
def test_an_edit_changes_one_place(edit, line):
    text = "def f(i, k, x):\n    if (i + 1) % k == 0 or i == len(x):\n        step()\n"
    assert line in ast.unparse(ast.fix_missing_locations(edited(statements(text), edit)))


def test_an_edited_loop_runs_and_its_lines_are_seen():
    tree = tree_of(right.classifies)
    loop = compiled(edited(tree, Edit("delete", 0)), right.classifies, "a test")
    with pytest.raises(NameError, match="criterion"):
        loop(oracle_task())


def oracle_task():
    world = oracle.World(Sizes(3, 1, 2), (), 0, 1.0)
    tasks = []
    world.record(tasks.append, world.sizes)
    return tasks[0]


def test_edits_differ_from_one_another_and_from_the_loop():
    found = edits_of(stream_sample)
    texts = {ast.unparse(ast.fix_missing_locations(edited(tree_of(stream_sample), edit))) for edit in found}
    assert len(texts) == len(found) > 80
    assert ast.unparse(tree_of(stream_sample)) not in texts
    assert {edit.kind for edit in found} >= {"delete", "swap", "in", "out", "twice", "constant", "operator", "count"}


@pytest.mark.slow
def test_there_are_edits_enough_and_their_numbers_stay():
    assert len(edits.edits()) >= reliability.SIZED["full"]["edits"]
    again = [(name_of(loop), objective, edit) for loop, objective, edit in edits.edits()[:50]]
    edits.edits.cache_clear()
    assert [(name_of(loop), objective, edit) for loop, objective, edit in edits.edits()[:50]] == again


@pytest.mark.slow
def test_rewrites_mean_nothing():
    draw = random.Random(0)
    for original, objective in right_loops.written():
        if name_of(original) in edits.LEFT_OUT:
            continue
        loop = compiled(rewritten(tree_of(original), draw), original, "a rewrite")
        counts = right_loops.counts_of(objective, RAGGED[:1], 0)
        assert verdict(loop, RAGGED[:1], counts) == "same", name_of(original)


# The cases


def test_a_case_is_the_same_whenever_it_is_measured():
    assert right_loops.measure(1, 2) == right_loops.measure(1, 1) + right_loops.measure(2, 1)


def test_bugs_are_tried_at_so_many_sizes_each():
    totals = {}
    for (loop, *_), count in zip(bugs.bugs(), bugs.counts(200), strict=True):
        totals[name_of(loop)] = totals.get(name_of(loop), 0) + count
    assert set(totals.values()) == {200}


def test_numbers():
    rows = [
        ("right", "a", "sample", "exact", "equivalent", 90, ""),
        ("right", "a", "sample", "exact", "diverges", 1, "case 7, n=1: mean-of-means"),
        ("right", "b", "sample", "trained, float32", "inconclusive", 9, "case 8"),
        ("bugs", "c", "sample", "dropped-tail", "named first", 30, ""),
        ("bugs", "c", "sample", "dropped-tail", "found", 10, ""),
        ("bugs", "d", "sample", "dropped-tail", "named as well", 10, "size 1"),
        ("bugs", "d", "sample", "dropped-tail", "equivalent", 10, "size 3, n=5"),
        ("bugs", "d", "sample", "dropped-tail", "hidden", 5, "size 9"),
        ("edits", "swap", "sample", "same", "equivalent", 5, ""),
        ("edits", "swap", "sample", "differs", "equivalent", 1, "edit 3 of f, swap 1: nothing; oracle: x\n+a"),
        ("edits", "swap", "sample", "differs", "crash", 1, "edit 4 of f, swap 2: ZeroDivisionError"),
        ("edits", "swap", "sample", "raises", "refused", 3, ""),
    ]
    frame = reliability.pd.DataFrame(rows, columns=[*reliability.BY, "cases", "note"])
    numbers = reliability.summarise(frame)
    assert (numbers["right"]["false_alarms"], numbers["right"]["verdicts"], numbers["right"]["trained"]) == (1, 91, 9)
    assert numbers["right"]["alarms"] == ["case 7, n=1: mean-of-means"]
    of_bugs = numbers["bugs"]
    assert (of_bugs["cases"], of_bugs["missed"], of_bugs["named_share"]) == (60, 10, 30 / 50)
    assert of_bugs["least_named"] == ["d"]
    assert reliability.by_cause(frame).loc["dropped-tail"].to_dict() == {"named first": 30, "found": 20, "missed": 10}
    of_edits = numbers["edits"]
    assert (of_edits["judged"], of_edits["wrongly_equivalent"], of_edits["refused"]) == (6, 1, 3)
    assert of_edits["disagreements"] == ["edit 3 of f, swap 1: nothing; oracle: x"]
    assert of_edits["crashes"] == ["edit 4 of f, swap 2: ZeroDivisionError"]


@pytest.mark.slow
def test_a_quick_run_has_all_parts():
    frame = reliability.run(Bench(quick=True))
    assert set(frame["part"]) == {"right", "bugs", "edits"}
    quick = reliability.SIZED["quick"]
    assert frame["cases"].sum() >= quick["right"] + quick["edits"] + 1


def test_known_edits_have_reasons():
    assert all(reason for reason in edits.KNOWN.values())
    assert edits.is_known("edit 403 of trains_biases_only, in 1: unexplained; oracle: own: window")
    assert not edits.is_known("edit 403 of trains_biases_only, in 10: unexplained; oracle: own: window")


@pytest.mark.parametrize(("name", "edit"), edits.KNOWN, ids=str)
def test_known_edits_are_judged_in_two_ways(name, edit):
    loop = getattr(right, name)
    found = next(each for each in edits_of(loop) if str(each) == edit)
    changed = compiled(edited(tree_of(loop), found), loop, "a known edit")
    assert (verdict(changed), edits.verdict_of(changed, "sample", RAGGED, 0)[0]) == ("same", "diverges")


# What was found: verdicts that were wrong at single sizes


@pytest.mark.parametrize("sizes", [Sizes(5, 2, 4, 2), Sizes(5, 2, 4, 3), Sizes(23, 4, 8, 2)], ids=str)
def test_what_is_never_cleared_shows_where_the_data_are_fewer_than_a_window(sizes):
    assert verdict(wrong.never_clears_biases, [sizes]) == "differs"
    outcome = judge_exactly(wrong.never_clears_biases, "sample", sizes=[sizes], search=False)
    assert outcome.verdict == "diverges"


STREAM = "inputs, targets = task.dataset[[(row + i) % len(task.dataset) for i in range(task.micro_batch_size)]]"


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        (STREAM, STREAM.replace("row + i", "row - i")),
        (STREAM, f"row += task.micro_batch_size; {STREAM}; row -= task.micro_batch_size"),
    ],
)
@pytest.mark.parametrize("sizes", [Sizes(6, 1, 3), Sizes(9, 3, 2), Sizes(11, 3, 2)], ids=str)
def test_a_stream_in_another_order_is_judged(line, instead, sizes):
    text = ast.unparse(tree_of(right.streams_rows))
    assert line in text
    loop = compiled(statements(text.replace(line, instead)), right.streams_rows, "a stream")
    judge_exactly(loop, "sample", sizes=[sizes], search=False)


STARTS = "row = 0"


@pytest.mark.parametrize(
    ("line", "instead", "said"),
    [
        (STARTS, "row = 1", ("same", "equivalent")),
        (STREAM, STREAM.replace("% len(task.dataset)", "% (len(task.dataset) - 1)"), ("differs", "inconclusive")),
    ],
)
def test_a_stream_that_begins_elsewhere_is_one_and_one_that_never_draws_a_sample_is_not(line, instead, said):
    text = ast.unparse(tree_of(right.streams_rows))
    assert line in text
    loop = compiled(statements(text.replace(line, instead)), right.streams_rows, "a stream")
    sizes = [Sizes(6, 1, 3), Sizes(11, 2, 3, 3)]
    assert (verdict(loop, sizes), judge_exactly(loop, sizes=sizes, search=False).verdict) == said


WINDOWS = "full = len(task.dataset) // (task.micro_batch_size * task.accumulation_steps)"


@pytest.mark.parametrize(
    ("instead", "said"),
    [
        ("full = len(task.dataset) // task.micro_batch_size", ("same", "equivalent")),
        (WINDOWS.replace("(task.micro_batch_size", "((task.micro_batch_size + 1)"), ("differs", "diverges")),
        (WINDOWS.replace("len(task.dataset)", "(len(task.dataset) - 1)"), ("differs", "diverges")),
    ],
)
def test_windows_that_a_loop_counts_in_a_wrong_way(instead, said):
    """Where its own full batch is counted wrong, and makes no update, micro-batches may be right all the same."""
    text = ast.unparse(tree_of(right.drops_the_last_window))
    assert WINDOWS in text
    loop = compiled(statements(text.replace(WINDOWS, instead)), right.drops_the_last_window, "windows")
    sizes = [Sizes(16, 2, 4, 2), Sizes(12, 3, 2, 2), Sizes(3, 2, 3, 2)]
    assert (verdict(loop, sizes), judge_exactly(loop, sizes=sizes, search=False).verdict) == said


def test_a_program_that_is_right_elsewhere_is_wrong_where_a_whole_window_has_a_short_micro_batch():
    loop, sizes = loop_of(Program(scale="1/k, share in tails")), Sizes(5, 3, 2)
    assert verdict(loop, [sizes]) == "differs"
    assert judge_exactly(loop, "sample", sizes=[sizes], search=False).findings[0].id == "mean-of-means"
