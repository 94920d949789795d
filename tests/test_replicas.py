"""Data-parallel loops on 2 and 3 ranks: verdicts, mutants, errors. One start of the ranks serves many loops."""

import inspect
import json
import os
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import accumcheck.check
import accumcheck.ranks.judge
import pytest
from accumcheck import check_replicas
from accumcheck.cli import main
from accumcheck.corpus import parallel, sharded
from accumcheck.corpus.expectations import cases_of
from accumcheck.corpus.parallel import parallel_samples
from accumcheck.probing.model import MATRIX
from accumcheck.ranks.judge import judge, rank_sizes, unsynchronised
from accumcheck.ranks.launch import Job, read, share
from accumcheck.task import LoopError, Sizes
from accumcheck.text import message as words_of
from accumcheck.text import table
from accumcheck.worker import judge as judge_target

RANKS = [2, pytest.param(3, marks=pytest.mark.slow)]
LOOPS = cases_of(parallel, sharded)

# Of parallel_samples: what is replaced, by what, and the finding that it makes.
MUTANTS = [
    ("loss * dist.get_world_size()", "loss", "over-scaled-loss"),
    ("summed(sum(len(targets) for _, targets in window))", "sum(len(t) for _, t in window)", "unscaled-loss"),
    ("place == len(window)", "place == 1", "unsynchronised-replicas"),
    ("place == len(window)", "place == task.accumulation_steps", "unsynchronised-replicas"),
    ("task.optimizer.zero_grad()", "pass", "gradients-not-reset"),
    ("* len(targets) / samples", "* len(targets) / task.accumulation_steps", "over-scaled-loss"),
]
OTHERS = """
import itertools
import time
import torch.distributed as dist
from accumcheck.corpus.parallel import parallel_samples

calls = itertools.count(1)

def idle(task):
    pass

def changes(task):
    task.loss_fn = lambda outputs, targets, loss=task.loss_fn, n=next(calls): loss(outputs, targets) * n
    parallel_samples(task)

def raises(task):
    if dist.get_rank() == 1:
        raise RuntimeError("out of luck")
    parallel_samples(task)

def waits(task):
    if dist.get_rank() == 0:
        dist.barrier()

def spins(task):
    while True:
        pass
"""


def target(loop):
    return f"{loop.__module__}:{loop.__name__}"


@pytest.fixture(scope="module")
def own_loops(tmp_path_factory):
    """A file with mutants of the right loop, and with loops that cannot be judged."""
    source = inspect.getsource(parallel_samples)
    parts = [
        "from accumcheck.corpus.parallel import *",
        "from accumcheck.corpus.parallel import dist, nullcontext, windows",
    ]
    parts.append("from accumcheck.corpus.parallel import DistributedDataParallel")
    for number, (old, new, _) in enumerate(MUTANTS):
        assert source.count(old) == 1, old
        parts.append(source.replace(old, new).replace("def parallel_samples", f"def mutant_{number}"))
    path = tmp_path_factory.mktemp("loops") / "own_loops.py"
    path.write_text("\n".join(parts) + OTHERS)
    return path


@pytest.fixture(scope="module")
def readings(own_loops):
    """All readings on so many ranks."""
    pairs = [(target(loop), objective) for loop, objective, _ in LOOPS]
    pairs += [(f"{own_loops}:{name}", "sample") for name in ("idle", "changes")]

    @cache
    def on(ranks):
        more = [(f"{own_loops}:mutant_{number}", "sample") for number in range(len(MUTANTS)) if ranks == 2]
        return read(Job((*pairs, *more), rank_sizes(ranks), ranks))

    return on


