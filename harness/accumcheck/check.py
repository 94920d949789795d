"""The whole check of a loop, and of a model with it; and one comparison of loops on one case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from accumcheck.checks import side_checks
from accumcheck.corpus.published import full_batch
from accumcheck.explaining.finding import Finding
from accumcheck.explaining.judge import DEFAULT_SIZES, Outcome, judge_exactly
from accumcheck.report import Asked, Report
from accumcheck.task import OBJECTIVES, Loop, LoopError, NotRepeatable, Objective, Sizes, name_of
from accumcheck.training.coupling import Coupling, examine, silenced
from accumcheck.training.lockstep import Run, lockstep
from accumcheck.training.problem import DTYPES, Case, Problem
from accumcheck.training.tolerance import Comparison, judge, neutral_runs
from accumcheck.watching.limits import TIME_LIMIT, TimeUpError, require_limit, within
from accumcheck.watching.targets import why_no_loop


def compare(
    case: Case,
    *loops: Loop,
    reference: Loop = full_batch,
    resynchronise: bool = True,
    state: bool = False,
) -> list[Comparison]:
    """Train every loop of ``loops`` on micro-batches, ``reference`` on batches of N, and judge each by measured noise.

    All runs start equal to the bit and take turns; the noise is measured beside them on neutral runs of the reference.
    Optimizer state is compared only if ``state`` is set. With ``resynchronise=False`` the runs drift freely.

    Raises LoopError when a loop raises, or the comparison would prove nothing; see ``lockstep``.

    >>> from accumcheck.corpus.published import accumulate_tokens, published_fix_undivided
    >>> from accumcheck.corpus.problems import PROBLEMS
    >>> case = Case(PROBLEMS["gpt-lines"], Sizes(samples=3, accumulation_steps=2, epochs=1))
    >>> [comparison.verdict for comparison in compare(case, accumulate_tokens, published_fix_undivided)]
    ['equivalent', 'diverges']
    """
    if any(not torch.equal(*pair) for pair in zip(case.dataset().tensors, case.dataset().tensors, strict=True)):
        raise ValueError(
            f"data({case.sizes.samples}, {case.seed}) returns other samples at every call: "
            "draw them from a generator that is seeded with its second argument"
        )
    neutral = neutral_runs(case, reference)
    trajectories = lockstep(
        Run(reference, case.full_batch().task()),
        *(Run(train, case.task()) for train in loops),
        *neutral,
        resynchronise=resynchronise,
        state=state,
        seed=case.seed,
    )
    noise = trajectories[len(loops) :]
    return [judge(case, trajectory, noise) for trajectory in trajectories[: len(loops)]]


def check_equivalence(
    train: Loop,
    *,
    objective: Asked = "sample",
    problem: Problem | None = None,
    reference: Loop | None = None,
    sizes: tuple[Sizes, ...] | list[Sizes] = (),
    optimizer: str = "sgd",
    dtype: str = "float64",
    seed: int = 0,
    device: str = "cpu",
    time_limit: float = TIME_LIMIT,
    checks: bool = False,
) -> Report:
    """Does ``train`` update a model as full-batch training would?

    The loop is probed: its contribution matrix is read at many sizes, at ``sizes`` first, for both objectives, and
    compared with the window mean and with the loop's own full batch. That verdict is exact; see ``probe``.

    With a ``problem`` of your own, the loop also trains your model on your data, in lockstep with full-batch training
    (with ``reference``, by default the plain full batch, or the loop's own where this is another by design, as under
    clipping or where rates go by epochs), at ``sizes`` or the default ones. That tells whether the *model* may be
    accumulated: batch coupling is named, dropout is switched off and told apart, rounding is measured. ``optimizer``
    and ``dtype`` are for these runs.

    With ``checks``, the report has the ``checks`` of what lies beside the weights as well: averages of the weights, the
    optimizer's state, memory, a gradient scaler, the losses that the loop returns. They leave the verdict as it is.

    Returns a report that is true only if the verdict for ``objective`` (``"sample"``, ``"token"`` or ``"both"``) is
    ``equivalent``; ``str(report)`` explains it.

    Raises ValueError for an unknown objective, optimizer, dtype or device, sizes that are none, or what is no loop;
    LoopError when the loop raises, runs longer than ``time_limit`` seconds at a time, never steps, does not repeat
    itself under one seed, or yields values that are not finite.

    >>> from accumcheck.corpus.published import accumulate_samples, published_fix
    >>> bool(check_equivalence(accumulate_samples))
    True
    >>> report = check_equivalence(published_fix)
    >>> report.findings[0].id, str(report.counterexample)
    ('tail-scaled-by-k', 'n=1, b=1, k=2, epochs=1')
    """
    if objective not in (*OBJECTIVES, "both"):
        raise ValueError(f"objective must be 'sample', 'token' or 'both', got {objective!r}")
    if isinstance(sizes, Sizes) or not all(isinstance(size, Sizes) for size in sizes):
        raise ValueError(f"sizes must be a list of accumcheck.Sizes, got {sizes!r}")
    if not callable(train):
        raise ValueError(f"a loop is a function of one argument, def train(task): ..., got {train!r}")
    if reason := why_no_loop(train):
        raise ValueError(f"{name_of(train)} {reason}")
    require_limit(time_limit)
    _require_seed(seed)
    _require_device(device)
    if problem is not None and objective not in (problem.objective, "both"):
        raise ValueError(
            f"problem {problem} averages its loss over {problem.objective}s: pass objective={problem.objective!r}"
        )
    if problem is not None:
        Case(problem, DEFAULT_SIZES[0], optimizer, dtype, seed, device)  # names are checked before anything runs
    outcomes = _judged(train, objective, tuple(sizes), {"seed": seed, "device": device, "time_limit": time_limit})
    of: Objective = "token" if objective == "token" else "sample"
    beside = side_checks(train, of, seed=seed, device=device, time_limit=time_limit) if checks else None
    report = Report(name_of(train), objective, tuple(outcomes), checks=beside)
    if problem is None:
        return report
    exact = next(o for o in outcomes if o.objective == problem.objective)
    references = _references(train, reference, exact)
    some = min(8, max(4, *(size.samples for size in sizes or DEFAULT_SIZES)))
    coupling = examine(problem, seed=seed, device=device, samples=some)  # in float64, which tells exactly
    if coupling.draws:
        draws = (
            f"{coupling.draws} draws random numbers, others in micro-batches than in the full batch; no bug of the loop"
        )
        if coupling.silent is None:
            note = f"{draws}, but as it draws in evaluation mode too, nothing can be compared"
            return replace(report, undecided=True, notes=(note,))
        problem = replace(problem, model=partial(silenced, problem.model, coupling.silent))
        report = replace(report, notes=(f"{draws}. It was put into evaluation mode for the comparison.",))
    cases = [Case(problem, size, optimizer, dtype, seed, device) for size in sizes or DEFAULT_SIZES]
    try:
        compared_with, comparisons = within(time_limit * 10, lambda: _compared(train, cases, references))
    except TimeUpError:
        raise LoopError(
            f"{name_of(train)} was not compared within {time_limit * 10:g} seconds: "
            "take smaller sizes or raise the time limit"
        ) from None
    if not any(comparison.trajectory.candidate_steps for comparison in comparisons):
        raise LoopError(f"{name_of(train)} never called optimizer.step() on a parameter of task.model")
    if compared_with is train and len(references) > 1:
        report = replace(report, notes=(*report.notes, OWN_RUN))
    found = _model_findings(coupling, comparisons, exact.verdict == "equivalent")
    return replace(report, comparisons=comparisons, model_findings=found)


OWN_RUN = (
    "Its updates are not those of plain full-batch training, as where learning rates go by epochs: it was compared "
    "with its own run without accumulation."
)


def _references(train: Loop, given: Loop | None, exact: Outcome) -> list[Loop]:
    """What a loop is compared with on a problem, and what after that if it differs."""
    if given is not None:
        return [given]
    # A loop that is wrong agrees with itself in what it does wrong everywhere, such as never clearing gradients.
    if exact.plain or exact.findings:
        return [full_batch, train] if exact.verdict == "equivalent" else [full_batch]
    return [train]


def _compared(train: Loop, cases: Sequence[Case], references: Sequence[Loop]) -> tuple[Loop, tuple[Comparison, ...]]:
    """With the first reference from which the loop does not diverge at any size, else with the first one."""
    first, *others = references
    try:
        found = tuple(_compare_twice(train, each, first) for each in cases)
    except LoopError:
        if not others:
            raise
        return _compared(train, cases, others)
    if others and any(each.verdict == "diverges" for each in found):
        last, own = _compared(train, cases, others)
        if not any(each.verdict == "diverges" for each in own):
            return last, own
    return first, found


def _judged(train: Loop, objective: Asked, sizes: tuple[Sizes, ...], options: dict[str, Any]) -> list[Outcome]:
    """The exact outcomes, the one that was asked for first; an error in another one is a note, and no more."""
    outcomes = []
    for each in sorted(OBJECTIVES, key=lambda each: each != objective):
        asked = objective in (each, "both")
        try:
            outcomes.append(judge_exactly(train, each, sizes=sizes, search=asked, **options))
        except LoopError as error:
            if asked:
                raise
            outcomes.append(Outcome(each, None, error=str(error)))
    return outcomes


def check_replicas(
    target: str, ranks: int = 2, *, objective: Asked = "sample", seed: int = 0, time_limit: float = TIME_LIMIT
) -> Report:
    """Does a data-parallel loop, on so many local ranks, update a model as the full batch on one rank would?

    ``target`` names the loop, ``FILE.py:FUNCTION`` or ``package.module:FUNCTION``: each rank imports it by itself. The
    process group (gloo) is there when it is called; ``task.model`` is bare, so the loop wraps or shards it;
    ``task.loader`` yields the rank's share, ``task.micro_batch_size`` samples at a time. See
    ``accumcheck.ranks.launch``.

    Raises ValueError for an unknown objective or fewer ranks than one; LoopError as ``check_equivalence`` does, and
    when ranks wait for each other longer than ``time_limit`` seconds.

    >>> check_replicas("accumcheck.corpus.parallel:parallel_samples", ranks=0)
    Traceback (most recent call last):
    ValueError: ranks must be a whole number of at least 1, got 0
    """
    if objective not in (*OBJECTIVES, "both"):
        raise ValueError(f"objective must be 'sample', 'token' or 'both', got {objective!r}")
    require_limit(time_limit)
    _require_seed(seed)
    from accumcheck.ranks.judge import judge_replicas  # noqa: PLC0415 - most checks are of one process

    order = sorted(OBJECTIVES, key=lambda each: each != objective)
    outcomes = judge_replicas([target], ranks, order, seed=seed, time_limit=time_limit)[target]
    return Report(target.rpartition(":")[2], objective, outcomes, ranks=ranks)


def _require_seed(seed: int) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int) or not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed must be a whole number of 64 bits, got {seed!r}")


def _require_device(device: str) -> None:
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ValueError(f"device {device!r} cannot be used here: {first}") from None


def _compare_twice(train: Loop, case: Case, reference: Loop) -> Comparison:
    comparison, repeated = compare(case, train, train, reference=reference)
    if not _repeats(comparison, repeated):
        raise NotRepeatable(name_of(train), str(case))
    return comparison


def _model_findings(
    coupling: Coupling, comparisons: tuple[Comparison, ...], loop_is_right: bool
) -> tuple[Finding, ...]:
    """What makes a model diverge under a loop whose matrix is right; and coupling, which no loop can fix."""
    failed = next((c for c in comparisons if c.verdict == "diverges"), None)
    doubted = next((c for c in comparisons if c.verdict == "inconclusive"), None)
    worst = failed or doubted
    if worst is None:
        return ()
    at = f"at {worst.case.sizes}, on {worst.case.problem} in {worst.case.dtype}"
    narrow = torch.finfo(DTYPES[worst.case.dtype]).bits < 32
    if coupling.mixes and failed:
        name = "batch-coupled"
        text = (
            f"the loss of a batch is not the mean over its {worst.case.problem.objective}s"
            if coupling.mixes == "the loss"
            else f"{coupling.mixes} mixes the samples of a micro-batch"
        )
    elif narrow and (loop_is_right or not failed):
        name, text = "low-precision-accumulation", f"partial sums are rounded to {worst.case.dtype}"
    elif failed and loop_is_right:
        name, text = "unexplained", "the loop's matrix is right, but the model's gradients differ"
    else:
        return ()
    excess = worst.first_divergence or worst.first_doubt
    step = excess.step if excess else None
    return (Finding(name, step=step, facts={"text": f"{at}, {text}"}),)


def _repeats(first: Comparison, second: Comparison) -> bool:
    """Whether two runs of one loop are equally far from the reference everywhere, up to the noise of the device."""
    return first.trajectory.candidate_steps == second.trajectory.candidate_steps and all(
        abs(a.difference.distance - b.difference.distance) <= a.tolerance
        for a, b in zip(first.excesses, second.excesses, strict=True)
    )
