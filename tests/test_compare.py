"""Two runs of a script: right and wrong ones, and commands that cannot be compared."""

import json
import math
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
import torch
from accumcheck.cli import main
from accumcheck.scripts.compare import (
    Command,
    CompareError,
    Difference,
    Outcome,
    Pair,
    _doubts,
    _judge,
    _order,
    _run,
)
from accumcheck.text import _times
from accumcheck.text import compared as text

DIGITS = Path(__file__).parent / "scripts/known/digits_mlp.py"
SCRIPT = '''
"""A small training script; --wrong makes it so."""
import argparse, sys
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser()
for name, value in {"batch": 8, "accum": 1, "samples": 22, "width": 5, "data": 1, "wrong": "", "save": ""}.items():
    parser.add_argument(f"--{name}", type=type(value), default=value)
args = parser.parse_args()
k, wrong = args.accum, args.wrong
stream = torch.Generator().manual_seed(args.data)
x, y = torch.randn(args.samples, 6, generator=stream), torch.randn(args.samples, 1, generator=stream)
if wrong != "seed":
    torch.manual_seed(0)
norm = nn.BatchNorm1d(args.width) if wrong.startswith("norm") else nn.Identity()
act = nn.Sequential(nn.Dropout(0.2), nn.Tanh())
model = nn.Sequential(nn.Linear(6, args.width), norm, act, nn.Dropout(0.5), nn.Linear(args.width, 1))
loader = DataLoader(TensorDataset(x, y), batch_size=args.batch, shuffle=wrong != "order")
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for epoch in range(0 if wrong == "idle" else 2):
    batches = list(loader)
    for i in range(0, len(batches), k):
        window = batches[i : i + k]
        count = sum(len(targets) for _, targets in window)
        for inputs, targets in window:
            with torch.autocast("cpu", torch.bfloat16, enabled="half" in wrong):
                outputs = model(inputs)
            loss = nn.functional.mse_loss(outputs.float(), targets)
            if "tail" in wrong:
                loss = loss / k
            elif wrong not in ("unscaled", "clipped"):
                loss = loss * len(targets) / count
            loss.backward()
        if "clipped" in wrong:
            nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        if wrong == "rate":
            optimizer.param_groups[0]["lr"] = 0.01 / k
        if wrong == "drops" and i + k > len(batches):
            continue
        if wrong == "closure":
            optimizer.step(lambda: loss)
        else:
            optimizer.step()
        optimizer.zero_grad()
if args.save:
    torch.save([*model.parameters()], args.save)
'''
REQUEST = {"pin": True, "keep_dropout": False, "updates": None, "neutral": 0}
WINDOWS = ("--batch", "2", "--accum", "4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("compare")
    (path / "train.py").write_text(SCRIPT)
    return path


@pytest.fixture(scope="module")
def trace(folder):
    """Runs the script in a process and gives its trace, once for each request."""
    known = {}

    def traced(*arguments, **request):
        key = (arguments, *request.items())
        if key not in known:
            command = Command.parse(["python", str(folder / "train.py"), *arguments])
            known[key] = _run(command, "second", Path(tempfile.mkdtemp(dir=folder), "run"), {**REQUEST, **request})
        return known[key]

    return traced


@pytest.fixture
def judge(trace):
    """The verdict on the script, as it is with full batches, beside the script with other arguments."""

    def judged(*arguments, first=(), **request):
        noise = [trace(*first, **request, neutral=each) for each in (1, 2)]
        return _judge(trace(*first, **request), trace(*arguments, **request), noise, ["first", "second"])

    return judged


def run(capsys, *arguments):
    status = main(["compare", *arguments])
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.slow
def test_a_right_script_is_equivalent_from_the_shell(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    command = ["--", "python", str(folder / "train.py")]
    status, out, err = run(capsys, "--json", "--updates", "3", *command, *command, *WINDOWS)
    found = json.loads(out)
    assert (status, found["verdict"], found["updates"], found["steps"], err) == (0, "equivalent", [], [3, 3], "")
    assert 0 < found["noise"] < 1e-5
    assert not list(tmp_path.glob("accumcheck-*"))  # torch leaves a folder of its own


@pytest.mark.slow
def test_a_defect_is_named_by_its_factor(judge):
    tail, unscaled = judge(*WINDOWS, "--wrong", "tail"), judge(*WINDOWS, "--wrong", "unscaled")
    assert [pair.update for pair in tail.wrong] == [2, 5]
    assert tail.wrong[0].ratio == pytest.approx(0.75)
    assert "At update 2, the gradient is 0.75 times that of the first command." in text(tail)
    assert len(unscaled.wrong) == 6
    assert unscaled.as_dict()["ratio"] == pytest.approx(4)


@pytest.mark.slow
def test_right_variants_are_equivalent(judge):
    assert judge(*WINDOWS).verdict == "equivalent"
    assert judge("--batch", "3", "--accum", "1", first=("--batch", "3")).verdict == "equivalent"
    assert judge(*WINDOWS, "--wrong", "closure").verdict == "equivalent"


@pytest.mark.slow
def test_batch_norm_diverges_as_no_loop_makes_it_equal(judge):
    found = judge(*WINDOWS, "--wrong", "norm", first=("--wrong", "norm"))
    assert found.verdict == "diverges"
    assert found.wrong[0].across > 0.01
    assert any("BatchNorm" in reason for reason in found.reasons)


@pytest.mark.slow
def test_dropout_diverges_where_it_is_kept(judge):
    assert judge(*WINDOWS, keep_dropout=True).verdict == "diverges"


@pytest.mark.slow
def test_gradients_are_compared_before_clipping(judge):
    found = judge(*WINDOWS, "--wrong", "clipped", first=("--wrong", "right-clipped"))
    assert found.wrong[0].before_clipping
    assert found.wrong[0].ratio == pytest.approx(4)
    assert judge(*WINDOWS, "--wrong", "right-clipped", first=("--wrong", "right-clipped")).verdict == "equivalent"


@pytest.mark.slow
def test_learning_rates_and_counts_of_updates_are_compared(judge):
    rate, drops = judge(*WINDOWS, "--wrong", "rate"), judge(*WINDOWS, "--wrong", "drops")
    assert rate.wrong[0].rates == (0.01, 0.0025)
    assert "the learning rate is 0.0025, and 0.01 in the first" in text(rate)
    assert drops.verdict == "diverges"
    assert "the first command makes 6 updates, the second 4" in drops.reasons


@pytest.mark.slow
def test_rounding_under_autocast_is_no_divergence(judge):
    half = ("--wrong", "half")
    assert judge(*WINDOWS, *half, first=half).verdict in ("equivalent", "inconclusive")
    assert judge(*WINDOWS, "--wrong", "half-tail", first=half).wrong[0].update == 2


@pytest.mark.slow
def test_another_order_has_a_line_of_its_own(judge):
    assert any(reason.startswith("sample order: ") for reason in judge(*WINDOWS, "--wrong", "order").reasons)


@pytest.mark.slow
def test_only_put_back_parameters_show_where_the_fault_is(judge):
    pinned, free = judge(*WINDOWS, "--wrong", "tail"), judge(*WINDOWS, "--wrong", "tail", pin=False)
    assert [len(pinned.wrong), len(free.wrong)] == [2, 4]
    assert free.wrong[0].update == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--width", "6"], "different models: 0.weight is [5, 6] and then [6, 6]"),
        (["--wrong", "norm"], "different models: only the second updates 1.bias, 1.weight"),
        (["--samples", "30"], "different data: 22 samples in the first, 30 in the second"),
        (["--data", "2"], "different data: samples of the same index hold other numbers"),
        (["--wrong", "idle"], "made no step of a torch optimizer"),
        (["--wrong", "seed"], "start from other parameters: set the same seed"),
    ],
)
def test_what_cannot_be_compared_is_an_error(judge, arguments, message):
    with pytest.raises(CompareError) as raised:
        judge(*arguments)
    assert message in str(raised.value)


