"""The experiments: each runs, draws and sums up, stands alone, and its committed numbers say what the post says."""

import ast
import copy
import importlib
import json

import pandas as pd
import pytest
from matplotlib.figure import Figure

from experiments import NAMES
from experiments.lab.runner import ROOT, Bench
from experiments.lab.writer import RESULTS, write

SUMMARY = json.loads((RESULTS / "summary.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_experiment_runs_draws_and_sums_up(name, tmp_path):
    if name in ("architectures", "symptom"):
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
        scaled = [axis for axis in figure.axes if axis.axison]  # others are tables, or legends
        assert all(axis.get_xlabel() or figure.get_supxlabel() for axis in scaled[-1:])
        bench = Bench(quick=True)
        write(tmp_path / attempt, name, frame, figures={name: figure}, numbers=numbers, bench=bench, tables=tables)
    for file in (
        *(f"data/{title}.csv" for title in tables),
        f"figures/{name}.svg",
        f"figures/{name}.png",
        "summary.json",
    ):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_committed_results_are_complete_and_say_what_they_should(name):
    assert len(pd.read_csv(RESULTS / f"data/{name}.csv"))
    assert (RESULTS / f"figures/{name}.svg").read_text().startswith("<?xml")
    assert SUMMARY[name]["provenance"]["settings"]["quick"] is False
    importlib.import_module(f"experiments.{name}").check(SUMMARY[name])


# One number of the committed summary, and a value at which the claim would not hold.
MUTANTS = [
    ("error_by_step", "float64 correct_error", 1e-3),
    ("error_by_step", "float32 published_tail_error", 1e-7),
    ("error_by_step", "bfloat16 undivided_ratio", 1.0),
    ("ragged_lengths", "published_fix equivalent_at", [*range(1, 25)]),
    ("ragged_lengths", "correct equivalent_at", [*range(1, 24)]),
    ("drift", "sgd float32 undivided_error", 1e-7),
    ("drift", "adamw float64 correct_error", 1e-3),
    ("drift", "adamw float32 correct_key_bias_error", 1e-7),
    ("tolerance", "cases", 999),
    ("tolerance", "float64 missed_bugs", 1),
    ("tolerance", "bfloat16 false_alarms", 1),
    ("tolerance", "float32 lowest_bug", 1.9),
    ("scale", "memory_ratio", 2.6),
    ("scale", "time_ratio_from_1M", 2.0),
    ("probe_cost", "probe_ratio", 1.6),
    ("probe_cost", "right", 619),
    ("probe_cost", "named_by_accumcheck", 32),
    ("round_trip", "not_simulated", ["step: every"]),
    ("round_trip", "not_found", ["step: every"]),
    ("round_trip", "median_ms", 51.0),
    ("watching", "largest_ratio", 1.2),
    ("watching", "largest_cost_ms", 16.0),
    ("watching", "megabytes", 60.0),
    ("start_up", "light", 0.4),
    ("start_up", "ratio", 1.5),
    ("detection", "methods check false_alarms", 1),
    ("detection", "usual_all_miss", []),
    ("reliability", "right false_alarms", 1),
    ("reliability", "bugs missed", 1),
    ("reliability", "bugs named_share", 0.5),
    ("frameworks", "settings", 0),
    ("frameworks", "equal tail", 20),
    ("history", "tokens 4.45.2", "equal"),
    ("history", "tokens 4.46.0", "differs"),
    ("history", "releases optax", ["0.2.4"]),
    ("architectures", "largest_noise", 1e-4),
    ("architectures", "smallest_difference", 1e-3),
    ("architectures", "sequence classifier ignore_count", []),
    ("contributions", "wrong accumulate_samples", 1),
    ("contributions", "fix_equal_at", [4, 8]),
    ("contributions", "claims fix verdict", "true"),
    ("tail_weight", "verdict", "true"),
    ("tail_weight", "theory_gap", 1e-3),
    ("tail_weight", "adamw one_window_error", 0.5),
    ("tokens", "equal_counts_error", 1e-3),
    ("tokens", "over_theory_random", [0.5, 1.0]),
    ("tokens", "epochs1 error_at_half random", 0.1),
    ("symptom", "seeds", 4),
    ("symptom", "trainer sgd_off as_it_is first_norm_ratio mean", 1.0),
    ("symptom", "trainer adamw_clipped remedy first_norm_ratio mean", 4.0),
    ("symptom", "largest_control accuracy", 0.01),
    ("learning_rate", "adamw exponent", [0.55, 0.41, 1.0]),
    ("learning_rate", "sgd by_N 64 at_edge", True),
    ("learning_rate", "sgd accumulate_samples 128 largest_difference", 0.1),
    ("smoothness", "mlp window_differs_by", 0.1),
    ("smoothness", "mlp micro_batch_ratio 4", 1.0),
    ("smoothness", "smoother_by", 1.0),
    ("book", "changed_predictions 1 × 8, padded", 1),
    ("book", "changed_predictions 1 × 8, not padded", 0),
    ("book", "verdict", "true"),
    ("batch_norm", "BatchNorm gradient k2", 1e-3),
    ("batch_norm", "largest_error_without_batch_statistics", 1e-3),
    ("memory", "predicted_exactly", False),
    ("memory", "one_backward_saved_at_b_1", 0),
    ("precision", "growth_bfloat16", 1.0),
    ("precision", "growth_float32_buffer", 2.0),
]


@pytest.mark.parametrize(("name", "place", "value"), MUTANTS, ids=lambda part: str(part).replace(" ", "-"))
def test_a_number_that_is_not_as_claimed_is_noticed(name, place, value):
    numbers = altered(SUMMARY[name], place, value)
    with pytest.raises(AssertionError):
        importlib.import_module(f"experiments.{name}").check(numbers)


def altered(numbers, place, value):
    """A copy with another value at a path; keys may hold spaces, so the longest that fits is taken."""
    numbers = copy.deepcopy(numbers)
    found = numbers
    while place not in found:
        key = max((key for key in found if place.startswith(f"{key} ")), key=len)
        found, place = found[key], place.removeprefix(f"{key} ")
    assert found[place] != value
    found[place] = value
    return numbers


def test_every_experiment_has_a_mutant():
    assert {name for name, *_ in MUTANTS} == set(NAMES)


# A claim stands alone: it imports nothing of another one, and what all share imports none of them.


def imported(path):
    """The parts of ``experiments`` that a file imports, such as "lab" or "book"."""
    for node in ast.walk(ast.parse(path.read_text())):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import"
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (module.split(".")[1] for module in modules if module.startswith("experiments."))


def parts():
    """(part of ``experiments``, file) of every file."""
    folder = ROOT / "experiments"
    return [(path.relative_to(folder).parts[0].removesuffix(".py"), path) for path in sorted(folder.rglob("*.py"))]


def strangers(part, path):
    """What a claim, or the workbench, should not import."""
    return set(imported(path)) - {part, "lab"}


@pytest.mark.parametrize(("part", "path"), [(part, path) for part, path in parts() if part in (*NAMES, "lab")])
def test_no_claim_imports_another_and_the_workbench_imports_none(part, path):
    assert strangers(part, path) == set()


def test_every_part_is_a_claim_or_belongs_to_all():
    assert {part for part, _ in parts()} == {*NAMES, "lab", "preload", "__init__", "__main__"}


@pytest.mark.parametrize(
    "line", ["from experiments import drift", "import experiments.drift", "from experiments.drift import run"]
)
def test_a_claim_that_imports_another_is_noticed(line, tmp_path):
    path = tmp_path / "book.py"
    path.write_text(f"from experiments.lab import look\nfrom experiments.book import plot\n{line}\n")
    assert strangers("book", path) == {"drift"}
