"""Runs of several ranks put together: on logs that are written by hand, and on scripts that torchrun starts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accumcheck.scripts import join
from accumcheck.scripts.explain import judge
from accumcheck.scripts.log import Batch, Exchange, Loader, Log, Part, Pass, Update

RANKS = Path(__file__).parent / "scripts" / "ranks"


def log(weights=((0.25, 0.25), (0.25, 0.25)), *, units=1.0, samples=(0, 1, 2, 3), after=None, value=1.0, rate=0.1):
    """One window of two micro-batches of two samples on one rank; ``after`` is the gradient behind an exchange of 1."""
    made = Log(optimizers=["SGD"], loaders={0: Loader(0, 2, {0})}, hints={"argument grad_accum": {2}})
    for place, each in enumerate(weights):
        batch = Batch(place, 0, 0, place, 2, samples=tuple(samples[2 * place : 2 * place + 2]))
        made.batches.append(batch)
        made.passes.append(Pass(place, (Part("NllLoss", batch, "mean", (units, units), each),)))
    if after is not None:
        made.exchanges.append(Exchange(torch.tensor([[1.0]]), torch.tensor([[after]])))
    made.touched = {0: [0, 1]}
    made.updates.append(
        Update(
            0, (rate,), 0, {0: 1.0, 1: 1.0}, (0, 1), {0: (0, 0), 1: (0, 0)}, values=torch.tensor([[value]]),
            exchanged={0: (0,), 1: (0,)} if after is not None else {},
        )
    )  # fmt: skip
    return made


def other(**options):
    return log(samples=(4, 5, 6, 7), **options)


def findings(*logs):
    judgement = judge(join.joined(logs))
    return judgement.verdict, [f.id for f in judgement.findings], judgement.reasons


def test_two_ranks_are_one_run_of_twice_the_micro_batch():
    whole = join.joined([log(), other()])
    assert [(batch.rows, batch.samples) for batch in whole.batches] == [(4, (0, 1, 4, 5)), (4, (2, 3, 6, 7))]
    assert whole.passes[0].parts[0].weights == (0.125,) * 4
    assert findings(log(), other()) == ("equivalent", [], [])


@pytest.mark.parametrize(
    ("after", "verdict", "found"),
    [(1.0, "equivalent", []), (2.0, "diverges", ["unscaled-loss"]), (1.5, "inconclusive", [])],
)
def test_an_exchange_is_a_mean_a_sum_or_not_known(after, verdict, found):
    three = [(0.25, 0.25)] * 2  # k is 2, as many as ranks: a third rank tells the two apart
    logs = [log(three, after=factor) for factor in ([after] * 3 if after != 2.0 else [3.0] * 3)]
    for rank, each in enumerate(logs):
        for batch in each.batches:
            batch.samples = tuple(sample + 4 * rank for sample in batch.samples)
    got = findings(*logs)
    assert got[:2] == (verdict, found)
    if verdict == "inconclusive":
        assert got[2] == [
            "gradients were changed by other means than backward passes, clearing, scaling and clipping in 1 updates"
        ]


@pytest.mark.parametrize("change", [{"value": 1.01}, {"rate": 0.2}])
def test_ranks_that_step_apart_are_found(change):
    assert findings(log(), other(**change)) == ("diverges", ["unsynchronised-replicas"], [])
    assert findings(log(), other(value=1.0 + 1e-6))[0] == "equivalent"


@pytest.mark.parametrize(
    "weights", [((0.25, 0.25), (0.25, 0.25)), ((0.5, 0.0), (0.25, 0.25))], ids=["by rank", "and within it"]
)
def test_ranks_of_unequal_shares_weigh_the_same(weights):
    # Rank 0 holds 4 tokens, rank 1 twice as many; the means of both count the same.
    verdict, found, _ = findings(log(), other(weights=weights, units=2.0))
    assert (verdict, found) == (("diverges", ["token-weighting"]) if weights[0][0] == 0.25 else ("inconclusive", []))
    right = [log(((1 / 6, 1 / 6), (1 / 6, 1 / 6))), other(weights=((1 / 3, 1 / 3), (1 / 3, 1 / 3)), units=2.0)]
    assert findings(*right) == ("equivalent", [], [])


def test_ranks_that_draw_the_same_samples_are_not_judged():
    assert findings(log(), log())[2] == ["all ranks draw the same samples: DistributedSampler gives each rank its own"]
    whole = join.joined([log(), log(samples=(3, 4, 5, 6))])
    assert any("1 of the samples in an epoch go to more" in note for note in whole.notes)


def shorter(made):
    made.updates.clear()
    return made


def elsewhere(made):
    batch = Batch(0, 0, 0, 1, 2)
    made.passes[0] = Pass(0, (Part("NllLoss", batch, "mean", (1.0, 1.0), (0.25, 0.25)),))
    return made


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (shorter, "ranks make unequal numbers of optimizer steps: 1, 0"),
        (elsewhere, "in backward pass 0, ranks are at different places in the epoch"),
    ],
)
def test_ranks_that_do_different_things_are_not_judged(change, reason):
    assert reason in findings(log(), change(other()))[2]


def test_a_rank_that_leaves_no_record_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(join, "WAIT", 0.0)
    join.save(other(), tmp_path / "rank-1")
    whole, error = join.gathered(log(), tmp_path, 3)
    assert (whole.doubts, error) == (["rank-2 left no record of its run"], None)


def test_of_several_errors_the_cause_is_told(tmp_path):
    first, second = log(), other()
    first.error, second.error = "it raised RuntimeError: Connection closed by peer", "it raised ValueError: odd"
    join.save(second, tmp_path / "rank-1")
    assert join.gathered(first, tmp_path, 2)[1] == "on rank 1, it raised ValueError: odd"


# Scripts

MANY = pytest.mark.slow


def run(script, *arguments, command=("run", "--json", "--ranks", "2")):
    ended = subprocess.run(
        [sys.executable, "-m", "accumcheck", *command, RANKS / script, *arguments],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    return ended.returncode, json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("arguments", "verdict", "found"),
    [
        ("", "equivalent", []),
        pytest.param("--put-together never", "diverges", ["unsynchronised-replicas"], marks=MANY),
        pytest.param("--samples 53", "equivalent", [], marks=MANY),
        pytest.param("--put-together always", "equivalent", [], marks=MANY),
        pytest.param("--put-together mean", "equivalent", [], marks=MANY),
        pytest.param("--put-together sum", "diverges", ["unscaled-loss"], marks=MANY),
        pytest.param("--put-together each", "diverges", ["clipped-per-micro-batch"], marks=MANY),
        pytest.param("--divide twice", "diverges", ["over-scaled-loss"], marks=MANY),
        pytest.param("--divide k", "diverges", ["tail-scaled-by-k"], marks=MANY),
        pytest.param("--tokens", "equivalent", [], marks=MANY),
        pytest.param("--tokens --divide rank", "diverges", ["token-weighting"], marks=MANY),
        pytest.param("--tokens --divide micro-batch", "diverges", ["token-weighting"], marks=MANY),
        pytest.param("--same-samples", "inconclusive", [], marks=MANY),
    ],
)
def test_data_parallel_scripts(arguments, verdict, found):
    status, report = run("ddp.py", *arguments.split())
    assert (report["verdict"], [f["id"] for f in report["findings"]]) == (verdict, found)
    assert status == {"equivalent": 0, "diverges": 1, "inconclusive": 3}[verdict]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fully_shard", "flat", "original"])
@pytest.mark.parametrize("divide", ["window", "k"])
def test_sharded_scripts(kind, divide):
    _, report = run("fsdp.py", "--kind", kind, "--divide", divide)
    assert [f["id"] for f in report["findings"]] == (["tail-scaled-by-k"] if divide == "k" else [])
    assert report["verdict"] == ("diverges" if divide == "k" else "equivalent")


@pytest.mark.slow
def test_a_rank_that_fails_is_quoted():
    status, report = run("ddp.py", "--fail")
    assert status == 2
    assert report["error"] == "the script failed: on rank 1, it raised RuntimeError: odd"


@pytest.mark.slow
def test_under_torchrun_rank_0_reports(tmp_path):
    report = tmp_path / "report"
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1",
         "--nproc-per-node", "2", "-m", "accumcheck", "run", "--report", str(report), RANKS / "ddp.py"],
        capture_output=True, check=True, timeout=120, env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert "has the weights of full-batch training, in all 8 updates" in " ".join(report.read_text().split())
    assert not list(tmp_path.glob("accumcheck-*"))
