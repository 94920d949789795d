"""Two runs of a script, update by update: ``accumcheck compare -- COMMAND -- COMMAND``. It imports no torch.

Each command runs in a process of its own, see ``accumcheck.scripts.sketch``; the first one three times, twice with
changes that mean nothing. How far these move a tensor's gradient is its *noise*, the tolerance ``SAFETY`` times that.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import platform
import re
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import textwrap
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from operator import mul
from pathlib import Path
from typing import Any

import accumcheck

SAFETY = 16.0
COARSEST = 0.02  # relative tolerance that at least one tensor of every update has to stay below
SHOWN = 4  # tensors, and updates, that the text names
QUOTED = 5  # last lines of a command that fails
WIDTH = 80
ORDINAL = ("first", "second")
WITH_VALUE = ("-W", "-X")  # flags of Python
STARTER = """
import sys
sys.path[:] = [each for each in sys.path if each]
sys.path.append({path!r})
from accumcheck.scripts.sketch import main
sys.path.pop()
main()
"""
HELP = "type: accumcheck compare -- python SCRIPT [ARGUMENTS] -- python SCRIPT [ARGUMENTS]"


class CompareError(Exception):
    """There is nothing to compare; the text says why, and what to do."""


@dataclass(frozen=True)
class Command:
    """A command line that runs Python on a script or a module."""

    text: str
    python: list[str]
    environment: dict[str, str]
    script: str
    arguments: list[str]
    module: bool

    @classmethod
    def parse(cls, words: Sequence[str]) -> Command:
        """Raises CompareError for what is no such command."""
        text, environment, rest = shlex.join(words), {}, list(words)
        while rest and re.match(r"[A-Za-z_]\w*=", rest[0]):
            name, _, environment[name] = rest.pop(0).partition("=")
        if not rest or not re.fullmatch(r"python(\d(\.\d+)?)?(\.exe)?", os.path.basename(rest[0])):
            instead = shlex.join(["python", *rest]) if rest and rest[0].endswith(".py") else "python SCRIPT [ARGUMENTS]"
            raise CompareError(f"{text!r} does not start with python: only Python can be watched; type {instead}")
        first = rest.pop(0)
        python = [first if os.path.dirname(first) else sys.executable]
        while rest and rest[0].startswith("-") and rest[0] != "-m":
            if rest[0].startswith("-c") or rest[0] == "-":
                raise CompareError(f"{text!r} names no script: write the code to a file, and type python FILE")
            count = 1 + (rest[0] in WITH_VALUE)
            python, rest = [*python, *rest[:count]], rest[count:]
        module = rest[:1] == ["-m"]
        rest = rest[1:] if module else rest
        if not rest:
            raise CompareError(f"{text!r} names no script: {HELP}")
        if not module and not Path(rest[0]).exists():
            raise CompareError(f"{text!r}: there is no script {rest[0]!r}")
        return cls(text, python, environment, rest[0], rest[1:], module)


class Trace:
    """What a run has written down."""

    def __init__(self, folder: Path) -> None:
        self.torch, self.coarsest = "", 0.0
        self.updates: list[dict[str, Any]] = []
        self.optimizers: dict[int, dict[str, Any]] = {}
        self.streams: dict[int, dict[str, Any]] = {}
        self._sketches = folder / "sketches"
        for line in (folder / "log.jsonl").read_text().splitlines():
            event = json.loads(line)
            if "update" in event:
                self.updates.append(event)
            elif "optimizer" in event:
                self.optimizers[event["optimizer"]] = event
            elif "stream" in event:
                self.streams[event["stream"]] = event
            elif "coarsest" in event:
                self.coarsest = event["coarsest"]
            else:
                self.torch = event["torch"]
        self.by_tensors: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
        for update in self.updates:
            self.by_tensors[self.tensors(update)].append(update)

    def tensors(self, update: dict[str, Any]) -> tuple[str, ...]:
        """The names of an update's tensors."""
        return tuple(self.optimizers[update["optimizer"]]["names"])

    def sketches(self, at: int, count: int) -> list[array[float]]:
        """As many as were written at a place of the file."""
        numbers = array("d")
        with self._sketches.open("rb") as file:
            file.seek(at)
            numbers.fromfile(file, 64 * count)
        return [numbers[64 * i : 64 * (i + 1)] for i in range(count)]

    @property
    def shapes(self) -> dict[str, list[int]]:
        """Of all tensors that an optimizer has stepped."""
        return {n: s for each in self.optimizers.values() for n, s in zip(each["names"], each["shapes"], strict=True)}

    def drawn(self) -> list[list[tuple[str, str]]]:
        """For each update the samples and their contents that loaders gave for training since the one before."""
        training = {update["drawn"][-1][0] for update in self.updates if update["drawn"]}
        return [
            [
                pair
                for s, names, held in update["drawn"]
                if s in training
                for pair in zip(names, held or names, strict=True)
            ]
            for update in self.updates
        ]


