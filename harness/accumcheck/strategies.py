"""Hypothesis strategies for the lengths at which accumulation goes wrong, and for whole cases.

>>> from hypothesis import given
>>> @given(ragged_sizes())
... def test(sizes):
...     assert sizes.is_ragged
>>> test()
"""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from accumcheck.corpus.problems import PROBLEMS
from accumcheck.task import Sizes
from accumcheck.training.problem import DTYPES, OPTIMIZERS, Case, Problem


@st.composite
def ragged_sizes(
    draw: st.DrawFn, *, max_micro_batch: int = 3, max_steps: int = 8, max_windows: int = 2, max_epochs: int = 3
) -> Sizes:
    """Sizes whose effective batch size N does not divide n, n < N included; two epochs at least, as leaks need.

    Shrinks towards n=1, b=1, k=2.
    """
    batch = draw(st.integers(1, max_micro_batch), label="micro_batch_size")
    steps = draw(st.integers(2, max_steps), label="accumulation_steps")
    window = batch * steps
    full = draw(st.integers(0, max_windows - 1), label="full windows")
    tail = draw(st.integers(1, window - 1), label="tail")
    return Sizes(full * window + tail, batch, steps, draw(st.integers(2, max_epochs), label="epochs"))


@st.composite
def even_sizes(
    draw: st.DrawFn, *, max_micro_batch: int = 3, max_steps: int = 8, max_windows: int = 2, max_epochs: int = 3
) -> Sizes:
    """Sizes whose effective batch size N divides n, with at least two accumulation steps."""
    batch = draw(st.integers(1, max_micro_batch), label="micro_batch_size")
    steps = draw(st.integers(2, max_steps), label="accumulation_steps")
    windows = draw(st.integers(1, max_windows), label="full windows")
    return Sizes(windows * batch * steps, batch, steps, draw(st.integers(2, max_epochs), label="epochs"))


@st.composite
def small_sizes(
    draw: st.DrawFn, *, max_samples: int = 24, max_micro_batch: int = 3, max_steps: int = 8, max_epochs: int = 3
) -> Sizes:
    """Any sizes with at least two accumulation steps, ragged or even. Shrinks towards n=1, b=1, k=2, one epoch."""
    samples = draw(st.integers(1, max_samples), label="samples")
    steps = draw(st.integers(2, max_steps), label="accumulation_steps")
    batch = draw(st.integers(1, max_micro_batch), label="micro_batch_size")
    return Sizes(samples, batch, steps, draw(st.integers(1, max_epochs), label="epochs"))


def cases(
    sizes: st.SearchStrategy[Sizes],
    *,
    problems: Sequence[Problem] = tuple(PROBLEMS.values()),
    optimizers: Sequence[str] = tuple(OPTIMIZERS),
    dtypes: Sequence[str] = tuple(DTYPES),
) -> st.SearchStrategy[Case]:
    """Cases with any of the given problems, optimizers and dtypes, and any seed."""
    return st.builds(
        Case,
        st.sampled_from(problems),
        sizes,
        st.sampled_from(optimizers),
        st.sampled_from(dtypes),
        st.integers(0, 2**16),
    )
