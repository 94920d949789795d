import json
import os
import re
import subprocess
import sys

import pytest
from accumcheck import cli, isolated
from accumcheck.adapters import Adapter
from accumcheck.cli import main
from accumcheck.worker import judge

LOOPS = """
import os
import sys
from accumcheck.corpus.published import accumulate_samples, early_first_step, published_fix
from accumcheck.corpus.wrong import skips_at_random

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

def leaves(task):
    os._exit(0)

def moves(task):
    os.chdir("/")
    os.umask(0o777)
    accumulate_samples(task)

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
    ("function", "objective", "verdict", "ids"),
    [
        ("Trainer.train", "sample", "equivalent", []),
        ("Trainer.train", "token", "diverges", ["token-weighting"]),
        ("Trainer.train", "both", "diverges", ["token-weighting"]),
        ("published_fix", "sample", "diverges", ["tail-scaled-by-k", "mean-of-means"]),
        ("skips_at_random", "sample", "error", ["nondeterministic"]),
        ("raises", "sample", "error", []),
    ],
)
def test_json_is_the_contract(loops, function, objective, verdict, ids):
    target = f"{loops}:{function}"
    found = judge(target, objective=objective)["object"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert list(found) == [
        "loop", "verdict", "objectives", "findings", "program", "counterexample", "matrix", "error", "versions",
    ]  # fmt: skip
    assert found["loop"] == target
    assert found["verdict"] == verdict
    assert [finding["id"] for finding in found["findings"]] == ids
    assert set(found["versions"]) == {"accumcheck", "torch", "python"}
    assert (found["error"] is None) == (verdict != "error")
    if verdict != "error":
        assert set(found["objectives"]) == {"sample", "token"}
        assert (found["counterexample"] is None) == (verdict == "equivalent")
    for finding in found["findings"]:
        keys = "id", "step", "epoch", "samples", "weight", "due", "ratio", "message", "fix", "where"
        assert tuple(finding) == keys


def test_the_finding_of_the_published_fix(loops):
    found = judge(f"{loops}:published_fix")["object"]
    assert found["counterexample"] == {"samples": 1, "micro_batch_size": 1, "accumulation_steps": 2, "epochs": 1}
    assert found["findings"][0] == {
        "id": "tail-scaled-by-k",
        "step": 0,
        "epoch": 0,
        "samples": [0],
        "weight": "1/2",
        "due": "1",
        "ratio": 0.5,
        "message": "The last, short window of each epoch is divided by k, though it holds fewer than k "
        "micro-batches. Its update is too small. At n=1, b=1, k=2, epochs=1: in update 0, the weight of sample 0 is "
        "1/2, it should be 1.",
        "fix": "loss = loss_fn(outputs, targets) * len(targets) / samples_in_window",
        "where": found["findings"][0]["where"],
    }
    assert found["findings"][0]["where"].startswith("harness/accumcheck/corpus/published.py:")
    assert found["matrix"] == {"weights": [["1/2"]], "should_be": [["1"]]}
    assert found["program"]["scale"] == "loss = loss_fn(outputs, targets) / k"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nowhere.py:train", "there is no file 'nowhere.py'"),
        ("no.such.module:train", "importing 'no.such.module' raised ModuleNotFoundError: No module named 'no'"),
        (
            "accumcheck.corpus.published",
            "a loop is named FILE.py:FUNCTION or package.module:FUNCTION, got 'accumcheck.corpus.published'",
        ),
        ("{}:trian", "has no function 'trian'; it has Trainer, raises, hangs, idle, exits, leaves, moves"),
        ("{}:NUMBER", "is a int, not a function of one argument: def train(task): ..."),
        ("{}:raises", "raises raised RuntimeError at n=7, b=1, k=4, epochs=2, after 0 optimizer steps: out of luck"),
        ("{}:exits", "exits raised SystemExit at n=7, b=1, k=4, epochs=2, after 0 optimizer steps: 3"),
        ("{}:hangs", "hangs did not end within 0.3 seconds at n=7, b=1, k=4, epochs=2 (0 optimizer steps)"),
        ("{}:idle", "idle: no torch optimizer that holds task.model's parameters stepped"),
    ],
)
def test_errors_say_what_to_do(loops, target, message):
    result = judge(target.format(loops), time_limit=0.3)
    assert result["object"]["verdict"] == "error"
    assert message in result["object"]["error"]
    assert result["text"] == f"accumcheck: {target.format(loops)}: {result['object']['error']}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "nope"}, "device 'nope' cannot be used here: "),
        ({"device": "cuda:77"}, "device 'cuda:77' cannot be used here: "),
        ({"seed": 2**63}, "seed must be a whole number of 64 bits, got 9223372036854775808"),
        ({"time_limit": 0}, "a time limit must be above 0 seconds, got 0"),
        ({"ranks": 2, "time_limit": 0}, "a time limit must be above 0 seconds, got 0"),
        ({"ranks": 2, "seed": 2**63}, "seed must be a whole number of 64 bits, got 9223372036854775808"),
    ],
)
def test_errors_of_arguments_are_not_the_loops(loops, options, message):
    assert judge(f"{loops}:Trainer.train", **options)["object"]["error"].startswith(message)


def test_a_crash_of_accumcheck_itself_is_an_error_that_says_where(loops, monkeypatch):
    monkeypatch.setattr("accumcheck.check.judge_exactly", None)
    found = judge(f"{loops}:Trainer.train")["object"]
    assert found["verdict"] == "error"
    assert re.match(r"accumcheck itself failed, at check\.py:\d+, with TypeError: .*", found["error"])


def test_the_command_judges_every_loop_and_keeps_stdout_for_verdicts(capfd, loops):
    targets = [f"{loops}:{name}" for name in ("Trainer.train", "early_first_step", "raises", "leaves")]
    status, out, err = run(capfd, *targets)
    assert status == 2
    head = f"✓ {targets[0]} is full-batch training, if your loss is a mean over samples"
    assert " ".join(out.split()).startswith(head)
    assert "early-first-step" in out[out.index("counterexample") :]
    assert f"accumcheck: {targets[2]}: raises raised RuntimeError at n=7, " in err
    assert "noise while importing" in err
    assert "noise" not in out
    status, out, _ = run(capfd, *targets, "--json")
    assert status == 2
    (line,) = out.splitlines()
    found = json.loads(line)
    assert [each["loop"] for each in found] == targets
    assert [each["verdict"] for each in found] == ["equivalent", "diverges", "error", "error"]
    assert {tuple(each) for each in found} == {tuple(found[0])}


@pytest.mark.parametrize(
    ("verdicts", "status"),
    [
        (["equivalent"], 0),
        (["equivalent", "diverges", "inconclusive"], 1),
        (["diverges", "error"], 2),
        (["equivalent", "inconclusive"], 3),
    ],
)
def test_the_exit_status_is_that_of_the_worst(capsys, monkeypatch, verdicts, status):
    objects = [{"loop": v, "verdict": v, "findings": [], "counterexample": None} for v in verdicts]
    monkeypatch.setattr(isolated, "judged", lambda *_: iter([{"object": o, "text": "text"} for o in objects]))
    assert run(capsys, "a.py:f", "--json")[0] == status
    assert run(capsys, "a.py:f")[0] == status


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "accumcheck: interrupted: there is no verdict\n"),
        (KeyError("key"), 2, "accumcheck: accumcheck itself failed, with KeyError: 'key'\n"),
    ],
)
def test_what_stops_the_command_is_one_sentence(capsys, monkeypatch, error, status, message):
    def judged(*_):
        raise error

    monkeypatch.setattr(isolated, "judged", judged)
    assert run(capsys, "a.py:f") == (status, "", message)


@pytest.mark.parametrize(("suffix", "head"), [("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_figures_are_the_same_bytes_and_whole(loops, tmp_path, suffix, head):
    pictures = [tmp_path / f"{name}.{suffix}" for name in "ab"]
    for picture in pictures:
        assert judge(f"{loops}:early_first_step", figure=str(picture))["object"]["verdict"] == "diverges"
    assert pictures[0].read_bytes().startswith(head)
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == f".{suffix}") == [
        "a." + suffix,
        "b." + suffix,
    ]


def test_a_loop_that_moves_does_not_move_the_figure(capfd, loops, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(capfd, "my_loops.py:moves", "--figure", "a.svg")[0] == 0
    assert (tmp_path / "a.svg").read_bytes().startswith(b"<?xml")
    assert (tmp_path / "a.svg").stat().st_mode & 0o444


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
        (["--time-limit", "0"], "argument --time-limit: a time limit is a number of seconds above 0, got '0'"),
        (["--time-limit", "nan"], "argument --time-limit: a time limit is a number of seconds above 0, got 'nan'"),
    ],
)
def test_bad_calls(capsys, options, message):
    with pytest.raises(SystemExit, match="2"):
        main(["check", "a.py:f", *options])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("words", ["--help", "--version", "recipe", "check --help", "run --help", "chekc", ""])
def test_what_needs_no_torch_imports_none(words):
    code = (
        "import sys; from accumcheck.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'hypothesis', 'matplotlib', 'numpy', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code, *words.split()], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "Is your gradient accumulation the big batch that it claims to be? Ask:\n\n  accumcheck run train.py"),
        (
            "my_loop.py:train",
            "accumcheck: 'my_loop.py:train' is no command: did you mean accumcheck check my",
        ),
        ("train.py --lr 1", "accumcheck: 'train.py' is no command: did you mean accumcheck run train.py, or accumche"),
        ("chekc a.py:f", "accumcheck: 'chekc' is no command: choose from run, check, compare, recipe, init, framew"),
    ],
)
def test_what_was_meant_is_said(capsys, words, message):
    assert main(words.split()) == 2
    assert capsys.readouterr().err.startswith(message)


class Terminal:
    """Standard error that says it is a terminal, and keeps what is written."""

    def __init__(self, *, terminal):
        self.text, self.terminal = "", terminal

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return self.terminal


class Running:
    """A child that is at a loop."""

    target, runs, sizes = "my_loop.py:train", 12, "n=11, b=2, k=4, epochs=3"


@pytest.mark.parametrize(
    ("terminal", "silent", "shown"),
    [
        (True, False, "\rmy_loop.py:train: 12 runs, n=11, b=2, k=4, epochs=3\x1b[K\r\x1b[K"),
        (False, False, "accumcheck: my_loop.py:train: 12 runs, n=11, b=2, k=4, epochs=3 ...\n"),
        (True, True, ""),
        (False, True, ""),
    ],
)
def test_progress_is_shown_of_what_lasts(monkeypatch, terminal, silent, shown):
    clock, err = [100.0], Terminal(terminal=terminal)
    monkeypatch.setattr(cli.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(sys, "stderr", err)
    progress = cli.Progress(silent=silent)
    progress.show(Running)
    clock[0] += 1.9 if terminal else 9.9
    progress.show(Running)
    progress.clear()
    assert err.text == ""
    progress.show(Running)
    clock[0] += 2.1 if terminal else 10.1
    progress.show(Running)
    progress.show(Running)  # at once again
    progress.clear()
    assert err.text == shown


RIGHT = "from accumcheck.corpus.published import accumulate_samples as train\n"


@pytest.mark.parametrize(
    ("file", "loop", "test"),
    [
        ("mine.py", "mine.py:train", "test_mine.py"),
        pytest.param("mine.py", "mine.py:train", "tests/unit/test_mine.py", marks=pytest.mark.slow),
        pytest.param("mine.py", "mine:train", "tests/test_mine.py", marks=pytest.mark.slow),
        pytest.param("mine.py", "./mine.py:train", "tests/test_mine.py", marks=pytest.mark.slow),
        ("pack/mine.py", "pack/mine.py:train", "tests/test_mine.py"),
        pytest.param("pack/mine.py", "pack.mine:train", "pack/test_mine.py", marks=pytest.mark.slow),
        pytest.param("mine.py", "{here}/mine.py:train", "{other}/test_mine.py", marks=pytest.mark.slow),
        pytest.param("tests/mine.py", "mine.py:train", "tests/test_mine.py", marks=pytest.mark.slow),
    ],
)
def test_init_writes_a_test_that_can_import_its_loop(capsys, tmp_path, monkeypatch, file, loop, test):
    here, other = tmp_path / "here", tmp_path / "other"
    for folder in (here / "tests" / "unit", here / "pack", other):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    (here / file).write_text(RIGHT)
    test = test.format(other=other)
    assert main(["init", test, "--loop", loop.format(here=here)]) == 0
    assert f"run pytest {test}" in capsys.readouterr().out
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider", test]
    done = subprocess.run([*command[:1], "-P", *command[1:]], capture_output=True, text=True, check=False)
    assert "test_equivalence[accumulate_samples-sample]" in done.stdout, done.stdout


def test_init_leaves_alone_what_is_there(capsys, tmp_path):
    path = tmp_path / "test_mine.py"
    (tmp_path / "mine.py").write_text(RIGHT)
    assert main(["init", str(path), "--loop", "mine.py:train"]) == 0
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout
    before = path.read_text()
    assert main(["init", str(path)]) == 2
    assert f"{str(path)!r} exists and is yours: choose another name" in capsys.readouterr().err
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("loop", "message"),
    [
        ("train", "--loop is named FILE.py:FUNCTION or package.module:FUNCTION, got 'train'"),
        ("my-loop:train", "--loop is named FILE.py:FUNCTION or package.module:FUNCTION, got 'my-loop:train'"),
        ("nowhere.py:train", "there is no file 'nowhere.py'"),
        ("../above.py:train", "a test cannot import '../above.py': give a path below this directory"),
        (
            "my-loop.py:train",
            "a test cannot import 'my-loop.py': give a path below this directory, of names that Python",
        ),
    ],
)
def test_init_says_what_to_give(capsys, tmp_path, monkeypatch, loop, message):
    (tmp_path / "here").mkdir()
    (tmp_path / "above.py").write_text(RIGHT)
    (tmp_path / "here" / "my-loop.py").write_text(RIGHT)
    monkeypatch.chdir(tmp_path / "here")
    assert main(["init", "test_mine.py", "--loop", loop]) == 2
    assert f"accumcheck: {message}" in capsys.readouterr().err
    assert not (tmp_path / "here" / "test_mine.py").exists()


def test_frameworks_prints_what_is_installed(capsys):
    assert main(["frameworks", "nanogpt", "book_after", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == ["nanogpt", "book_after"]
    assert rows[1]["cells"]["tail"] == {"kind": "differs", "text": "1/4 for 1/3", "finding": "tail-scaled-by-k"}
    assert rows[0]["cells"]["tail"] == {"kind": "none", "text": "does not occur", "finding": ""}
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


def test_frameworks_are_a_grid_of_marks(capsys, monkeypatch):
    from accumcheck import adapters  # noqa: PLC0415

    chosen = [a for a in adapters.ADAPTERS if a.id in ("book_after", "nanogpt")]
    missing = next(a for a in adapters.ADAPTERS if a.id == "lightning")
    monkeypatch.setattr(type(missing), "version", property(lambda self: None if self.id == "lightning" else "1"))
    monkeypatch.setattr(adapters, "ADAPTERS", [*chosen, missing])
    assert main(["frameworks"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "= as full-batch training   o another policy   x different   . does not occur, or yours to write"
    assert out[2:4] == ["            full window", "            |  tail"]
    assert "book_after  =  x  =  .  .  .  .  x" in out
    assert "1 not installed: lightning" in out


def test_marks_are_plain_where_the_terminal_knows_no_others(tmp_path):
    (tmp_path / "mine.py").write_text(RIGHT)
    done = subprocess.run(
        [sys.executable, "-m", "accumcheck", "check", "mine.py:train"],
        cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert done.stdout.startswith("+ mine.py:train is full-batch training")