@dataclass(frozen=True)
class Difference:
    """One tensor in one update. Error and tolerance are shares of the first command's norm; ``ratio`` is how many times
    the first command's gradient the second's is, in its direction."""

    tensor: str
    error: float
    tolerance: float
    noise: float
    ratio: float
    unit: float

    @property
    def is_wrong(self) -> bool:
        """Beyond the tolerance, and in the leading half of the digits (rounding may jump, as at a ReLU's kink)."""
        return self.error > self.tolerance and self.error > math.sqrt(self.unit)

    @property
    def is_doubtful(self) -> bool:
        """Beyond the tolerance only."""
        return self.error > self.tolerance and not self.is_wrong


@dataclass(frozen=True)
class Pair:
    """One update of both commands: ``ratio`` over all tensors, ``across`` the share that no ratio explains."""

    update: int
    differences: list[Difference]
    ratio: float
    across: float
    before_clipping: bool
    rates: tuple[float, float] | None = None  # the first ones that differ

    @property
    def wrong(self) -> list[Difference]:
        """The worst first."""
        return sorted((d for d in self.differences if d.is_wrong), key=lambda d: -d.error / (d.tolerance or 1))

    @property
    def worst(self) -> Difference:
        """The tensor with the largest error, in tolerances."""
        return max(self.differences, key=lambda d: d.error / d.tolerance if d.tolerance and d.error else 0.0)

    @property
    def tolerance(self) -> float:
        """The smallest of any tensor; infinite where all gradients are zero."""
        return min(d.tolerance for d in self.differences)

    @property
    def is_wrong(self) -> bool:
        """Whether the second command does something else here."""
        return self.rates is not None or any(d.is_wrong for d in self.differences)


@dataclass
class Outcome:
    """The verdict on two commands; ``reasons`` say what else was seen, ``notes`` what the verdict does not cover."""

    commands: Sequence[str]
    verdict: str = "error"
    pairs: list[Pair] = field(default_factory=list)
    counts: tuple[int, int] = (0, 0)
    reasons: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    error: str | None = None
    torch: str = "not seen"

    @property
    def wrong(self) -> list[Pair]:
        """The updates that differ."""
        return [pair for pair in self.pairs if pair.is_wrong]

    def as_dict(self) -> dict[str, Any]:
        """The JSON form: a number that is not finite is null."""
        tensors = {d.tensor: d for pair in reversed(self.pairs) for d in pair.wrong}
        return {
            "verdict": self.verdict,
            "commands": list(self.commands),
            "updates": [
                {
                    "update": pair.update,
                    "ratio": _finite(pair.ratio),
                    "across": _finite(pair.across),
                    "tensor": pair.worst.tensor,
                    "error": _finite(pair.worst.error),
                    "tolerance": _finite(pair.worst.tolerance),
                    "before_clipping": pair.before_clipping,
                    "learning_rates": pair.rates,
                }
                for pair in self.wrong
            ],
            "tensors": {n: {k: _finite(v) for k, v in asdict(d).items() if k != "tensor"} for n, d in tensors.items()},
            "ratio": _finite(self.wrong[0].ratio) if self.wrong else None,
            "noise": _finite(max((d.noise for pair in self.pairs for d in pair.differences), default=math.nan)),
            "steps": list(self.counts),
            "reasons": self.reasons,
            "notes": self.notes,
            "error": self.error,
            "versions": {
                "accumcheck": accumcheck.__version__,
                "torch": self.torch,
                "python": platform.python_version(),
            },
        }


