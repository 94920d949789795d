"""The command: ``accumcheck check my_loop.py:train``, ``init test_my_loop.py`` and ``frameworks``.

It imports no torch itself: loops are judged in a process of their own, see ``accumcheck.isolated``.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.util
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from accumcheck import __version__, isolated
from accumcheck.watching.limits import TIME_LIMIT, require_limit

COMMANDS = ("run", "check", "compare", "recipe", "init", "frameworks")
WELCOME = """Is your gradient accumulation the big batch that it claims to be? Ask:

  accumcheck run train.py [ITS ARGUMENTS]    your script, as it is
  accumcheck check my_loop.py:train          a function train(task), at ten sizes
  accumcheck recipe                          prints a loop that is right

accumcheck --help lists all commands."""
STATUS = {"equivalent": 0, "diverges": 1, "error": 2, "inconclusive": 3}
INTERRUPTED = 130  # as shells have it
LOOP = "FILE.py:FUNCTION or package.module:FUNCTION"
TEMPLATE = '''"""Does the training loop accumulate gradients as it claims? Run with: pytest {name}"""
{path}
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
SEARCH_PATH = """
import sys
from pathlib import Path

sys.path.insert(0, str({directory}))  # where the loop lies
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0 equivalent, 1 diverges, 2 error, 3 inconclusive."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may not know "−"
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("accumcheck: interrupted: there is no verdict", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what is flushed when Python ends
        print("accumcheck: nobody reads what it prints", file=sys.stderr)
        return STATUS["error"]
    except Exception as error:  # noqa: BLE001, RUF100
        print(f"accumcheck: accumcheck itself failed, with {type(error).__name__}: {error}", file=sys.stderr)
        return STATUS["error"]
    return status


def _run(arguments: Sequence[str] | None) -> int:  # noqa: PLR0911 - a command each
    parser = _parser()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words:
        print(WELCOME, file=sys.stderr)
        return STATUS["error"]
    if advice := _meant(words[0]):
        print(f"accumcheck: {advice}", file=sys.stderr)
        return STATUS["error"]
    if words[0] == "run":
        return _audit(words[1:])
    cut = words.index("--") if words[:1] == ["compare"] and "--" in words else len(words)
    options = parser.parse_args(words[:cut])
    if options.command == "compare":
        return _compare(options, words[cut:])
    if options.command == "recipe":
        return _recipe(options.objective, options.style)
    if options.command == "init":
        return _init(Path(options.file), options.loop)
    if options.command == "frameworks":
        return _frameworks(options.names, options.json)
    if options.figure and len(options.loops) > 1:
        parser.error(f"--figure draws one loop, got {len(options.loops)}")
    if options.html and len(options.loops) > 1:
        parser.error(f"--html is a page about one loop, got {len(options.loops)}")
    if options.ranks is not None and options.device != "cpu":
        parser.error(f"--ranks runs on the CPU, got --device {options.device}")
    if options.ranks is not None and options.checks:
        parser.error(f"--checks watches one process, got --ranks {options.ranks}")
    return _check(options)


def _meant(word: str) -> str:
    """What was meant by a first word that is no command."""
    if word.startswith("-") or word in COMMANDS:
        return ""
    file, colon, _ = word.partition(":")
    if colon:
        return f"{word!r} is no command: did you mean accumcheck check {word}?"
    if file.endswith(".py"):
        return f"{word!r} is no command: did you mean accumcheck run {word}, or accumcheck check {word}:FUNCTION?"
    return f"{word!r} is no command: choose from {', '.join(COMMANDS)}"


def _recipe(objective: str, style: str) -> int:
    """Print a loop that is right; from its source, as it is not run."""
    source = (Path(__file__).parent / "corpus" / "recipes.py").read_text()
    name = f"{style}_{objective}"
    node = next(n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name == name)
    node.name, node.returns = "train", None
    for argument in node.args.args:
        argument.annotation = None
    lines = source.splitlines()[node.body[1].lineno - 1 : node.end_lineno]
    text = "\n".join(lines)
    imports = ["from itertools import islice\n"] * ("islice(" in text) + ["import torch\n"] * ("torch." in text)
    said = ast.get_docstring(node)
    print("\n".join([*imports, "", f"def train({ast.unparse(node.args)}):", f'    """{said}"""', *lines]).lstrip("\n"))
    return 0


def _audit(words: list[str]) -> int:
    """Run a script under observation; the script's own arguments are left alone."""
    from accumcheck.scripts.launch import run  # noqa: PLC0415 - not for those who judge a loop

    options = _run_parser().parse_args(words)
    if not options.script:
        _run_parser().error("there is no script to run: accumcheck run SCRIPT [ARGUMENTS]")
    script, *rest = options.script
    asked = {
        name: getattr(options, name)
        for name in ("accumulation_steps", "objective", "samples", "updates", "module", "figure", "html", "ranks")
    }
    result = run(script, rest, {**asked, "width": _width()})
    if result is None:  # rank 0 reports
        return 0
    if options.json:
        print(json.dumps(result["object"], allow_nan=False))
    if options.report:
        Path(options.report).write_text(result["text"] + "\n")
    elif not options.json:
        print(_printable(result["text"], sys.stderr), file=sys.stderr)
    return STATUS[result["object"]["verdict"]]


def _compare(options: argparse.Namespace, words: list[str]) -> int:
    """Compare the two commands behind ``--``."""
    from accumcheck import text  # noqa: PLC0415 - not for those who judge a loop
    from accumcheck.scripts.compare import Outcome, compare  # noqa: PLC0415

    def show(line: str) -> None:
        if sys.stderr.isatty() and not options.json:
            print(f"accumcheck: {line}", file=sys.stderr, flush=True)

    if options.figure and importlib.util.find_spec("matplotlib") is None:
        outcome = Outcome([], error="--figure needs matplotlib, which is not installed: pip install matplotlib")
    else:
        asked = {"pin": not options.free, "keep_dropout": options.keep_dropout, "updates": options.updates}
        outcome = compare(words, show, **asked)
    if options.figure and outcome.pairs:
        from accumcheck import figures  # noqa: PLC0415 - needs matplotlib

        figures.save(figures.draw_compared(outcome), options.figure)
    if options.json:
        print(json.dumps(outcome.as_dict(), allow_nan=False))
    if not options.json or outcome.error:
        print(text.compared(outcome), file=sys.stderr if outcome.error else sys.stdout)
    return STATUS[outcome.verdict]


def _run_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="accumcheck run",
        usage="accumcheck run [OPTIONS] SCRIPT [ARGUMENTS]",
        description="Run a training script as it is, and judge the updates that it makes. "
        "Options come before the script.",
    )
    parser.add_argument(
        "-k",
        dest="accumulation_steps",
        type=_count,
        metavar="K",
        help="the accumulation steps, where the script's own setting is not found",
    )
    parser.add_argument(
        "--objective", choices=("sample", "token"), help="what the loss averages over, where it is not clear"
    )
    parser.add_argument("--samples", type=_count, metavar="N", help="let data sets have their first N samples only")
    parser.add_argument("--updates", type=_count, metavar="N", help="end the script after N updates")
    parser.add_argument("--json", action="store_true", help="print one object behind what the script prints")
    parser.add_argument(
        "--report", type=_writable, metavar="FILE", help="write the report there, not to standard error"
    )
    parser.add_argument(
        "--figure", type=_figure, metavar="FILE", help="draw the windows around what is wrong as .svg or .png"
    )
    parser.add_argument(
        "--html", type=_html, metavar="FILE", help="write a page with the report and an interactive figure"
    )
    parser.add_argument(
        "--ranks", type=_ranks, metavar="R", help="start R local ranks of a data-parallel script, as torchrun does"
    )
    parser.add_argument("-m", dest="module", action="store_true", help="SCRIPT is a module, as for python -m")
    parser.add_argument("script", nargs=argparse.REMAINDER, metavar="SCRIPT [ARGUMENTS]", help=argparse.SUPPRESS)
    return parser


