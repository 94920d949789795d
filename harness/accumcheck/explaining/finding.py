"""What was found: a value that names the broken law, the rule that breaks it, and the first wrong cell."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from accumcheck.programs.laws import severity
from accumcheck.programs.rules import Program, Rule
from accumcheck.task import Sizes, Verdict

Weight = Fraction | float


@dataclass(frozen=True)
class Finding:
    """A broken law with its witness: at ``sizes``, update ``step`` (both count from 0) in ``epoch``, the first of
    ``samples`` went in with ``weight`` where it should have ``due``. None or empty where it does not apply.

    ``slot`` and ``rule`` are the part of the program that breaks the law; ``kinds`` the parameters concerned, where
    these are not all; ``facts`` what a detector saw, for the words.
    """

    id: str
    sizes: Sizes | None = None
    step: int | None = None
    epoch: int | None = None
    samples: tuple[int, ...] = ()
    weight: Weight | None = None
    due: Weight | None = None
    large: bool = False  # at large gradients only
    slot: str = ""
    rule: Rule | None = None
    kinds: tuple[str, ...] = ()
    facts: dict[str, object] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """The weight over the one that it should be."""
        if self.weight is None or not self.due:
            return None
        return float(self.weight / self.due)


@dataclass(frozen=True)
class Explanation:
    """A program that makes all readings of some kinds of parameters; ``program`` is None where none does."""

    program: Program | None
    kinds: tuple[str, ...]


def by_severity(findings: list[Finding]) -> list[Finding]:
    """Root causes first, one of each."""
    first = {finding.id: finding for finding in reversed(findings)}
    return sorted(first.values(), key=lambda finding: severity(finding.id))


__all__ = ["Explanation", "Finding", "Verdict", "Weight", "by_severity"]