def compare(
    own: Sequence[str],
    *,
    free: bool = False,
    keep_dropout: bool = False,
    updates: int | None = None,
    show: Callable[[str], object] = lambda text: None,
) -> Outcome:
    """Judge the two commands in the words that stand behind ``--``; ``show`` hears what happens meanwhile."""
    parts: list[list[str]] = []
    for word in own:
        if word == "--":
            parts.append([])
        else:
            parts[-1].append(word)
    texts = [shlex.join(part) for part in parts]
    try:
        if len(parts) != 2:
            raise CompareError(f"two commands are compared, got {len(parts)}: {HELP}")
        commands = [Command.parse(part) for part in parts]
        request = {"pin": not free, "keep_dropout": keep_dropout, "updates": updates}
        with tempfile.TemporaryDirectory(prefix="accumcheck-", ignore_cleanup_errors=True) as folder:
            traces = []
            for run, (which, neutral) in enumerate(((0, 0), (1, 0), (0, 1), (0, 2))):
                show(f"run {run + 1} of 4: {commands[which].text}{' (noise)' if neutral else ''}")
                where = Path(folder, str(run))
                traces.append(_run(commands[which], ORDINAL[which], where, {**request, "neutral": neutral}))
            outcome = _judge(traces[0], traces[1], traces[2:], texts)
    except CompareError as error:
        return Outcome(texts, error=str(error))
    if free:
        outcome.notes.append("the parameters of the two commands drift apart (--free): judge the first wrong update")
    else:
        outcome.notes.append("parameters are put back after each update, so that all are judged at the same point")
    outcome.notes.append("dropout is as the script has it" if keep_dropout else "dropout is off")
    return outcome


def _run(command: Command, name: str, folder: Path, request: dict[str, Any]) -> Trace:
    folder.mkdir()
    asked = {**request, "script": command.script, "arguments": command.arguments, "module": command.module}
    code = STARTER.format(path=str(Path(accumcheck.__file__).parents[1]))
    with (folder / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            [*command.python, "-c", code, json.dumps({**asked, "folder": str(folder)})],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env={**os.environ, **command.environment},
            start_new_session=True,  # so that all that it has started can be ended with it
        )
        try:
            status = process.wait()
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if status:
        how = f"with exit status {status}" if status > 0 else f"by {signal.Signals(-status).name}"
        lines = (folder / "stderr").read_text(errors="replace").rstrip().splitlines()[-QUOTED:]
        said = "".join(f"\n    {line}" for line in lines) or " It said nothing."
        raise CompareError(f"the {name} command ended {how}: {command.text}{said}")
    trace = Trace(folder)
    if not trace.torch:
        raise CompareError(f"the {name} command imports no torch: {command.text}")
    if not trace.updates:
        raise CompareError(f"the {name} command made no step of a torch optimizer in its own process: {command.text}")
    return trace


def _judge(first: Trace, second: Trace, neutral: Sequence[Trace], texts: Sequence[str]) -> Outcome:
    _require_same_models(first, second)
    _require_same_data(first, second)
    outcome = Outcome(texts, counts=(len(first.updates), len(second.updates)), torch=first.torch)
    if not _same_start(first, neutral, neutral):
        outcome.verdict = "inconclusive"
        outcome.reasons.append("two runs of the first command start from other parameters: set a seed in the script")
        return outcome
    if not _same_start(first, [second], neutral):
        raise CompareError("the two commands start from other parameters: set the same seed before the model is built")
    places: Counter[tuple[str, ...]] = Counter()
    for update in first.updates:
        tensors, place = first.tensors(update), places[first.tensors(update)]
        places[tensors] += 1
        if place < len(second.by_tensors[tensors]):
            others = [trace.by_tensors[tensors][place : place + 1] for trace in neutral]
            outcome.pairs.append(_pair(first, second, neutral, update, second.by_tensors[tensors][place], others))
    if not any(d.error or d.tolerance < math.inf for pair in outcome.pairs for d in pair.differences):
        raise CompareError("every gradient of both commands is zero, which proves nothing: look at the loss")
    differing = {t: (len(first.by_tensors[t]), len(u)) for t, u in second.by_tensors.items()}
    if any(ours != theirs for ours, theirs in differing.values()):
        outcome.reasons.append(f"the first command makes {outcome.counts[0]} updates, the second {outcome.counts[1]}")
    outcome.verdict = _verdict(outcome, same_counts=not outcome.reasons)
    _explain(outcome, first, second)
    return outcome


