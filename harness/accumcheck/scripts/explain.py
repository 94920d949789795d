"""From what was seen of a run to a verdict: for each optimizer and each term of its loss, the program that it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from statistics import median

from accumcheck.explaining.diagnose import broken
from accumcheck.explaining.excerpt import Excerpt
from accumcheck.explaining.finding import Finding, by_severity
from accumcheck.explaining.fit import skeletons
from accumcheck.numbers import close, exact
from accumcheck.programs.rules import TABLES, Program, Shape
from accumcheck.programs.simulate import Structure, gradients, ratio, structure
from accumcheck.scripts.log import Batch, Law, Loader, Log, Pass, Update
from accumcheck.scripts.table import NEAR, Row, Table, table_of
from accumcheck.scripts.watch import BATCH_NORM, GRAD, INSIDE, MOVED, RANKS
from accumcheck.task import Objective, Verdict

ENDED = "the script was ended after as many updates as were asked for"
NARROW = ("bfloat16", "float16")
LONG = 600  # micro-batches; of a longer run, programs are tried on the first so many, and proved on all


@dataclass
class Judged:
    """What was found of one optimizer: ``reasons`` say what could not be judged, ``notes`` what was assumed."""

    name: str
    updates: int = 0
    findings: list[Finding] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    excerpts: dict[str, Excerpt] = field(default_factory=dict)  # by finding
    program: Program | None = None

    @property
    def verdict(self) -> Verdict:
        """``diverges`` if anything was found, else ``inconclusive`` if anything was not judged."""
        return "diverges" if self.findings else "inconclusive" if self.reasons or not self.tables else "equivalent"


@dataclass
class Judgement:
    """The verdict on a run; ``k`` and where it is from."""

    optimizers: list[Judged]
    k: int
    source: str
    unseen: list[str]  # what the run did not show
    nothing: str = ""  # why there is nothing to judge
    sites: dict[str, str] = field(default_factory=dict)

    @property
    def findings(self) -> list[Finding]:
        """Of all optimizers, root causes first."""
        return by_severity([f for each in self.optimizers for f in each.findings])

    @property
    def reasons(self) -> list[str]:
        """Why there is no verdict on some part."""
        return list(dict.fromkeys(reason for each in self.optimizers for reason in each.reasons))

    @property
    def premises(self) -> list[str]:
        """What a verdict takes for granted."""
        found = [note for each in self.optimizers for note in each.notes]
        terms = sorted({(table.term, table.law) for each in self.optimizers for table in each.tables})
        for law in ("sample", "token"):
            if names := [term for term, each in terms if each == law]:
                found.append(f"you want the loss to be a mean over {law}s ({', '.join(names)})")
        if terms:
            found.append("samples of a micro-batch do not influence each other")
        return list(dict.fromkeys(found))

    @property
    def verdict(self) -> Verdict:
        """The worst of the optimizers'."""
        found = {each.verdict for each in self.optimizers} or {"inconclusive"}
        return next(v for v in ("diverges", "inconclusive", "equivalent") if v in found)


def judge(log: Log, k: int | None = None, objective: Objective | None = None) -> Judgement:
    """Judge a run by its log; ``k`` and ``objective`` are what was told, if it was."""
    log = _in_chunks(log)
    steps, source = _steps(log, k)
    judged = [
        _judge(log, owner, steps, objective, told=source != FREQUENT)
        for owner in range(len(log.optimizers))
        if any(update.optimizer == owner for update in log.updates)
    ]
    return Judgement(
        [e for e in judged if e.updates], steps, source, _unseen(log, judged, steps), _nothing(log), log.sites
    )


def _nothing(log: Log) -> str:
    """Why no optimizer can be judged, where none stepped."""
    if not log.optimizers:
        return (
            "no torch optimizer was made, and other updates are not seen: does the script train, with these arguments?"
        )
    if not log.passes:
        return "no optimizer stepped, and nothing was differentiated: does the script train, and with these arguments?"
    return "no torch optimizer stepped; other updates are not seen"


FREQUENT = "the most frequent number of micro-batches in an update"


