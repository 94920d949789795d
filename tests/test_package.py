"""The package as a whole: what it imports, and which way imports run."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = Path(__file__).parent.parent / "harness"
# What a module may import lies to its left; design: imports run downwards, no cycle.
ORDER = [
    "task", "ambient", "deadline", "watchdog", "differences", "recorder", "data", "models", "problems", "coupling",
    "loops", "bugs", "styles", "contributions", "findings", "probe", "diagnose", "strategies", "lockstep", "tolerance",
    "search", "report", "figures", "targets", "replicas", "shares", "agreement", "parallel_loops", "sharded_loops",
    "check", "cli", "plugin",
    "__init__",
]  # fmt: skip


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from [node.module] if node.module != "harness" else [f"harness.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_every_module_has_its_place():
    assert sorted(path.stem for path in HARNESS.glob("*.py")) == sorted(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_imports_run_downwards(module):
    for name in imports(HARNESS / f"{module}.py"):
        if name.startswith("harness."):
            assert ORDER.index(name.split(".")[1]) < ORDER.index(module), name


@pytest.mark.parametrize("module", ["harness", "harness.plugin", "harness.strategies", "harness.cli"])
def test_importing_the_harness_is_light(module):
    heavy = ["pandas", "matplotlib", "sklearn", "rich", "jupytext", "lightning", "transformers", "accelerate"]
    heavy += ["torch", "hypothesis"] * (module in ("harness", "harness.plugin"))
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
