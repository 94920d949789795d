"""The command ``run``: what it says, and what scripts may do to it; and the fixture for pytest."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from accumcheck.auditing import audit

from tests.forks import SCRIPTS, audited, in_fork

WRONG = """
import torch
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(0)
x = torch.randn({n}, 3)
model = torch.nn.Linear(3, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
accum = 4
for epoch in range(2):
    loader = DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=2)
    for i, (inputs, targets) in enumerate(loader):
        (torch.nn.functional.cross_entropy(model(inputs), targets) / accum).backward()
        if (i + 1) % accum == 0 or i + 1 == len(loader):
            optimizer.step()
            optimizer.zero_grad()
{end}
"""


def script(tmp_path, text):
    path = tmp_path / "train.py"
    path.write_text(text)
    return path


def command(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "accumcheck", *map(str, words)], capture_output=True, text=True, check=False, **options
    )


def test_the_report_says_what_is_wrong_and_what_was_not_seen(tmp_path):
    path = script(tmp_path, WRONG.format(n=13, end="print('done')"))
    run = command("run", "--json", path)
    printed, last = run.stdout.splitlines()
    assert printed == "done"
    report = json.loads(last)
    assert run.returncode == 1
    assert [f["id"] for f in report["findings"]] == ["tail-scaled-by-k", "mean-of-means"]
    assert report["findings"][0]["message"].endswith("is multiplied by 1/4, it should be by 2/5.")
    assert report["run"]["accumulation_steps"] == 4
    assert report["run"]["accumulation_steps_from"] == "variable accum"
    assert report["program"]["scale"].endswith("/ k")


def test_an_even_run_is_equivalent_and_says_what_it_did_not_show(tmp_path):
    report, printed = in_fork(audited, script(tmp_path, WRONG.format(n=16, end="")))
    assert report["verdict"] == "equivalent", printed
    assert any(line.startswith("a short last window") for line in report["run"]["not_seen"])


def test_fewer_samples_show_the_tail(tmp_path):
    path = script(tmp_path, WRONG.format(n=160, end=""))
    report, _ = in_fork(audited, path, samples=13)
    assert [f["id"] for f in report["findings"]] == ["tail-scaled-by-k", "mean-of-means"]


def test_a_run_that_is_ended_early_is_judged(tmp_path):
    path = script(tmp_path, WRONG.format(n=160, end="raise SystemExit('not reached')"))
    report, _ = in_fork(audited, path, updates=3)
    assert report["verdict"] == "equivalent"
    assert report["run"]["optimizers"] == [{"name": "SGD", "verdict": "equivalent", "updates": 3}]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("print('nothing')", "no torch optimizer was made"),
        ("import torch\ntorch.optim.SGD([torch.ones(1, requires_grad=True)], lr=1)", "no optimizer stepped"),
        (WRONG.format(n=16, end="raise ValueError('odd')"), "it raised ValueError: odd"),
        (WRONG.format(n=16, end="raise SystemExit(3)"), "it exited with status 3"),
    ],
)
def test_a_script_without_a_verdict_says_why(tmp_path, text, error):
    report, _ = in_fork(audited, script(tmp_path, text))
    assert report["verdict"] == "error"
    assert error in report["error"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "error"),
    [
        ("import os; os._exit(0)", "it ended its process with exit status 0"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "it was ended by SIGKILL"),
    ],
)
def test_a_script_that_ends_its_process_gives_no_verdict(tmp_path, end, error):
    run = command("run", script(tmp_path, WRONG.format(n=16, end=end)))
    assert run.returncode == 2
    assert error in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.slow
def test_a_script_that_swallows_the_end_is_ended_all_the_same(tmp_path):
    text = WRONG.format(n=160, end="").replace("            optimizer.step()", "            " + SWALLOWS)
    run = command("run", "--updates", "2", script(tmp_path, text), timeout=120)
    assert run.returncode == 0
    assert "in all" in run.stderr


SWALLOWS = """try:
                optimizer.step()
            except BaseException:
                pass"""


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["nosuch.py"], "there is no script 'nosuch.py' here"),
        (["-m", "no such"], "-m takes the name of a module, such as package.train, got 'no such'"),
        (["-k", "0", "x.py"], "it is a whole number of at least 1, got '0'"),
        (["--report", "nowhere/x.txt", "x.py"], "there is no directory 'nowhere' for the report x.txt"),
        ([], "there is no script to run"),
    ],
)
def test_bad_input_is_quoted(words, error, tmp_path):
    run = command("run", *words, cwd=tmp_path)
    assert run.returncode == 2
    assert error in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("options", [{"objective": "words"}, {"samples": 0}, {"updates": True}])
def test_arguments_that_make_no_sense_are_quoted(options):
    [(name, value)] = options.items()
    with pytest.raises(ValueError, match=f"{name} must be .*{value!r}"):
        audit(str(SCRIPTS / "known/published_fix.py"), **options)


def test_nothing_is_left_changed(tmp_path):
    before = torch.autograd.backward, torch.optim.Optimizer.__init__, torch.randperm, sys.argv, list(sys.path)
    audit(str(script(tmp_path, WRONG.format(n=16, end=""))))
    assert (torch.autograd.backward, torch.optim.Optimizer.__init__, torch.randperm, sys.argv, sys.path) == before


def test_the_figure_shows_the_wrong_window(tmp_path):
    pytest.importorskip("matplotlib")
    from accumcheck.figures import draw_script, save  # noqa: PLC0415 - needs matplotlib

    report = audit(str(script(tmp_path, WRONG.format(n=13, end=""))))
    figure = draw_script(report.judgement, "train.py")
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert "1/4" in texts
    assert "2/5" in {text.get_text() for text in figure.axes[1].texts}
    save(figure, tmp_path / "x.svg")
    assert (tmp_path / "x.svg").read_text().startswith("<?xml")


def test_the_fixture_keeps_a_script_right(pytester, tmp_path):
    path = script(tmp_path, WRONG.format(n=13, end=""))
    pytester.makepyfile(
        f"""
        def test_wrong(accumcheck_run):
            report = accumcheck_run({str(path)!r})
            assert not report
            assert "tail-scaled-by-k" in str(report)
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


