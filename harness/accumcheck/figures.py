"""The picture of a verdict: the contribution matrix of a loop beside the one that it should be."""

from __future__ import annotations

import importlib
import math
import os
import statistics
from collections.abc import Sequence
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

from accumcheck.explaining.evidence import Evidence, Pair, Reference
from accumcheck.numbers import close, exact, same
from accumcheck.probing.reading import Row
from accumcheck.scripts.compare import Outcome
from accumcheck.scripts.explain import Judgement
from accumcheck.task import Sizes

INK, WRONG, EDGE = "#222222", "#D55E00", "#888888"
LARGEST_TEXT = 16  # columns; fractions in wider matrices would not be legible
LONGEST_TEXT = 7  # letters; longer ones stand in two lines
HATCHED: dict[str, Any] = {"hatch": "//", "edgecolor": "#777777", "linewidth": 0}
SETTINGS = {"svg.hashsalt": "accumcheck", "svg.fonttype": "none"}


def draw(evidence: Evidence, title: str, reference: Reference = "mean") -> Any:
    """A matplotlib figure: optimizer steps downwards, samples to the right, weights as shades of blue.

    Wrong cells are outlined in orange, with the weight that they should have; fractions are printed while they fit;
    lines part the epochs. Shown is the first kind of parameter whose weights are not those of ``reference``; at large
    gradients if they are at small ones.

    Raises ImportError without matplotlib.
    """
    figures = _matplotlib("matplotlib.figure")
    pair, kind = _shown(evidence, reference)
    ours, due, shown = pair.ours.matrices.get(kind, []), pair.due(kind, reference), pair.ours.sizes
    steps, samples = max(len(ours), len(due)), evidence.sizes.samples
    size = 0.64 if samples <= LARGEST_TEXT else 0.3
    width, height = max(2.9, samples * size), max(1.3, steps * 0.46)
    figure = figures.Figure(figsize=(2 * width + 1.6, height + 2.1), layout="constrained")
    axes = figure.subplots(1, 2, squeeze=False)[0]
    largest = max([abs(weight) for row in [*ours, *due] for weight in row], default=1.0) or 1.0
    per_epoch = len(shown.window_lengths()) // shown.epochs
    carried = False
    for axis, matrix, name in ((axes[0], ours, "this loop"), (axes[1], due, "as it should be: full-batch training")):
        heat_map(
            axis, matrix, due if matrix is ours else matrix, samples, steps=steps, darkest=largest * 1.6, corrected=True
        )
        if len(matrix) == len(due):
            mark_epochs(axis, [epoch for epoch in range(shown.epochs) for _ in range(per_epoch)], samples)
        mark_windows(axis, evidence.sizes)
        if matrix is ours and not pair.ours.orders:
            carried = _hatch_left_over(axis, matrix)
        axis.set_title(name, fontsize=11)
        axis.set_xlabel("sample; dotted: where a window ends")
        axis.set_xticks(range(0, samples, 1 if samples <= LARGEST_TEXT else 4))
        axis.set_yticks(range(steps))
    axes[0].set_ylabel("optimizer step")
    figure.suptitle(f"{_headline(title, ours, due)}\n{_sizes(shown)}", fontsize=12)
    figure.legend(handles=_legend(carried), loc="outside lower center", ncols=2, frameon=False)
    return figure


def _headline(title: str, ours: list[Row], due: list[Row]) -> str:
    """The title, but not the same words twice, with the number of wrong weights."""
    loop, _, cause = title.partition(": ")
    if cause.replace("-", "_") == loop:
        title = loop
    nothing: Row = []
    pairs = [
        (have, want)
        for row, wanted in zip_longest(ours, due, fillvalue=nothing)
        for have, want in zip_longest(row, wanted, fillvalue=0.0)
    ]
    wrong = sum(not close(have, want) for have, want in pairs)
    return f"{title}: {wrong} of {len(pairs)} weights are wrong" if wrong else title


def _sizes(sizes: Sizes) -> str:
    return (
        f"{sizes.samples} samples in micro-batches of {sizes.micro_batch_size}, "
        f"{sizes.accumulation_steps} to an update, {sizes.epochs} epoch{'s' * (sizes.epochs != 1)}"
    )


