"""From evidence to findings: the program that a loop is, the laws that its rules break, and the first wrong cells.

What no program is about has a detector of its own: coupling, the order of samples, rounding, settings of parameter
groups, clipping of large gradients, changes between steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor

from accumcheck.explaining.evidence import TURNED, Evidence, Pair, Reference, consistent, directions
from accumcheck.explaining.finding import Explanation, Finding, by_severity
from accumcheck.explaining.fit import Case, fit, makes, rates_go_by, skeletons
from accumcheck.numbers import EXACT, ROUNDED, TINY, close, exact, same
from accumcheck.probing.model import MATRIX, SHARED, VECTOR
from accumcheck.probing.reading import Matrix, Reading
from accumcheck.probing.run import HIGH, RATE
from accumcheck.programs.clip import Clipper
from accumcheck.programs.rules import LISTS, MEANS, RIGHT, TABLES, Program, Rule, Shape
from accumcheck.programs.simulate import Units, equivalent, matrix, ratio, simulate, structure
from accumcheck.task import DECAY, Objective, Sizes

Number = TypeVar("Number", float, Fraction)
UNIT_LAW = {"sample": "mean-of-means", "token": "token-weighting"}


@dataclass(frozen=True)
class Diagnosis:
    """What a loop does at all probed sizes, against ``reference``; ``other`` was read at other parameters than zero."""

    evidence: tuple[Evidence, ...]
    objective: Objective
    reference: Reference
    other: Pair | None = None

    @cached_property
    def findings(self) -> list[Finding]:
        """The broken laws, root causes first; none if the loop is equivalent wherever it was probed."""
        if found := self._coupled():
            return [found]
        if self._only_elsewhere and (found_elsewhere := self._elsewhere()):
            return found_elsewhere
        weights = self._weights()
        found_here = [*self._order(), *self._kinds(), *weights, *self._settings(), *self._clipping(weights)]
        if not found_here:
            found_here += self._elsewhere()
        if any(finding.id != "unexplained" for finding in found_here):
            found_here = [f for f in found_here if f.id != "unexplained"]
        if not found_here and (wrong := [e for e in self.evidence if not e.equals(self.reference)]):
            found_here = [Finding("unexplained", wrong[0].sizes)]  # what no detector has a name for is no equivalence
        return by_severity(found_here)

    @property
    def _only_elsewhere(self) -> bool:
        """Whether gradients are zero wherever parameters are, so that weights cannot be read there."""
        pairs = [e.small for e in self.evidence]
        read = any(any(row) for p in pairs for r in (p.ours, p.own) if r for m in r.matrices.values() for row in m)
        return not read and self.other is not None and any(g.any() for g in self.other.ours.gradients.values())

    @property
    def is_own(self) -> bool:
        """Whether the loop does at all sizes what it does without accumulation, whatever that is."""
        if self.other is None or not self.other.is_own():
            return False
        return all(pair.is_own() for e in self.evidence for pair in e.pairs) and not self._elsewhere("own")

    @cached_property
    def explanations(self) -> list[Explanation]:
        """A program for each group of parameters whose weights are wrong anywhere, or which stands for the loop."""
        return [Explanation(self._program(kinds), kinds) for kinds in self.groups]

    @cached_property
    def groups(self) -> list[tuple[str, ...]]:
        """Kinds of parameters that have the same matrices at all sizes."""
        groups: list[list[str]] = []
        for kind in self.kinds:
            for group in groups:
                if all(same(self._rows(e, kind), self._rows(e, group[0])) for e in self.evidence):
                    group.append(kind)
                    break
            else:
                groups.append([kind])
        return [tuple(group) for group in groups]

    @cached_property
    def kinds(self) -> list[str]:
        """The kinds whose matrices can be read, as trained anywhere."""
        return [k for k in (MATRIX, VECTOR) if any(k in e.small.ours.matrices for e in self.evidence)]

    @staticmethod
    def _rows(evidence: Evidence, kind: str) -> Matrix:
        return evidence.small.ours.matrices.get(kind, [])

    def _named(self, kinds: Sequence[str]) -> tuple[str, ...]:
        """The kinds that a finding is about, if these are not all."""
        return () if set(kinds) >= set(self.kinds) else tuple(kinds)

    # What spoils the gradients themselves

    def _coupled(self) -> Finding | None:
        for each in self.evidence:
            for pair in each.pairs:
                if pair.coupled:
                    return Finding("batch-coupled", each.sizes, 0, 0, tuple(pair.coupled))
        return None

    @staticmethod
    def _penalty(pair: Pair) -> bool:
        """Whether what is not explained by weights is a multiple of the parameters, as a penalty on them is."""
        if pair.own is None or MATRIX not in pair.ours.gradients or MATRIX not in pair.own.gradients:
            return False
        ours, own = pair.ours.gradients[MATRIX], pair.own.gradients[MATRIX]
        if ours.shape != own.shape:
            return False
        extra = (ours - own)[1:]
        size = extra.norm(dim=1, keepdim=True)
        there = extra[size[:, 0] > 1e-6 * own.norm()] / size[size[:, 0] > 1e-6 * own.norm()]
        # Of the same direction at all updates, whichever samples these are made of.
        return len(there) > 1 and bool(((there - there[0]).norm(dim=1) < 1e-4).all())

    # The order of samples

    def _order(self) -> list[Finding]:
        for each in self.evidence:
            pair = each.small
            if pair.own is None:
                continue
            for epoch, (ours, theirs) in enumerate(zip(pair.ours.orders, pair.own.orders, strict=False)):
                if len(ours) == len(theirs) and ours != theirs and set(ours) == set(theirs):
                    return [Finding("sample-order", each.sizes, epoch=epoch, samples=tuple(sorted(ours)))]
            step = _other_samples(pair, self.reference)
            if step is not None:
                inside = tuple(i for i, weight in enumerate(pair.ours.matrix[step]) if weight)
                return [Finding("sample-order", each.sizes, step, _epoch(each, step), inside)]
        return []

    # Which parameters

    def _kinds(self) -> list[Finding]:
        for each in self.evidence:
            if each.small.own is None or each.is_dead:
                continue
            ours, own = each.small.ours.trained, each.small.own.trained
            if missing := sorted(own - ours):
                if not ours:
                    return []  # there are no updates at all, which the weights say
                return [Finding("gradients-lost", each.sizes, 0, 0, kinds=tuple(missing), facts={"never": True})]
            if more := sorted(ours - own):
                if not own:
                    return []
                return [Finding("unexplained", each.sizes, 0, 0, kinds=tuple(more), facts={"never": False})]
        return []

    # Weights: programs

    def _weights(self) -> list[Finding]:
        found: list[Finding] = []
        for explanation in self.explanations:
            wrong = [e for e in self.evidence if self._wrong(e, explanation.kinds[0])]
            if not wrong:
                continue
            named = self._named(explanation.kinds)
            if all(self._nearly(e, explanation.kinds[0]) for e in self.evidence):
                found.append(self._rounded(wrong[0], explanation.kinds[0], named))
            elif explanation.program is None:
                if not any(f.id == "sample-order" for f in self._order()):
                    found.append(self._unnamed(wrong, explanation.kinds[0], named))
            else:
                found += self._laws(explanation, wrong, named)
                if _narrow(wrong[0].small.ours):
                    found.append(self._rounded(wrong[0], explanation.kinds[0], named))
        return found or self._shared()

    def _unnamed(self, wrong: Sequence[Evidence], kind: str, named: tuple[str, ...]) -> Finding:
        """No program makes these weights: name what is certain of the first update that is wrong."""
        seen = [(e, _certain(self._rows(e, kind), e.small.due(kind, self.reference), e.small)) for e in wrong]
        name = next((n for n in FIRST if any(n == each for _, each in seen)), "unexplained")
        return self._cell(Finding(name, kinds=named), [e for e, each in seen if name in (each, "unexplained")], kind)

    def _wrong(self, evidence: Evidence, kind: str) -> bool:
        return not evidence.is_dead and not same(self._rows(evidence, kind), evidence.small.due(kind, self.reference))

    def _nearly(self, evidence: Evidence, kind: str) -> bool:
        return same(self._rows(evidence, kind), evidence.small.due(kind, self.reference), ROUNDED)

    @cached_property
    def slopes(self) -> dict[str, float]:
        """What matrices were divided by before programs were tried, by kind of parameter."""
        return {}

    def _program(self, kinds: tuple[str, ...]) -> Program | None:
        factor = self._factor(kinds[0])
        cases = self.cases(kinds[0], factor)
        found = fit(cases, self.objective, allowed=self._may_be)
        if found is None and factor == 1.0 and (factor := self._slope(kinds[0])) != 1.0:
            found = fit(self.cases(kinds[0], factor), self.objective, allowed=self._may_be)
        self.slopes.update(dict.fromkeys(kinds, factor))
        if found is None and any(_narrow(e.small.ours) for e in self.evidence):
            found = fit(cases, self.objective, ROUNDED)
        return found

    def _may_be(self, program: Program) -> bool:
        # Who keeps the first micro-batch alone makes the same weights as who steps at it.
        return program.rule("step").law != "early-first-step" if self._starts_late else program.reset != "first only"

    @cached_property
    def _starts_late(self) -> bool:
        """Whether at every size a whole window was sent backward before the first update."""
        shapes = [(e.small.shape, e.small.ours.facts.before) for e in self.evidence]
        tells = [(min(shape.k, shape.length), before) for shape, before in shapes if min(shape.k, shape.length) > 1]
        return bool(tells) and all(before >= window for window, before in tells)

    def cases(self, kind: str, factor: float = 1.0) -> list[Case]:
        """What a program has to make: the matrices of the loop and, behind each, of its own full batch."""
        cases = []
        for each in self.evidence:
            pair = each.small
            if each.is_dead:
                continue
            rows = [[weight / factor for weight in row] for row in pair.ours.matrices.get(kind, [])]
            cases.append(Case.of(pair.shape, pair.our_units, rows))
            if pair.own is not None:
                rows = [[weight / factor for weight in row] for row in pair.own.matrices.get(kind, [])]
                cases.append(Case.of(pair.shape.full_batch(), pair.units, rows))
        return cases

    def _factor(self, kind: str) -> float:
        """The slope of a loss that is no cross-entropy, as its gradients' directions tell."""
        for each in self.evidence:
            own = each.small.own
            if own is not None and own.matrices.get(kind) and not _is_cross_entropy(own):
                return self._slope(kind)
        return 1.0

    def _slope(self, kind: str) -> float:
        """What all full windows of the own run weigh together, where this is one number at all sizes; else 1."""
        found = []
        for each in self.evidence:
            pair = each.small
            if pair.own is None or self.reference != "own":
                return 1.0
            for row in pair.own.matrices.get(kind, []):
                inside = [i for i, weight in enumerate(row) if weight]
                if len(inside) == pair.shape.big:
                    found.append(sum(row[i] * pair.ours.units[i] for i in inside))
        return found[0] if found and found[0] and all(close(each, found[0]) for each in found) else 1.0

    def _laws(self, explanation: Explanation, wrong: Sequence[Evidence], named: tuple[str, ...]) -> list[Finding]:
        """A finding for each law that the program's wrong rules break, where breaking it shows."""
        program = explanation.program
        assert program is not None
        found = []
        for slot, rule, law, here, there in broken(program, self.objective):
            shows = [e for e in wrong if _differ(here, there, e.small)]
            if not shows or all(_tolerated(here, e.small) for e in self.evidence):
                continue
            finding = Finding(law, slot=slot, rule=rule, kinds=named)
            found.append(self._cell(finding, shows, explanation.kinds[0], (here, there)))
        found.sort(key=lambda f: size_order(f.sizes) if f.sizes else ())  # of two that break one law, the smaller case
        if not found:
            found.append(self._cell(Finding("unexplained", kinds=named), wrong, explanation.kinds[0]))
        return found

    def _cell(
        self, finding: Finding, shows: Sequence[Evidence], kind: str, change: tuple[Program, Program] | None = None
    ) -> Finding:
        """With the first wrong cell at the smallest of these sizes: of those that the change of a rule touches, if it
        touches any."""
        ordered = sorted(shows, key=lambda e: size_order(e.sizes))
        weighs = change is not None and finding.slot in ("scale", "ranks")
        # Where a rule of weights shows, rather than that there is no weight at all.
        for strict in (True, False) if weighs else (False,):
            for each in ordered:
                pair = each.small
                ours, due = self._rows(each, kind), pair.due(kind, self.reference)
                cells = _wrong_cells(ours, due, gone=finding.id == "dropped-tail")
                if change and weighs:
                    here, there = (simulate(p, pair.shape, pair.our_units) for p in change)
                    touched = [(s, i) for s, i in cells if at(here, s, i) != at(there, s, i)]
                    cells = [cell for cell in touched if at(ours, *cell)] if strict else touched or cells
                if cells:
                    step, sample = cells[0]
                    samples = tuple(i for s, i in cells if s == step)
                    weight, wanted = exact(at(ours, step, sample)), exact(at(due, step, sample))
                    return replace(
                        finding, sizes=each.sizes, step=step, epoch=_epoch(each, step), samples=samples,
                        weight=weight, due=wanted,
                    )  # fmt: skip
        return replace(finding, sizes=ordered[0].sizes)

    def _rounded(self, evidence: Evidence, kind: str, named: tuple[str, ...]) -> Finding:
        ours, due = self._rows(evidence, kind), evidence.small.due(kind, self.reference)
        cells = _wrong_cells(ours, due) or [(0, 0)]
        step, sample = max(cells, key=lambda cell: abs(at(ours, *cell) - at(due, *cell)))
        error = abs(at(ours, step, sample) - at(due, step, sample)) / max(abs(at(due, step, sample)), TINY)
        return Finding(
            "low-precision-accumulation", evidence.sizes, step, _epoch(evidence, step), (sample,), kinds=named,
            weight=at(ours, step, sample), due=at(due, step, sample),
            facts={"error": error, "dtypes": _dtypes(evidence.small.ours)},
        )  # fmt: skip

    def _shared(self) -> list[Finding]:
        """All samples' own parameters are right: are those that they share?"""
        for each in self.evidence:
            pair = each.small
            if each.is_dead or pair.shared_is_right(self.reference):
                continue
            wanted = pair.own.shared if self.reference == "own" and pair.own else pair.ours.implied(pair.mean)
            facts: dict[str, object] = {"shared": True, "dtypes": _dtypes(pair.ours)}
            rounded = same(pair.ours.shared, wanted, ROUNDED, sums=True)
            name = "low-precision-accumulation" if rounded else self._shared_law() or "unexplained"
            steps = zip(pair.ours.shared, wanted, strict=False)
            step = next((s for s, (a, b) in enumerate(steps) if not same([a], [b], sums=True)), 0)
            return [Finding(name, each.sizes, step, _epoch(each, step), kinds=(SHARED,), facts=facts)]
        return []

    def _shared_law(self) -> str:
        """The law that a program breaks which makes the gradients of the shared parameter at all sizes, if one does."""
        base = self.explanations[0].program if self.explanations and self.explanations[0].program else Program()
        pairs = [e.small for e in self.evidence if not e.is_dead and SHARED in e.small.ours.trained]
        for skeleton in skeletons():
            if len(skeleton.wrong) > 1:
                break
            program = replace(skeleton, scale=base.scale)
            if all(_shares(program, pair) for pair in pairs):
                return program.wrong[0].law if program.wrong else ""
        return ""

    # Learning rates and other settings

    def _settings(self) -> list[Finding]:
        name = "scheduler-per-micro-batch"
        for each in self.evidence:
            differs = each.small.settings_differ
            if differs is None or each.is_dead:
                continue
            kind, step, setting, ours, own = differs
            explained = any(e.program for e in self.explanations if kind in e.kinds)
            if not explained and len(each.small.ours.settings[kind]) != len(each.small.own.settings[kind]):  # type: ignore[union-attr]
                continue  # it is not known which update stands for which
            if setting == "lr" and self.schedule(kind) in ("epoch", "step", "never"):
                continue
            only = self._named([k for k in self.kinds if self._differs(k)])
            rule = TABLES["schedule"][self.schedule(kind) if setting == "lr" else "other"]
            facts: dict[str, object] = {"setting": setting, "ours": ours, "own": own}
            return [
                Finding(
                    name, each.sizes, step, _epoch(each, step), slot="schedule",
                    rule=rule if rule.law else TABLES["schedule"]["other"], kinds=only, facts=facts,
                )
            ]  # fmt: skip
        return []

    def _differs(self, kind: str) -> bool:
        for each in self.evidence:
            pair = each.small
            if pair.own is not None:
                for mine, theirs in zip(
                    pair.ours.settings.get(kind, []), pair.own.settings.get(kind, []), strict=False
                ):
                    if any(not close(mine[name], theirs[name]) for name in mine.keys() & theirs.keys()):
                        return True
        return False

    def schedule(self, kind: str) -> str:
        """The rule by which a kind's learning rate goes."""
        group = next((e for e in self.explanations if kind in e.kinds), None)
        program = group.program if group and group.program else Program()
        cases: list[tuple[Case, list[float]]] = []
        for each in self.evidence:
            pair = each.small
            if pair.own is None or each.is_dead:
                continue
            for shape, units, reading in (
                (pair.shape, pair.our_units, pair.ours),
                (pair.shape.full_batch(), pair.units, pair.own),
            ):
                rates = [settings.get("lr", 0.0) for settings in reading.settings.get(kind, [])]
                cases.append((Case.of(shape, units, reading.matrices.get(kind, [])), rates))
        # Who leaves out a micro-batch makes the same weights with the optimizer step as without it.
        same_weights = [program, *([replace(program, visit=LEFT_OUT)] if program.visit == SKIPPED else [])]
        found = [rates_go_by(each, cases, DECAY, RATE) for each in same_weights] if cases else ["step"]
        return next((rule for rule in found if rule != "other"), "other")

    # Clipping

    def _clipping(self, weights: Sequence[Finding]) -> list[Finding]:
        if not all(consistent(e.small.ours) for e in self.evidence):
            return []  # another matter than clipping
        alive = [e for e in self.evidence if not e.is_dead]
        found: dict[str, tuple[str, list[Evidence]]] = {}
        for explanation in self.explanations:
            program = explanation.program
            if program is None or program.rule("scale").law == "clipped-per-micro-batch":
                continue
            for kind in explanation.kinds:
                wrong = [e for e in alive if not self._large_is_right(e, kind)]
                shared = [e for e in alive if not e.large.shared_is_right(self.reference)]
                rule, limit = self.clip(program, kind) if wrong or shared else ("none", 0.0)
                if rule == "other" and wrong and weights and all(_starts_alike(e, kind) for e in wrong):
                    continue  # in a run of one epoch it makes other updates, which is another matter
                if TABLES["clip"][rule].law:
                    found[kind] = rule, wrong or shared
                elif not all(_shared_is_clipped(program, rule, limit, e.large) for e in shared):
                    found.setdefault(SHARED, ("value, each gradient" if rule == "value" else "other", shared))
        for kind, (rule, wrong) in found.items():
            each = min(wrong, key=lambda e: size_order(e.sizes))
            ours, due = each.large.ours.matrices.get(kind, []), each.large.due(kind, self.reference)
            finding = Finding(
                "clipped-per-micro-batch", each.sizes, large=True, slot="clip", rule=TABLES["clip"][rule],
                kinds=self._named([k for k in found if k != SHARED]) if kind != SHARED else (),
            )  # fmt: skip
            if cells := _wrong_cells(ours, due) if ours else []:
                step, sample = cells[0]
                finding = replace(
                    finding, step=step, epoch=_epoch(each, step), samples=tuple(i for s, i in cells if s == step),
                    weight=exact(at(ours, step, sample)), due=exact(at(due, step, sample)),
                )  # fmt: skip
            return [finding]
        return []

    def _large_is_right(self, evidence: Evidence, kind: str) -> bool:
        pair = evidence.large
        relative = ROUNDED if _narrow(pair.ours) else EXACT  # rounding is another matter
        return same(pair.ours.matrices.get(kind, []), pair.due(kind, self.reference), relative)

    def clip(self, program: Program, kind: str) -> tuple[str, float]:
        """The first rule of the clip slot, with its limit, that makes all matrices at large gradients."""
        pairs = [e.large for e in self.evidence if not e.is_dead]
        for rule in TABLES["clip"]:
            for limit in _limits(pairs, rule) if rule != "other" else ():
                if all(_clips(program, rule, limit, pair, kind, self.slopes.get(kind, 1.0)) for pair in pairs):
                    return rule, limit
        return "other", 0.0

    # At other parameters than zero

    def _elsewhere(self, reference: Reference | None = None) -> list[Finding]:  # noqa: PLR0911 - one for each kind
        """Weights, rates and clipping are right at zero: is anything else different?"""
        pair = self.other
        # The first update there is made where the run began, which is another place.
        if pair and (turned := pair.turned(1)) and not self._penalty(pair):
            return [Finding("batch-coupled", pair.ours.sizes, 0, 0, tuple(turned))]
        for each in self.evidence:
            if (step := each.small.moved_differs) is not None:
                return [Finding("unexplained", each.sizes, step, _epoch(each, step), facts={"moved": True})]
        if pair is None or pair.own is None:
            return []
        sizes = pair.ours.sizes
        if (step := pair.moved_differs) is not None:
            return [Finding("unexplained", sizes, step, facts={"moved": True})]
        for kind, ours in pair.ours.gradients.items():
            own = pair.own.gradients.get(kind)
            if own is None or own.shape != ours.shape:
                continue  # rows that are compared at zero
            own = own if reference == "own" else self._as_due(pair, kind, own)
            size = own.abs().max(dim=1, keepdim=True).values
            errors = ((ours - own).abs() / size.clamp(min=1e-300)).max(dim=1).values
            if bool((errors > 1e-6).any()):
                step = int((errors > 1e-6).nonzero()[0])
                worst = float(errors.max())
                facts: dict[str, object] = {"error": worst, "dtypes": _dtypes(pair.ours)}
                if worst <= ROUNDED:
                    return [Finding("low-precision-accumulation", sizes, step, kinds=(kind,), facts=facts)]
                facts["penalty"] = self._penalty(pair)
                return [Finding("unexplained", sizes, step, facts=facts)]
        return []

    def _as_due(self, pair: Pair, kind: str, own: Tensor) -> Tensor:
        """The own run's gradients in the weights that the loop gives each sample, as read at parameters of zero."""
        twin = next((e.small for e in self.evidence if e.sizes == pair.ours.sizes), None)
        if kind == SHARED or twin is None or twin.own is None or kind not in twin.own.matrices:
            return own
        rows = zip(twin.ours.matrices[kind], twin.own.matrices[kind], strict=True)
        factors = [[a / b if b else 1.0 for a, b in zip(*row, strict=True)] for row in rows]
        blocks = own.view(len(own), len(pair.ours.units), -1) * torch.tensor(factors, dtype=own.dtype)[:, :, None]
        return blocks.flatten(1)