def _steps(log: Log, told: int | None) -> tuple[int, str]:
    """The accumulation steps, and where they are from: told, a setting of the script's, or the windows themselves."""
    if told is not None:
        return told, "-k"
    counts = Counter(
        len({part.batch for n in update.since for part in log.passes[n].parts} or update.since)
        for update in log.updates
        if update.since
    )
    window = counts.most_common(1)[0][0] if counts else 1
    constant = {name: next(iter(values)) for name, values in log.hints.items() if len(values) == 1}
    sure = {name: k for name, k in constant.items() if "accum" in name.lower() and (k > 1 or window == 1)}
    if len(set(sure.values())) > 1:  # a 1 may be what a framework has where nobody told it
        sure = {name: k for name, k in sure.items() if k > 1 or not name.startswith("setting ")}
    if len(set(sure.values())) == 1:
        return next((k, name) for name, k in sure.items())
    # One that is called k is believed where the loss is divided by it.
    divisor = window / weight if (weight := _usual_weight(log)) else 0.0
    for name, k in constant.items():
        if k > 1 and (k == window or close(k, divisor, NEAR)):
            return k, name
    return window, FREQUENT


def _usual_weight(log: Log) -> float:
    """What the first term of the loss weighs in all, in most updates."""
    found = []
    for update in log.updates:
        parts = [
            (update.factors[n], part) for n in update.since if n in update.factors for part in log.passes[n].parts[:1]
        ]
        if parts:
            found.append(abs(sum(factor * part.total for factor, part in parts)))
    return median(found) if found else 0.0


def _judge(log: Log, owner: int, k: int, objective: Objective | None, *, told: bool) -> Judged:
    updates = [u for u in log.updates if u.optimizer == owner]
    updates = [u for u in updates if not u.empty] or updates
    judged = Judged(log.optimizers[owner], len(updates))
    passes = {n: log.passes[n] for n in log.touched.get(owner, ())}
    if not passes:
        judged.reasons.append("no backward pass reached its parameters")
        return judged
    passes = _own(passes, updates)
    passes = _superseded(passes, updates, judged)
    skipped = {n for n in log.overflowed.get(owner, ()) if not any(n in u.factors for u in updates)}
    if skipped:
        judged.notes.append(f"{len(skipped)} backward passes overflowed and were skipped, as GradScaler does")
        passes = {n: each for n, each in passes.items() if n not in skipped}
    judged.notes += log.notes
    judged.reasons += log.doubts
    _unreadable(log, passes, updates, judged)
    if judged.reasons:
        return judged
    judged.findings += _buffers(updates, k)
    judged.findings += _coupled(log, passes, k)
    narrow = sorted({d for u in updates for d in u.dtypes if d in NARROW})
    if narrow and k > 1:
        judged.findings.append(
            Finding("low-precision-accumulation", facts={"text": f"gradients are summed in {' and '.join(narrow)}"})
        )
    _schedule(log, owner, updates, k, judged)
    if not any(f.id in ("clipped-per-micro-batch", "unsynchronised-replicas") for f in judged.findings):
        _weights(log, passes, updates, k, objective, judged, told=told, loose=bool(narrow))
    judged.findings = by_severity(judged.findings)
    return judged


# Which passes are an optimizer's business


def _in_chunks(log: Log) -> Log:
    """Where batches of a loader are cut into pieces, each with a pass of its own, the pieces are the micro-batches."""
    pieces: dict[Batch, list[int]] = {}
    for each in log.passes:
        for part in each.parts[:1]:
            if part.sure and len(part.weights) < part.batch.rows:
                pieces.setdefault(part.batch, []).append(len(part.weights))
    if not any(len(rows) > 1 and sum(rows) == batch.rows for batch, rows in pieces.items()):
        return log
    places: Counter[tuple[int, int]] = Counter()
    passes, loaders = [], dict(log.loaders)
    for each in log.passes:
        if each.parts:
            whole = each.parts[0].batch
            key = whole.loader, whole.epoch
            piece = Batch(each.number, -2 - whole.loader, whole.epoch, places[key], len(each.parts[0].weights))
            places[key] += 1
            if whole.loader in loaders:
                loaders[piece.loader] = Loader(piece.loader, None, loaders[whole.loader].ends)
            each = replace(each, parts=tuple(replace(part, batch=piece) for part in each.parts))  # noqa: PLW2901
        passes.append(each)
    return replace(log, passes=passes, loaders=loaders)


def _own(passes: Mapping[int, Pass], updates: Sequence[Update]) -> dict[int, Pass]:
    """Without losses that it never applies, such as those of a generator in the gradients of its critic."""

    def signature(each: Pass) -> tuple[tuple[str, int], ...]:
        return tuple(sorted((part.term, part.batch.loader) for part in each.parts))

    applied = {signature(passes[n]) for u in updates for n in u.factors if n in passes}
    return {n: each for n, each in passes.items() if signature(each) in applied or not applied}


