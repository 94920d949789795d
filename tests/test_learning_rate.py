"""The learning-rate experiment tells the rules apart where the truth is known, and its loops where they differ."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from experiments import learning_rate
from experiments.lab.runner import Bench
from experiments.learning_rate.rules import RULES, summary_of


def made_up(exponent, seeds=4):
    """Losses whose best rate grows as N to the power ``exponent``, and is the same for all loops."""
    rows = []
    loops = [("full_batch", N) for N in (8, 16, 64)] + [("accumulate_samples", 64), ("early_first_step", 64)]
    for (loop, N), power, seed in product(loops, range(-8, 9), range(seeds)):  # noqa: N806
        best = exponent * np.log2(N / 8) - 2
        loss = 1 + (power / 2 - best) ** 2 + 0.01 * seed
        row = {"loop": loop, "N": N, "rate": 2 ** (power / 2), "seed": seed, "loss": loss, "train_loss": loss}
        rows.append({**row, "updates": 10})
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("rule", "exponent"), [("none", 0), ("sqrt", 0.5), ("linear", 1)])
def test_the_rule_that_holds_costs_nothing_and_the_others_do(rule, exponent):
    numbers = summary_of(made_up(exponent))
    assert numbers["exponent"] == pytest.approx([exponent] * 3)
    costs = {name: numbers["by_N"]["64"][name]["cost"][0] for name in RULES}
    assert costs.pop(rule) == 1
    assert min(costs.values()) > 1.5
    assert numbers["early_first_step"]["64"]["rate_ratio"] == [1, 1, 1]
    assert not any(entry["at_edge"] for entry in numbers["by_N"].values())


def test_intervals_span_what_seeds_disagree_about():
    frame = made_up(0)
    odd = frame["seed"] % 2 == 1
    frame.loc[odd, "loss"] = 1 + (np.log2(frame.loc[odd, "rate"]) - 1) ** 2
    _, low, high = summary_of(frame)["by_N"]["8"]["rate"]
    assert low == 0.25
    assert high == 2


def test_accumulation_trains_as_the_large_batch_does_and_the_bug_does_not():
    full, accumulated, bug = (
        pd.DataFrame(learning_rate.measure("sgd", loop, b, k, seeds=2, epochs=1))
        for loop, b, k in (("full_batch", 128, 1), ("accumulate_samples", 8, 16), ("early_first_step", 8, 16))
    )
    stable = full["rate"] <= 0.5
    assert accumulated["loss"][stable].to_numpy() == pytest.approx(full["loss"][stable].to_numpy(), rel=1e-4)
    assert (bug["loss"][stable] > full["loss"][stable] * 1.001).all()  # one update is lost
    assert set(bug["updates"]) == set(full["updates"]) == {8}


def test_a_larger_batch_wants_a_larger_rate():
    numbers = learning_rate.summarise(learning_rate.run(Bench(quick=True)))
    for optimizer in learning_rate.OPTIMIZERS:
        by_n = numbers[optimizer]["by_N"]
        assert by_n["64"]["rate"][0] > by_n["8"]["rate"][0]
        assert by_n["64"]["none"]["cost"][0] > 1.2
        assert not by_n["8"]["at_edge"]