def broken(program: Program, objective: Objective) -> list[tuple[str, Rule, str, Program, Program]]:
    """Slot, rule and law of all that a program's rules break, each with the program that breaks this law alone and the
    one that keeps it."""
    found = []
    for slot in RIGHT:
        rule, here = program.rule(slot), program.only(slot)
        if slot == "scale":
            here = replace(here, ranks=program.ranks)  # what a weight comes to depends on how ranks are put together
        first = rule
        while rule.law:
            there = here.toward(slot)
            law = UNIT_LAW[objective] if rule.law == MEANS else rule.law
            if (
                slot == "step"
                and law == "carried-tail"
                and program.reset in ("epoch start", "epoch start too", LISTS, "window start")
            ):
                law = "dropped-tail"
            found.append((slot, first, law, here, there))
            rule, here = there.rule(slot), there
    return found


@lru_cache(maxsize=4096)
def _simulated(program: Program, shape: Shape, units: Units) -> list[list[float]]:
    return matrix(program, structure(program.visit, program.step, program.reset, shape), shape, units, ratio)


# Of what is certain at some sizes, the gravest.
FIRST = (
    "gradients-not-reset",
    "gradients-lost",
    "wrong-window",
    "clipped-per-micro-batch",
    "wrong-scale",
    "dropped-tail",
    "sample-order",
)


