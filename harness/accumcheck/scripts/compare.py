"""Two runs of a script, update by update: ``accumcheck compare -- COMMAND -- COMMAND``.

Each command runs in a process of its own, see ``accumcheck.scripts.sketch``; the first one three times, twice with
changes that mean nothing. How far these move a tensor's gradient is its *noise*, the tolerance ``SAFETY`` times that.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import torch

import accumcheck
from accumcheck.failure import versions

SAFETY = 16.0
COARSEST = 0.02  # relative tolerance that at least one tensor of every update has to stay below
SHOWN = 4  # tensors that a message names
QUOTED = 5  # last lines of a command that fails
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
    """The updates of a run, as they were written down; those by the tensors that they step; and the data."""

    def __init__(self, updates: list[dict[str, Any]]) -> None:
        self.updates = updates
        self.shapes = {n: s for each in updates for n, s in zip(each["names"], each["shapes"], strict=True)}
        self.by_tensors: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
        for update in updates:
            self.by_tensors[update["names"]].append(update)
        # A data set that trains is one that was drawn from last before some update.
        trains = {stream: length for update in updates for stream, length, *_ in update["drawn"][-1:]}
        self.lengths = set(trains.values())
        self.drawn = [  # for each update the samples since the one before, and what they hold
            [
                pair
                for stream, _, names, held in update["drawn"]
                if stream in trains
                for pair in zip(names, held or names, strict=True)
            ]
            for update in updates
        ]


@dataclass(frozen=True)
class Difference:
    """One tensor in one update. Error, tolerance and noise are shares of the first command's norm; ``ratio`` is how
    many times the first command's gradient the second's is, in its direction."""

    tensor: str
    error: float
    tolerance: float
    noise: float
    ratio: float
    unit: float

    @property
    def share(self) -> float:
        """The error in tolerances."""
        return self.error / self.tolerance if self.error else 0.0

    @property
    def is_wrong(self) -> bool:
        """Beyond the tolerance, and in the leading half of the digits (rounding may jump, as at a ReLU's kink)."""
        return self.error > max(self.tolerance, math.sqrt(self.unit))


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
        return sorted((each for each in self.differences if each.is_wrong), key=lambda each: -each.share)

    @property
    def worst(self) -> Difference:
        """The tensor with the largest error, in tolerances."""
        return max(self.differences, key=lambda each: each.share)

    @property
    def tolerance(self) -> float:
        """The smallest of any tensor; infinite where all gradients are zero."""
        return min(each.tolerance for each in self.differences)


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
        """The updates at which the second command does something else."""
        return [pair for pair in self.pairs if pair.rates or pair.wrong]

    def as_dict(self) -> dict[str, Any]:
        """The JSON form: a number that is not finite is null."""
        wrong = {each.tensor: vars(each) for pair in reversed(self.pairs) for each in pair.wrong}
        found = {
            "verdict": self.verdict,
            "commands": list(self.commands),
            "updates": [
                {
                    "update": pair.update, "ratio": pair.ratio, "across": pair.across, "tensor": pair.worst.tensor,
                    "error": pair.worst.error, "tolerance": pair.worst.tolerance,
                    "before_clipping": pair.before_clipping, "learning_rates": pair.rates,
                }
                for pair in self.wrong
            ],
            "tensors": {name: {k: v for k, v in each.items() if k != "tensor"} for name, each in wrong.items()},
            "ratio": self.wrong[0].ratio if self.wrong else None,
            "noise": max((each.noise for pair in self.pairs for each in pair.differences), default=None),
            "steps": list(self.counts),
            "reasons": self.reasons,
            "notes": self.notes,
            "error": self.error,
            "versions": {**versions(), "torch": self.torch},
        }  # fmt: skip
        finite: dict[str, Any] = json.loads(json.dumps(found), parse_constant=lambda _: None)
        return finite


def compare(words: Sequence[str], show: Callable[[str], object] = lambda text: None, **request: Any) -> Outcome:
    """Judge the two commands in the words that stand behind ``--``; ``show`` hears what happens meanwhile.

    The request: whether to ``pin`` parameters (put them back after each update) and to ``keep_dropout``, and after how
    many ``updates`` to end each run.
    """
    parts: list[list[str]] = []
    for word in words:
        if word == "--":
            parts.append([])
        else:
            parts[-1].append(word)
    texts = [shlex.join(part) for part in parts]
    try:
        if len(parts) != 2:
            raise CompareError(f"two commands are compared, got {len(parts)}: {HELP}")
        commands = [Command.parse(part) for part in parts]
        with tempfile.TemporaryDirectory(prefix="accumcheck-", ignore_cleanup_errors=True) as folder:
            traces = []
            for run, (which, neutral) in enumerate(((0, 0), (1, 0), (0, 1), (0, 2))):
                show(f"run {run + 1} of 4: {commands[which].text}{' (noise)' if neutral else ''}")
                asked = {**request, "neutral": neutral}
                traces.append(_run(commands[which], ORDINAL[which], Path(folder, str(run)), asked))
            outcome = _judge(traces[0], traces[1], traces[2:], texts)
    except CompareError as error:
        return Outcome(texts, error=str(error))
    if request["pin"]:
        outcome.notes.append("parameters are put back after each update, so that all are judged at the same point")
    else:
        outcome.notes.append("the parameters of the two commands drift apart (--free): judge the first wrong update")
    outcome.notes.append("dropout is as the script has it" if request["keep_dropout"] else "dropout is off")
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
    updates = [torch.load(path, weights_only=True) for path in sorted(folder.glob("*.pt"))]
    if not updates:
        raise CompareError(f"the {name} command made no step of a torch optimizer in its own process: {command.text}")
    return Trace(updates)


def _judge(first: Trace, second: Trace, neutral: Sequence[Trace], texts: Sequence[str]) -> Outcome:
    counts = len(first.updates), len(second.updates)
    outcome = Outcome(texts, "inconclusive", counts=counts, torch=first.updates[0]["torch"])
    if problem := next(_problems(first, second), None):
        raise CompareError(problem)
    if not all(_same_start(first, each) for each in neutral):
        outcome.reasons.append("two runs of the first command start from other parameters: set a seed in the script")
        return outcome
    if not _same_start(first, second):
        raise CompareError("the two commands start from other parameters: set the same seed before the model is built")
    for tensors in first.by_tensors:
        runs = [trace.by_tensors[tensors] for trace in (first, second, *neutral)]
        outcome.pairs += [_pair(*same) for same in zip_longest(*runs) if same[0] and same[1]]
        if len(runs[0]) != len(runs[1]) and not outcome.reasons:
            which = f" of {_some(tensors)}" if len(first.by_tensors) > 1 else ""
            outcome.reasons.append(f"the first command makes {len(runs[0])} updates{which}, the second {len(runs[1])}")
    outcome.pairs.sort(key=lambda pair: pair.update)
    seen = {d.tensor for pair in outcome.pairs for d in pair.differences if d.error or d.tolerance < math.inf}
    if not seen:
        raise CompareError("every gradient of both commands is zero, which proves nothing: look at the loss")
    if outcome.wrong or outcome.reasons:
        outcome.verdict = "diverges"
    else:
        outcome.reasons += _doubts(outcome.pairs)
        outcome.verdict = "inconclusive" if outcome.reasons else "equivalent"
    outcome.reasons += _order(first.drawn, second.drawn)
    _add_what_is_not_judged(outcome, first, seen)
    return outcome


def _add_what_is_not_judged(outcome: Outcome, first: Trace, seen: Collection[str]) -> None:
    if first.updates[-1]["batch_norm"] and any(pair.across > 0.01 for pair in outcome.wrong):
        outcome.reasons.append(
            "the model has BatchNorm, which mixes the samples of a micro-batch: no loop makes it equal"
        )
    if not any(first.drawn):
        outcome.notes.append("no DataLoader was seen, so the order of the samples was not compared")
    if dead := [name for name in first.shapes if name not in seen]:
        outcome.notes.append(f"not judged, as the gradient is always zero: {_some(dead)}")


def _problems(first: Trace, second: Trace) -> Iterator[str]:
    """Why two runs cannot be compared."""
    ours, theirs = first.shapes, second.shapes
    for name in ours:
        if name in theirs and theirs[name] != ours[name]:
            yield f"the commands train different models: {name} is {ours[name]} and then {theirs[name]}"
    for which, alone in zip(ORDINAL, (ours.keys() - theirs.keys(), theirs.keys() - ours.keys()), strict=True):
        if alone:
            yield f"the commands train different models: only the {which} updates {_some(sorted(alone))}"
    if first.by_tensors.keys() != second.by_tensors.keys():
        yield "the optimizers of the two commands hold the same tensors in other groups or another order"
    lengths = [" and ".join(sorted(map(str, trace.lengths))) for trace in (first, second)]
    if all(lengths) and lengths[0] != lengths[1]:
        yield f"the commands read different data: {lengths[0]} samples in the first, {lengths[1]} in the second"
    held, other = ({name: what for update in trace.drawn for name, what in update} for trace in (first, second))
    common = [
        (held[name], other[name])
        for name in held.keys() & other.keys()
        if held[name].rpartition(" ")[0] == other[name].rpartition(" ")[0]  # padded to other lengths if not
    ]
    if 2 * sum(a != b for a, b in common) > len(common):
        yield "the commands read different data: samples of the same index hold other numbers"
    if held and other and first.lengths == {None} and not held.keys() & other.keys():
        yield "the commands read different data: no sample of the first is seen in the second"


def _same_start(first: Trace, other: Trace) -> bool:
    """Whether parameters are the same before each optimizer's first step, up to ``SAFETY`` units in the last place."""
    for tensors in first.by_tensors.keys() & other.by_tensors.keys():
        update = first.by_tensors[tensors][0]
        ours, theirs = update["start"], other.by_tensors[tensors][0]["start"]
        allowed = (4 * SAFETY * torch.tensor(update["units"]).double()).clamp(min=1e-4) * ours.norm(dim=1)
        if ((ours - theirs).norm(dim=1) > allowed).any():
            return False
    return True


def _doubts(pairs: Sequence[Pair]) -> Iterator[str]:
    """Why what is not wrong may not be right either."""
    blind = [pair for pair in pairs if COARSEST < pair.tolerance < math.inf]
    doubtful = [pair for pair in pairs if pair.worst.error > pair.worst.tolerance]
    if blind:
        yield (
            f"the noise is too large: at update {blind[0].update} an error below {blind[0].tolerance:.2g} of a "
            "gradient cannot be told from it; try float32 and a fixed seed"
        )
    if doubtful:
        yield (
            f"at update {doubtful[0].update}, the gradient of {doubtful[0].worst.tensor} differs by "
            f"{doubtful[0].worst.error:.2g}: more than the noise, too little to be sure"
        )


def _pair(ours: dict[str, Any], theirs: dict[str, Any], *neutral: dict[str, Any] | None) -> Pair:
    """Compare one update; the noise is not known where a neutral run has no such update."""
    moved = [update for update in neutral if update]
    units = torch.tensor(ours["units"]).double().clamp(min=max((update["narrow"] for update in moved), default=0.0))
    rates = next(((a, b) for a, b in zip(ours["rates"], theirs["rates"], strict=True) if not _same(a, b)), None)
    pairs = []
    for stage in ("clipped", "gradient"):
        x, y, *others = (update[stage] for update in (ours, theirs, *moved))
        if any(each is None for each in (x, y, *others)):
            continue
        for which, each in zip(ORDINAL, (x, y), strict=True):
            for name, finite in zip(ours["names"], each.isfinite().all(1), strict=True):
                if not finite:
                    what = f"a gradient of {name} that is not finite, at update {ours['update']}"
                    raise CompareError(f"the {which} command has {what}")
        norm, other, error, along = x.norm(dim=1), y.norm(dim=1), (x - y).norm(dim=1), (x * y).sum(1)
        known = len(moved) == len(neutral)
        noise = torch.stack([(x - each).norm(dim=1) for each in others]).amax(0) if known else norm + math.inf
        tolerance = SAFETY * noise.maximum(units * norm.maximum(other).maximum(x.norm()))
        # A gradient that is zero in both is not judged: shares of it are zero, and the tolerance has no end.
        share = norm.where(norm > 0, other.where(error > tolerance, math.inf))
        allowed = (tolerance / share).where(share < math.inf, math.inf)
        rows = torch.stack([error / share, allowed, noise / share, along / norm**2, units], dim=1).tolist()
        differences = [Difference(name, *row) for name, row in zip(ours["names"], rows, strict=True)]
        ratio = float(along.sum() / x.norm() ** 2)
        across = math.sqrt(max(0.0, 1 - ratio * float(along.sum() / y.norm() ** 2)))
        pairs.append(Pair(ours["update"], differences, ratio, across, stage == "clipped", rates))
    # What is wrong before clipping explains what is wrong behind it.
    return next((pair for pair in pairs if pair.wrong), pairs[-1])


def _order(ours: list[list[tuple[str, str]]], theirs: list[list[tuple[str, str]]]) -> Iterator[str]:
    """A line where the second command draws other samples, or the same ones in another order.

    Samples are counted from the start, as loaders may run a batch ahead of the updates.
    """
    stream = iter([name for update in theirs for name, _ in update])
    for update, drawn in enumerate(ours):
        names = [name for name, _ in drawn]
        other = list(islice(stream, len(names)))
        if len(other) < len(names):
            return
        if other != names:
            how = "the same samples in another order" if Counter(other) == Counter(names) else "other samples"
            first, second = (" ".join(each[:8]) + " ..." * (len(each) > 8) for each in (names, other))
            yield f"sample order: {how} are drawn before update {update}: {second}, and {first} in the first command"
            return


def _same(ours: float | None, theirs: float | None) -> bool:
    return ours == theirs or (ours is not None and theirs is not None and math.isclose(ours, theirs, rel_tol=1e-9))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
