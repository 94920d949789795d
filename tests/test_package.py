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
    "check", "adapters", "conformance", "cli", "plugin",
    "__init__",
]  # fmt: skip


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from [node.module] if node.module != "harness" else [f"harness.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_every_module_has_its_place():
    modules = [path.stem for path in HARNESS.glob("*.py")] + [
        path.parent.name for path in HARNESS.glob("*/__init__.py")
    ]
    assert sorted(modules) == sorted(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_imports_run_downwards(module):
    for path in [HARNESS / f"{module}.py", *(HARNESS / module).glob("*.py")]:
        for name in imports(path) if path.exists() else ():
            if name.startswith("harness."):
                place = ORDER.index(name.split(".")[1])
                assert place < ORDER.index(module) or name.startswith(f"harness.{module}"), name


@pytest.mark.parametrize("path", sorted((HARNESS / "adapters").glob("*.py")), ids=lambda path: path.stem)
def test_a_framework_is_imported_only_when_it_is_used(path):
    known = {"harness", "torch", "numpy", "__future__", *sys.stdlib_module_names}
    assert {name.split(".")[0] for name in imports(path)} <= known


@pytest.mark.parametrize("module", ["harness", "harness.plugin", "harness.strategies", "harness.cli"])
def test_importing_the_harness_is_light(module):
    heavy = ["pandas", "matplotlib", "sklearn", "rich", "jupytext", "lightning", "transformers", "accelerate"]
    heavy += ["torch", "hypothesis"] * (module in ("harness", "harness.plugin"))
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