SKIPPED, LEFT_OUT = "skips short", "leaves out short"


def _starts_alike(evidence: Evidence, kind: str) -> bool:
    """Whether updates have the same weights where gradients are large, but for the last, as far as both runs go."""
    small, large = (pair.ours.matrices.get(kind, []) for pair in evidence.pairs)
    return len(large) > 1 and same(large[:-1], small[: len(large) - 1])


def _shares(program: Program, pair: Pair) -> bool:
    rows = _simulated(program, pair.shape, pair.our_units)
    return len(rows) == len(pair.ours.shared) and same(pair.ours.shared, pair.ours.implied(rows), sums=True)


def _certain(ours: Matrix, due: Matrix, pair: Pair) -> str:  # noqa: PLR0911 - a table of cases
    """What the first wrong row says by itself, though no program makes all of them."""
    full = [row for row in ours if any(row)]
    wrong = next((s for s, (a, b) in enumerate(zip(full, due, strict=False)) if not same([a], [b])), None)
    if ours and not full:
        return "gradients-lost"
    if wrong is None:
        return "dropped-tail" if len(full) < len(due) else "unexplained"
    row, wanted = full[wrong], due[wrong]
    got, there = ({i for i, weight in enumerate(each) if weight} for each in (row, wanted))
    before = full[wrong - 1] if wrong else [0.0] * len(row)
    left = [a - b for a, b in zip(row, before, strict=True)]
    held = sum(a * unit for a, unit in zip(left, pair.ours.units, strict=True))
    if any(before) and (same([left], [wanted]) or (_is_mean(left, pair) and close(held, 1))):
        return "gradients-not-reset"
    if got == there:
        ratios = [row[i] / wanted[i] for i in sorted(got)]
        if all(close(each, ratios[0]) for each in ratios):
            return "wrong-scale" if len(got) == pair.shape.big else "tail-scaled-by-k"
        return "clipped-per-micro-batch" if _fades(full, due, pair.shape.batch) else "unexplained"
    unused = got < there and not any(other[i] for other in full for i in there - got)
    if got < there and max(got) == max(there) and (unused or _same_on(row, wanted, got)):
        return "gradients-lost"
    start = min(there)
    order = sorted(got)
    if unused:
        return "dropped-tail"
    if not _is_mean(row, pair):
        return "unexplained"
    if order == list(range(start, start + len(order))):
        return "wrong-window"
    gaps = order != list(range(order[0], order[0] + len(order)))
    return "sample-order" if gaps and not pair.our_orders and _each_once(full, due) else "unexplained"


