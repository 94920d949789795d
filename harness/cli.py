"""The command: ``accumcheck check my_loop.py:train``, ``init test_my_loop.py`` and ``frameworks``."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.adapters import ADAPTERS
from harness.ambient import preserved
from harness.check import check_equivalence, check_replicas
from harness.conformance import conformance
from harness.figures import draw, require_suffix, save
from harness.findings import LAWS, Finding
from harness.probe import TIME_LIMIT
from harness.report import Report, versions
from harness.targets import load
from harness.task import LoopError

STATUS = {"equivalent": 0, "diverges": 1, "error": 2, "inconclusive": 3}
TEMPLATE = '''"""Does the training loop accumulate gradients as it claims? Run with: pytest {name}"""

import pytest

from {module} import {function}

# Loops to check. A loop is a function of one argument: task has model, optimizer, scheduler, loss_fn, loader,
# dataset, micro_batch_size, accumulation_steps, epochs and device. Wrap your own loop if it takes other arguments.
LOOPS = [{function}]


# A defect that you know of and keep: pytest.param({function}, marks=pytest.mark.accumcheck_xfail(reason="...")).
@pytest.mark.accumcheck(loops=LOOPS, objectives=["sample"])  # and "token", if your loss averages over tokens
def test_equivalence(accumcheck_report):
    assert accumcheck_report, str(accumcheck_report)
'''


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0 equivalent, 1 diverges, 2 error, 3 inconclusive."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command == "init":
        return _init(Path(options.file), options.loop)
    if options.command == "frameworks":
        return _frameworks(options.names, options.json)
    if options.figure and len(options.loops) > 1:
        parser.error(f"--figure draws one loop, got {len(options.loops)}")
    if options.ranks is not None and options.device != "cpu":
        parser.error(f"--ranks runs on the CPU, got --device {options.device}")
    if options.figure:
        try:
            require_suffix(Path(options.figure))
        except ValueError as error:
            parser.error(str(error))
    results = []
    with _silent_stdout():
        for target in options.loops:
            results.append(_check(target, options))
    if options.json:
        objects = [result if isinstance(result, dict) else result[1] for result in results]
        print(json.dumps(objects[0] if len(objects) == 1 else objects, allow_nan=False))
    else:
        _print(results)
    verdicts = [(result if isinstance(result, dict) else result[1])["verdict"] for result in results]
    return next((STATUS[each] for each in ("error", "diverges", "inconclusive") if each in verdicts), 0)


def _check(target: str, options: argparse.Namespace) -> dict[str, Any] | tuple[Report, dict[str, Any]]:
    """A report with its JSON form, or the JSON form of an error."""
    try:
        asked = {"objective": options.objective, "seed": options.seed, "time_limit": options.time_limit}
        if options.ranks is not None:
            report = check_replicas(target, options.ranks, **asked)
        else:
            with preserved():
                train = load(target)
            report = check_equivalence(train, device=options.device, **asked)
        if options.figure and (example := report.example):
            cause = report.findings[0].id if report.findings else "equivalent"
            save(draw(example, f"{report.loop}: {cause}"), options.figure)
    except (LoopError, ValueError, ImportError, OSError) as error:
        finding = getattr(error, "finding", None)
        found = [Finding(finding, None, f"{LAWS[finding].text}; but {error}").as_dict()] if finding else []
        return {
            "loop": target,
            "verdict": "error",
            "objectives": {},
            "findings": found,
            "counterexample": None,
            "error": str(error),
            "versions": versions(),
        }
    return report, {**report.as_dict(), "loop": target}


def _print(results: list[Any]) -> None:
    console = _console()
    for result in results:
        if isinstance(result, dict):
            print(f"accumcheck: {result['loop']}: {result['error']}", file=sys.stderr)
        elif console:
            console.print(result[0], soft_wrap=True)
        else:
            print(result[0])
    if len(results) > 1:
        objects = [result if isinstance(result, dict) else result[1] for result in results]
        rows = [
            (o["loop"], o["verdict"], ", ".join(f["id"] for f in o["findings"]), _short(o["counterexample"]))
            for o in objects
        ]
        _table(("loop", "verdict", "findings", "counterexample"), rows, console)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], console: Any) -> None:
    if not console:
        for row in [header, *rows]:
            print("\t".join(row))
        return
    from rich.table import Table  # noqa: PLC0415

    table = Table(*header, show_lines=any("\n" in cell for row in rows for cell in row))
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _short(counterexample: dict[str, int] | None) -> str:
    if not counterexample:
        return ""
    return ", ".join(
        f"{name}={value}" for name, value in zip(("n", "b", "k", "epochs"), counterexample.values(), strict=True)
    )


def _console() -> Any:
    try:
        return importlib.import_module("rich.console").Console(highlight=False)
    except ImportError:
        return None


@contextlib.contextmanager
def _silent_stdout() -> Iterator[None]:
    """Send what loops and their modules write to file descriptor 1 to standard error: stdout is for the verdict."""
    sys.stdout.flush()
    try:
        descriptor = sys.stdout.fileno()
        kept = os.dup(descriptor)
    except (OSError, ValueError, AttributeError):  # stdout is no file, as under test
        with contextlib.redirect_stdout(sys.stderr):
            yield
        return
    try:
        os.dup2(sys.stderr.fileno(), descriptor)
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, descriptor)
        os.close(kept)


def _init(path: Path, loop: str) -> int:
    where, colon, function = loop.rpartition(":")
    module = where.removesuffix(".py").replace("/", ".")
    if not colon or not function.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        print(f"accumcheck: --loop is named FILE.py:FUNCTION or package.module:FUNCTION, got {loop!r}", file=sys.stderr)
        return STATUS["error"]
    try:
        with path.open("x") as file:
            file.write(TEMPLATE.format(name=path, module=module, function=function))
    except FileExistsError:
        print(f"accumcheck: {str(path)!r} exists and is yours: choose another name", file=sys.stderr)
        return STATUS["error"]
    except OSError as error:
        print(f"accumcheck: {str(path)!r} cannot be written: {error}", file=sys.stderr)
        return STATUS["error"]
    print(f"wrote {path}: edit its LOOPS, then run pytest {path}")
    return 0


def _frameworks(names: Sequence[str], as_json: bool) -> int:
    """Print what the frameworks that are installed here do; 0, or 2 where one fails, is unknown, or none is there."""
    known = {adapter.id: adapter for adapter in ADAPTERS}
    if unknown := [name for name in names if name not in known]:
        print(f"accumcheck: no framework {unknown[0]!r}: choose from {', '.join(known)}", file=sys.stderr)
        return STATUS["error"]
    rows, failed = [], False
    for name in names or known:
        adapter = known[name]
        if adapter.version is None:
            print(
                f"accumcheck: {name}: {adapter.package} is not installed: pip install {adapter.package}",
                file=sys.stderr,
            )
            failed |= bool(names)
            continue
        try:
            with _silent_stdout():
                rows.append(conformance(adapter))
        except LoopError as error:
            print(f"accumcheck: {name}: {error}", file=sys.stderr)
            failed = True
    if as_json:
        print(json.dumps([row.as_dict() for row in rows], allow_nan=False))
    else:
        _table(("framework", "as full-batch training", "otherwise"), [row.as_texts() for row in rows], _console())
    return STATUS["error"] if failed or not rows else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="accumcheck",
        description="Does a training loop with gradient accumulation train as one with a batch k times as large does?",
    )
    parser.add_argument("--version", action="version", version=f"accumcheck {versions()['accumcheck']}")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="judge one loop, or several", description=main.__doc__)
    check.add_argument("loops", nargs="+", metavar="LOOP", help="FILE.py:FUNCTION or package.module:FUNCTION")
    check.add_argument(
        "--objective", choices=("sample", "token", "both"), default="sample", help="what the loss averages over"
    )
    check.add_argument(
        "--json", action="store_true", help="print one object (a list for several loops), and nothing else"
    )
    check.add_argument("--figure", metavar="FILE", help="write the contribution matrix as .svg or .png")
    check.add_argument("--seed", type=int, default=0, help="of data and random streams (default 0)")
    check.add_argument("--device", default="cpu", help="a torch device, such as cuda")
    check.add_argument(
        "--ranks", type=_ranks, metavar="R", help="run a data-parallel loop on R local ranks (torchrun, gloo, CPU)"
    )
    check.add_argument(
        "--time-limit", type=float, default=TIME_LIMIT, help="seconds for one run of the loop (default 60)"
    )
    init = commands.add_parser("init", help="write a test file for your loop, which is yours from then on")
    init.add_argument("file", metavar="FILE", help="for example test_equivalence.py")
    init.add_argument("--loop", default="my_loop:train", help="FILE.py:FUNCTION or package.module:FUNCTION")
    frameworks = commands.add_parser("frameworks", help="what the frameworks that are installed here do")
    frameworks.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(a.id for a in ADAPTERS)}")
    frameworks.add_argument("--json", action="store_true", help="print a list of objects, and nothing else")
    return parser


def _ranks(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a number of ranks is at least 1, got {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