@pytest.fixture(scope="module")
def judged(readings):
    @cache
    def on(ranks, name, objective):
        sizes = rank_sizes(ranks)
        return judge(objective, [readings(ranks)[name, objective, each] for each in sizes])

    return on


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("size", range(1, 4))
def test_shares_are_even_contiguous_and_whole(ranks, size):
    whole = ranks * size
    for samples in range(1, 4 * whole):
        sizes = Sizes(samples, size)
        if 0 < samples % whole < ranks:
            with pytest.raises(ValueError, match=rf"at n={samples}, .* has {samples % whole} samples, too few for"):
                share(sizes, ranks, 0)
            continue
        shares = [share(sizes, ranks, rank) for rank in range(ranks)]
        together = [i for pieces in zip(*shares, strict=True) for piece in pieces for i in piece]
        assert together == list(range(samples))
        lengths = [[len(piece) for piece in pieces] for pieces in zip(*shares, strict=True)]
        assert all(max(each) - min(each) <= 1 and min(each) >= 1 for each in lengths)
        assert all(max(each) == min(each) == size for each in lengths[:-1])


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8])
def test_sizes_are_ragged_in_every_way(ranks):
    sizes = rank_sizes(ranks)
    assert Job((), sizes, ranks).sizes == sizes  # none leaves a rank empty
    whole = [(each, Sizes(each.samples, each.micro_batch_size * ranks, each.accumulation_steps)) for each in sizes]
    assert any(not each.is_ragged for _, each in whole)
    assert any(each.micro_batches % 4 == 3 and each.accumulation_steps == 4 for _, each in whole)
    assert any(each.samples < each.effective_batch_size for _, each in whole)
    lengths = [[len(share(each, ranks, rank)[-1]) for rank in range(ranks)] for each in sizes]
    assert ranks == 1 or any(len(set(each)) == 2 for each in lengths)


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize(("loop", "objective", "name"), LOOPS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_loops_are_called_by_their_names(judged, ranks, loop, objective, name):
    outcome = judged(ranks, target(loop), objective)
    assert [finding.id for finding in outcome.findings[:1]] == [name] * (name is not None)
    assert outcome.verdict == ("diverges" if name else "equivalent")
    assert "unexplained" not in {finding.id for finding in outcome.findings[1:]}
    for finding in outcome.findings:
        assert f"on each of {ranks} ranks" in words_of(finding)
    if name:
        assert outcome.counterexample.sizes == outcome.findings[0].sizes


@pytest.mark.parametrize("number", range(len(MUTANTS)))
def test_mutants_are_told(judged, own_loops, number):
    outcome = judged(2, f"{own_loops}:mutant_{number}", "sample")
    assert (outcome.verdict, outcome.findings[0].id) == ("diverges", MUTANTS[number][2])


def test_the_message_has_the_numbers_of_two_ranks(judged):
    finding = judged(2, "accumcheck.corpus.parallel:never_syncs", "sample").findings[0]
    assert words_of(finding) == (
        "Ranks step with different gradients or learning rates. At n=2, b=1 on each of 2 ranks, k=2, epochs=1: in "
        "update 0, the weight of sample 0 is 1 on rank 0 and 0 on rank 1, it should be 1/2 on both."
    )
    assert (finding.step, finding.epoch, finding.samples, finding.ratio) == (0, None, (0, 1), 2.0)


@pytest.mark.parametrize(
    ("loop", "rows"),
    [
        ("never_syncs", ["sample       0    1", "rank 0       1    ·", "rank 1       ·    1", "should be  1/2  1/2"]),
        (
            "averages_ranks",
            [
                "sample       0    1    2    3    4    5    6",
                "your loop  1/8  1/8  1/6  1/6  1/8  1/8  1/6",
                "should be  1/7  1/7  1/7  1/7  1/7  1/7  1/7",
            ],
        ),
    ],
)
def test_the_wrong_update_is_shown_as_all_ranks_make_it_or_each_of_them(judged, loop, rows):
    outcome = judged(2, f"accumcheck.corpus.parallel:{loop}", "sample")
    shown = outcome.excerpts[outcome.findings[0].id]
    assert [line.strip() for line in table(shown, "your loop", 80)] == rows


@pytest.mark.slow
@pytest.mark.parametrize("step", range(4))
@pytest.mark.parametrize("rank", range(3))
def test_any_rank_that_differs_is_seen(readings, rank, step):
    found = readings(3)[target(parallel_samples), "sample", rank_sizes(3)[0]]
    due = found.own_small.matrix
    assert unsynchronised(found.small, due) is None

    def changed(**values):
        ranks = list(found.small)
        ranks[rank] = replace(ranks[rank], **values)
        finding = unsynchronised(ranks, due)
        assert (finding.id, finding.step) == ("unsynchronised-replicas", step)
        return finding

    reading = found.small[rank]
    matrix = [list(row) for row in reading.matrix]
    matrix[step][5] += 1e-3
    finding = changed(matrices={**reading.matrices, MATRIX: matrix})
    assert finding.samples == (5,)
    assert f"on rank {rank}" in finding.facts["text"]
    settings = [{**each, "lr": each["lr"] * (1 + (s == step))} for s, each in enumerate(reading.settings[MATRIX])]
    assert "the learning rate is " in changed(settings={**reading.settings, MATRIX: settings}).facts["text"]
    shared = [[value + 1e-3 * (s == step) for value in row] for s, row in enumerate(reading.shared)]
    changed(shared=shared)
    finding = changed(matrices={**reading.matrices, MATRIX: reading.matrix[:step]})
    assert f"rank {rank} makes {step}" in finding.facts["text"]


@pytest.mark.slow
def test_what_all_ranks_do_alike_is_no_matter_of_synchronisation(readings):
    found = readings(3)[target(parallel_samples), "sample", rank_sizes(3)[0]]
    matrix = [[2 * weight for weight in row] for row in found.small[0].matrix]
    small = [replace(each, matrices={**each.matrices, MATRIX: matrix}) for each in found.small]
    assert unsynchronised(small, found.own_small.matrix) is None


@pytest.mark.parametrize(
    ("name", "finding", "message"),
    [
        ("idle", None, r"^idle: no torch optimizer that holds task\.model's parameters stepped"),
        (
            "changes",
            "nondeterministic",
            r"^changes does not repeat itself under one seed, at n=14, b=1 on each of 2",
        ),
    ],
)
def test_loops_that_cannot_be_judged(judged, own_loops, name, finding, message):
    with pytest.raises(LoopError, match=message) as raised:
        judged(2, f"{own_loops}:{name}", "sample")
    assert raised.value.finding == finding


def command_lines():
    """Of all processes, on Linux; each rank has its directory on its own."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has just ended
            lines.append(path.read_text(errors="replace"))
    return "\n".join(lines)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "limit", "message"),
    [
        (
            "raises",
            "60",
            "rank 1 of 2: raises raised RuntimeError at n=14, b=1, k=4, epochs=2, after 0 optimizer steps",
        ),
        (
            "waits",
            "0.5",
            "rank 0 of 2: waits at n=14, b=1, k=4, epochs=2 did not end within 0.5 seconds: look for an all-reduce, or "
            "a backward pass of DistributedDataParallel, in which not all ranks take part; it hangs at own_loops.py:",
        ),
        ("spins", "0.5", "spins did not end within 0.5 seconds at n=14, b=1, k=4, epochs=2 (0 optimizer steps): look"),
    ],
)
def test_errors_quote_the_rank_and_leave_nothing_behind(capfd, own_loops, tmp_path, monkeypatch, name, limit, message):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    environment = dict(os.environ)
    assert main(["check", f"{own_loops}:{name}", "--ranks", "2", "--time-limit", limit, "--json"]) == 2
    found = json.loads(capfd.readouterr().out)
    assert found["verdict"] == "error"
    assert message in found["error"]
    assert found["error"].startswith("rank ")
    assert list(tmp_path.iterdir()) == []
    assert dict(os.environ) == environment
    assert str(tmp_path) not in command_lines()


@pytest.mark.slow
def test_reports_and_json_say_how_many_ranks(judged, monkeypatch):
    def judge_replicas(targets, ranks, objectives, **_):
        return {each: tuple(judged(ranks, each, objective) for objective in objectives) for each in targets}

    monkeypatch.setattr(accumcheck.ranks.judge, "judge_replicas", judge_replicas)
    monkeypatch.setattr(accumcheck.check, "OBJECTIVES", ("sample",))
    report = check_replicas("accumcheck.corpus.parallel:parallel_samples", 3)
    assert report
    assert " ".join(str(report).split()).startswith(
        "✓ parallel_samples, on 3 ranks, is full-batch training, if your loss is a mean over samples 10 sizes "
        "compared, exactly: 3 to 40 samples, micro-batches of 1 to 2 on each of 3 ranks, k = 1 to 8, 1 to 2 epochs."
    )
    result = judge_target("accumcheck.corpus.parallel:averages_ranks", ranks=2)
    found = result["object"]
    assert (found["verdict"], found["ranks"]) == ("diverges", 2)
    assert found["loop"] == "accumcheck.corpus.parallel:averages_ranks"
    assert found["counterexample"] == {"samples": 3, "micro_batch_size": 2, "accumulation_steps": 1, "epochs": 1}
    said = " ".join(result["text"].split())
    assert "7 samples, micro-batches of 2 on each of 2 ranks, k = 2, the first update:" in said
    assert "your loop 1/8 1/8 1/6 1/6 1/8 1/8 1/6 should be 1/7 1/7 1/7 1/7 1/7 1/7 1/7" in said


@pytest.mark.parametrize("ranks", [0, -1, True, "2", 1.0])
def test_ranks_are_a_number(ranks):
    with pytest.raises(ValueError, match=f"ranks must be a whole number of at least 1, got {ranks!r}"):
        check_replicas("accumcheck.corpus.parallel:parallel_samples", ranks)