def _superseded(passes: dict[int, Pass], updates: Sequence[Update], judged: Judged) -> dict[int, Pass]:
    """Without passes that were cleared and made again on the same micro-batch for the same update, as SAM does."""
    gone = set()
    for update in updates:
        kept = {part.batch for n in update.since if n in update.factors and n in passes for part in passes[n].parts}
        for n in update.since:
            cleared = n in passes and n not in update.factors and passes[n].parts
            if cleared and all(part.batch in kept for part in passes[n].parts):
                gone.add(n)
    if gone:
        judged.notes.append(
            f"{len(gone)} backward passes were cleared and made again on the same micro-batch, as SAM does; only the "
            "second ones were judged"
        )
    return {n: each for n, each in passes.items() if n not in gone}


def _unreadable(log: Log, passes: Mapping[int, Pass], updates: Sequence[Update], judged: Judged) -> None:
    """Why updates cannot be judged."""
    opaque = [each.opaque for each in passes.values() if each.opaque]
    if opaque:
        judged.reasons.append(f"{opaque[0]} (in {len(opaque)} of {len(passes)} backward passes)")
    loaders = [frozenset(part.batch.loader for part in each.parts) for _, each in sorted(passes.items()) if each.parts]
    changes = [a for a, b in pairwise(loaders) if a != b]
    if len(changes) > len(set(loaders)) - 1:
        judged.reasons.append("several loaders take turns, and what a window of all of them should be is not known")
    contrasting = [p for each in passes.values() for p in each.parts if p.contrasts and len(p.weights) != p.batch.rows]
    if contrasting:
        judged.reasons.append(
            f"a loss contrasts {len(contrasting[0].weights)} samples, where the micro-batch holds "
            f"{contrasting[0].batch.rows}: whether they are those of a whole window is not known"
        )
    formulas: dict[str, set[tuple[int, int]]] = {}
    for each in passes.values():
        for part in each.parts:
            if part.formula and not part.hidden:
                formulas.setdefault(part.term, set()).add((len(part.weights), part.batch.rows))
    for term, sizes in formulas.items():
        # As many rows in every pass, and not those of the micro-batch: experts, say, but no samples.
        rows, held = next(iter(sizes))
        if len({rows for rows, _ in sizes}) == 1 and held and rows % held:
            judged.reasons.append(f"a term of the loss ({term}) has {rows} rows, the micro-batch {held}")
    for fact, why in (
        (INSIDE, "an optimizer steps inside of backward(), before the pass has ended"),
        (
            RANKS,
            "several ranks train together, and only what this one does was seen; accumcheck run --ranks R sees all "
            "of one machine",
        ),
        (GRAD, "gradients are taken by torch.autograd.grad(), and what becomes of them is not followed"),
    ):
        if log.facts[fact] and (fact != GRAD or any(u.changed for u in updates)):
            judged.reasons.append(why)
    if moved := log.facts[MOVED]:
        judged.reasons.append(
            "parameters were changed between the backward passes of a window and its optimizer step, by something else "
            f"than the optimizer, in {moved} updates: micro-batches may do so more often than full batches"
        )
    judged.reasons += [
        f"{fact}; only the first was seen" for fact in log.facts if fact.startswith("an optimizer evaluated")
    ]
    if changed := sum(u.changed for u in updates):
        judged.reasons.append(
            "gradients were changed by other means than backward passes, clearing, scaling and clipping "
            f"in {changed} updates"
        )


# Gradients in the buffers


def _buffers(updates: Sequence[Update], k: int) -> list[Finding]:
    """What happened to gradients between a pass and its step."""
    found: list[Finding] = []
    if apart := [step for step, update in enumerate(updates) if update.apart]:
        text = f"at update {apart[0]}, and in {len(apart)} of {len(updates)} updates, the gradients of ranks differ"
        found.append(Finding("unsynchronised-replicas", step=apart[0], facts={"text": text}))
    for step, update in enumerate(updates):
        inside = [n for n in update.since if n in update.factors]
        clips = [update.clips[n][0] for n in inside]
        factors = [update.factors[n] for n in inside]
        if len(set(clips)) > 1:
            text = f"in update {step} the gradients of its micro-batches were clipped {_listed(clips)} times"
            found.append(Finding("clipped-per-micro-batch", step=step, facts={"text": text}))
        elif factors and max(factors) - min(factors) > NEAR * max(map(abs, factors)):
            listed = _listed([f"{f:.3g}" for f in factors])
            text = f"in update {step} the gradients of its micro-batches were rescaled by {listed}"
            found.append(Finding("clipped-per-micro-batch", step=step, facts={"text": text}))
        for name, partly in (("gradients-not-reset", update.kept), ("gradients-lost", update.lost)):
            if partly and k > 1:
                tensors = next(iter(partly.values()))
                text = f"at update {step}, in {len(tensors)} of its tensors, such as {tensors[0]}"
                found.append(Finding(name, step=step, facts={"text": text}))
    return by_severity(found)