@pytest.mark.slow
def test_a_script_without_a_seed_is_inconclusive(judge):
    found = judge(first=("--wrong", "seed"))
    assert (found.verdict, found.pairs) == ("inconclusive", [])
    assert "set a seed" in found.reasons[0]


@pytest.mark.slow
def test_numbers_are_those_of_the_script(folder, trace):
    alone, watched = folder / "alone.pt", folder / "watched.pt"
    script = str(folder / "train.py")
    subprocess.run([sys.executable, script, "--save", str(alone)], check=True)
    trace("--save", str(watched), pin=False, keep_dropout=True)
    pairs = list(zip(torch.load(alone), torch.load(watched), strict=True))
    assert len(pairs) == 4
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


@pytest.mark.slow
def test_a_real_script_diverges_where_its_last_window_is_dropped(tmp_path, capsys):
    figure = tmp_path / "errors.svg"
    command = ["--", "OMP_NUM_THREADS=1", "python", str(DIGITS), "--epochs", "1"]
    status, out, _ = run(
        capsys,
        "--figure",
        str(figure),
        *command,
        "--grad-accum",
        "1",
        *command,
        "--batch-size",
        "2",
        "--grad-accum",
        "4",
    )
    assert status == 1
    assert "The first command makes 188 updates, the second 187." in out
    assert all(len(line) <= 80 for line in out.splitlines() if str(DIGITS) not in line)
    assert "relative error of the gradient" in figure.read_text()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise ValueError('out of luck')", "exit status 1"),
        ("import os; os._exit(4)", "exit status 4"),
        ("import os; os.kill(os.getpid(), 9)", "by SIGKILL"),
        ("print('done')", "made no step of a torch optimizer"),
    ],
)
def test_a_command_that_fails_is_quoted(tmp_path, capsys, code, message):
    script = tmp_path / "fails.py"
    script.write_text(code)
    command = ["--", "python", str(script), "--lr", "1"]
    status, out, err = run(capsys, *command, *command)
    assert (status, out) == (2, "")
    assert "the first command" in err
    assert message in err
    assert f"python {script} --lr 1" in err
    assert "out of luck" in err or "luck" not in code


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["torchrun", "train.py"], "'torchrun train.py' does not start with python"),
        (["train.py", "--lr", "1"], "type python train.py --lr 1"),
        (["A=1"], "does not start with python"),
        ([], "does not start with python"),
        (["python"], "names no script"),
        (["python", "-c", "1"], "names no script: write the code to a file"),
        (["B=2", "python3", "-u", "nowhere.py"], "there is no script 'nowhere.py'"),
    ],
)
def test_other_commands_are_refused(words, message):
    with pytest.raises(CompareError) as raised:
        Command.parse(words)
    assert message in str(raised.value)