pytest_plugins = ["pytester"]


TRAINS = """
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(0)
x, y = torch.randn({n}, 3), torch.randint(0, 2, ({n},))
model = torch.nn.Linear(3, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
accum = 4
{body}
"""
ONE_LOADER = """
for epoch in range(2):
    for i, (inputs, targets) in enumerate(DataLoader(TensorDataset(x, y), batch_size=2)):
        {inside}
        if (i + 1) % accum == 0:
            optimizer.step()
            optimizer.zero_grad(set_to_none={none})
"""
WORDS = (
    """
a, b = torch.nn.Embedding(500, 8), torch.nn.Embedding(500, 8)
optimizer = torch.optim.SGD([*a.parameters(), *b.parameters()], lr=0.5)
x, y = torch.randint(0, 500, (64,)), torch.randint(0, 500, (64,))
"""
    + ONE_LOADER
)
PIECES = """
for epoch in range(2):
    for inputs, targets in DataLoader(TensorDataset(x, y), batch_size=8):
        for rows in range(0, len(inputs), 2):
            piece = slice(rows, rows + 2)
            loss = F.cross_entropy(model(inputs[piece]), targets[piece])
            (loss * {weight}).backward()
        optimizer.step()
        optimizer.zero_grad()
"""
TURNS = """
loaders = [DataLoader(TensorDataset(x, y), batch_size=2), DataLoader(TensorDataset(x + 1, y), batch_size=2)]
for i, batches in enumerate(zip(*loaders)):
    for inputs, targets in batches:
        (F.cross_entropy(model(inputs), targets) / 4).backward()
    if i % 2:
        optimizer.step()
        optimizer.zero_grad()
"""


@pytest.mark.parametrize("none", [True, False])
def test_gradients_of_embeddings_are_seen_though_few_rows_move(tmp_path, none):
    inside = "(-F.logsigmoid((a(inputs) * b(targets)).sum(1)).mean() / accum).backward()"
    body = WORDS.format(inside=inside, none=none)
    report, printed = in_fork(audited, script(tmp_path, TRAINS.format(n=64, body=body)))
    assert report["verdict"] == "equivalent", (report, printed)


