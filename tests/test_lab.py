"""The workbench: runs resume, rows do not depend on the workers, results are whole and repeat to the byte."""

import pandas as pd
import pytest
import torch

from experiments import error_by_step
from experiments.__main__ import complaint_of, main
from experiments.lab.runner import Bench
from experiments.lab.writer import provenance, write_atomically

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


def test_finished_cases_are_forgotten_and_those_of_other_runs_stay(tmp_path):
    bench = Bench(partial=tmp_path / "partial")
    other = tmp_path / "partial" / "other.jsonl"
    bench.map(square, [{"number": 5}])
    other.write_text("")
    name = __name__.removeprefix("experiments.")
    bench.forget(name)
    assert [*other.parent.iterdir()] == [other]
    other.unlink()
    bench.forget(name)
    assert not other.parent.exists()


@pytest.mark.slow
def test_rows_do_not_depend_on_the_number_of_jobs():
    frames = [error_by_step.run(Bench(jobs=jobs)) for jobs in (0, 2)]
    pd.testing.assert_frame_equal(*frames, check_exact=True)


@pytest.mark.slow
def test_an_experiment_repeats_to_the_byte(tmp_path):
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


def test_numbers_that_are_not_as_claimed_are_told():
    def check(numbers):
        assert numbers["error"] < 1, f"an error of {numbers['error']}"

    assert complaint_of(check, {"error": 0}) == ""
    assert complaint_of(check, {"error": 2}).startswith("an error of 2")