def _printable(text: str, stream: Any) -> str:
    """The same with ASCII marks, where the terminal knows no others."""
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return text.translate(str.maketrans("✓✗·–−", "+x.--"))
    return text


def _width() -> int:
    """Characters in a line: those of the terminal, between 60 and 120; 80 where there is none."""
    return min(max(shutil.get_terminal_size((80, 24)).columns, 60), 120)


def _writable(text: str) -> str:
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"--report writes a file, and {text!r} is a directory")
    if not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no directory {str(path.parent)!r} for the report {path.name}")
    return str(path.absolute())


def _check(options: argparse.Namespace) -> int:
    """Judge all loops, and print the verdict on each as soon as it is there."""
    asked = {
        name: getattr(options, name)
        for name in ("objective", "seed", "device", "ranks", "time_limit", "figure", "html", "checks")
    }
    asked["import_limit"] = max(options.time_limit, isolated.IMPORT_LIMIT)
    asked["colour"] = sys.stdout.isatty() and not options.json
    asked["width"] = _width()
    objects = []
    progress = Progress(silent=options.json)
    for result in isolated.judged(options.loops, asked, progress.show):
        progress.clear()
        objects.append(result["object"])
        failed = result["object"]["verdict"] == "error"
        if failed or not options.json:
            stream = sys.stderr if failed else sys.stdout
            print(_printable(result["text"], stream), file=stream, flush=True)
    if options.json:
        print(json.dumps(objects[0] if len(objects) == 1 else objects, allow_nan=False))
    elif len(objects) > 1:
        rows = [
            (o["loop"], o["verdict"], ", ".join(f["id"] for f in o["findings"]), _short(o["counterexample"]))
            for o in objects
        ]
        _table(("loop", "verdict", "findings", "counterexample"), rows)
    verdicts = {found["verdict"] for found in objects}
    if any(check["status"] == "failed" for found in objects for check in found.get("checks", ())):
        verdicts.add("diverges")  # for the exit status, as these checks were asked for
    return next((STATUS[each] for each in ("error", "diverges", "inconclusive") if each in verdicts), 0)