def _listed(each: Sequence[object]) -> str:
    return ", ".join(map(str, each))


def _coupled(log: Log, passes: Mapping[int, Pass], k: int) -> list[Finding]:
    """Does a loss or a layer mix the samples of a micro-batch? Only what is certain."""
    if k == 1:
        return []
    parts = [part for each in passes.values() for part in each.parts]
    if curved := next((part.nonlinear for part in parts if part.nonlinear), ""):
        text = f"the loss is the {curved} of a value of all samples of a micro-batch, so it is no mean over samples"
        return [Finding("batch-coupled", facts={"text": text})]
    if log.facts[BATCH_NORM]:
        text = "BatchNorm normalises by the statistics of each micro-batch"
        return [Finding("batch-coupled", facts={"text": text, "fix": "replace BatchNorm by GroupNorm or LayerNorm"})]
    first = [part for part in parts if part.term == parts[0].term and len(part.weights) > 1] if parts else []
    if first and all(part.contrasts for part in first) and all(len(p.weights) == p.batch.rows for p in first):
        text = (
            "the loss has as many classes as rows, and targets that are not the data's: "
            "it contrasts the samples of a micro-batch"
        )
        fix = "compute the contrastive loss once, on the outputs of the whole window"
        return [Finding("batch-coupled", facts={"text": text, "fix": fix})]
    return []


def _schedule(log: Log, owner: int, updates: Sequence[Update], k: int, judged: Judged) -> None:
    """Is the learning rate moved once an update?"""
    calls = [u.calls for u in updates[1:]]
    moving = len({u.rates for u in updates}) > 1
    known = log.schedules.get(owner)
    below = next((number for number, u in enumerate(updates) if any(rate < 0 for rate in u.rates)), None)
    if below is not None and k > 1:
        judged.reasons.append(
            f"the learning rate is below zero, from update {below} on: look whether its schedule counts micro-batches"
        )
    if moving and known is None and k > 1:
        inside = any(len({log.passes[n].rates.get(owner) for n in u.since}) > 1 for u in updates)
        if inside:
            judged.reasons.append(
                "the script changes the learning rate within windows; whether it goes by updates is not known"
            )
        else:
            judged.notes.append("the script moves the learning rate by itself, once an update or more seldom")
    whole = not log.facts[ENDED]  # a run that was ended early has not made all calls
    if not calls or k == 1 or not moving or known is None:
        return
    usual = median(calls)
    if usual > 1 and abs(usual - k) < 1:
        if known.length and 0.9 * known.calls <= known.length <= (1.1 * known.calls if whole else known.length):
            judged.notes.append(
                f"scheduler.step() is called {usual:g} times an update, and {known.kind} is made for "
                f"{known.length} calls, of which {known.calls} were made: its length is counted in micro-batches, "
                "so the rate ends where it should"
            )
        else:
            text = f"scheduler.step() is called {usual:g} times an update (k = {k})"
            judged.findings.append(Finding("scheduler-per-micro-batch", step=1, facts={"text": text}))
    elif known.length is None:
        judged.notes.append(f"{known.kind} was judged by how often it is called: once an update, or more seldom")


# Weights