@pytest.mark.parametrize(
    ("body", "n", "verdict", "first"),
    [
        (PIECES.format(weight="len(targets[piece]) / len(targets)"), 29, "equivalent", None),
        (PIECES.format(weight="1 / -(-len(targets) // 2)"), 29, "diverges", "mean-of-means"),
        (TURNS, 64, "inconclusive", None),
        (
            ONE_LOADER.format(
                inside="(F.cross_entropy(model(inputs), targets, reduction='none').topk(1).values.mean() / accum)"
                ".backward()",
                none=True,
            ),
            64,
            "diverges",
            "batch-coupled",
        ),
        (
            ONE_LOADER.format(
                inside="optimizer.param_groups[0]['lr'] = 0.1 / (1 + i); "
                "(F.cross_entropy(model(inputs), targets) / accum).backward()",
                none=True,
            ),
            64,
            "inconclusive",
            None,
        ),
        (
            ONE_LOADER.format(inside="(F.cross_entropy(model(inputs), targets) / 7).backward()", none=True),
            64,
            "inconclusive",
            None,
        ),
    ],
    ids=["pieces", "pieces-mean-of-means", "turns", "hardest", "rates", "odd-factor"],
)
def test_kinds_of_scripts(tmp_path, body, n, verdict, first):
    report, printed = in_fork(audited, script(tmp_path, TRAINS.format(n=n, body=body)))
    assert report is not None, printed
    assert report["verdict"] == verdict, report
    if first:
        assert report["findings"][0]["id"] == first


def test_a_report_does_not_replace_a_directory(tmp_path):
    run = command("run", "--report", tmp_path, "x.py")
    assert run.returncode == 2
    assert f"--report writes a file, and {str(tmp_path)!r} is a directory" in run.stderr


def test_an_error_of_a_script_is_shown_without_our_frames(tmp_path):
    run = command("run", script(tmp_path, "def f():\n    raise ValueError('odd')\nf()\n"))
    assert run.returncode == 2
    assert "execute.py" not in run.stderr
    assert "ValueError: odd" in run.stderr


def test_one_of_several_ranks_is_not_judged_alone(tmp_path, monkeypatch):
    world = SimpleNamespace(is_available=lambda: True, is_initialized=lambda: True, get_world_size=lambda: 2)
    monkeypatch.setattr("accumcheck.scripts.watch.distributed", world)
    report, _ = in_fork(audited, script(tmp_path, WRONG.format(n=16, end="")))
    assert report["verdict"] == "inconclusive"
    assert "several ranks train together" in report["run"]["not_judged"][0]


def test_optimizers_of_which_the_same_is_to_be_said_stand_together():
    script = SCRIPTS / "fresh" / "optimizer_per_parameter.py"
    text, _ = in_fork(lambda: str(audit(str(script), ["--forget-biases"])))
    assert "✓ Optimizers 1, 3 of 4: SGD, 8 updates each\n" in text
    assert "✗ Optimizers 2, 4 of 4: SGD, 8 updates each\n" in text
    assert text.count("[gradients-not-reset]") == 1
    text, _ = in_fork(lambda: str(audit(str(script), [])))
    assert "✓ All 4 optimizers: SGD, 8 updates each\n" in text


JOINED = """
import torch
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(0)
x = torch.randn({n}, 3)
model = torch.nn.Linear(3, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
accumulation_steps = 4
loader = DataLoader(TensorDataset(x, {targets}), batch_size=2, shuffle=True)
for epoch in range(2):
    window = []
    for i, batch in enumerate(loader):
        window.append(batch)
        if len(window) == accumulation_steps or i + 1 == len(loader):
            inputs, targets = (torch.cat(parts) for parts in zip(*window[{first}:]))
            ({loss}).backward()
            optimizer.step()
            optimizer.zero_grad()
            window = []
"""
CLASSES = {"targets": "(x[:, 0] > 0).long()", "loss": "torch.nn.functional.cross_entropy(model(inputs), targets)"}
NUMBERS = {"targets": "x[:, :2]", "loss": "((model(inputs) - targets) ** 2).mean()"}


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        (CLASSES, []),
        (NUMBERS, None),
        ({**CLASSES, "loss": "torch.nn.functional.mse_loss(model(inputs)[:, 0], targets.float())"}, None),
        ({**CLASSES, "loss": CLASSES["loss"] + " * len(inputs) / 8"}, ["tail-scaled-by-k"]),
        ({**CLASSES, "first": 1}, ["gradients-lost"]),
    ],
    ids=["right", "numbers", "another target", "tail", "first left out"],
)
def test_a_pass_over_several_micro_batches_is_about_each_of_them_where_its_target_tells(tmp_path, changes, found):
    report, _ = in_fork(audited, script(tmp_path, JOINED.format(**{"n": 22, "first": 0, **changes})))
    assert report["verdict"] == ("inconclusive" if found is None else "diverges" if found else "equivalent")
    assert [each["id"] for each in report["findings"]][:1] == (found or [])
    assert found is not None or "several micro-batches together" in json.dumps(report)