def _fades(ours: Matrix, due: Matrix, batch: int) -> bool:
    """Whether in every update of more than two micro-batches the weights are smaller, the longer ago these came, as if
    what was in the gradient had been rescaled each time."""
    seen = 0
    for row, wanted in zip(ours, due, strict=False):
        ratios = [weight / other for weight, other in zip(row, wanted, strict=True) if weight and other]
        shares = ratios[::batch]
        if len(shares) > 2:
            seen += 1
            if any(a >= c * (1 - 1e-6) for a, c in pairwise(shares)) or ratios[-1] > 1 + 1e-6:
                return False
    return bool(seen)


def _is_mean(row: Sequence[float], pair: Pair) -> bool:
    """Whether units that are in an update weigh the same."""
    inside = [weight for weight in row if abs(weight) > TINY]
    return bool(inside) and all(close(each, inside[0]) for each in inside)


def _same_on(row: Sequence[float], wanted: Sequence[float], samples: set[int]) -> bool:
    return all(close(row[i], wanted[i]) for i in samples)


def _is_cross_entropy(reading: Reading) -> bool:
    """Whether gradients point where those of the cross-entropy of the logits do; of tokens only sums are known."""
    if MATRIX not in reading.gradients or reading.objective == "token":
        return True
    found = directions(reading.gradients[MATRIX], len(reading.units))
    unit = reading.responses / reading.responses.norm(dim=1, keepdim=True).clamp(min=1e-30)
    there = found.norm(dim=1) > 0
    return bool((((found - unit).norm(dim=1) < TURNED) | ((found + unit).norm(dim=1) < TURNED) | ~there).all())