def _hatch_left_over(axis: Any, matrix: list[Row]) -> bool:
    """Hatch what is left over from the epoch before; whether there is any.

    Samples are visited in their order, so an update of the last ones and the first ones, but not of all, has the last
    ones from the epoch before.
    """
    patches = _matplotlib("matplotlib.patches")
    found = False
    for step, row in enumerate(matrix):
        used = [bool(weight) for weight in row]
        if step and used[0] and used[-1] and not all(used):
            last = len(used) - used[::-1].index(False)
            if sum(a != b for a, b in pairwise(used)) == 2:
                for sample in range(last, len(used)):
                    axis.add_patch(patches.Rectangle((sample - 0.45, step - 0.45), 0.9, 0.9, fill=False, **HATCHED))
                found = True
    return found


def _legend(carried: bool) -> list[Any]:
    patches = _matplotlib("matplotlib.patches")
    handles = [
        patches.Patch(facecolor="none", edgecolor=WRONG, linewidth=2, label="wrong weight → the weight it should be")
    ]
    if carried:
        handles.append(patches.Patch(facecolor="none", label="left over from the epoch before", **HATCHED))
    return handles


def save(figure: Any, path: str | os.PathLike[str]) -> None:
    """Write an SVG or PNG, whole or not at all; equal figures give equal bytes. ValueError for other suffixes."""
    target = Path(path)
    require_suffix(target)
    suffix = target.suffix[1:].lower()
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    metadata = {"Date": None} if suffix == "svg" else {"Software": None}
    try:
        with _matplotlib("matplotlib").rc_context(SETTINGS):
            figure.savefig(partial, format=suffix, metadata=metadata, dpi=150)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def require_suffix(path: Path) -> None:
    """ValueError unless a figure can be written to this path."""
    if path.suffix.lower() not in (".svg", ".png"):
        raise ValueError(f"--figure writes .svg or .png, got {str(path)!r}")
    if not path.parent.is_dir():
        raise ValueError(f"there is no directory {str(path.parent)!r} for the figure {path.name}")


def heat_map(
    axis: Any,
    matrix: list[Row],
    due: list[Row],
    samples: int,
    *,
    steps: int,
    darkest: float,
    size: float = 9.0,
    corrected: bool = False,
) -> None:
    """Weights as shades of blue up to ``darkest``; cells unlike those of ``due`` are outlined, missing rows named.

    Fractions are printed at font ``size`` while they fit, and in outlined cells what they should be, if ``corrected``.
    """
    patches = _matplotlib("matplotlib.patches")
    if rows := [*matrix, *([[0.0] * samples] * (steps - len(matrix)))]:
        axis.imshow(rows, cmap="Blues", vmin=0, vmax=darkest, aspect="auto")
    for step, row in enumerate(matrix):
        for sample, weight in enumerate(row):
            wanted = due[step][sample] if step < len(due) else 0.0
            wrong = not close(weight, wanted)
            if wrong:
                box, width = (sample - 0.45, step - 0.45), 2 if size >= 9 else 1.2
                axis.add_patch(patches.Rectangle(box, 0.9, 0.9, fill=False, edgecolor=WRONG, linewidth=width))
            if len(row) <= LARGEST_TEXT and (weight or (wrong and corrected)):
                text = _fraction(weight) + f" → {_fraction(wanted)}" * (wrong and corrected)
                if len(text) > LONGEST_TEXT:
                    text = text.replace(" → ", "\n→ ")
                small = size if len(text) <= 5 else max(size - 2.5, min(size, 8))
                ink = "white" if weight > 0.63 * darkest else INK
                axis.text(sample, step, text, ha="center", va="center", fontsize=small, color=ink)
    for step in range(len(matrix), steps):
        axis.text((samples - 1) / 2, step, "no update", ha="center", va="center", fontsize=size, color=INK)


def _fraction(weight: float) -> str:
    value = exact(weight)
    return f"{value:.1e}" if isinstance(value, float) else str(value)


def mark_epochs(axis: Any, epochs: Sequence[int], samples: int) -> None:
    """Name the epoch of each step on the right, with a line where it changes."""
    for epoch in sorted(set(epochs)):
        steps = [step for step, other in enumerate(epochs) if other == epoch]
        middle = sum(steps) / len(steps)
        axis.text(samples - 0.4, middle, f"epoch {epoch}", rotation=270, ha="left", va="center", fontsize=9)
        if steps[0]:
            axis.axhline(steps[0] - 0.5, color=INK, linewidth=1.4)


