"""Compare loops with full-batch training on one case, and judge a loop over the sizes at which loops go wrong."""

from __future__ import annotations

import torch

from harness.lockstep import Run, lockstep
from harness.loops import full_batch
from harness.problems import PROBLEMS, Case, Problem
from harness.report import Report
from harness.task import OBJECTIVES, Loop, LoopError, Objective, Sizes, name_of
from harness.tolerance import Comparison, judge, neutral_runs

# Tails of 3 in 4 and of 5 to 7 in 8 micro-batches, a short last micro-batch in a tail and in a full window,
# n < N, an even length; 2 and 3 epochs.
DEFAULT_SIZES = (
    Sizes(samples=7, micro_batch_size=1, accumulation_steps=4),
    Sizes(samples=11, micro_batch_size=2, accumulation_steps=4, epochs=3),
    Sizes(samples=13, micro_batch_size=1, accumulation_steps=8),
    Sizes(samples=15, micro_batch_size=1, accumulation_steps=8),
    Sizes(samples=5, micro_batch_size=2, accumulation_steps=4),
    Sizes(samples=7, micro_batch_size=2, accumulation_steps=4),
    Sizes(samples=12, micro_batch_size=2, accumulation_steps=3),
)


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
    objective: Objective = "sample",
    problem: Problem | None = None,
    reference: Loop = full_batch,
    sizes: tuple[Sizes, ...] | list[Sizes] = DEFAULT_SIZES,
    optimizer: str = "sgd",
    dtype: str = "float64",
    seed: int = 0,
    device: str = "cpu",
) -> Report:
    """Does ``train`` update the model as full-batch training would, at every one of ``sizes``?

    Without a ``problem`` of your own a small GPT on the interpreter's help text is trained: on windows of equal length
    for the ``sample`` objective, on lines of unequal length for ``token``. Do not use it with dropout switched on: the
    two runs then draw different masks.

    A loop that clips its gradients once per optimizer step differs from the plain full batch, and rightly so: compare
    it with itself without accumulation, ``reference=train``.

    Returns a report that is true only if the verdict is ``equivalent``; ``str(report)`` explains it.

    Raises ValueError for an unknown objective, optimizer or dtype and for no sizes; LoopError when the loop raises,
    never steps, does not repeat itself under one seed, or yields values that are not finite.

    >>> from harness.loops import accumulate_samples, published_fix
    >>> bool(check_equivalence(accumulate_samples))
    True
    >>> report = check_equivalence(published_fix)
    >>> print(report)
    published_fix diverges from full-batch training.
      let n=7, b=1, k=4, epochs=2: gpt-windows with sgd in float64, seed 0
      step 1 (epoch 0, window of 3 samples): the gradient is 0.75 times the full batch's
    ...
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"objective must be 'sample' or 'token', got {objective!r}")
    if isinstance(sizes, Sizes) or not sizes or not all(isinstance(size, Sizes) for size in sizes):
        raise ValueError(f"sizes must be a list of at least one harness.Sizes, got {sizes!r}")
    if problem is None:
        problem = PROBLEMS["gpt-windows" if objective == "sample" else "gpt-lines"]
    if problem.objective != objective:
        raise ValueError(
            f"problem {problem} averages its loss over {problem.objective}s: pass objective={problem.objective!r}"
        )
    comparisons = []
    for size in sizes:
        comparison, repeated = compare(
            Case(problem, size, optimizer, dtype, seed, device), train, train, reference=reference
        )
        if not _repeats(comparison, repeated):
            raise LoopError(
                f"{name_of(train)} does not repeat itself under one seed: draw from torch's or Python's "
                "global random stream only, and keep no state between calls"
            )
        comparisons.append(comparison)
    if not any(comparison.trajectory.candidate_steps for comparison in comparisons):
        raise LoopError(f"{name_of(train)} never called optimizer.step() on a parameter of task.model")
    return Report(name_of(train), objective, tuple(comparisons))


def _repeats(first: Comparison, second: Comparison) -> bool:
    """Whether two runs of one loop are equally far from the reference everywhere, up to the noise of the device."""
    return first.trajectory.candidate_steps == second.trajectory.candidate_steps and all(
        abs(a.difference.distance - b.difference.distance) <= a.tolerance
        for a, b in zip(first.excesses, second.excesses, strict=True)
    )
