"""The matrix of frameworks: its table, what colours a cell, and what is read in environments of their own."""

from pathlib import Path

import pandas as pd
import pytest
from accumcheck.adapters import ADAPTERS
from accumcheck.adapters.conformance import AT_FIRST, OTHER_UPDATES

from experiments import frameworks
from experiments.frameworks import document, elsewhere, severity
from experiments.frameworks.document import html, markdown
from experiments.lab.environments import UnavailableError, audited, prepare
from experiments.lab.runner import Bench
from experiments.lab.writer import RESULTS

ROW = {"release": "x 1", "cells": {"tail": {"kind": "equal", "text": "equal", "finding": ""}}, "tail": [[0.5, 0.5]]}


def test_each_environment_is_of_a_package_that_has_adapters():
    for package, pins in elsewhere.PINS.items():
        assert any(adapter.package == package for adapter in ADAPTERS)
        assert pins[0].partition("==")[0] == package
        assert all(pin.count("==") == 1 for pin in pins)
    assert set(elsewhere.BUILT) <= set(elsewhere.PINS)


def test_rows_come_from_elsewhere_and_a_package_that_cannot_be_had_is_named(monkeypatch, tmp_path):
    asked = []

    def prepare(name, pins, root, built):
        asked.append((name, pins, root, list(built)))
        return tmp_path

    monkeypatch.setattr(elsewhere, "prepare", prepare)
    monkeypatch.setattr(elsewhere, "read", lambda folder, names, pins: (dict.fromkeys(names, ROW), {}, {}))
    rows = frameworks.measure_elsewhere("deepspeed", str(tmp_path))
    assert asked == [("deepspeed", elsewhere.PINS["deepspeed"], tmp_path, ["deepspeed"])]
    assert {row["name"] for row in rows} == {"deepspeed", "deepspeed_boundary_set"}
    assert [row["weight"] for row in rows if row["part"] == "weight" and row["name"] == "deepspeed"] == [0.5, 0.5]
    monkeypatch.setattr(elsewhere, "read", lambda folder, names, pins: ({}, dict.fromkeys(names, "no such thing"), {}))
    with pytest.warns(UserWarning, match="deepspeed: deepspeed: no such thing; deepspeed_boundary_set: no such thing"):
        assert frameworks.measure_elsewhere("deepspeed", str(tmp_path)) == []


def test_a_package_that_is_not_installed_is_read_elsewhere(monkeypatch):
    monkeypatch.setattr(type(ADAPTERS[0]), "version", property(lambda self: None if self.package == "trl" else "1"))
    assert elsewhere.packages() == ["trl"]


def test_an_environment_that_cannot_be_made_says_so(monkeypatch):
    def prepare(*_, **__):
        raise UnavailableError("no matching distribution")

    monkeypatch.setattr(elsewhere, "prepare", prepare)
    with pytest.raises(UnavailableError, match="no matching distribution"):
        elsewhere.rows_of("trl", "")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Where environments are made: where those of ``make results`` are, if they are there."""
    kept = RESULTS / "partial" / "environments"
    return kept if kept.is_dir() else tmp_path_factory.mktemp("environments")


def made(name, pins, root):
    """The environment of these pins; where pip cannot reach them, nothing can be said of a framework."""
    try:
        return prepare(name, pins, root, [each for each in elsewhere.BUILT if each == name])
    except UnavailableError as error:
        pytest.skip(f"{name} cannot be installed here: {error}")


@pytest.mark.slow
@pytest.mark.parametrize("package", elsewhere.PINS)
def test_the_committed_matrix_is_what_a_framework_does_in_its_own_environment(package, root):
    made(package, elsewhere.PINS[package], root)
    table = pd.read_csv(RESULTS / "data/frameworks.csv", keep_default_na=False)
    for name, row in elsewhere.rows_of(package, str(root)).items():
        own = table[table["name"] == name]
        assert dict(zip(own["column"], own["text"], strict=True)) == {c: v["text"] for c, v in row["cells"].items()}
        assert own["release"].unique().tolist() == [row["release"]]


@pytest.mark.slow
@pytest.mark.parametrize(("samples", "findings"), [("31", ["mean-of-means"]), ("22", [])])
def test_the_trainer_of_sentence_transformers_does_what_trainer_does_without_a_count(root, samples, findings):
    """A short micro-batch weighs as much as a full one; a tail of 3 micro-batches is right."""
    [(script, pins)] = elsewhere.SCRIPTS.items()
    folder = made("sentence-transformers", pins, root)
    report = audited(folder, Path(elsewhere.__file__).parent / "scripts" / script, samples)
    assert [finding["id"] for finding in report["findings"]] == findings
    assert report["verdict"] == ("diverges" if findings else "equivalent")


@pytest.mark.parametrize(
    ("kind", "column", "documented", "colour"),
    [
        ("equal", "tail", "", "equal"),
        ("policy", "tail", "yes", "policy"),
        ("differs", "full window", "no", "all"),
        ("differs", "full window", "yes", "documented"),
        ("differs", "tail", "partly", "some"),
        ("none", "tail", "", "none"),
    ],
)
def test_a_cell_is_coloured_by_how_much_it_spoils_and_whether_that_is_documented(kind, column, documented, colour):
    assert severity({"kind": kind, "column": column, "documented": documented, "text": "1/2 for 1/8"}) == colour
    assert colour in frameworks.COLOURS
    assert colour in frameworks.SAYS


@pytest.mark.parametrize(("column", "text"), [("full window", f"{AT_FIRST}x"), ("schedule", OTHER_UPDATES)])
def test_what_is_right_in_later_updates_spoils_some(column, text):
    assert severity({"kind": "differs", "column": column, "documented": "no", "text": text}) == "some"


def test_counts_are_of_the_table():
    table = pd.read_csv(RESULTS / "data/frameworks.csv", keep_default_na=False)
    other = table[table["kind"].isin(["differs", "policy"])]
    numbers = frameworks.summarise(frameworks.run(Bench(quick=True, jobs=0)))["known"]
    assert numbers["groups"] == {"framework": 1, "recipe": 3, "misuse": 0}
    own = other[other["name"].isin(frameworks.QUICK)]
    assert numbers["other"] == len(own)
    assert numbers["neither"] == int(((own["documented"] == "no") & (own["thread"] == "")).sum())


def test_the_table_of_the_page_has_every_cell_and_its_details():
    table = pd.read_csv(RESULTS / "data/frameworks.csv", keep_default_na=False)
    page = (RESULTS / "frameworks.html").read_text()
    assert page == html(table)
    assert page.count("<td ") == len(table)
    assert page.count("<details>") == int((table[["documented", "source", "thread", "note"]] != "").any(axis=1).sum())
    assert page.index("swallows it in **kwargs") < page.index("model uses num_items_in_batch")  # what spoils most first
    assert '<a href="https://github.com/huggingface/transformers/issues/47688">issues/47688</a>' in page
    for says in frameworks.SAYS.values():
        assert f">{says}</span>" in page
    assert markdown(table) == (RESULTS / "frameworks.md").read_text()


def test_text_of_a_cell_cannot_break_the_table():
    row = {"kind": "differs", "text": "1 < 2", "severity": "some", "documented": "no", "documented_where": "a <b>",
           "source": "https://x.org/a#L1; b.py:2", "thread": "", "note": "see & say"}  # fmt: skip
    shown = document._html_cell(row)
    assert "1 &lt; 2" in shown
    assert "Not documented (looked in a &lt;b&gt;)." in shown
    assert '<a href="https://x.org/a#L1">x.org/a#L1</a>; b.py:2.' in shown
    assert "See &amp; say." in shown