def _verdict(outcome: Outcome, *, same_counts: bool) -> str:
    if outcome.wrong or not same_counts:
        return "diverges"
    blind = [pair for pair in outcome.pairs if COARSEST < pair.tolerance < math.inf]
    doubtful = [pair for pair in outcome.pairs if any(d.is_doubtful for d in pair.differences)]
    if blind:
        outcome.reasons.append(
            f"the noise is too large: at update {blind[0].update} an error below {blind[0].tolerance:.2g} of a "
            "gradient cannot be told from it; try float32 and a fixed seed"
        )
    if doubtful:
        outcome.reasons.append(
            f"at update {doubtful[0].update}, the gradient of {doubtful[0].worst.tensor} differs by "
            f"{doubtful[0].worst.error:.2g}: more than the noise, too little to be sure"
        )
    return "inconclusive" if blind or doubtful else "equivalent"


def _explain(outcome: Outcome, first: Trace, second: Trace) -> None:
    """Say what else differs, and what was not judged."""
    outcome.reasons += _order(first.drawn(), second.drawn())
    turned = [pair for pair in outcome.wrong if pair.across > 0.01]
    if turned and any(each["batch_norm"] for each in first.optimizers.values()):
        outcome.reasons.append(
            "the model has BatchNorm, which mixes the samples of a micro-batch: no loop makes it equal"
        )
    if not any(first.drawn()):
        outcome.notes.append("no DataLoader was seen, so the order of the samples was not compared")
    seen = {d.tensor for pair in outcome.pairs for d in pair.differences if d.tolerance < math.inf}
    if dead := [name for name in first.shapes if name not in seen]:
        outcome.notes.append(f"not judged, as the gradient is always zero: {', '.join(dead[:SHOWN])}{_more(dead)}")


def _pair(
    first: Trace,
    second: Trace,
    neutral: Sequence[Trace],
    ours: dict[str, Any],
    theirs: dict[str, Any],
    others: Sequence[list[dict[str, Any]]],
) -> Pair:
    made = first.optimizers[ours["optimizer"]]
    coarsest = max(trace.coarsest for trace in neutral)  # under autocast it is that of a narrow dtype
    made = {**made, "units": [max(unit, coarsest) for unit in made["units"]]}
    rates = next(((a, b) for a, b in zip(ours["rates"], theirs["rates"], strict=True) if not _same(a, b)), None)
    pairs = []
    for stage in ("clipped_at", "at"):
        updates = [(first, ours), (second, theirs), *((t, u[0]) for t, u in zip(neutral, others, strict=True) if u)]
        if any(update[stage] is None for _, update in updates):
            continue
        read = [trace.sketches(update[stage], len(made["names"])) for trace, update in updates]
        pairs.append(_at(ours["update"], made, read, len(others), before_clipping=stage != "at", rates=rates))
    # What is wrong before clipping explains what is wrong behind it.
    return next((pair for pair in pairs if any(d.is_wrong for d in pair.differences)), pairs[-1])


def _at(
    update: int,
    made: dict[str, Any],
    read: Sequence[list[array[float]]],
    neutral: int,
    *,
    before_clipping: bool,
    rates: tuple[float, float] | None,
) -> Pair:
    columns = [
        (name, unit, *sketches)
        for name, unit, *sketches in zip(made["names"], made["units"], *read, strict=True)
        if not any(math.isnan(each[0]) for each in sketches) or not before_clipping
    ]
    for name, _, *sketches in columns:
        for which, sketch in zip(ORDINAL, sketches, strict=False):
            if not all(map(math.isfinite, sketch)):
                raise CompareError(
                    f"the {which} command has a gradient of {name} that is not finite, at update {update}"
                )
    whole = math.hypot(*(math.hypot(*x) for _, _, x, *_ in columns))
    differences, along, distance, size = [], 0.0, 0.0, 0.0
    for name, unit, x, y, *moved in columns:
        norm, other = math.hypot(*x), math.hypot(*y)
        noise = max((math.dist(x, each) for each in moved), default=0.0) if len(moved) == neutral else math.inf
        tolerance, error = SAFETY * max(noise, unit * max(norm, other, whole)), math.dist(x, y)
        dot = sum(map(mul, x, y))
        along, size, distance = along + dot, size + other**2, distance + error**2
        share = norm or (other if error > tolerance else math.inf)
        differences.append(
            Difference(
                name,
                error / share,
                tolerance / share if norm else math.inf if share == math.inf else tolerance / share,
                noise / share,
                dot / norm**2 if norm else math.nan,
                unit,
            )
        )
    ratio = along / whole**2 if whole else math.nan
    across = math.sqrt(max(0.0, size - ratio * along) / size) if size and whole else math.nan
    return Pair(update, differences, ratio, across, before_clipping, rates)