def test_a_command_is_read_as_the_shell_does():
    command = Command.parse(["A=1", "B=x=y", "/usr/bin/python3.11", "-W", "ignore", "-m", "package.train", "-k", "4"])
    assert command.environment == {"A": "1", "B": "x=y"}
    assert command.python == ["/usr/bin/python3.11", "-W", "ignore"]
    assert (command.script, command.arguments, command.module) == ("package.train", ["-k", "4"], True)


@pytest.mark.parametrize("words", [[], ["--", "python", "a.py"], ["--"] * 3])
def test_two_commands_are_needed(capsys, words):
    status, _, err = run(capsys, *words)
    assert status == 2
    assert f"two commands are compared, got {words.count('--')}" in err


def test_nobody_reads(tmp_path):
    (tmp_path / "fails.py").write_text("raise SystemExit(1)")
    command = ["--", "python", "fails.py"]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "accumcheck", "compare", "--json", *command, *command],
        cwd=tmp_path,
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert done.returncode == 2
    assert "nobody reads what it prints" in done.stderr


def test_the_report_leads_with_the_ratio():
    wrong = Difference("fc.weight", 0.25, 1e-6, 1e-8, 0.75, 1.2e-7)
    right = Difference("fc.bias", 1e-8, 1e-6, 1e-8, 1.0, 1.2e-7)
    pair = Pair(3, [right, wrong], 0.75, 0.0, before_clipping=False)
    outcome = Outcome(["A", "B"], "diverges", [pair], (4, 4))
    assert text(outcome) == textwrap.dedent("""\
        The second command diverges from the first.
          first: A
          second: B

          At update 3, the gradient is 0.75 times that of the first command.
            fc.weight: 0.75 times, error 0.25, tolerance 1e-06
          1 of 1 updates differ: 3.""")
    assert list(outcome.as_dict()) == [
        "verdict", "commands", "updates", "tensors", "ratio", "noise", "steps", "reasons", "notes", "error", "versions"
    ]  # fmt: skip
    assert outcome.as_dict()["tensors"].keys() == {"fc.weight"}


@pytest.mark.parametrize(
    ("ratio", "words"),
    [(4.0, "4 times"), (0.75, "0.75 times"), (2 / 3, "0.6667 (2/3) times"), (0.5472, "0.5472 times"), (0.0, "0 times")],
)
def test_factors_are_named(ratio, words):
    assert _times(ratio) == words


def test_rounding_that_jumps_is_doubtful_not_wrong():
    jump = Difference("fc.weight", 1e-4, 1e-6, 1e-8, 1.0, 1.2e-7)
    assert not jump.is_wrong
    assert list(_doubts([Pair(2, [jump], 1.0, 0.0, before_clipping=False)])) == [
        "at update 2, the gradient of fc.weight differs by 0.0001: more than the noise, too little to be sure"
    ]
    assert Difference("dead", math.inf, 1.0, 0.0, math.nan, 1.2e-7).is_wrong


@pytest.mark.parametrize(
    ("ours", "theirs", "line"),
    [
        (["ab", "cd"], ["ab", "cd"], None),
        (["ab", "cd"], ["abc", "d"], None),  # a loader that runs ahead
        (["ab", "cd"], ["ab"], None),
        (
            ["ab", "cd"],
            ["ab", "dc"],
            "the same samples in another order are drawn before update 1: d c, and c d in the",
        ),
        (["ab", "cd"], ["ax", "cd"], "other samples are drawn before update 0: a x, and a b in the first command"),
    ],
)
def test_samples_are_compared_in_order(ours, theirs, line):
    drawn = [[[(name, name) for name in update] for update in run] for run in (ours, theirs)]
    lines = list(_order(*drawn))
    assert lines == [] if line is None else line in lines[0]
