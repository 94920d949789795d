import json
import re
import subprocess
import sys

import pytest

from harness.adapters import Adapter
from harness.cli import load, main
from harness.task import LoopError

LOOPS = """
import sys
from harness.loops import accumulate_samples, early_first_step, published_fix
from harness.bugs import skips_at_random

print("noise while importing")

class Trainer:
    @staticmethod
    def train(task):
        print("noise while training")
        accumulate_samples(task)

def raises(task):
    raise RuntimeError("out of luck")

def hangs(task):
    while True:
        pass

def idle(task):
    pass

def exits(task):
    sys.exit(3)

NUMBER = 3
"""


@pytest.fixture
def loops(tmp_path):
    path = tmp_path / "my_loops.py"
    path.write_text(LOOPS)
    return str(path)


def run(capsys, *arguments):
    status = main(["check", *arguments])
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.parametrize(
    ("function", "options", "status", "ids"),
    [
        ("Trainer.train", [], 0, []),
        ("Trainer.train", ["--objective", "token"], 1, ["token-weighting"]),
        ("Trainer.train", ["--objective", "both"], 1, ["token-weighting"]),
        ("published_fix", [], 1, ["tail-scaled-by-k", "mean-of-means"]),
        ("skips_at_random", [], 2, ["nondeterministic"]),
        ("raises", [], 2, []),
    ],
)
def test_json_is_the_contract(capsys, loops, function, options, status, ids):
    target = f"{loops}:{function}"
    got, out, _ = run(capsys, target, "--json", *options)
    assert got == status
    (line,) = out.splitlines()
    found = json.loads(line)
    assert list(found) == [
        "loop", "verdict", "objectives", "findings", "counterexample", "error", "versions",
    ]  # fmt: skip
    assert found["loop"] == target
    assert found["verdict"] == {0: "equivalent", 1: "diverges", 2: "error"}[status]
    assert [finding["id"] for finding in found["findings"]] == ids
    assert set(found["versions"]) == {"accumcheck", "torch", "python"}
    assert (found["error"] is None) == (status != 2)
    if status != 2:
        assert set(found["objectives"]) == {"sample", "token"}
        assert (found["counterexample"] is None) == (status == 0)
    for finding in found["findings"]:
        assert set(finding) == {"id", "step", "epoch", "samples", "ratio", "message", "fix"}


def test_the_finding_of_the_published_fix(capsys, loops):
    _, out, _ = run(capsys, f"{loops}:published_fix", "--json")
    found = json.loads(out)
    assert found["counterexample"] == {"samples": 1, "micro_batch_size": 1, "accumulation_steps": 2, "epochs": 1}
    assert found["findings"][0] == {
        "id": "tail-scaled-by-k",
        "step": 0,
        "epoch": 0,
        "samples": [0],
        "ratio": 0.5,
        "message": "a short window is divided by its own size; but at n=1, b=1, k=2, epochs=1, optimizer step 0: "
        "the window of micro-batch 0 is divided by k=2, not by its own 1",
        "fix": "loss = loss_fn(outputs, targets) * len(targets) / samples_in_window",
    }


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nowhere.py:train", "there is no file 'nowhere.py'"),
        ("no.such.module:train", "importing 'no.such.module' raised ModuleNotFoundError: No module named 'no'"),
        ("harness.loops", "a loop is named FILE.py:FUNCTION or package.module:FUNCTION, got 'harness.loops'"),
        ("{}:trian", "has no function 'trian'; it has Trainer, raises, hangs, idle, exits"),
        ("{}:NUMBER", "is a int, not a function of one argument: def train(task): ..."),
        ("{}:raises", "raises raised RuntimeError at n=7, b=1, k=4, epochs=2, after 0 optimizer steps: out of luck"),
        ("{}:exits", "exits raised SystemExit at n=7, b=1, k=4, epochs=2, after 0 optimizer steps: 3"),
        ("{}:hangs", "hangs did not end within 0.3 seconds at n=7, b=1, k=4, epochs=2 (0 optimizer steps)"),
        ("{}:idle", "idle never called optimizer.step() on a parameter of task.model"),
    ],
)
def test_errors_have_status_2_and_say_what_to_do(capsys, loops, target, message):
    status, out, err = run(capsys, target.format(loops), "--time-limit", "0.3")
    assert (status, out) == (2, "")
    assert message in err


