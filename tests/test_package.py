"""The package as a whole: what it imports, and which way imports run."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = Path(__file__).parent.parent / "harness" / "accumcheck"


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from [node.module] if node.module != "harness" else [f"harness.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


# What each folder may import of the others; modules beside them stand for themselves.
BELOW = {
    "task": set(),
    "numbers": set(),
    "programs": {"numbers"},
    "watching": {"task", "programs"},
    "probing": {"task", "numbers", "watching"},
    "explaining": {"task", "numbers", "programs", "watching", "probing"},
    "ranks": {"task", "numbers", "programs", "watching", "probing", "explaining"},
    "scripts": {"task", "numbers", "programs", "watching", "explaining", "failure", "figures"},
    "training": {"task", "watching"},
    "checks": {"task", "watching", "probing"},
    "widget": {"numbers", "programs"},
    "text": {"task", "programs", "probing", "explaining", "training", "scripts"},
    "report": {"task", "numbers", "checks", "programs", "explaining", "training", "text"},
    "figures": {"task", "numbers", "probing", "explaining", "scripts"},
    "corpus": {"task", "programs", "watching", "training"},
    "adapters": {"task", "numbers", "programs", "watching", "probing", "explaining"},
    "strategies": {"task", "training", "corpus"},
}
ON_TOP = {"__init__", "__main__", "auditing", "check", "cli", "isolated", "worker", "failure", "plugin"}


def unwelcome(name, path):
    """What a module of a folder imports of the package that it may not; what only annotations need is left out."""
    tree = ast.parse(path.read_text())
    for block in ast.walk(tree):
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test):
            block.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("accumcheck"):
            parts = node.module.split(".")
            for part in parts[1:2] or [alias.name for alias in node.names]:
                if part not in {name, *BELOW[name]}:
                    yield part


def test_imports_run_downwards():
    found = {path.stem for path in HARNESS.glob("*.py")} | {path.parent.name for path in HARNESS.glob("*/__init__.py")}
    assert found == set(BELOW) | ON_TOP
    for name in BELOW:
        for path in [HARNESS / f"{name}.py", *(HARNESS / name).glob("*.py")]:
            if path.exists():
                assert list(unwelcome(name, path)) == [], path


def test_an_import_that_runs_upwards_is_seen(tmp_path):
    (tmp_path / "x.py").write_text("from accumcheck.check import compare")
    assert list(unwelcome("probing", tmp_path / "x.py")) == ["check"]


def test_programs_know_nothing_of_torch():
    for path in (HARNESS / "programs").glob("*.py"):
        assert "torch" not in {name.split(".")[0] for name in imports(path)}


@pytest.mark.parametrize("path", sorted((HARNESS / "adapters").glob("*.py")), ids=lambda path: path.stem)
def test_a_framework_is_imported_only_when_it_is_used(path):
    known = {"accumcheck", "torch", "numpy", "__future__", *sys.stdlib_module_names}
    assert {name.split(".")[0] for name in imports(path)} <= known


@pytest.mark.parametrize("module", ["accumcheck", "accumcheck.plugin", "accumcheck.strategies", "accumcheck.cli"])
def test_importing_the_harness_is_light(module):
    heavy = ["pandas", "matplotlib", "sklearn", "rich", "jupytext", "lightning", "transformers", "accelerate"]
    heavy += ["torch", "hypothesis"] * (module in ("accumcheck", "accumcheck.plugin"))
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
