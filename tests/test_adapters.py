"""Adapters: what the committed matrix says is what the installed frameworks do, and nothing global is left changed."""

import importlib.util
import logging
import os
import random
import re
import sys
import warnings
from pathlib import Path

import accumcheck.adapters
import pandas as pd
import pytest
import torch
from accumcheck.adapters import ADAPTERS, need
from accumcheck.adapters.conformance import COLUMNS, conformance
from accumcheck.task import LoopError, Sizes

from experiments.lab.writer import RESULTS

COMMITTED = pd.read_csv(RESULTS / "data/frameworks.csv", keep_default_na=False)
HERE = [a for a in ADAPTERS if a.version]  # the others are read in environments of their own, where they are made
WEIGHTS = pd.read_csv(RESULTS / "data/frameworks_weights.csv")


def state():
    return (
        dict(os.environ),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.get_rng_state().tolist(),
        random.getstate(),
        torch.is_grad_enabled(),
        list(warnings.filters),
        logging.root.level,
        torch.are_deterministic_algorithms_enabled(),
        os.getcwd(),
    )


@pytest.mark.parametrize("adapter", HERE, ids=lambda adapter: adapter.id)
def test_the_committed_matrix_is_what_the_framework_does(adapter):
    adapter.read(Sizes(4, 1, 2, 1))  # importing a framework may set what it likes
    before = state()
    found = conformance(adapter)
    assert state() == before
    committed = COMMITTED[COMMITTED["name"] == adapter.id]
    assert committed["release"].unique().tolist() == [adapter.release], "run python -m experiments frameworks"
    assert dict(zip(committed["column"], committed["text"], strict=True)) == {c: str(v) for c, v in found.cells.items()}
    own = WEIGHTS[WEIGHTS["name"] == adapter.id].pivot(index="step", columns="sample", values="weight")
    assert found.tail.matrix == [pytest.approx(row, abs=1e-5) for row in own.to_numpy().tolist()]


def test_rows_name_functions_of_the_framework_files():
    folder = Path(accumcheck.adapters.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "conformance", "vision"}
    assert {adapter.file or adapter.id for adapter in ADAPTERS} == files
    assert len({adapter.id for adapter in ADAPTERS}) == len({adapter.target for adapter in ADAPTERS}) == len(ADAPTERS)
    for adapter in ADAPTERS:
        assert adapter.target == f"{adapter.load().__module__}:{adapter.load().__name__}"


def test_every_difference_is_documented_or_not_and_can_be_reproduced():
    assert set(COMMITTED["column"]) == set(COLUMNS)
    assert sorted(COMMITTED["name"].unique()) == sorted(adapter.id for adapter in ADAPTERS)
    different = COMMITTED[COMMITTED["kind"].isin(["differs", "policy"])]
    assert set(different["documented"]) <= {"yes", "partly", "no"}
    assert set(different["reproduce"]) <= {f"accumcheck frameworks {adapter.id}" for adapter in ADAPTERS}
    assert different["thread"].str.match(r"(https://github\.com/\S+)?$").all()
    unsaid = different[(different["documented"] == "no") & (different["thread"] == "")]
    assert (unsaid["note"] != "").all()  # why there is no thread: a report of ours, or semantics
    assert different["source"].str.match(r"\S+:\d|https://\S+#\S+").all()  # the line that acts
    absent = {(a.id, column): line for a in ADAPTERS for column, line in a.absent}
    said = COMMITTED[COMMITTED["text"] == "does not occur"].set_index(["name", "column"])["source"].to_dict()
    assert said == absent


@pytest.mark.parametrize("adapter", HERE, ids=lambda adapter: adapter.id)
def test_source_lines_of_installed_packages_are_there(adapter):
    for source in COMMITTED.loc[COMMITTED["name"] == adapter.id, "source"]:
        for part in source.split("; "):
            if part and not part.startswith("https://"):
                path, _, lines = part.rpartition(":")
                spec = importlib.util.find_spec(path.split("/")[0])
                text = Path(spec.submodule_search_locations[0]).parent.joinpath(path).read_text().splitlines()
                assert max(map(int, re.findall(r"\d+", lines))) <= len(text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("lightning", "lightning is not installed: pip install lightning"),
        ("ignite", "ignite is not installed: pip install pytorch-ignite"),
        ("hf_trainer", "transformers is not installed: pip install transformers accelerate"),
        ("keras_torch", "keras is not installed: pip install keras"),
    ],
)
def test_a_missing_framework_is_named_with_what_to_install(name, text, monkeypatch):
    adapter = next(adapter for adapter in ADAPTERS if adapter.id == name)
    for module in [m for m in sys.modules if m.split(".")[0] == text.split()[0]]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [_Hides(text.split()[0]), *sys.meta_path])
    with pytest.raises(LoopError) as caught:
        adapter.read(Sizes(4, 1, 2, 1))
    assert str(caught.value) == text


class _Hides:
    def __init__(self, name):
        self.name = name

    def find_spec(self, name, *_):
        if name.split(".")[0] == self.name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=self.name)


def test_a_module_of_a_package_that_is_there_is_returned():
    assert need("json", "json").loads("[1]") == [1]
