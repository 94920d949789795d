"""The whole check of a loop, and of a model with it; and one comparison of loops on one case."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from harness.agreement import judge_replicas
from harness.coupling import Coupling, examine, silenced
from harness.deadline import TimeUpError, within
from harness.findings import LAWS, Finding
from harness.lockstep import Run, lockstep
from harness.loops import full_batch
from harness.probe import TIME_LIMIT
from harness.problems import DTYPES, Case, Problem
from harness.report import Asked, Report
from harness.search import DEFAULT_SIZES, judge_exactly
from harness.task import OBJECTIVES, Loop, LoopError, Sizes, name_of
from harness.tolerance import Comparison, judge, neutral_runs


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

    >>> from harness.loops import accumulate_tokens, published_fix_undivided
    >>> from harness.problems import PROBLEMS
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
) -> Report:
    """Does ``train`` update a model as full-batch training would?

    The loop is probed: its contribution matrix is read at many sizes, at ``sizes`` first, for both objectives, and
    compared with the window mean and with the loop's own full batch. That verdict is exact; see ``probe``.

    With a ``problem`` of your own, the loop also trains your model on your data, in lockstep with full-batch training
    (with ``reference``, by default the plain full batch, or the loop's own where this is another by design, as under
    clipping), at ``sizes`` or the default ones. That tells whether the *model* may be accumulated: batch coupling is
    named, dropout is switched off and told apart, rounding is measured. ``optimizer`` and ``dtype`` are for these runs.

    Returns a report that is true only if the verdict for ``objective`` (``"sample"``, ``"token"`` or ``"both"``) is
    ``equivalent``; ``str(report)`` explains it.

    Raises ValueError for an unknown objective, optimizer or dtype, or sizes that are none; LoopError when the loop
    raises, runs longer than ``time_limit`` seconds at a time, never steps, does not repeat itself under one seed, or
    yields values that are not finite.

    >>> from harness.loops import accumulate_samples, published_fix
    >>> bool(check_equivalence(accumulate_samples))
    True
    >>> report = check_equivalence(published_fix)
    >>> report.findings[0].id, str(report.counterexample)
    ('tail-scaled-by-k', 'n=1, b=1, k=2, epochs=1')
    """
    if objective not in (*OBJECTIVES, "both"):
        raise ValueError(f"objective must be 'sample', 'token' or 'both', got {objective!r}")
    if isinstance(sizes, Sizes) or not all(isinstance(size, Sizes) for size in sizes):
        raise ValueError(f"sizes must be a list of harness.Sizes, got {sizes!r}")
    if not callable(train):
        raise ValueError(f"a loop is a function of one argument, def train(task): ..., got {train!r}")
    if problem is not None and objective not in (problem.objective, "both"):
        raise ValueError(
            f"problem {problem} averages its loss over {problem.objective}s: pass objective={problem.objective!r}"
        )
    if problem is not None:
        Case(problem, DEFAULT_SIZES[0], optimizer, dtype, seed, device)  # names are checked before anything runs
    order = sorted(OBJECTIVES, key=lambda each: each != objective)
    outcomes = tuple(
        judge_exactly(
            train,
            each,
            sizes=sizes,
            search=objective in (each, "both"),
            seed=seed,
            device=device,
            time_limit=time_limit,
        )
        for each in order
    )
    report = Report(name_of(train), objective, outcomes)
    if problem is None:
        return report
    exact = next(o for o in outcomes if o.objective == problem.objective)
    if reference is None:
        # A loop that is wrong agrees with itself in what it does wrong everywhere, such as never clearing gradients.
        reference = full_batch if exact.plain or exact.findings else train
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
    case = Case(problem, DEFAULT_SIZES[0], optimizer, dtype, seed, device)

    def comparisons_of_all_sizes() -> tuple[Comparison, ...]:
        return tuple(_compare_twice(train, replace(case, sizes=size), reference) for size in sizes or DEFAULT_SIZES)

    try:
        comparisons = within(time_limit * 10, comparisons_of_all_sizes)
    except TimeUpError:
        raise LoopError(
            f"{name_of(train)} was not compared within {time_limit * 10:g} seconds: "
            "take smaller sizes or raise the time limit"
        ) from None
    if not any(comparison.trajectory.candidate_steps for comparison in comparisons):
        raise LoopError(f"{name_of(train)} never called optimizer.step() on a parameter of task.model")
    found = _model_findings(coupling, comparisons, exact.verdict == "equivalent")
    return replace(report, comparisons=comparisons, model_findings=found)


def check_replicas(
    target: str, ranks: int = 2, *, objective: Asked = "sample", seed: int = 0, time_limit: float = TIME_LIMIT
) -> Report:
    """Does a data-parallel loop, on so many local ranks, update a model as the full batch on one rank would?

    ``target`` names the loop, ``FILE.py:FUNCTION`` or ``package.module:FUNCTION``: each rank imports it by itself. The
    process group (gloo) is there when it is called; ``task.model`` is bare, so the loop wraps or shards it;
    ``task.loader`` yields the rank's share, ``task.micro_batch_size`` samples at a time. See ``harness.replicas``.

    Raises ValueError for an unknown objective or fewer ranks than one; LoopError as ``check_equivalence`` does, and
    when ranks wait for each other longer than ``time_limit`` seconds.

    >>> check_replicas("harness.parallel_loops:parallel_samples", ranks=0)
    Traceback (most recent call last):
    ValueError: ranks must be a whole number of at least 1, got 0
    """
    if objective not in (*OBJECTIVES, "both"):
        raise ValueError(f"objective must be 'sample', 'token' or 'both', got {objective!r}")
    order = sorted(OBJECTIVES, key=lambda each: each != objective)
    outcomes = judge_replicas([target], ranks, order, seed=seed, time_limit=time_limit)[target]
    return Report(target.rpartition(":")[2], objective, outcomes, ranks=ranks)


def _compare_twice(train: Loop, case: Case, reference: Loop) -> Comparison:
    comparison, repeated = compare(case, train, train, reference=reference)
    if not _repeats(comparison, repeated):
        error = LoopError(
            f"{name_of(train)} does not repeat itself under one seed: draw from torch's or Python's "
            "global random stream only, and keep no state between calls"
        )
        error.finding = "nondeterministic"
        raise error
    return comparison


def _model_findings(
    coupling: Coupling, comparisons: tuple[Comparison, ...], loop_is_right: bool
) -> tuple[Finding, ...]:
    """What makes a model diverge under a loop whose matrix is right; and coupling, which no loop can mend."""
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
    return (Finding(name, worst.case.sizes, f"{LAWS[name].text}; but {at}: {text}", step, detail=f"{at}, {text}"),)


def _repeats(first: Comparison, second: Comparison) -> bool:
    """Whether two runs of one loop are equally far from the reference everywhere, up to the noise of the device."""
    return first.trajectory.candidate_steps == second.trajectory.candidate_steps and all(
        abs(a.difference.distance - b.difference.distance) <= a.tolerance
        for a, b in zip(first.excesses, second.excesses, strict=True)
    )
