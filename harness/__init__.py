"""accumcheck: does a training loop with gradient accumulation train as one with a batch k times as large does?

``check_equivalence(train)`` judges a loop; ``compare(case, train, ...)`` measures loops on one problem of choice.
"""

from harness.check import check_equivalence, compare
from harness.problems import Case, Problem
from harness.report import Report
from harness.task import LoopError, Sizes, Task

__all__ = ["Case", "LoopError", "Problem", "Report", "Sizes", "Task", "check_equivalence", "compare"]
__version__ = "0.1.0"
