"""The experiments: each runs, draws and sums up; the bench resumes; results are whole and repeat to the byte."""

import importlib
import json

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from torch.utils.data import TensorDataset

from experiments import NAMES
from experiments.__main__ import main
from experiments.bench import Bench
from experiments.results import RESULTS, provenance, write, write_atomically
from experiments.token_windows import gradients_of
from experiments.trainer_case import HEADS
from harness.contributions import expected, window_mean
from harness.data import text_lines
from harness.loops import LOOPS, accumulate_samples, accumulate_tokens
from harness.models import GPT, seeded
from harness.task import IGNORE_INDEX, Sizes

calls = []


def square(number):
    calls.append(number)
    if number == 3 and calls.count(3) == 1:
        raise KeyboardInterrupt
    return [{"number": number, "square": number**2, "threads": torch.get_num_threads()}]


def test_an_interrupted_run_takes_up_where_it_stopped(tmp_path):
    calls.clear()
    cases = [{"number": number} for number in range(6)]
    with pytest.raises(KeyboardInterrupt):
        Bench(partial=tmp_path).map(square, cases)
    [file] = tmp_path.iterdir()
    file.write_text(file.read_text() + '["torn')
    rows = Bench(partial=tmp_path).map(square, cases)
    assert [row["square"] for row in rows] == [0, 1, 4, 9, 16, 25]
    assert calls == [0, 1, 2, 3, 3, 4, 5]
    assert {row["threads"] for row in rows} == {1}
    Bench(partial=tmp_path).map(square, cases)
    assert len(calls) == 7
    Bench(partial=tmp_path, device="cuda").map(square, cases)
    assert len(calls) == 13


def test_rows_do_not_depend_on_the_number_of_jobs():
    error_by_step = importlib.import_module("experiments.error_by_step")
    frames = [error_by_step.run(Bench(jobs=jobs)) for jobs in (0, 2)]
    pd.testing.assert_frame_equal(*frames, check_exact=True)


@pytest.mark.parametrize("name", NAMES)
def test_experiment_runs_draws_and_sums_up(name, tmp_path):
    if name == "architectures":
        pytest.importorskip("transformers")
        pytest.importorskip("accelerate")
    experiment = importlib.import_module(f"experiments.{name}")
    frame = experiment.run(Bench(quick=True))
    numbers = experiment.summarise(frame)
    assert numbers["finding"]
    tables = experiment.tables(frame) if hasattr(experiment, "tables") else {name: frame}
    for attempt in ("one", "two"):
        figure = experiment.plot(frame)
        assert isinstance(figure, Figure)
        assert all(axis.get_xlabel() or figure.get_supxlabel() for axis in figure.axes[-1:])
        bench = Bench(quick=True)
        write(tmp_path / attempt, name, frame, figures={name: figure}, numbers=numbers, bench=bench, tables=tables)
    for file in (
        *(f"data/{title}.csv" for title in tables),
        f"figures/{name}.svg",
        f"figures/{name}.png",
        "summary.json",
    ):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_the_first_three_experiments_repeat_to_the_byte(tmp_path):
    for attempt in ("one", "two"):
        assert main(["error_by_step", "--jobs", "1", "--results", str(tmp_path / attempt)]) == 0
    for file in ("data/error_by_step.csv", "figures/error_by_step.svg"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert not (tmp_path / "one" / "partial").exists()


def test_files_are_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "folder" / "file"
    write_atomically(target, lambda path: path.write_text("old"))

    def fail(path):
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(target, fail)
    assert target.read_text() == "old"
    assert list(target.parent.iterdir()) == [target]


def test_provenance():
    found = provenance(Bench(quick=True))
    assert found["versions"]["torch"] == torch.__version__
    assert found["settings"] == {"quick": True, "full": False, "device": "cpu"}
    assert set(found) == {"versions", "settings", "commit", "machine"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "no experiment 'nonsense': choose from error_by_step"),
        (["--jobs", "0"], "--jobs must be at least 1"),
    ],
)
def test_bad_calls_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_committed_results_are_complete_and_say_what_they_should():
    summary = json.loads((RESULTS / "summary.json").read_text())
    for name in NAMES:
        frame = pd.read_csv(RESULTS / f"data/{name}.csv")
        assert len(frame)
        assert (RESULTS / f"figures/{name}.svg").read_text().startswith("<?xml")
        assert summary[name]["provenance"]["settings"]["quick"] is False
    tolerance = summary["tolerance"]
    assert tolerance["cases"] >= 1000
    for dtype, decades in (("float64", 9), ("float32", 2)):
        assert tolerance[dtype]["false_alarms"] == tolerance[dtype]["missed_bugs"] == 0
        assert tolerance[dtype]["lowest_bug"] >= decades
    assert tolerance["bfloat16"]["false_alarms"] == tolerance["bfloat16"]["missed_bugs"] == 0
    N = summary["ragged_lengths"]["N"]  # noqa: N806
    even = [n for n in range(1, 3 * N + 1) if not Sizes(n, N).is_ragged]
    assert summary["ragged_lengths"]["published_fix"]["equivalent_at"] == even
    assert summary["scale"]["memory_ratio"] <= 2.5
    cost = summary["probe_cost"]
    assert cost["probe_ratio"] <= 1.5
    assert (cost["right"], cost["named_by_accumcheck"]) == (cost["verdicts"], cost["bugs"])
    models = summary["architectures"]
    assert models["largest_noise"] < 1e-5
    assert models["smallest_difference"] > 1e-2
    assert sum(models[head]["same"] for head in HEADS) >= 20
    rates = summary["learning_rate"]
    assert rates["seeds"] >= 5
    _, low, high = rates["adamw"]["exponent"]
    assert 0.25 < low < high < 0.75  # the square root, neither none nor linear
    for optimizer in ("sgd", "adamw"):
        assert not any(entry["at_edge"] for entry in rates[optimizer]["by_N"].values())
        assert rates[optimizer]["by_N"]["512"]["none"]["cost"][1] > 1.2
        assert rates[optimizer]["by_N"]["512"]["linear"]["cost"][1] > 10
        assert rates[optimizer]["accumulate_samples"]["128"]["largest_difference"] < 1e-3
        assert rates[optimizer]["accumulate_samples"]["128"]["rate_ratio"] == [1, 1, 1]
    curves = summary["smoothness"]
    for problem in ("mlp", "gpt-windows"):
        assert curves[problem]["window_differs_by"] < 1e-5
        for b, ratio in curves[problem]["micro_batch_ratio"].items():
            assert ratio == pytest.approx(curves[problem]["noise_ratio"][b], rel=0.15)
    assert curves["smoother_by"] > 4
    assert {summary[name]["verdict"] for name in ("learning_rate", "smoothness")} == {"true under conditions"}
    book, norms = summary["book"], summary["batch_norm"]
    assert book["changed_predictions"]["1 × 8, padded"] == 0 < book["changed_predictions"]["1 × 8, not padded"]
    assert max(book["noise"], norms["largest_error_without_batch_statistics"]) < 1e-12
    assert min(norms["BatchNorm"]["gradient"].values()) > 1e-2
    memory = summary["memory"]
    assert memory["predicted_exactly"]
    assert memory["gradients_over_parameters"] == 1
    assert memory["one_backward_saved_at_b_1"] > 0.99 * memory["saved_by_full_batch"] > 15 * memory["saved_at_b_1"]
    assert (memory["verdict"], summary["precision"]["verdict"]) == ("true under conditions",) * 2
    assert summary["precision"]["growth_bfloat16"] > 4
    assert summary["precision"]["growth_float32_buffer"] < 1