def _require_same_models(first: Trace, second: Trace) -> None:
    ours, theirs = first.shapes, second.shapes
    for name in ours:
        if theirs.get(name, ours[name]) != ours[name]:
            raise CompareError(f"the commands train different models: {name} is {ours[name]} and then {theirs[name]}")
    for which, alone in zip(ORDINAL, (ours.keys() - theirs.keys(), theirs.keys() - ours.keys()), strict=True):
        if alone:
            names = f"{', '.join(sorted(alone)[:SHOWN])}{_more(alone)}"
            raise CompareError(f"the commands train different models: only the {which} updates {names}")
    if first.by_tensors.keys() != second.by_tensors.keys():
        raise CompareError("the optimizers of the two commands hold the same tensors in other groups or another order")


def _require_same_data(first: Trace, second: Trace) -> None:
    lengths = [
        {trace.streams[u["drawn"][-1][0]]["length"] for u in trace.updates if u["drawn"]} for trace in (first, second)
    ]
    if all(lengths) and lengths[0] != lengths[1]:
        ours, theirs = (" and ".join(map(str, sorted(each, key=str))) for each in lengths)
        raise CompareError(f"the commands read different data: {ours} samples in the first, {theirs} in the second")
    held: list[dict[str, str]] = [
        {name: content for update in trace.drawn() for name, content in update} for trace in (first, second)
    ]
    common = [
        (held[0][name], held[1][name])
        for name in held[0].keys() & held[1].keys()
        if held[0][name].rpartition(" ")[0] == held[1][name].rpartition(" ")[0]  # padded to other lengths if not
    ]
    if 2 * sum(a != b for a, b in common) > len(common):
        raise CompareError("the commands read different data: samples of the same index hold other numbers")
    if held[0] and held[1] and lengths[0] == {None} and not held[0].keys() & held[1].keys():
        raise CompareError("the commands read different data: no sample of the first is seen in the second")


def _same_start(first: Trace, others: Sequence[Trace], neutral: Sequence[Trace]) -> bool:
    """Whether parameters are the same before each optimizer's first step, up to ``SAFETY`` units in the last place."""
    for made in first.optimizers.values():
        starts = [
            trace.sketches(each["at"], len(made["names"]))
            for trace in [first, *others, *neutral]
            for each in trace.optimizers.values()
            if each["names"] == made["names"]
        ]
        for unit, start, *rest in zip(made["units"], *starts, strict=True):
            if any(math.dist(start, other) > max(4 * SAFETY * unit, 1e-4) * math.hypot(*start) for other in rest):
                return False
    return True


def _order(ours: list[list[tuple[str, str]]], theirs: list[list[tuple[str, str]]]) -> Iterator[str]:
    """A line where the second command draws other samples, or the same ones in another order.

    Samples are counted from the start, as loaders may run a batch ahead of the updates.
    """
    stream, at = [name for update in theirs for name, _ in update], 0
    for update, drawn in enumerate(ours):
        names = [name for name, _ in drawn]
        other = stream[at : at + len(names)]
        at += len(names)
        if len(other) < len(names):
            return
        if other != names:
            how = "the same samples in another order" if Counter(other) == Counter(names) else "other samples"
            first, second = (" ".join(each[:8]) + " ..." * (len(each) > 8) for each in (names, other))
            yield f"sample order: {how} are drawn before update {update}: {second}, and {first} in the first command"
            return


def text(outcome: Outcome) -> str:
    """The report, in lines of at most 80 characters."""
    if outcome.error is not None:
        return f"accumcheck: {outcome.error}"
    says = {"equivalent": "is equivalent to", "diverges": "diverges from"}.get(outcome.verdict, "cannot be judged by")
    lines = [f"The second command {says} the first.", *map("  {}: {}".format, ORDINAL, outcome.commands), ""]
    if outcome.verdict == "equivalent":
        margin = max((d.error / d.tolerance for p in outcome.pairs for d in p.differences if d.error), default=0.0)
        below = f"{margin:.2g} of its tolerance" if margin else "zero: equal to the bit"
        lines.append(f"  {len(outcome.pairs)} updates were compared; the largest error is {below}.")
    if outcome.wrong:
        lines += _wrong(outcome.wrong[0])
        numbers = [str(pair.update) for pair in outcome.wrong]
        which = ", ".join(numbers[: 2 * SHOWN]) + (" ..." if len(numbers) > 2 * SHOWN else "")
        lines.append(f"  {len(numbers)} of {len(outcome.pairs)} updates differ: {which}.")
    lines += [f"  {reason[0].upper()}{reason[1:]}." for reason in outcome.reasons]
    lines += [f"  Note: {note}." for note in outcome.notes]
    return "\n".join(wrapped for line in lines for wrapped in _wrapped(line))