def mark_windows(axis: Any, sizes: Sizes) -> None:
    """A dotted line between the samples of two windows."""
    for window in range(sizes.effective_batch_size, sizes.samples, sizes.effective_batch_size):
        axis.axvline(window - 0.5, color=INK, linewidth=0.8, linestyle=":")


def _shown(evidence: Evidence, reference: Reference) -> tuple[Pair, str]:
    for pair in evidence.pairs:
        for kind, matrix in pair.ours.matrices.items():
            if not same(matrix, pair.due(kind, reference)):
                return pair, kind
    return evidence.small, evidence.small.ours.kind


def _matplotlib(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError("figures need matplotlib, which is not installed: pip install matplotlib") from error


def draw_script(judged: Judgement, title: str) -> Any:
    """The windows of a script's run around the first wrong update, in micro-batches; None if there is no table."""
    shown = next((e for e in judged.optimizers if e.findings and e.tables), None) or next(
        (e for e in judged.optimizers if e.tables), None
    )
    if shown is None:
        return None
    table = shown.tables[0]
    step = next((f.step for f in shown.findings if f.step is not None), 0)
    first = max(0, step - 1)
    windows = table.windows[first : first + 3]
    rows, shares = (each[first : first + 3] for each in table.compared)
    places = sorted({m for each in [*windows, *rows] for m in each})
    if not places:
        return None
    spanned = list(range(places[0], places[-1] + 1))[: 4 * LARGEST_TEXT]
    ours, due = ([[row.get(m, 0.0) for m in spanned] for row in each] for each in (rows, shares))
    ours, due = [[round(w, 5) for w in row] for row in ours], [[round(w, 5) for w in row] for row in due]
    figures = _matplotlib("matplotlib.figure")
    steps = max(len(ours), len(due))
    figure = figures.Figure(
        figsize=(2 * max(2.6, len(spanned) * 0.55) + 1.6, max(1.3, steps * 0.5) + 1.6), layout="constrained"
    )
    axes = figure.subplots(1, 2, squeeze=False)[0]
    largest = max([abs(w) for row in [*ours, *due] for w in row], default=1.0) or 1.0
    for axis, matrix, name in ((axes[0], ours, "the script"), (axes[1], due, "full-batch training")):
        heat_map(axis, matrix, due if matrix is ours else matrix, len(spanned), steps=steps, darkest=largest * 1.6)
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("micro-batch (epoch:place)")
        ticks = range(0, len(spanned), 1 if len(spanned) <= 8 else 4)
        axis.set_xticks(ticks, [f"{table.micros[spanned[t]].epoch}:{table.micros[spanned[t]].place}" for t in ticks])
        axis.set_yticks(range(steps), [str(first + each) for each in range(steps)])
    axes[0].set_ylabel("update")
    figure.suptitle(f"{title}\nfactor before each micro-batch's mean loss, k = {table.k}", fontsize=11)
    return figure


def draw_compared(outcome: Outcome) -> Any:
    """The relative error of two commands by update: the worst tensor's, the median, and the tolerance as a band."""
    figure = _matplotlib("matplotlib.figure").Figure(figsize=(7, 3.6), layout="constrained")
    axis = figure.subplots()
    numbers = [pair.update for pair in outcome.pairs]
    worst = [pair.worst for pair in outcome.pairs]
    lowest = min((d.unit for d in worst), default=1e-7) / 100
    median = [statistics.median(d.error for d in pair.differences) for pair in outcome.pairs]
    band = [d.tolerance if math.isfinite(d.tolerance) else math.nan for d in worst]
    axis.fill_between(numbers, lowest, band, color=EDGE, alpha=0.25, linewidth=0, label="tolerance")
    shown = {"marker": "o", "markersize": 3, "linewidth": 1.2}
    axis.plot(numbers, [max(d.error, lowest) for d in worst], color=WRONG, label="worst tensor", **shown)
    axis.plot(numbers, [max(each, lowest) for each in median], color=INK, label="median of tensors", **shown)
    axis.set(yscale="log", xlabel="update", ylabel="relative error of the gradient")
    axis.set_title(f"The second command beside the first: {outcome.verdict}", fontsize=11)
    axis.legend(fontsize=8)
    return figure