def test_a_quick_rerun_gives_the_committed_numbers():
    """Up to the rounding of another machine: errors within a decade of noise, ratios to three digits."""
    committed = pd.read_csv(RESULTS / "data/error_by_step.csv")
    again = importlib.import_module("experiments.error_by_step").run(Bench())
    keys = ["dtype", "loop", "step", "window"]
    pd.testing.assert_frame_equal(committed[keys], again[keys])
    wide = committed["dtype"] != "bfloat16"
    assert committed["ratio"][wide].to_numpy() == pytest.approx(again["ratio"][wide].to_numpy(), rel=1e-3)
    assert (again["error"] < again["tolerance"]).equals(committed["error"] < committed["tolerance"])


def test_probed_contributions_are_those_of_theory():
    contributions = importlib.import_module("experiments.contributions")
    for loop in contributions.SHOWN:
        for n in (1, 4, 7, 9):
            sizes = Sizes(n, 1, contributions.STEPS)
            rows = [row for row in contributions.measure(loop, n) if row["part"] == "update"]
            matrix = expected(loop, sizes.full_batch() if loop == "full_batch" else sizes)
            assert [row["fraction"] for row in rows] == [str(weight) for row in matrix for weight in row]
            assert [row["due"] for row in rows] == pytest.approx([float(w) for row in window_mean(sizes) for w in row])


@pytest.mark.parametrize(("n", "carried", "lost"), [(5, [], []), (7, [5, 6], [5, 6]), (8, [5, 6, 7], [5, 6, 7])])
def test_the_bug_carries_leftovers_over_and_loses_the_last(n, carried, lost):
    rows = importlib.import_module("experiments.contributions").measure("early_first_step", n)
    assert [row["sample"] for row in rows if row["part"] == "update" and row["carried"]] == carried
    assert [row["sample"] for row in rows if row["part"] == "lost"] == lost
    assert {row["step"] for row in rows if row["part"] == "update" and row["carried"]} <= {2}


def test_the_verdicts_on_the_article_follow_the_loops(monkeypatch):
    contributions = importlib.import_module("experiments.contributions")

    def verdicts():
        claims = contributions.summarise(contributions.run(Bench(quick=True)))["claims"]
        return {name: claim["verdict"] for name, claim in claims.items()}

    conditions = "true under conditions"
    assert verdicts() == {"first_iteration": "true", "leftovers": conditions, "fix": conditions}
    monkeypatch.setitem(LOOPS, "early_first_step", accumulate_samples)
    monkeypatch.setitem(LOOPS, "published_fix", accumulate_samples)
    assert verdicts() == {"first_iteration": "false", "leftovers": "false", "fix": "true"}


