"""The exact verdict on a loop: probes at many sizes, one cause for all of them, and the smallest counterexample."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

from hypothesis import HealthCheck, Phase, find, settings
from hypothesis._settings import local_settings
from hypothesis.errors import NoSuchExample

from harness.diagnose import Probed, Suspicion, diagnose, policy
from harness.findings import LAWS, Finding, rank
from harness.probe import HIGH, LOW, TIME_LIMIT, Reading, probe
from harness.strategies import small_sizes
from harness.task import Loop, LoopError, Objective, Sizes, name_of
from harness.tolerance import Verdict

# Tails of 3 in 4 and of 5 to 7 in 8 micro-batches, a short last micro-batch in a tail and in a full window,
# n < N, an even length; 2 and 3 epochs.
DEFAULT_SIZES = (
    Sizes(samples=7, micro_batch_size=1, accumulation_steps=4),
    Sizes(samples=11, micro_batch_size=2, accumulation_steps=4, epochs=3),
    Sizes(samples=13, micro_batch_size=1, accumulation_steps=8),
    Sizes(samples=14, micro_batch_size=1, accumulation_steps=8),
    Sizes(samples=15, micro_batch_size=1, accumulation_steps=8),
    Sizes(samples=5, micro_batch_size=2, accumulation_steps=4),
    Sizes(samples=7, micro_batch_size=2, accumulation_steps=4),
    Sizes(samples=12, micro_batch_size=2, accumulation_steps=3),
)
BUDGET = 60  # probes that the search for a smaller counterexample may take
PATIENCE = 10.0  # seconds after which it takes no further one


@dataclass(frozen=True)
class Outcome:
    """The exact verdict for one objective: root cause first, and the smallest size at which it was seen."""

    objective: Objective
    verdict: Verdict
    findings: tuple[Finding, ...]
    counterexample: Probed | None
    sizes: tuple[Sizes, ...]
    policy: str = ""
    plain: bool = True  # whether the loop's own full batch is the window mean
    notes: tuple[str, ...] = ()
    example: Probed | None = None  # large enough for a picture, where the root cause shows if there is one
    witnesses: dict[str, Probed] = field(default_factory=dict)


class Prober:
    """Probes of one loop for one objective, each size once."""

    def __init__(self, train: Loop, objective: Objective, seed: int, device: str, time_limit: float) -> None:
        self.train, self.objective, self.seed = train, objective, seed
        self.device, self.time_limit = device, time_limit
        self.probed: dict[Sizes, Probed] = {}

    def read(self, sizes: Sizes, gain: float = LOW, *, shuffle: bool = False) -> Reading:
        """One reading."""
        options = {"seed": self.seed, "device": self.device, "time_limit": self.time_limit}
        return probe(self.train, sizes, self.objective, gain=gain, shuffle=shuffle, **options)  # type: ignore[arg-type]

    def __call__(self, sizes: Sizes) -> Probed:
        """All readings at one size."""
        if sizes not in self.probed:
            # One epoch shows clipping; what passes from one to the next shows at the low gain.
            once = replace(sizes, epochs=1)
            low, high = ([self.read(s, gain) for s in (e, e.full_batch())] for gain, e in ((LOW, sizes), (HIGH, once)))
            self.probed[sizes] = Probed(*low, *high)
        return self.probed[sizes]

    def require_repeatable(self, sizes: Sizes) -> None:
        """Raise LoopError unless the loop does the same twice."""
        first, again = self(sizes).low, self.read(sizes)
        if (first.matrix, first.learning_rates) != (again.matrix, again.learning_rates):
            error = LoopError(
                f"{name_of(self.train)} does not repeat itself under one seed, at {sizes}: "
                f"{LAWS['nondeterministic'].fix}"
            )
            error.finding = "nondeterministic"
            raise error


def judge_exactly(
    train: Loop,
    objective: Objective = "sample",
    *,
    sizes: Iterable[Sizes] = (),
    search: bool = True,
    seed: int = 0,
    device: str = "cpu",
    time_limit: float = TIME_LIMIT,
) -> Outcome:
    """Probe a loop at ``sizes``, then at the default sizes; name what it breaks; look for the smallest counterexample.

    Raises LoopError when the loop raises, hangs, never steps, has no gradients, or does not repeat itself.

    >>> from harness.loops import published_fix
    >>> outcome = judge_exactly(published_fix)
    >>> outcome.verdict, outcome.findings[0].id, str(outcome.counterexample.sizes)
    ('diverges', 'tail-scaled-by-k', 'n=1, b=1, k=2, epochs=1')
    """
    prober = Prober(train, objective, seed, device, time_limit)
    ladder = tuple(dict.fromkeys([*sizes, *DEFAULT_SIZES]))
    prober.require_repeatable(ladder[0])
    prober.require_repeatable(DEFAULT_SIZES[1])
    require_life(name_of(train), [prober(each) for each in ladder])
    suspicions = {each: diagnose(prober(each)) for each in ladder}
    consumers = partial(_consumers, prober)
    findings = merge(suspicions, consumers)
    notes = () if findings else _order_notes(prober)
    plain = all(prober(each).plain for each in ladder)
    if not findings:
        return Outcome(
            objective, "equivalent", (), None, ladder, plain=plain, notes=notes, example=prober(DEFAULT_SIZES[1])
        )
    shows = [each for each in DEFAULT_SIZES if any(findings[0].id in s.ids for s in suspicions[each])]
    example = prober(shows[0]) if shows else None
    smallest = min((f.sizes for f in findings if f.id == findings[0].id and f.sizes), key=size_order)
    if search:
        smallest = _smaller(prober, findings[0].id, smallest)
        suspicions = {smallest: diagnose(prober(smallest)), **suspicions}
        findings = merge(suspicions, consumers, certain=[f.id for f in findings])
    witnesses = {finding.id: prober(finding.sizes) for finding in findings if finding.sizes}
    return Outcome(
        objective,
        "diverges",
        tuple(findings),
        prober(smallest),
        tuple(prober.probed),
        policy=common_policy([prober(each) for each in ladder]),
        plain=plain,
        example=example,
        witnesses=witnesses,
    )


def require_life(loop: str, probed: Sequence[Probed]) -> None:
    """Raise LoopError unless a loop, of this name, makes steps with gradients that are not all zero."""
    if not any(p.low.matrix or p.own_low.matrix for p in probed):
        raise LoopError(f"{loop} never called optimizer.step() on a parameter of task.model")
    if all(p.vacuous or not p.low.contributions for p in probed):
        raise LoopError(
            f"{loop} has only gradients of zero: two dead runs agree, which proves nothing; "
            "check that backward() starts from a loss of task.model's outputs"
        )


def common_policy(probed: Sequence[Probed]) -> str:
    """The one way of treating tails that the matrices equal at all sizes that are wrong, if there is one; in words."""
    # Where micro-batches are short, or the data set is, policies cannot be told from other defects.
    even = [
        p
        for p in probed
        if p.sizes.samples > p.sizes.effective_batch_size and p.sizes.samples % p.sizes.micro_batch_size == 0
    ]
    names = {policy(each) for each in even if not each.equivalent}
    return names.pop() if len(names) == 1 else ""


def merge(
    suspicions: dict[Sizes, list[Suspicion]], consumers: Callable[[Sizes], str], certain: Sequence[str] = ()
) -> list[Finding]:
    """One finding per cause. Where a size cannot tell causes apart, one that another size has shown is meant.

    ``consumers`` says what moves the random stream at some sizes, for the order of samples.
    """
    known = {s.ids[0] for found in suspicions.values() for s in found if len(s.ids) == 1} | set(certain)
    best: dict[str, tuple[tuple[int, ...], Sizes, Suspicion]] = {}
    roots = set()
    for sizes, found in suspicions.items():
        for suspicion in found:
            name = next((each for each in suspicion.ids if each in known), suspicion.ids[0])
            if suspicion.is_root:
                roots.add(name)
            if certain and name not in certain:
                continue
            # A size that cannot tell speaks of its first suspect.
            order = (name != suspicion.ids[0], *size_order(sizes))
            if name not in best or order < best[name][0]:
                best[name] = (order, sizes, suspicion)
    names = sorted(best, key=lambda name: (name not in roots, rank(name)))
    return [_finding(name, consumers, *best[name][1:]) for name in names]


def _finding(name: str, consumers: Callable[[Sizes], str], sizes: Sizes, suspicion: Suspicion) -> Finding:
    text = suspicion.text
    if name == "sample-order":
        text += f"; {consumers(sizes)}"
    per_epoch = len(sizes.window_lengths()) // sizes.epochs
    epoch = suspicion.step // per_epoch if suspicion.step is not None else None
    at = f"at {sizes}" if suspicion.step is None else f"at {sizes}, optimizer step {suspicion.step}"
    return Finding(
        id=name,
        sizes=sizes,
        message=f"{LAWS[name].text}; but {at}: {text}",
        step=suspicion.step,
        epoch=epoch if epoch is None or epoch < sizes.epochs else sizes.epochs - 1,
        samples=suspicion.samples,
        ratio=suspicion.ratio,
        detail=text,
    )


def _smaller(prober: Prober, name: str, start: Sizes) -> Sizes:
    """Let Hypothesis shrink a counterexample for as long as the budget lasts; ``name`` stays its first suspect."""
    end, left = time.monotonic() + PATIENCE, BUDGET
    best = start

    def diverges_alike(sizes: Sizes) -> bool:
        nonlocal left, best
        if sizes not in prober.probed:
            if left <= 0 or time.monotonic() > end:
                return False
            left -= 1
        alike = any(name == suspicion.ids[0] for suspicion in diagnose(prober(sizes)))
        if alike and size_order(sizes) < size_order(best):
            best = sizes
        return alike

    quick = settings(
        max_examples=BUDGET,
        database=None,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    # Inside of somebody's @given test, Hypothesis asks the current settings whether that is meant.
    with suppress(NoSuchExample), local_settings(quick):
        find(small_sizes(), diverges_alike, settings=quick)
    return best


def size_order(sizes: Sizes) -> tuple[int, ...]:
    """Fewer samples first, then fewer steps."""
    return sizes.samples, sizes.accumulation_steps, sizes.micro_batch_size, sizes.epochs


def _order_notes(prober: Prober) -> tuple[str, ...]:
    """Under a loader that shuffles from the global stream, does the order of samples depend on the micro-batch size?"""
    sizes = DEFAULT_SIZES[1]
    low, own = (prober.read(each, shuffle=True) for each in (sizes, sizes.full_batch()))
    found = diagnose(Probed(low, own, low, own))
    if any("sample-order" in suspicion.ids for suspicion in found):
        return (
            "sample-order: with a loader that shuffles from the global random stream, the order of samples depends on "
            f"the micro-batch size; {_consumers(prober, sizes)}. Fix: {LAWS['sample-order'].fix}",
        )
    return ()


def _consumers(prober: Prober, sizes: Sizes) -> str:
    """What draws more often from torch's global stream in smaller micro-batches."""
    low, own = (prober.read(each, shuffle=True) for each in (sizes, sizes.full_batch()))
    names = [
        f"{name} ({count} times, {own.random_draws.get(name, 0)} in the full batch)"
        for name, count in low.random_draws.items()
        if count != own.random_draws.get(name, 0) and name != "random"
    ]
    if low.passes != own.passes or low.random_draws.get("random") != own.random_draws.get("random"):
        names.append(f"passes over a loader ({low.passes}, {own.passes} in the full batch)")
    if not names:
        return "what moved the stream was not seen: it may be random's or NumPy's"
    return f"the stream is moved by {', '.join(names)}"
