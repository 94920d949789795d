"""Ways of testing: each passes right loops and fails on what it is for, and the table counts what they say."""

import pandas as pd
import pytest
from accumcheck.corpus import happened, published, wrong
from accumcheck.corpus.catalogue import bugs
from accumcheck.corpus.published import accumulate_samples, accumulate_tokens, published_fix_undivided

from experiments import detection
from experiments.detection import methods


def idle(task):
    """Trains nothing."""


# For each way a loop that it fails on, and one that is wrong and that it passes.
SEES = {
    "losses": (published.early_first_step, published.published_fix_undivided),
    "parameters": (published.early_first_step, published.published_fix),
    "steps": (wrong.steps_every_time, published.published_fix_undivided),
    "changed": (idle, wrong.steps_every_time),
    "gradients": (published.published_fix_undivided, published.published_fix),
    "update": (published.published_fix_undivided, published.published_fix),
}


@pytest.mark.parametrize("method", methods.METHODS)
def test_each_way_passes_right_loops_and_fails_on_what_it_is_for(method):
    sees, misses = SEES[method]
    assert methods.METHODS[method](sees, "mlp")
    assert not methods.METHODS[method](misses, "mlp")
    assert not methods.METHODS[method](accumulate_samples, "mlp")


def test_means_of_tokens_show_in_one_update_and_not_beside_a_loop_with_the_same_divisor():
    assert methods.update(wrong.means_of_means, "gpt-lines")
    assert not methods.update(accumulate_tokens, "gpt-lines")
    assert not methods.gradients(wrong.means_of_means, "gpt-lines")


def test_adam_hides_a_factor_from_losses():
    assert not methods.losses(published_fix_undivided, "mlp")
    assert methods.gradients(published_fix_undivided, "mlp")


def test_a_loop_that_raises_does_not_pass():
    def raises(task):
        raise RuntimeError

    assert detection._found(lambda: methods.steps(raises, "mlp")) == "found"


@pytest.mark.parametrize(
    ("name", "method", "outcome"),
    [
        ("tail-divided-by-k", "check", "named"),
        ("tail-divided-by-k", "run", "named"),
        ("tail-divided-by-k", "losses", "missed"),
        ("cleared-and-early", "run", "found"),
        ("offload-first-only", "check", "named"),
        ("reported-loss-times-k", "check", "named"),
        ("reported-loss-times-k", "run", "missed"),
        ("sync-at-first-micro-batch", "run", "not tried"),
        ("sync-at-first-micro-batch", "update", "not tried"),
        ("rate-below-zero", "run", "inconclusive"),
        ("rate-below-zero", "update", "not tried"),
    ],
)
def test_outcomes_say_what_a_way_of_testing_saw(name, method, outcome):
    assert detection.outcome(bugs()[name], method, parity=False) == outcome


def test_batch_norm_is_looked_for_in_a_model_that_has_it():
    assert detection.problem_of(bugs()["batch-norm-statistics"]) == "cnn-batchnorm"
    assert detection.problem_of(bugs()["mean-of-token-means"]) == "gpt-lines"


def table(**outcomes):
    """A frame of bugs, and one right loop, with the outcomes of each method in the order of the columns."""
    rows = [
        {"bug": name, "kind": "right" if name == "fine" else "bug", "finding": "", "method": method, "outcome": outcome}
        for name, given in outcomes.items()
        for method, outcome in zip(detection.COLUMNS, given, strict=True)
    ]
    return pd.DataFrame(rows)


def test_what_all_usual_ways_miss_is_counted():
    frame = table(
        a=["missed"] * 6 + ["found", "named", "missed"],
        b=["found"] + ["missed"] * 5 + ["missed", "found", "inconclusive"],
        c=["not tried"] * 8 + ["missed"],
        fine=["missed"] * 5 + ["found", "not tried", "missed", "missed"],
    )
    numbers = detection.summarise(frame)
    assert (numbers["bugs"], numbers["right"], numbers["usual_tried"]) == (3, 1, 2)
    assert (numbers["usual_all_miss"], numbers["ours"], numbers["ours_miss"]) == (["a"], 2, ["c"])
    assert numbers["methods"]["check"] == {"tried": 2, "found": 2, "named": 1, "right": 1, "false_alarms": 0}
    assert numbers["methods"]["update"]["false_alarms"] == 1
    detection.check(numbers)
    numbers["alarms"] = ["right:drops_the_last_window sample"]  # known, with a reason
    detection.check(numbers)
    with pytest.raises(AssertionError, match="run calls right loops wrong"):
        detection.check(numbers | {"alarms": ["right:classifies sample"]})
    numbers["methods"]["check"]["false_alarms"] = 1
    with pytest.raises(AssertionError, match="check calls a right loop wrong"):
        detection.check(numbers)


def test_right_loops_are_the_control():
    loops = detection.right_loops()
    assert len(loops) > 30
    assert ("published", "accumulate_samples", "sample") in loops
    assert not {name for _, name, _ in loops} & {"steps_every_time", "published_fix"}
    assert happened.normalises_by_sentences not in loops