def _differ(here: Program, there: Program, pair: Pair) -> bool:
    return not same(_simulated(here, pair.shape, pair.our_units), _simulated(there, pair.shape, pair.our_units))


def _tolerated(program: Program, pair: Pair) -> bool:
    """Whether a program by itself is equivalent, as its own full batch does the same."""
    return equivalent(program, pair.shape, pair.our_units)


def _other_samples(pair: Pair, reference: Reference) -> int | None:
    """The first update with the mean of other samples than it should have, where each row is a mean of as many."""
    units = pair.ours.units
    ours, due = pair.ours.matrix, pair.due(pair.ours.kind, reference)
    if len(ours) != len(due):
        return None
    for row, other in zip(ours, due, strict=True):
        inside = [i for i, weight in enumerate(row) if weight]
        if len(inside) != sum(map(bool, other)):
            return None
        if any(not close(row[i] * sum(units[j] for j in inside), 1) for i in inside):
            return None
    pairs = zip(ours, due, strict=True)
    step = next((s for s, (a, b) in enumerate(pairs) if list(map(bool, a)) != list(map(bool, b))), None)
    return step if step is not None and _each_once(ours, due) else None


def _each_once(ours: Matrix, due: Matrix) -> bool:
    """Whether the samples of an epoch are the same, each as often."""
    return all(
        sum(bool(row[i]) for row in ours) == sum(bool(row[i]) for row in due)
        for i in range(len(ours[0]) if ours else 0)
    )