def _weights(
    log: Log, passes: Mapping[int, Pass], updates: Sequence[Update], k: int, objective: Objective | None,
    judged: Judged, *, told: bool, loose: bool,
) -> None:  # fmt: skip
    terms = list(dict.fromkeys(part.term for each in passes.values() for part in each.parts))
    tables: list[list[Table]] = []
    for term in terms:
        found = _tables(term, passes, updates, k, objective, log)
        if isinstance(found, str):
            judged.reasons.append(f"{term}: {found}")
        elif found:
            tables.append(found)
    if hidden := {p.term for each in passes.values() for p in each.parts if p.hidden}:
        judged.notes.append(
            f"what happens in {' and '.join(sorted(hidden))} is not seen; it is taken for a mean over its micro-batch"
        )
    tables = _over_ranks(tables, log.ranks, judged)
    group = _group_factor([each[0] for each in tables])
    for several in tables:
        tried = [(table, *_explained(table, group, told=told, loose=loose)) for table in several]
        table, program, note, doubt = min(
            tried, key=lambda each: (each[1] is None, bool(each[3]), each[1].cost[0] if each[1] else 0)
        )
        judged.tables.append(table)
        if table.skipped and not table.known:
            judged.reasons.append(SKIPPED.format(table.term, table.skipped))
        judged.notes += [f"{table.term}: {note}"] if note else []
        if uneven := log.uneven.get((table.term, table.law)):
            law = "token-weighting" if table.law == "token" else "mean-of-means"
            judged.findings.append(Finding(law, slot="ranks", facts={"text": uneven, "ranks": log.ranks}))
        if doubt:
            judged.reasons.append(f"{table.term}: {doubt}")
        elif program is None:
            if reason := _certain(table, judged):
                judged.reasons.append(f"{table.term}: {reason}")
        elif program.wrong:
            found_here = _laws(program, table)
            judged.findings += found_here
            judged.excerpts = {f.id: e for f in found_here if (e := _excerpt(f, table))} | judged.excerpts
            judged.program = judged.program or program


def _over_ranks(tables: list[list[Table]], ranks: int, judged: Judged) -> list[list[Table]]:
    """Without a factor of the number of ranks, or of one over it, that all terms have; it is a finding."""
    firsts = [each[0] for each in tables]
    for factor, law in ((ranks, "unscaled-loss"), (1 / ranks, "over-scaled-loss")):
        # Where it may as well be one of k, the loop itself is the likelier cause.
        if ranks == 1 or not firsts or firsts[0].k == ranks:
            continue
        if all(t.base and _near(t.base / factor, _natural(t)) and not _near(t.base, _natural(t)) for t in firsts):
            text = f"in full windows the loss weighs {firsts[0].base:.4g} in all, where a mean weighs 1"
            judged.findings.append(Finding(law, slot="ranks", facts={"text": text, "ranks": ranks}))
            return [[replace(t, rows=_divided(t, factor)) for t in each] for each in tables]
    return tables


def _natural(table: Table) -> list[float]:
    """What a window weighs in all where its loss is a mean: 1, or the elements of a row if their losses are summed."""
    return [1.0, *([table.per_row] if table.per_row > 1 else [])]


def _near(number: float, others: Sequence[float]) -> float | None:
    return next((other for other in others if close(abs(number), other, NEAR)), None)


def _group_factor(tables: Sequence[Table]) -> float | None:
    """By what a loss of several terms was multiplied, if by k or 1/k; None for one term alone."""
    bases = [(table.base, table) for table in tables if table.base]
    if len(tables) < 2 or not bases:
        return None
    if any(_near(base, _natural(table)) for base, table in bases) or close(
        sum(abs(base) for base, _ in bases), 1, NEAR
    ):
        return 1.0
    base, table = max(bases, key=lambda each: abs(each[0]))
    k = table.k
    for factor in (k, 1 / k) if k > 1 else ():
        if _near(base, [n * factor for n in _natural(table)]):
            return factor
    return 1.0


SKIPPED = (
    "{}: no backward pass follows its first {} micro-batches. Right if an earlier run has trained with them, which is "
    "not seen here: run it from the start"
)
ROUND = (0.5, 0.25, 0.1, 0.01, 0.2, 0.05, 2.0, 5.0, 10.0, 100.0)  # what a factor in an objective often is


