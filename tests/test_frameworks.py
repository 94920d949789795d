"""The matrix of frameworks: its table, what colours a cell, and what is read in environments of their own."""

import pandas as pd
import pytest
from accumcheck.adapters import ADAPTERS

from experiments import frameworks
from experiments.frameworks import elsewhere, severity
from experiments.lab.environments import UnavailableError
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
    assert severity({"kind": kind, "column": column, "documented": documented}) == colour
    assert colour in frameworks.COLOURS
    assert colour in frameworks.SAYS


def test_counts_are_of_the_table():
    table = pd.read_csv(RESULTS / "data/frameworks.csv", keep_default_na=False)
    other = table[table["kind"].isin(["differs", "policy"])]
    numbers = frameworks.summarise(frameworks.run(Bench(quick=True, jobs=0)))["known"]
    assert numbers["groups"] == {"framework": 1, "recipe": 3, "misuse": 0}
    own = other[other["name"].isin(frameworks.QUICK)]
    assert numbers["other"] == len(own)
    assert numbers["neither"] == int(((own["documented"] == "no") & (own["thread"] == "")).sum())