def test_a_tail_divided_by_k_costs_what_theory_says(monkeypatch):
    tail_weight = importlib.import_module("experiments.tail_weight")

    def measured(optimizer, r, windows):
        [row] = tail_weight.measure(optimizer, r, windows, 0, "cpu")
        return row

    for r in (1, 2, 3):
        sgd, adamw = (measured(optimizer, r, 3) for optimizer in ("sgd", "adamw"))
        assert sgd["update_error"] == pytest.approx(1 - r / 4)
        assert adamw["gradient_error"] == pytest.approx(1 - r / 4)
        assert 0.01 < adamw["update_error"] < sgd["update_error"]
        assert sgd["share"] < sgd["displacement_error"] < 3 * sgd["share"]
    assert measured("sgd", 1, 1)["displacement_error"] > 0.5
    assert measured("adamw", 1, 1)["displacement_error"] < 1e-3  # all updates are scaled alike, which Adam hides
    assert measured("adamw", 4, 3)["displacement_error"] == measured("sgd", 4, 3)["displacement_error"] == 0
    wrong = pd.DataFrame([measured(optimizer, r, n) for optimizer in ("sgd", "adamw") for r in (1, 4) for n in (1, 2)])
    assert tail_weight.summarise(wrong)["verdict"] == "false"
    monkeypatch.setattr(tail_weight, "published_fix", accumulate_samples)
    right = pd.DataFrame([measured(optimizer, r, n) for optimizer in ("sgd", "adamw") for r in (1, 4) for n in (1, 2)])
    assert tail_weight.summarise(right)["verdict"] == "true"


@pytest.fixture(scope="module")
def tokens_case():
    tokens = importlib.import_module("experiments.tokens")
    lines = text_lines(400, 0)
    whole = (lines.tensors[1] != IGNORE_INDEX).all(dim=1)
    lines = TensorDataset(*(tensor[whole][: 3 * tokens.STEPS * tokens.BATCH] for tensor in lines.tensors))
    return tokens, seeded(GPT, 0).double(), lines


@pytest.mark.parametrize("masking", ["random", "line ends"])
def test_masks_spread_the_counts_and_keep_the_total(tokens_case, masking):
    tokens, _, lines = tokens_case
    for spread in tokens.SPREADS:
        counts = tokens.token_counts(tokens.masked(lines, spread, masking, 0), tokens.BATCH)
        assert counts.sum(dim=1).tolist() == [512] * 3
        assert (counts.std(dim=1, correction=0) / counts.mean(dim=1)).tolist() == pytest.approx([spread] * 3)


def test_the_error_of_mean_of_means_is_that_of_its_weights(tokens_case, monkeypatch):
    tokens, model, lines = tokens_case
    dataset = tokens.masked(lines, 0.5, "random", 0)
    gradients, counts = gradients_of(model, dataset), tokens.token_counts(dataset, tokens.BATCH)
    due = counts / counts.sum(dim=1, keepdim=True)
    difference, reference = (torch.einsum("wk,wkp->wp", w, gradients).norm() for w in (1 / tokens.STEPS - due, due))
    found = tokens.compared(model, dataset, tokens.BATCH, *tokens.moments(model, tokens.masked(lines, 0, "random", 0)))
    assert found["error"] == pytest.approx(float(difference / reference), rel=1e-6)
    assert found["excess"] == pytest.approx(0.5**2 / (1 - 0.5**2))
    assert 0.7 < found["error"] / found["theory"] < 1.4
    equal = tokens.compared(model, tokens.masked(lines, 0, "random", 0), tokens.BATCH, 1.0, 1.0)
    assert equal["error"] < 1e-12
    assert equal["theory"] == 0
    monkeypatch.setattr(tokens, "accumulate_samples", accumulate_tokens)
    assert tokens.compared(model, dataset, tokens.BATCH, 1.0, 1.0)["error"] == 0


def test_the_theory_of_token_counts_holds_for_noise_that_meets_its_assumption():
    generator = torch.Generator().manual_seed(0)
    counts = torch.tensor([3.0, 5.0, 20.0, 4.0])
    signal = torch.ones(50)
    noise = torch.randn(4000, 4, 50, generator=generator) / counts.sqrt()[:, None]  # S = 50
    due = counts / counts.sum()
    difference, mean = (
        torch.einsum("k,wkp->wp", w, signal + noise).square().sum(dim=1).mean() for w in (1 / 4 - due, due)
    )
    excess = counts.mean() * (1 / counts).mean() - 1
    assert float(difference) == pytest.approx(float(50 / counts.sum() * excess), rel=0.02)
    assert float(mean) == pytest.approx(float(50 + 50 / counts.sum()), rel=0.02)
