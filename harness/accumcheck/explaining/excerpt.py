"""The row of a matrix in which a finding shows: weights as they are, and as they should be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from accumcheck.explaining.evidence import Evidence, Reference
from accumcheck.explaining.finding import Finding, Weight
from accumcheck.numbers import close, exact
from accumcheck.task import Sizes


@dataclass(frozen=True)
class Excerpt:
    """One update: the weight of each of ``columns``, samples or micro-batches, in ``ours``, and in ``due`` as it should
    be. ``every_epoch`` tells whether the update of the same place in all epochs is wrong in the same way. Where ranks
    differ, ``ours`` are the weights on the rank ``who``, and ``others`` has those on another one behind its name."""

    update: int
    columns: tuple[str, ...]
    ours: tuple[Weight, ...]
    due: tuple[Weight, ...]
    sizes: Sizes | None = None
    every_epoch: bool = False
    large: bool = False
    what: str = "sample"
    who: str = ""
    others: tuple[tuple[str, tuple[Weight, ...]], ...] = ()

    @property
    def ratio(self) -> float | None:
        """What every wrong weight is multiplied by, where this is one number."""
        wrong = [(a, b) for a, b in zip(self.ours, self.due, strict=True) if not close(float(a), float(b))]
        ratios = [float(a / b) for a, b in wrong if b]
        if not ratios or len(ratios) < len(wrong) or not all(close(r, ratios[0]) for r in ratios):
            return None
        return ratios[0]

    @property
    def only_wrong(self) -> bool:
        """Whether all weights that should not be zero are wrong."""
        return all(not close(float(a), float(b)) for a, b in zip(self.ours, self.due, strict=True) if b)


def excerpt_of(finding: Finding, evidence: Evidence, reference: Reference) -> Excerpt | None:
    """The row of the finding's witness; None where it is about something else than weights."""
    if finding.step is None or finding.weight is None or evidence.sizes != finding.sizes:
        return None
    if isinstance(finding.facts.get("ranks apart"), dict):
        return _of_ranks(finding, evidence, reference)
    pair = evidence.large if finding.large else evidence.small
    kind = finding.kinds[0] if finding.kinds else pair.ours.kind
    ours, due = pair.ours.matrices.get(kind, []), pair.due(kind, reference)
    step, samples = finding.step, evidence.sizes.samples
    if max(len(ours), len(due)) <= step:
        return None
    mine, should = _row(ours, step, samples), _row(due, step, samples)
    if finding.id == "dropped-tail" and not any(row[i] for row in ours for i in finding.samples):
        ours, mine = [], [0.0] * samples
    there = [i for i in range(samples) if mine[i] or should[i]]
    if _same(mine, should):
        return None
    shown = range(samples) if samples <= 8 else range(there[0], there[-1] + 1)
    each = len(evidence.sizes.window_lengths()) // evidence.sizes.epochs
    others = [s for s in range(step % each, max(len(ours), len(due)), each) if s != step]
    every = all(
        _same(_row(matrix, s, samples), row) for s in others for matrix, row in ((ours, mine), (due, should))
    )  # fmt: skip
    return Excerpt(
        step, tuple(map(str, shown)), tuple(exact(mine[i]) for i in shown), tuple(exact(should[i]) for i in shown),
        pair.ours.sizes, bool(others) and every, finding.large,
    )  # fmt: skip


def _of_ranks(finding: Finding, evidence: Evidence, reference: Reference) -> Excerpt:
    """One update, as two ranks make it."""
    pair = evidence.large if finding.large else evidence.small
    apart: dict[str, tuple[Weight, ...]] = finding.facts["ranks apart"]  # type: ignore[assignment]
    (who, ours), *others = apart.items()
    assert finding.step is not None
    due = _row(pair.due(finding.kinds[0] if finding.kinds else pair.ours.kind, reference), finding.step, len(ours))
    columns = tuple(map(str, range(len(ours))))
    return Excerpt(
        finding.step, columns, ours, tuple(map(exact, due)), pair.ours.sizes, large=finding.large, who=who,
        others=tuple(others),
    )  # fmt: skip


def _row(matrix: Sequence[Sequence[float]], step: int, samples: int) -> list[float]:
    return list(matrix[step]) if step < len(matrix) else [0.0] * samples


def _same(ours: Sequence[float], theirs: Sequence[float]) -> bool:
    return all(map(close, ours, theirs))