def _wrong_cells(ours: Matrix, due: Matrix, *, gone: bool = False) -> list[tuple[int, int]]:
    """Update and sample of all weights that are not due, in order; with ``gone`` those first that are in no update."""
    cells = [
        (step, sample)
        for step in range(max(len(ours), len(due)))
        for sample in range(len((ours or due)[0]))
        if not close(at(ours, step, sample), at(due, step, sample))
    ]
    if gone:
        rows = [row for row in ours if any(row)]
        lost = [(s, i) for s, i in cells if at(due, s, i) and not at(ours, s, i) and not any(row[i] for row in rows)]
        return lost or [(s, i) for s, i in cells if at(due, s, i) and not at(ours, s, i)] or cells
    return cells


def at(matrix: Sequence[Sequence[Number]], step: int, sample: int) -> Number | float:
    """A weight; zero where the loop makes no such update."""
    return matrix[step][sample] if step < len(matrix) else 0.0


def _epoch(evidence: Evidence, step: int) -> int:
    sizes = evidence.sizes
    per_epoch = len(sizes.window_lengths()) // sizes.epochs
    return min(step // per_epoch, sizes.epochs - 1)


def size_order(sizes: Sizes) -> tuple[int, ...]:
    """Fewer samples first, then fewer steps."""
    return sizes.samples, sizes.accumulation_steps, sizes.micro_batch_size, sizes.epochs


def _narrow(reading: Reading) -> bool:
    return bool(_dtypes(reading))


def _dtypes(reading: Reading) -> list[str]:
    """The narrow dtypes that gradients are kept in."""
    return sorted(str(d).removeprefix("torch.") for d in reading.dtypes if d.itemsize < 4)


def _limits(pairs: Sequence[Pair], rule: str) -> list[float]:
    """What gradients may have been clipped to: norms, or largest elements, that several updates share."""
    if rule == "none":
        return [0.0]
    found: list[float] = []
    for pair in pairs:
        for reading in (pair.own, pair.ours):
            if reading is None:
                continue
            steps = min((len(g) for g in reading.gradients.values()), default=0)
            for step in range(steps):
                parts = [g[step] * HIGH for g in reading.gradients.values()]
                if rule.startswith("value"):
                    found.append(max(float(part.abs().max()) for part in parts))
                else:
                    found.append(sum(float(part.norm()) ** 2 for part in parts) ** 0.5)
    limits: list[float] = []
    for each in found:
        if sum(close(each, other, 1e-5) for other in found) > 1 and not any(close(each, x, 1e-5) for x in limits):
            limits.append(each)
    return limits[:4]


def _clips(program: Program, rule: str, limit: float, pair: Pair, kind: str, factor: float = 1.0) -> bool:
    """Whether a program with this rule makes the matrices at large gradients, of the loop and of its own full batch."""
    for reading, shape, units in (
        (pair.ours, pair.shape, pair.our_units),
        (pair.own, pair.shape.full_batch(), pair.units),
    ):
        if reading is None:
            continue
        rows = [[weight / factor for weight in row] for row in reading.matrices.get(kind, [])]
        relative = ROUNDED if _narrow(reading) else 1e-5
        found = structure(program.visit, program.step, program.reset, shape)
        clipper = None if rule == "none" else _clipper(rule, limit, reading, kind)
        if not same(matrix(program, found, shape, units, ratio, clipper)[: len(rows)], rows, relative):
            return False
    return True


def _shared_is_clipped(program: Program, rule: str, limit: float, pair: Pair) -> bool:
    """Whether the parameter that all samples share is clipped as their own are, once."""
    if _narrow(pair.ours):
        return True
    if rule != "value":
        return consistent(pair.ours)
    if SHARED not in pair.ours.trained:
        return True
    sums = pair.ours.implied(_simulated(program, pair.shape, pair.our_units))
    clipped = [[max(-limit, min(limit, HIGH * each)) / HIGH for each in row] for row in sums]
    return same(clipped[: len(pair.ours.shared)], pair.ours.shared, sums=True)


def _clipper(rule: str, limit: float, reading: Reading, kind: str) -> Clipper:
    per_unit = (7 / 8) * (MATRIX in reading.trained) + (VECTOR in reading.trained)
    shared = reading.responses.tolist() if SHARED in reading.trained else []
    elements = (7 / 8, 1 / 8, 7) if kind == MATRIX else (1.0, 0.0, 0)
    return Clipper(rule, limit, HIGH, [units * per_unit for units in reading.units], shared, *elements)


Check = Callable[[Evidence], bool]
__all__ = ["Check", "Diagnosis", "broken", "consistent", "makes", "size_order"]
