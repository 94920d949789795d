"""The history of frameworks: pins are honoured, rows are read, and what cannot be had is a row with its reason."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from accumcheck.adapters import ADAPTERS
from accumcheck.adapters.conformance import COLUMNS

from experiments import history
from experiments.lab import environments
from experiments.lab.environments import TORCH, UnavailableError, install_command, prepare, read, rows_of
from experiments.lab.writer import RESULTS

COMMITTED = pd.read_csv(RESULTS / "data/history.csv", dtype=str, keep_default_na=False)
GHOST = history.Release("accelerate", "0.0.999", "2020-01-01", ("no-such-package-of-ours==1.0",))
ROW = {
    **{"name": "accelerate", "framework": "HF Accelerate", "setting": "accumulate()", "version": "1.0", "loop": "a:b"},
    "cells": {"tail": {"kind": "differs", "text": "1/4 for 1/3", "note": "more to come"}},
}


class Commands:
    """In place of subprocess.run: keeps what would be run, and says what it is told to."""

    def __init__(self, code=0, stdout="", stderr="", versions=None):
        self.commands, self.variables = [], {}
        self.code, self.stdout, self.stderr, self.versions = code, stdout, stderr, versions

    def __call__(self, command, env, **_):
        self.commands.append(command)
        self.variables = env
        if self.versions is not None:
            Path(command[3]).write_text(json.dumps(self.versions))
        return subprocess.CompletedProcess(command, self.code, self.stdout, self.stderr)


@pytest.fixture
def commands(monkeypatch):
    def use(**says):
        found = Commands(**says)
        monkeypatch.setattr(environments.subprocess, "run", found)
        return found

    return use


def test_pip_installs_the_pins_alone_and_never_another_torch(tmp_path, commands):
    made = commands()
    folder = prepare("old", GHOST.pins, tmp_path)
    [command] = made.commands
    assert command == install_command(folder, GHOST.pins)
    assert command[:4] == [sys.executable, "-m", "pip", "--python"]
    assert command[4].startswith(str(folder))
    assert "--no-deps" in command
    assert [word for word in command if "==" in word] == GHOST.pins
    constraints = Path(command[command.index("--constraint") + 1]).read_text().split()
    assert constraints == [TORCH, *GHOST.pins]
    assert TORCH.startswith("torch==")


def test_an_environment_is_made_once_and_anew_after_an_interruption(tmp_path, commands):
    made = commands()
    folder = prepare("old", GHOST.pins, tmp_path)
    assert prepare("old", GHOST.pins, tmp_path) == folder
    assert len(made.commands) == 1
    (folder / environments.MADE).unlink()
    (folder / "half").touch()
    prepare("old", GHOST.pins, tmp_path)
    assert len(made.commands) == 2
    assert not (folder / "half").exists()
    assert prepare("old", [*GHOST.pins, "another-package-of-ours==2.0"], tmp_path) != folder


def test_what_is_here_in_just_that_version_is_not_installed_again():
    missing = ["pytest==0.0.1", "no-such-package-of-ours==1.0"]
    assert environments.missing([*missing, f"pytest=={pytest.__version__}"]) == missing
    assert all("==" in pin and not pin.startswith("torch=") for release in history.RELEASES for pin in release.pins)


def test_packages_of_the_environment_come_before_the_borrowed_ones(tmp_path):
    folder = prepare("old", [], tmp_path)
    [site] = folder.glob("lib/python*/site-packages")
    (site / "rich").mkdir()
    (site / "rich" / "__init__.py").write_text("mine = True")
    code = "import rich, importlib.util as u; print(rich.mine, u.find_spec('torch').origin)"
    done = subprocess.run([folder / "bin/python", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", torch.__file__]


def test_rows_are_read_by_their_names_whatever_is_printed_before():
    rows = rows_of("a framework greets\n" + json.dumps([ROW]) + "\n")
    assert rows == {"accelerate": {key: value for key, value in ROW.items() if key != "name"}}
    assert rows_of("Traceback") == rows_of("") == {}


def test_what_has_no_wheel_is_built_with_what_is_borrowed(tmp_path):
    plain = install_command(tmp_path, ["a==1"])
    assert "--no-build-isolation" not in plain
    built = install_command(tmp_path, ["a==1", "b==2"], ["b"])
    assert built[-5:] == ["--no-build-isolation", "--no-binary", "b", "a==1", "b==2"]


def test_what_is_imported_must_be_what_is_pinned(tmp_path, commands):
    commands(stdout=json.dumps([ROW]), versions={"accelerate": "1.0", "torch": TORCH.partition("==")[2]})
    rows, reasons, versions = read(tmp_path, ["accelerate"], ["Accelerate==1.0", "not_imported==2.0"])
    assert list(rows) == ["accelerate"]
    assert not reasons
    assert versions["accelerate"] == "1.0"
    with pytest.raises(RuntimeError, match=r"accelerate 1\.0 was imported in place of 0\.9"):
        read(tmp_path, ["accelerate"], ["accelerate==0.9"])
    commands(stdout=json.dumps([ROW]), versions={"torch": "9.9.9"})
    with pytest.raises(RuntimeError, match=r"torch 9\.9\.9 was imported"):
        read(tmp_path, ["accelerate"], [])


def test_a_name_that_fails_has_its_own_reason(tmp_path, commands):
    said = "noise\naccumcheck: b: <function train at 0x7f>\naccumcheck: c: cannot import it\nmore noise\n"
    commands(code=2, stdout="[]", stderr=said, versions={})
    _, reasons, _ = read(tmp_path, ["b", "c", "d"], [])
    assert reasons == {"b": "train", "c": "cannot import it", "d": "more noise"}


def test_a_release_that_cannot_be_installed_is_a_row_with_the_reason(tmp_path, commands):
    reason = "ERROR: No matching distribution found for no-such-package-of-ours==1.0"
    commands(code=1, stderr=f"ERROR: Could not find a version\n{reason}\n\n")
    rows = history.measured(GHOST, tmp_path)
    assert [row["name"] for row in rows] == list(history.NAMES["accelerate"])
    assert {(row["kind"], row["text"], row["version"]) for row in rows} == {("skipped", reason, GHOST.version)}
    with pytest.raises(UnavailableError, match="No matching distribution"):  # and it is tried again
        prepare(GHOST.title, GHOST.pins, tmp_path)
    frame = pd.concat([COMMITTED, pd.DataFrame(rows)])
    numbers = history.summarise(frame)
    assert {row["text"] for row in numbers["skipped"] if row["version"] == GHOST.version} == {reason}
    history.check(numbers)
    assert history.plot(frame)


def test_changes_are_told_from_one_release_that_was_read_to_the_next():
    rows = [("1", "tail", "differs", "a"), ("2", "", "skipped", "no"), ("3", "tail", "equal", "equal")]
    frame = pd.DataFrame(
        [{"package": "p", "version": v, "name": "n", "column": c, "kind": k, "text": t} for v, c, k, t in rows]
    )
    [change] = history.changes(frame)
    assert change == {
        **{"package": "p", "name": "n", "column": "tail", "from": "1", "to": "3", "before": "≠ a", "after": "="}
    }
    assert history.changes(frame[:1]) == []


def test_committed_history_says_what_is_claimed():
    numbers = history.summarise(COMMITTED)
    history.check(numbers)
    assert numbers["changes"] == json.loads((RESULTS / "summary.json").read_text())["history"]["changes"]
    read_rows = COMMITTED[COMMITTED["kind"] != "skipped"]
    assert set(read_rows["column"]) == set(COLUMNS)
    for release in history.RELEASES:
        own = COMMITTED[(COMMITTED["package"] == release.package) & (COMMITTED["version"] == release.version)]
        assert set(own["name"]) == set(history.NAMES[release.package])
        assert set(own["date"]) == {release.date}
        for line in own.loc[own["kind"] != "skipped", "imported"]:
            pinned = dict(pin.split("==") for pin in release.pins)
            imported = dict(each.split("==") for each in line.split())
            assert imported[release.package] == release.version
            assert all(pinned.get(name, version) == version for name, version in imported.items())


def test_settings_are_adapters_of_their_package():
    packages = {adapter.id: adapter.package for adapter in ADAPTERS}
    assert {packages[name]: True for names in history.NAMES.values() for name in names}.keys() == history.NAMES.keys()
    assert all(packages[name] == package for package, names in history.NAMES.items() for name in names)


@pytest.mark.parametrize(("version", "kind"), [("4.45.2", "equal"), ("4.46.0", "differs"), ("5.24.0", "differs")])
def test_the_check_sees_a_fix_that_is_missing(version, kind):
    numbers = history.summarise(COMMITTED)
    with pytest.raises(AssertionError, match=f"transformers-{re.escape(version)}: token means are {kind}"):
        history.check({**numbers, "tokens": {**numbers["tokens"], version: kind}})


def test_the_check_sees_a_release_that_is_passed_over():
    numbers = history.summarise(COMMITTED)
    with pytest.raises(AssertionError, match="no reason"):
        history.check({**numbers, "skipped": [{"package": "p", "version": "1", "name": "n", "text": ""}]})
    with pytest.raises(AssertionError, match=r"optax-0\.2\.8 is not in the table"):
        history.check({**numbers, "releases": {**numbers["releases"], "optax": ["0.2.4"]}})