MOVES = """
import torch
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(0)
x = torch.randn(24, 3)
model = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.Linear(16, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
average = [p.detach().clone() for p in model.parameters()]
accumulation_steps = 4
loader = DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=2)


@torch.no_grad()
def decay():
    for p in model.parameters():
        {how}


def swap():
    for p, kept in zip(model.parameters(), average):
        p.data, kept.data = kept.data.clone(), p.data.clone()


for epoch in range(2):
    for i, (inputs, targets) in enumerate(loader):
        {before}
        (torch.nn.functional.cross_entropy(model(inputs), targets) / accumulation_steps).backward()
        {behind}
        if (i + 1) % accumulation_steps == 0:
            optimizer.step()
            optimizer.zero_grad()
            {after}
"""


@pytest.mark.parametrize("how", ["p.mul_(1 - 1e-5)", "p.data.mul_(1 - 1e-5)", "p.data = p.data * (1 - 1e-5)"])
@pytest.mark.parametrize(
    ("places", "verdict"),
    [
        ({"behind": "decay()"}, "inconclusive"),
        ({"before": "decay()"}, "inconclusive"),
        ({"after": "decay()"}, "equivalent"),  # once an update, as full batches do
        ({"behind": "swap(); swap()"}, "equivalent"),
        ({}, "equivalent"),
    ],
    ids=str,
)
def test_parameters_that_are_changed_within_a_window_are_noticed(tmp_path, how, places, verdict):
    text = MOVES.format(how=how, **{"before": "pass", "behind": "pass", "after": "pass", **places})
    report, _ = in_fork(audited, script(tmp_path, text))
    assert report["verdict"] == verdict, report
    assert ("by something else than the optimizer, in 6 updates" in json.dumps(report)) == (verdict != "equivalent")


RESUMED = """
import torch
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(0)
x = torch.randn(26, 3)
model = torch.nn.Linear(3, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
accum = 4
for epoch in range(3):
    loader = DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=2)
    window = []
    for i, batch in enumerate(loader):
        if {skips}:
            continue
        window.append(batch)
        if (i + 1) % accum == 0 or {tail}:
            for inputs, targets in window:
                loss = torch.nn.functional.cross_entropy(model(inputs), targets)
                (loss / {divisor}).backward()
            optimizer.step()
            optimizer.zero_grad()
            window = []
"""


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, "no backward pass follows its first 8 micro-batches"),
        ({"skips": "epoch == 0 and i < 12"}, "no backward pass follows its first 12 micro-batches"),
        ({"skips": "epoch == 0 and i < 6"}, "its first 6 micro-batches are skipped, which is no multiple of k = 4"),
        ({"skips": "i < 4"}, "dropped-tail"),
        ({"skips": "epoch == 1 and i < 4"}, "dropped-tail"),
        ({"tail": "False"}, "dropped-tail"),
        ({"divisor": "1"}, "unscaled-loss"),
        ({"divisor": "4"}, "tail-scaled-by-k"),
    ],
    ids=str,
)
def test_micro_batches_that_a_restart_skips_are_not_blamed(tmp_path, changes, found):
    words = {"skips": "epoch == 0 and i < 8", "tail": "i + 1 == len(loader)", "divisor": "len(window)"} | changes
    report, printed = in_fork(audited, script(tmp_path, RESUMED.format(**words)))
    if report["findings"]:
        assert report["findings"][0]["id"] == found
    else:
        assert report["verdict"] == "inconclusive", printed
        assert found in "".join(report["run"]["not_judged"])