class Progress:
    """How far a check is, on standard error: a line that comes and goes on a terminal, else a line now and then."""

    FIRST, LATER = (2.0, 0.2), (10.0, 30.0)  # seconds before the first line and between two: terminal, no terminal

    def __init__(self, *, silent: bool) -> None:
        self._terminal = sys.stderr.isatty()
        self._first, self._every = self.FIRST if self._terminal else self.LATER
        self._silent, self._target, self._shown, self._next = silent, "", False, 0.0

    def show(self, child: isolated.Child) -> None:
        """Say where the check is, if it is time to."""
        now = time.monotonic()
        if child.target != self._target:
            self._target, self._next = child.target, now + self._first
        if self._silent or now < self._next:
            return
        self._next = now + self._every
        text = f"{child.target}: {child.runs} runs, {child.sizes}" if child.runs else f"{child.target}: starting"
        if self._terminal:
            print(f"\r{text[: shutil.get_terminal_size().columns - 1]}\x1b[K", end="", file=sys.stderr, flush=True)
            self._shown = True
        else:
            print(f"accumcheck: {text} ...", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the line away."""
        self._target = ""
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        self._shown = False


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    try:
        console = importlib.import_module("rich.console").Console(highlight=False)
        table = importlib.import_module("rich.table").Table
    except ImportError:
        for row in [header, *rows]:
            print("\t".join(row))
        return
    lines = table(*header, show_lines=any("\n" in cell for row in rows for cell in row))
    for row in rows:
        lines.add_row(*row)
    console.print(lines)


def _short(counterexample: dict[str, int] | None) -> str:
    if not counterexample:
        return ""
    return ", ".join(
        f"{name}={value}" for name, value in zip(("n", "b", "k", "epochs"), counterexample.values(), strict=True)
    )


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
    try:
        module, function, directory = _importable(loop, path)
        text = TEMPLATE.format(
            name=path,
            module=module,
            function=function,
            path=SEARCH_PATH.format(directory=directory) if directory else "",
        )
        with path.open("x") as file:
            file.write(text)
    except FileExistsError:
        print(f"accumcheck: {str(path)!r} exists and is yours: choose another name", file=sys.stderr)
        return STATUS["error"]
    except OSError as error:
        print(f"accumcheck: {str(path)!r} cannot be written: {error}", file=sys.stderr)
        return STATUS["error"]
    except ValueError as error:
        print(f"accumcheck: {error}", file=sys.stderr)
        return STATUS["error"]
    print(f"wrote {path}: edit its LOOPS, then run pytest {path}")
    return 0


def _importable(loop: str, test: Path) -> tuple[str, str, str]:
    """The loop's module and function as ``test`` imports them, and the directory that it needs on its path, if any.

    Raises ValueError for what cannot be imported.
    """
    where, colon, function = loop.rpartition(":")
    if not colon or not function.isidentifier():
        raise ValueError(f"--loop is named {LOOP}, got {loop!r}")
    here, beside = Path.cwd(), test.absolute().parent
    if not where.endswith(".py"):
        if not all(part.isidentifier() for part in where.split(".")):
            raise ValueError(f"--loop is named {LOOP}, got {loop!r}")
        found = any((here / where.replace(".", "/")).with_suffix(suffix).exists() for suffix in (".py", ""))
        return where, function, _expression(here, beside) if found else ""
    file = Path(os.path.normpath(here / where))
    if not file.is_file() and not (file := Path(os.path.normpath(beside / where))).is_file():
        raise ValueError(f"there is no file {where!r}")
    base = next((each for each in (here, beside) if each in file.parents), None)
    parts = file.relative_to(base).with_suffix("").parts if base else ()
    if base is None or not all(part.isidentifier() for part in parts):
        raise ValueError(
            f"a test cannot import {where!r}: give a path below this directory, of names that Python can import"
        )
    return ".".join(parts), function, _expression(base, beside)


def _expression(base: Path, beside: Path) -> str:
    """Python for ``base`` in a file that lies in ``beside``; empty where pytest puts it on the path by itself."""
    if base == beside:
        return ""
    if base in beside.parents:
        return f"Path(__file__).resolve().parents[{len(beside.relative_to(base).parts)}]"
    return f"Path({str(base)!r})"


def _frameworks(names: Sequence[str], as_json: bool) -> int:
    """Print what the frameworks that are installed here do; 0, or 2 where one fails, is unknown, or none is there."""
    from accumcheck.adapters import ADAPTERS  # noqa: PLC0415 - torch is not for those who ask for help
    from accumcheck.adapters.conformance import conformance  # noqa: PLC0415
    from accumcheck.task import LoopError  # noqa: PLC0415

    known = {adapter.id: adapter for adapter in ADAPTERS}
    if unknown := [name for name in names if name not in known]:
        print(f"accumcheck: no framework {unknown[0]!r}: choose from {', '.join(known)}", file=sys.stderr)
        return STATUS["error"]
    rows, failed, missing = [], False, []
    for name in names or known:
        adapter = known[name]
        if adapter.version is None:
            missing.append(f"{name}: {adapter.package} is not installed: pip install {adapter.package}")
            failed |= bool(names)
            continue
        try:
            with _silent_stdout():
                rows.append(conformance(adapter))
        except LoopError as error:
            print(f"accumcheck: {name}: {error}", file=sys.stderr)
            failed = True
    for line in missing if names else ():
        print(f"accumcheck: {line}", file=sys.stderr)
    if as_json:
        print(json.dumps([row.as_dict() for row in rows], allow_nan=False))
    elif names:
        _table(("framework", "as full-batch training", "otherwise"), [row.as_texts() for row in rows])
    else:
        print(_grid(rows, [line.partition(":")[0] for line in missing]))
    return STATUS["error"] if failed or not rows else 0


def _grid(rows: Sequence[Any], missing: Sequence[str]) -> str:
    """A line of marks for each framework, below their meanings."""
    from accumcheck.adapters.conformance import COLUMNS, LEGEND  # noqa: PLC0415 - torch is not for all

    width = max([len(row.adapter.id) for row in rows], default=0) + 2
    lines = [f"{LEGEND}", ""]
    for place, column in enumerate(COLUMNS):
        lines.append(f"{' ' * width}{'|  ' * place}{column}")
    lines += [f"{row.adapter.id.ljust(width)}{'  '.join(row.marks())}" for row in rows]
    if missing:
        lines += ["", f"{len(missing)} not installed: {', '.join(missing)}"]
    lines += ["", f"Details of one: accumcheck frameworks {rows[0].adapter.id if rows else 'NAME'}"]
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="accumcheck",
        description="Is gradient accumulation the big batch that it claims to be? accumcheck asks your script or loop.",
    )
    parser.add_argument("--version", action="version", version=f"accumcheck {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="run a training script as it is, and judge its updates", add_help=False)
    check = commands.add_parser(
        "check",
        help="judge one loop, or several",
        description="Judge a training loop at ten sizes. "
        "Exit status: 0 equivalent, 1 diverges, 2 error, 3 inconclusive.",
    )
    check.add_argument("loops", nargs="+", metavar="LOOP", help=LOOP)
    check.add_argument(
        "--objective",
        choices=("sample", "token", "both"),
        default="sample",
        help="what the loss averages over (default: %(default)s)",
    )
    check.add_argument(
        "--json", action="store_true", help="print one object (a list for several loops), and nothing else"
    )
    check.add_argument("--figure", type=_figure, metavar="FILE", help="write the contribution matrix as .svg or .png")
    check.add_argument(
        "--html", type=_html, metavar="FILE", help="write a page with the report and an interactive figure"
    )
    check.add_argument(
        "--checks",
        action="store_true",
        help="check what lies beside the weights as well: averages of the weights, optimizer state, memory, gradient "
        "scaler, reported losses; one that fails makes the exit status 1",
    )
    check.add_argument("--seed", type=int, default=0, help="of data and random streams (default 0)")
    check.add_argument("--device", default="cpu", help="a torch device, such as cuda")
    check.add_argument(
        "--ranks", type=_ranks, metavar="R", help="run a data-parallel loop on R local ranks (torchrun, gloo, CPU)"
    )
    check.add_argument(
        "--time-limit",
        type=_seconds,
        default=TIME_LIMIT,
        metavar="SECONDS",
        help=f"for one run of the loop; a check makes many (default {TIME_LIMIT:g})",
    )
    compare = commands.add_parser(
        "compare",
        help="two runs of a script, update by update",
        usage="accumcheck compare [OPTIONS] -- python SCRIPT [ARGUMENTS] -- python SCRIPT [ARGUMENTS]",
        description="The first command runs three times, to measure the noise, the second once. "
        "The files that they write are written.",
    )
    compare.add_argument("--free", action="store_true", help="let both runs train on; by default each step is undone")
    compare.add_argument("--keep-dropout", action="store_true", help="leave dropout on")
    compare.add_argument("--updates", type=_count, metavar="N", help="end each run after N updates")
    compare.add_argument("--json", action="store_true", help="print one object, and nothing else")
    compare.add_argument("--figure", type=_figure, metavar="FILE", help="write the errors by update as .svg or .png")
    recipe = commands.add_parser("recipe", help="print a training loop that is right, to copy")
    recipe.add_argument(
        "--objective", choices=("sample", "token"), default="sample",
        help="what the loss averages over (default: %(default)s)",
    )  # fmt: skip
    recipe.add_argument(
        "--style", choices=("window", "stream", "scaler"), default="window",
        help="window: draw k micro-batches first; stream: one at a time, dividing before the step; scaler: with "
        "GradScaler and clipping (default: %(default)s)",
    )  # fmt: skip
    init = commands.add_parser("init", help="write a test file for your loop, which is yours from then on")
    init.add_argument("file", metavar="FILE", help="for example test_equivalence.py")
    init.add_argument("--loop", default="my_loop:train", help=LOOP)
    frameworks = commands.add_parser("frameworks", help="what the frameworks that are installed here do")
    frameworks.add_argument("names", nargs="*", metavar="NAME", help="such as lightning (default: all)")
    frameworks.add_argument("--json", action="store_true", help="print a list of objects, and nothing else")
    return parser


def _figure(text: str) -> str:
    if Path(text).suffix.lower() not in (".svg", ".png"):
        raise argparse.ArgumentTypeError(f"--figure writes .svg or .png, got {text!r}")
    return _beside(text, "figure")


def _html(text: str) -> str:
    if Path(text).suffix.lower() != ".html" or Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"--html writes a file that ends in .html, got {text!r}")
    return _beside(text, "page")


def _beside(text: str, what: str) -> str:
    """Its absolute path, as a loop may change the directory."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no directory {str(path.parent)!r} for the {what} {path.name}")
    return str(path.absolute())


def _seconds(text: str) -> float:
    try:
        require_limit(seconds := float(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"a time limit is a number of seconds above 0, got {text!r}") from None
    return seconds


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"it is a whole number of at least 1, got {text!r}")
    return int(text)


def _ranks(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a number of ranks is at least 1, got {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
