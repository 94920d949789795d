"""What the probe reads off the published loops is what theory says, and the verdicts follow the loops."""

import pytest
from accumcheck.corpus.published import LOOPS, accumulate_samples
from accumcheck.programs.simulate import window_mean
from accumcheck.task import Sizes

from experiments.contributions import SHOWN, run, summarise
from experiments.contributions.readings import STEPS, measure
from experiments.lab.oracle import expected
from experiments.lab.runner import Bench


def test_probed_contributions_are_those_of_theory():
    for loop in SHOWN:
        for n in (1, 4, 7, 9):
            sizes = Sizes(n, 1, STEPS)
            rows = [row for row in measure(loop, n) if row["part"] == "update"]
            matrix = expected(loop, sizes.full_batch() if loop == "full_batch" else sizes)
            assert [row["fraction"] for row in rows] == [str(weight) for row in matrix for weight in row]
            assert [row["due"] for row in rows] == pytest.approx([float(w) for row in window_mean(sizes) for w in row])


@pytest.mark.parametrize(("n", "carried", "lost"), [(5, [], []), (7, [5, 6], [5, 6]), (8, [5, 6, 7], [5, 6, 7])])
def test_the_bug_carries_leftovers_over_and_loses_the_last(n, carried, lost):
    rows = measure("early_first_step", n)
    assert [row["sample"] for row in rows if row["part"] == "update" and row["carried"]] == carried
    assert [row["sample"] for row in rows if row["part"] == "lost"] == lost
    assert {row["step"] for row in rows if row["part"] == "update" and row["carried"]} <= {2}


def test_the_verdicts_on_the_article_follow_the_loops(monkeypatch):
    def verdicts():
        claims = summarise(run(Bench(quick=True)))["claims"]
        return {name: claim["verdict"] for name, claim in claims.items()}

    conditions = "true under conditions"
    assert verdicts() == {"first_iteration": "true", "leftovers": conditions, "fix": conditions}
    monkeypatch.setitem(LOOPS, "early_first_step", accumulate_samples)
    monkeypatch.setitem(LOOPS, "published_fix", accumulate_samples)
    assert verdicts() == {"first_iteration": "false", "leftovers": "false", "fix": "true"}