def _wrong(pair: Pair) -> Iterator[str]:
    if pair.rates:
        first, second = pair.rates
        yield f"  At update {pair.update}, the learning rate is {second:.6g}, and {first:.6g} in the first."
    if pair.wrong:
        where = ", before clipping," if pair.before_clipping else ""
        if pair.across <= max(1e-3, 2 * pair.tolerance):
            what = f"is {_times(pair.ratio)} that of the first"
        else:
            what = (
                f"is {_times(pair.ratio)} that of the first in its direction, and {pair.across:.2g} of it lies across"
            )
        yield f"  At update {pair.update}, the gradient{where} {what}."
    for each in pair.wrong[:SHOWN]:
        times = "zero in the first" if math.isnan(each.ratio) else _times(each.ratio)
        yield f"    {each.tensor}: {times}, error {each.error:.2g}, tolerance {each.tolerance:.2g}"
    if len(pair.wrong) > SHOWN:
        yield f"    and {len(pair.wrong) - SHOWN} more tensors"


def _times(ratio: float) -> str:
    near = Fraction(ratio).limit_denominator(32) if math.isfinite(ratio) else Fraction(0)
    exact = near and abs(ratio / near - 1) < 1e-5 and near.denominator not in (1, 2, 4, 5, 10)
    return f"{ratio:.4g} ({near}) times" if exact else f"{ratio:.4g} times"


def _wrapped(line: str) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.wrap(
        line,
        WIDTH,
        initial_indent="",
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    ) or [""]


def draw(outcome: Outcome, path: str) -> None:
    """Write the relative error by update: the worst tensor's, the median, and the tolerance as a band."""
    figures = importlib.import_module("accumcheck.figures")  # imports torch
    figure = importlib.import_module("matplotlib.figure").Figure(figsize=(7, 3.6), layout="constrained")
    axis = figure.subplots()
    numbers = [pair.update for pair in outcome.pairs]
    worst = [pair.worst for pair in outcome.pairs]
    lowest = min((d.unit for d in worst), default=1e-7) / 100
    median = [statistics.median(d.error for d in pair.differences) for pair in outcome.pairs]
    band = [d.tolerance if math.isfinite(d.tolerance) else math.nan for d in worst]
    axis.fill_between(numbers, lowest, band, color=figures.EDGE, alpha=0.25, linewidth=0, label="tolerance")
    shown = {"marker": "o", "markersize": 3, "linewidth": 1.2}
    axis.plot(numbers, [max(d.error, lowest) for d in worst], color=figures.WRONG, label="worst tensor", **shown)
    axis.plot(numbers, [max(each, lowest) for each in median], color=figures.INK, label="median of tensors", **shown)
    axis.set_yscale("log")
    axis.set_xlabel("update")
    axis.set_ylabel("relative error of the gradient")
    axis.set_title(f"The second command beside the first: {outcome.verdict}", fontsize=11)
    axis.legend(fontsize=8)
    figures.save(figure, path)


def main(options: Any, words: Sequence[str]) -> str:
    """Run ``accumcheck compare`` and print what it finds; the verdict."""
    if options.figure and importlib.util.find_spec("matplotlib") is None:
        outcome = Outcome([], error="--figure needs matplotlib, which is not installed: pip install matplotlib")
    else:
        silent = options.json or not sys.stderr.isatty()
        outcome = compare(
            words,
            free=options.free,
            keep_dropout=options.keep_dropout,
            updates=options.updates,
            show=lambda line: None if silent else print(f"accumcheck: {line}", file=sys.stderr, flush=True),
        )
    if options.figure and outcome.pairs:
        draw(outcome, options.figure)
    if options.json:
        print(json.dumps(outcome.as_dict(), allow_nan=False))
    if not options.json or outcome.error:
        print(text(outcome), file=sys.stderr if outcome.error else sys.stdout)
    return outcome.verdict


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _same(ours: float | None, theirs: float | None) -> bool:
    return ours == theirs or (ours is not None and theirs is not None and math.isclose(ours, theirs, rel_tol=1e-9))


def _more(names: Collection[str]) -> str:
    return f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