def _explained(table: Table, group: float | None, *, told: bool, loose: bool) -> tuple[Program | None, str, str]:
    """The likeliest program that makes a table; what was taken for granted; and why it may not be judged."""
    scales = tuple(TABLES["scale"])
    base, natural, k = table.base, _natural(table), table.k
    if base is None or not table.shape:
        return likeliest(table, table.rows, scales, loose=loose), "", ""
    note = ""
    if not _near(base, natural) and (counted := _counted(table)) is not None:
        table, note = counted
        base = table.base or 1.0
    sign = 1.0 if base > 0 else -1.0
    mean = table.reduction != "sum" or all(_near(t, natural) for t in table.passes)
    near = _near(base, natural)
    constant = table.constant
    if near is None and not mean and constant:
        summed = _divided(table, constant)
        as_sum = likeliest(table, summed, ("sum",), loose=loose)
        if as_sum is not None:
            return (
                replace(as_sum, scale="share"),
                f"every unit weighs {constant:.4g}, which is taken for a sum by design",
                "",
            )
    if near is not None:
        divisor = sign * near
    elif group is not None:
        divisor = base / group
        if not close(abs(divisor), 1, NEAR):
            note = f"the weights of a full window add up to {abs(divisor):.4g}, which is taken to be on purpose"
    elif k > 1 and (near := _near(base, [n * f for n in natural for f in (k, 1 / k)])) is not None:
        divisor = sign * next(n for n in natural if _near(base, [n * k, n / k]))
    else:
        divisor = sign * natural[-1] if mean else sign
        found = likeliest(table, _divided(table, divisor), scales, loose=loose)
        if found and [r.law for r in found.wrong] == ["wrong-scale"] and not _near(base / divisor, ROUND):
            return found, note, ""
        found = likeliest(table, _divided(table, base), scales, loose=loose)
        if found and found.wrong:
            return (
                found,
                f"the weights of a full window add up to {base:.4g}, which is taken to be on purpose",
                "",
            )
        where = "" if told else f" (k = {k} is a guess: set it with -k)"
        return (
            found,
            note,
            f"the weights of a full window add up to {abs(base):.4g}, not to 1{where}: "
            "a factor on purpose, or a wrong divisor",
        )
    return likeliest(table, _divided(table, divisor), scales, loose=loose), note, ""


def _divided(table: Table, divisor: float) -> tuple[Row, ...]:
    return tuple({m: factor / divisor for m, factor in row.items()} for row in table.rows)


COUNTED = ("labels that are not ignored", "whole numbers", "whole numbers other than 0")


def _counted(table: Table) -> tuple[Table, str] | None:
    """With each window as if divided by its units, where it is divided by another count of what is in its batches."""
    width = min((len(counts) for counts in table.counts), default=0)
    for place in range(width):
        rows: list[Row] = []
        for row in table.rows:
            units, counted = (
                (
                    sum(each)
                    for each in zip(*((table.micros[m].units, table.counts[m][place]) for m in row), strict=True)
                )
                if row
                else (1.0, 1.0)
            )
            rows.append({m: factor * counted / units for m, factor in row.items()})
        changed = replace(table, rows=tuple(rows))
        if changed.base is not None and _near(changed.base, _natural(table)) and _as_due(changed, rows, loose=False):
            what = COUNTED[place % len(COUNTED)]
            return (
                changed,
                f"each window is divided by how many {what} it holds, not by its number of losses: "
                "taken to be on purpose",
            )
    return None


def _tables(
    term: str, passes: Mapping[int, Pass], updates: Sequence[Update], k: int, objective: Objective | None, log: Log
) -> list[Table] | str:
    """A table for each law that the weights within micro-batches obey."""
    laws: tuple[Law, ...] = (objective,) if objective is not None else ("token", "sample")
    found = []
    for law in laws:
        table = table_of(term, law, k, passes, updates, log)
        if isinstance(table, str):
            return table
        if table.inside and any(table.rows):
            found.append(table)
    if not found:
        return "the samples of a micro-batch do not weigh the same, and neither do its tokens"
    same = len(found) == 2 and all(
        close(a.units, b.units * (found[0].per_row or 1)) for a, b in zip(found[0].micros, found[1].micros, strict=True)
    )
    return found[-1:] if same else found


def likeliest(table: Table, rows: Sequence[Row], scales: Sequence[str], *, loose: bool) -> Program | None:
    """The program with the fewest wrong rules that makes these rows, in which micro-batches are the table's."""
    shape = table.shape
    if shape is None:
        return Program() if _as_due(table, rows, loose=loose) else None
    if _as_due(table, rows, loose=loose) and "share" in scales:
        return Program()
    best: Program | None = None
    known: set[tuple[tuple[int, ...], ...]] = set()
    wanted = [frozenset(row) for row in rows if row]
    for skeleton in skeletons():
        if best and len(skeleton.wrong) > len(best.wrong):
            break
        if len(table.micros) > LONG and not _begins(skeleton, shape, wanted, table.skipped):
            continue
        found = _structure(skeleton, shape)
        if found.made < len(wanted) or (found.made > len(wanted) + table.skipped and table.whole):
            continue
        made = _used(found, shape, table.skipped)
        if len(made) > len(wanted) and table.whole:
            continue
        if [frozenset(row) for row in made[: len(wanted)]] != wanted or made in known:
            continue
        known.add(made)
        for scale in scales:
            program = replace(skeleton, scale=scale)
            if (best is None or program.cost < best.cost) and makes(program, table, rows, loose=loose):
                best = program
    return best


