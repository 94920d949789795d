"""accumcheck: does a training loop with gradient accumulation train as one with a batch k times as large does?

``audit(script, arguments)`` judges a run of a script, ``check_equivalence(train)`` a loop at all sizes;
``compare(case, train, ...)`` measures loops on one problem of choice.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accumcheck.auditing import audit
    from accumcheck.check import check_equivalence, check_replicas, compare
    from accumcheck.explaining.finding import Finding
    from accumcheck.report import Report
    from accumcheck.task import LoopError, Sizes, Task
    from accumcheck.training.problem import Case, Problem

__all__ = [
    "Case",
    "Finding",
    "LoopError",
    "Problem",
    "Report",
    "Sizes",
    "Task",
    "audit",
    "check_equivalence",
    "check_replicas",
    "compare",
]
__version__ = "0.1.0"
_HOMES = {
    "auditing": ("audit",),
    "check": ("check_equivalence", "check_replicas", "compare"),
    "explaining.finding": ("Finding",),
    "training.problem": ("Case", "Problem"),
    "report": ("Report",),
    "task": ("LoopError", "Sizes", "Task"),
}


def __getattr__(name: str) -> Any:
    # On demand: pytest loads accumcheck.plugin in every run, and must not load torch for it.
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"accumcheck.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
