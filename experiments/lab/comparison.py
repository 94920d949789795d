"""What several experiments compare: the published loops, and the tolerance of a whole gradient."""

from __future__ import annotations

import math

from accumcheck.corpus.published import accumulate_samples, early_first_step, published_fix, published_fix_undivided
from accumcheck.training.tolerance import Comparison

LOOPS = {
    "correct": accumulate_samples,
    "published_fix": published_fix,
    "published_fix_undivided": published_fix_undivided,
    "early_first_step": early_first_step,
}


def tolerance_at(comparison: Comparison, step: int) -> float:
    """The tolerances of all gradients at a step together, relative to the whole gradient."""
    excesses = [e for e in comparison.excesses if e.step == step and e.kind == "gradient"]
    return math.hypot(*(e.tolerance for e in excesses)) / math.hypot(*(e.difference.reference for e in excesses))