def _structure(program: Program, shape: Shape) -> Structure:
    # Of a long run none is kept.
    follow = structure if shape.length * shape.epochs <= LONG else structure.__wrapped__
    return follow(program.visit, program.step, program.reset, shape)


def _begins(program: Program, shape: Shape, wanted: Sequence[frozenset[int]], skipped: int) -> bool:
    """Whether a program's first updates are made of these micro-batches, without those that are skipped."""
    found = structure.__wrapped__(program.visit, program.step, program.reset, shape, LONG)
    made = [frozenset(row) for row in _used(found, shape, skipped)]
    return bool(made) and made == list(wanted[: len(made)])


def _used(found: Structure, shape: Shape, skipped: int) -> tuple[tuple[int, ...], ...]:
    """The micro-batches of each update, without those that are skipped."""
    places = _places(found, shape)
    used = ({places[v] for v in row if not 0 <= places[v] < skipped} for row in found.rows)
    return tuple(tuple(sorted(row)) for row in used if row)


def _places(found: Structure, shape: Shape) -> list[int]:
    """The micro-batch of each visit."""
    return [
        visit.spans[0][0] * shape.length + visit.spans[0][1] // shape.b if visit.spans else -1 for visit in found.visits
    ]


def made_by(program: Program, table: Table) -> Iterator[dict[int, float]]:
    """The rows of a program, without micro-batches that the run skips."""
    shape = table.shape
    assert shape is not None
    found = _structure(program, shape)
    places = _places(found, shape)
    for values in gradients(
        program, found, lambda visit: table.held(min(places[visit], len(table.micros) - 1)), shape, ratio
    ):
        row: dict[int, float] = {}
        for visit, (factor,) in values.items():
            if not 0 <= places[visit] < table.skipped:
                row[places[visit]] = row.get(places[visit], 0.0) + factor
        if row:
            yield row


def makes(program: Program, table: Table, rows: Sequence[Row], *, loose: bool = False) -> bool:
    """Whether a program makes these rows; further updates are not looked at."""
    made = made_by(program, table)
    return all(_same(next(made, {}), row, loose=loose) for row in rows if row)


def _same(ours: Row, due: Row, *, loose: bool) -> bool:
    relative = 3e-2 if loose else 2e-4
    return ours.keys() == due.keys() and all(close(ours[m], due[m], relative) for m in ours)


def _as_due(table: Table, rows: Sequence[Row], *, loose: bool) -> bool:
    """Whether the updates are those of full batches."""
    made = [row for row in rows if row]
    due = table.windows
    if len(made) != len(due) and (table.whole or len(made) > len(due)):
        return False
    return all(_same(row, table.share(window), loose=loose) for row, window in zip(made, due, strict=False))


def _laws(program: Program, table: Table) -> list[Finding]:
    """A finding for each law that the program breaks, where this shows in the run."""
    found = []
    weighed = any(m.units != round(m.units) for m in table.micros)  # by classes
    for slot, rule, law, here, there in broken(program, "sample" if weighed else table.law):
        if list(map(_rounded, made_by(here, table))) == list(map(_rounded, made_by(there, table))):
            continue
        if law == "carried-tail" and not any(_epochs(row, table) > 1 for row in table.rows):
            continue  # it would be, if the graver law were kept
        found.append(_witness(Finding(law, slot=slot, rule=rule), table, change=(here, there)))
    return found or [_witness(Finding(r.law, rule=r), table) for r in program.wrong[:1]]


def _epochs(row: Row, table: Table) -> int:
    """Of how many epochs an update's micro-batches are."""
    return len({table.micros[m].epoch for m in row if m < len(table.micros)})


def _rounded(row: Row) -> dict[int, float]:
    return {m: round(factor, 9) for m, factor in row.items()}