def test_several_loops_make_a_table_and_a_list(capsys, loops):
    targets = [f"{loops}:Trainer.train", f"{loops}:early_first_step", f"{loops}:raises"]
    status, out, _ = run(capsys, *targets)
    assert status == 2
    table = out[out.index("counterexample") :]
    assert re.search(r"early-first-step", table)
    status, out, _ = run(capsys, *targets, "--json")
    assert [found["verdict"] for found in json.loads(out)] == ["equivalent", "diverges", "error"]


@pytest.mark.parametrize(("suffix", "head"), [("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_figures_are_the_same_bytes_and_whole(capsys, loops, tmp_path, suffix, head):
    pictures = [tmp_path / f"{name}.{suffix}" for name in "ab"]
    for picture in pictures:
        assert run(capsys, f"{loops}:early_first_step", "--figure", str(picture))[0] == 1
    assert pictures[0].read_bytes().startswith(head)
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == f".{suffix}") == [
        "a." + suffix,
        "b." + suffix,
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--figure", "plot.pdf"], "--figure writes .svg or .png, got 'plot.pdf'"),
        (["--figure", "no/such/plot.svg"], "there is no directory 'no/such' for the figure plot.svg"),
        (["b.py:g", "--figure", "a.svg"], "--figure draws one loop, got 2"),
        (["--objective", "word"], "invalid choice: 'word'"),
        (["--ranks", "0"], "argument --ranks: a number of ranks is at least 1, got '0'"),
        (["--ranks", "-1"], "argument --ranks: a number of ranks is at least 1, got '-1'"),
        (["--ranks", "2", "--device", "cuda"], "--ranks runs on the CPU, got --device cuda"),
    ],
)
def test_bad_calls(capsys, options, message):
    with pytest.raises(SystemExit, match="2"):
        main(["check", "a.py:f", *options])
    assert message in capsys.readouterr().err


def test_the_whole_process_keeps_stdout_clean(loops):
    command = [sys.executable, "-m", "harness.cli", "check", f"{loops}:Trainer.train", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert json.loads(done.stdout)["verdict"] == "equivalent"
    assert len(done.stdout.splitlines()) == 1


def test_load_takes_modules_and_files(loops):
    assert load("harness.loops:published_fix").__name__ == "published_fix"
    assert load(f"{loops}:Trainer.train").__name__ == "train"
    with pytest.raises(LoopError, match="got 'x:'"):
        load("x:")


def test_init_writes_a_test_that_runs_and_is_left_alone(capsys, tmp_path):
    path = tmp_path / "test_mine.py"
    (tmp_path / "mine.py").write_text("from harness.loops import accumulate_samples as train\n")
    assert main(["init", str(path), "--loop", "mine.py:train"]) == 0
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    before = path.read_text()
    assert main(["init", str(path)]) == 2
    assert f"{str(path)!r} exists and is yours: choose another name" in capsys.readouterr().err
    assert path.read_text() == before
    assert main(["init", str(tmp_path / "other.py"), "--loop", "train"]) == 2


def test_frameworks_prints_what_is_installed(capsys):
    assert main(["frameworks", "nanogpt", "book_after", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == ["nanogpt", "book_after"]
    assert rows[1]["cells"]["tail"] == {"kind": "differs", "text": "1/4 for 1/3"}
    assert rows[0]["cells"]["tail"] == {"kind": "policy", "text": "stream"}
    assert main(["frameworks", "book_after"]) == 0
    assert "tail: 1/4 for 1/3" in capsys.readouterr().out


def test_frameworks_says_what_is_missing_or_unknown(capsys, monkeypatch):
    assert main(["frameworks", "lightening"]) == 2
    assert "no framework 'lightening': choose from hf_trainer, " in capsys.readouterr().err
    monkeypatch.setattr(Adapter, "version", property(lambda self: None if self.package == "lightning" else "1"))
    assert main(["frameworks", "lightning", "book_after", "--json"]) == 2
    printed = capsys.readouterr()
    assert [row["name"] for row in json.loads(printed.out)] == ["book_after"]
    assert printed.err == "accumcheck: lightning: lightning is not installed: pip install lightning\n"
