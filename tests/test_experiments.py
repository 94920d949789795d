"""The experiments: each runs, draws and sums up; the bench resumes; results are whole and repeat to the byte."""

import importlib
import json

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from experiments import NAMES
from experiments.__main__ import main
from experiments.bench import Bench
from experiments.results import RESULTS, provenance, write, write_atomically
from experiments.trainer_case import HEADS
from harness.task import Sizes

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