def _excerpt(finding: Finding, table: Table) -> Excerpt | None:
    rows, due = table.compared
    if finding.step is None:
        return None
    ours, should = (each[finding.step] if finding.step < len(each) else {} for each in (rows, due))
    if finding.id == "dropped-tail" and not any(m in row for row in rows for m in should):
        ours = {}
    shown = sorted(m for m in ours.keys() | should.keys() if m < len(table.micros))
    mine, due_here = (tuple(_fraction(row.get(m, 0.0)) for m in shown) for row in (ours, should))
    columns = tuple(str(table.micros[m].place) for m in shown)
    return Excerpt(finding.step, columns, mine, due_here, what="micro-batch") if shown else None


def _witness(finding: Finding, table: Table, change: tuple[Program, Program] | None = None) -> Finding:
    """With the first update and micro-batch whose factor is not the one that it should be."""
    rows, due = table.compared
    touched = None
    if change and finding.slot == "scale":
        touched = [
            {m for m in a.keys() | b.keys() if not close(a.get(m, 0.0), b.get(m, 0.0))}
            for a, b in zip(*(made_by(p, table) for p in change), strict=False)
        ]
    for step in range(max(len(rows), len(due))):
        ours, should = (each[step] if step < len(each) else {} for each in (rows, due))
        wrong = [
            m for m in sorted(ours.keys() | should.keys()) if not close(ours.get(m, 0.0), should.get(m, 0.0), 2e-4)
        ]
        if finding.id == "dropped-tail":
            wrong = [m for m in wrong if m in should and not any(m in row for row in rows)]
        if touched is not None and step < len(touched):
            wrong = [m for m in wrong if m in touched[step]]
        if wrong and (wrong[0] < len(table.micros)):
            micro = table.micros[wrong[0]]
            return replace(
                finding, step=step, epoch=micro.epoch,
                samples=tuple(table.micros[m].place for m in wrong if m < len(table.micros)),
                weight=_fraction(ours.get(wrong[0], 0.0)), due=_fraction(should.get(wrong[0], 0.0)),
            )  # fmt: skip
    return finding


def _fraction(number: float) -> Fraction | float:
    """The simple fraction that a factor is, to the precision of float32."""
    near = Fraction(number).limit_denominator(1000)
    return near if abs(number - near) <= 1e-5 * abs(number) else exact(number)


def _certain(table: Table, judged: Judged) -> str | None:
    """What can be said of weights that no program makes."""
    rows = [row for row in table.rows if row]
    used = {m for row in rows for m in row}
    due = [set(window) for window in table.windows]
    if [set(row) for row in rows] == due:
        return "its micro-batches are in the right updates, with weights that no known rule makes"
    if (
        table.whole
        and (never := sorted({m for window in due for m in window} - used))
        and len(never) < len(table.micros)
    ):
        micro = table.micros[never[0]]
        text = (
            f"micro-batch {micro.place} of epoch {micro.epoch} is in no update "
            f"({len(never)} of {len(table.micros)} are in none)"
        )
        lost = any(len(window & set(never)) and len(window - set(never)) for window in due)
        judged.findings.append(
            Finding(
                "gradients-lost" if lost else "dropped-tail",
                epoch=micro.epoch,
                samples=(micro.place,),
                facts={"text": text},
            )
        )
        return None
    return "the wrong micro-batches go into its updates, in a way that fits no known rule"


# What the run did not show


def _unseen(log: Log, judged: Sequence[Judged], k: int) -> list[str]:
    tables = [table for each in judged for table in each.tables]
    if not tables:
        return []
    if k == 1:
        return ["accumulation: every update was made of one micro-batch. Run it with more accumulation steps"]
    found = []
    windows = [window for table in tables for window in table.windows]
    ended = any(table.whole or len(table.lengths) > 1 for table in tables)
    if not ended:
        found.append("the end of an epoch: the run ended before. More updates show what becomes of a tail there")
    elif all(len(window) == k for window in windows):
        found.append(
            f"a short last window: k = {k} divides the micro-batches of each epoch. "
            "Try another length, as with --samples"
        )
    if all(len({m.rows for m in table.micros}) == 1 for table in tables):
        found.append(
            "a short micro-batch: all were the same size. Try a data set length that is no multiple of that size"
        )
    if ended and all(len(table.lengths) == 1 for table in tables):
        found.append("a second epoch, and what it takes over from the first")
    if any(calls for u in log.updates for _, calls in u.clips.values()) and not any(u.clipped for u in log.updates):
        found.append("a gradient that was clipped: none was that large. Try a smaller limit")
    return found
