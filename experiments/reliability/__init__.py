"""Claim: right loops are not called wrong, wrong ones are found and named, and an independent oracle agrees.

``python -m experiments reliability`` (10 minutes on two cores; ``--full`` takes ten thousand right loops, 200 sizes of
each bug and 2,000 edits, 100 minutes; ``--dask ADDRESS`` hands it to a cluster)

Right loops: those of the corpus and the recipes, written in many ways, and programs that are right by simulation; some
train real models, with several optimizers and dtypes. Every wrong loop of the corpus at sizes where it shows; at a
quarter of them, which may be any, it need only be found. Edits of right loops, at one place each, judged by the oracle
too. Where nothing was seen in n cases, the rate is below 3/n with a confidence of 95 % (the rule of three).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from experiments.lab import look
from experiments.lab.runner import Bench, Row
from experiments.reliability import bugs, edits, right

PARTS: dict[str, Callable[..., list[Row]]] = {"right": right.measure, "bugs": bugs.measure, "edits": edits.measure}
CHUNK = 50  # cases that are resumed together
SIZED = {  # right loops, sizes of each bug, edits
    "quick": {"right": 8, "bugs": 1, "edits": 8},
    "default": {"right": 2_000, "bugs": 10, "edits": 400},
    "full": {"right": 10_000, "bugs": 200, "edits": 2_000},
}
QUICK_BUGS = 4
BY = ["part", "name", "objective", "how", "outcome"]
MILD = ("no verdict", "named as well", "another name", "hidden", "refused")
MISSED = ("equivalent", "inconclusive", "error")
"""What may not be said of a bug where it shows."""
LEGEND = {"found": "found, at any size"}  # where several causes may be as right


def run(bench: Bench) -> pd.DataFrame:
    """A row for every kind of case and every outcome, with how many cases had it, and notes of what is odd."""
    sized = SIZED["quick" if bench.quick else "full" if bench.full else "default"]
    counts = bugs.counts(sized["bugs"])[: QUICK_BUGS if bench.quick else None]
    cases: list[Row] = [{"part": "right", **chunk} for chunk in _chunks(sized["right"])]
    cases += [{"part": "bugs", "bug": bug, **chunk} for bug, size in enumerate(counts) for chunk in _chunks(size)]
    cases += [{"part": "edits", **chunk} for chunk in _chunks(sized["edits"])]
    rows = pd.DataFrame(bench.map(measure, cases), columns=[*BY, "note"]).fillna({"note": ""})
    return pd.DataFrame([
        {**own.iloc[0][BY], "cases": len(own), "note": _joined(own["note"], str(own["outcome"].iloc[0]))}
        for _, own in rows.groupby(BY, sort=False)
    ])  # fmt: skip


def _joined(notes: pd.Series, outcome: str) -> str:
    """All notes of what should not be, and the first ones of other things."""
    found = [note for note in notes if note]
    return "\n".join(found[:2] if outcome in MILD else found)


def _chunks(cases: int) -> list[Row]:
    return [{"start": start, "count": min(CHUNK, cases - start)} for start in range(0, cases, CHUNK)]


def measure(part: str, **case: Any) -> list[Row]:
    """Rows of some cases."""
    return PARTS[part](**case)


def from_tables(read: Callable[[str], pd.DataFrame]) -> pd.DataFrame:
    """The frame, as it was before it was written."""
    return read("reliability").fillna({"note": ""})


def summarise(frame: pd.DataFrame) -> dict[str, Any]:
    """Counts, rates and bounds of each part."""
    numbers: dict[str, Any] = {
        "right": _right(frame[frame["part"] == "right"]),
        "bugs": _bugs(frame[frame["part"] == "bugs"]),
        "edits": _edits(frame[frame["part"] == "edits"]),
    }
    of_right, of_bugs, of_edits = numbers["right"], numbers["bugs"], numbers["edits"]
    numbers["finding"] = (
        f"{of_right['false_alarms']} false alarms in {of_right['verdicts']:,} verdicts on right loops; of "
        f"{of_bugs['cases']:,} cases of {of_bugs['bugs']} bugs {of_bugs['missed']} are missed, and the cause is named "
        f"first in {of_bugs['named_first']:,} of {of_bugs['causes_tell']:,}; of {of_edits['judged']:,} random edits "
        f"that ran, {of_edits['wrongly_equivalent']} are called equivalent though the oracle sees a difference"
    )
    return numbers


def bound(found: int, cases: int) -> float:
    """The largest rate that so many in so many cases leave, at 95 %: 3/n for none, else by the normal approximation.

    >>> bound(0, 10_000), round(bound(4, 10_000), 6)
    (0.0003, 0.000792)
    """
    if not cases:
        return 1.0
    share = found / cases
    return 3 / cases if not found else share + 1.96 * float((share * (1 - share) / cases) ** 0.5)


def _count(frame: pd.DataFrame, *outcomes: str) -> int:
    return int(frame.loc[frame["outcome"].isin(outcomes), "cases"].sum())


def _right(frame: pd.DataFrame) -> dict[str, Any]:
    alarms, verdicts = _count(frame, "diverges", "error"), _count(frame, "equivalent", "diverges", "error")
    trained = frame[frame["how"].str.startswith("trained")]
    return {
        "cases": int(frame["cases"].sum()),
        "styles": int(frame["name"].nunique()),
        "verdicts": verdicts,
        "false_alarms": alarms,
        "at_most": bound(alarms, verdicts),
        "trained": int(trained["cases"].sum()),
        "inconclusive": _count(frame, "inconclusive"),
        "no_verdict": _count(frame, "no verdict"),
        "alarms": _notes(frame, "diverges", "error"),
    }


def _bugs(frame: pd.DataFrame) -> dict[str, Any]:
    shown = frame[frame["outcome"] != "hidden"]
    cases, missed, named = int(shown["cases"].sum()), _count(shown, *MISSED), _count(shown, "named first")
    tell = cases - _count(shown, "found")
    each = by_bug(frame)
    return {
        "bugs": len(each),
        "cases": cases,
        "missed": missed,
        "missed_at_most": bound(missed, cases),
        "causes_tell": tell,  # cases whose sizes tell causes apart
        "named_first": named,
        "named_share": named / max(tell, 1),
        "lowest_named_share": float(each["named"].min()),
        "least_named": [str(name) for name in each.index[each["named"] < 0.95]],
        "hidden": _count(frame, "hidden"),
        "misses": _notes(shown, *MISSED),
    }


def by_bug(frame: pd.DataFrame) -> pd.DataFrame:
    """The shares of cases that are found and named first, for each bug, the least named first."""
    shown = frame[(frame["part"] == "bugs") & (frame["outcome"] != "hidden")]
    counts = shown.pivot_table(index="name", columns="outcome", values="cases", aggfunc="sum", fill_value=0, sort=False)
    total = counts.sum(axis=1)
    found = total - counts[[name for name in MISSED if name in counts]].sum(axis=1)
    named = counts["named first"] if "named first" in counts else 0 * total
    nameable = total - counts.get("found", 0)
    shares = pd.DataFrame({"cases": total, "found": found / total, "named": (named / nameable).fillna(1.0)})
    return shares.sort_values(["named", "found"], kind="stable")


def _edits(frame: pd.DataFrame) -> dict[str, Any]:
    def count(oracle: str, *outcomes: str) -> int:
        return _count(frame[frame["how"] == oracle], *outcomes)

    wrongly, alarms = count("differs", "equivalent") + count("no update", "equivalent"), count("same", "diverges")
    agreed = count("same", "equivalent") + count("differs", "diverges") + count("no update", "diverges")
    judged = agreed + wrongly + alarms
    return {
        "cases": int(frame["cases"].sum()),
        "judged": judged,
        "agreed": agreed,
        "agreed_share": agreed / max(judged, 1),
        "equivalent": count("same", "equivalent"),
        "wrongly_equivalent": wrongly,
        "wrongly_equivalent_at_most": bound(wrongly, judged),
        "false_alarms": alarms,
        "inconclusive": _count(frame, "inconclusive"),
        "refused": _count(frame, "refused"),
        "crashes": _notes(frame, "crash"),
        "disagreements": _notes(
            pd.concat([
                frame[(frame["how"] != "same") & (frame["outcome"] == "equivalent")],
                frame[(frame["how"] == "same") & (frame["outcome"] == "diverges")],
            ]),
            "equivalent",
            "diverges",
        ),
    }  # fmt: skip


def _notes(frame: pd.DataFrame, *outcomes: str) -> list[str]:
    """What is noted of cases with these outcomes, the first lines of it."""
    notes = frame.loc[frame["outcome"].isin(outcomes), "note"]
    lines = {line for note in notes for line in str(note).splitlines()}
    return sorted(line for line in lines if line.startswith(("case", "size", "edit")))


def check(numbers: dict[str, Any]) -> None:
    """No false alarm, no bug missed, causes named, and every disagreement with the oracle is known."""
    of_right, of_bugs, of_edits = numbers["right"], numbers["bugs"], numbers["edits"]
    assert of_right["cases"] >= SIZED["default"]["right"], "too few right loops"
    assert of_right["false_alarms"] == 0, f"false alarms: {of_right['alarms'][:3]}"
    assert of_right["trained"] >= SIZED["default"]["right"] // right.COMPARED, "too few that train a model"
    assert of_bugs["cases"] >= 0.9 * SIZED["default"]["bugs"] * of_bugs["bugs"], "too few sizes of bugs"
    assert of_bugs["missed"] == 0, f"missed: {of_bugs['misses'][:3]}"
    assert of_bugs["hidden"] == 0, "bugs that show at no size"
    assert of_bugs["named_share"] >= 0.95, f"named first: {of_bugs['named_share']}"
    assert of_edits["cases"] >= SIZED["default"]["edits"], "too few edits"
    assert of_edits["crashes"] == [], f"crashes: {of_edits['crashes'][:3]}"
    unknown = [note for note in of_edits["disagreements"] if not edits.is_known(note)]
    assert unknown == [], f"not explained: {unknown[:3]}"


def plot(frame: pd.DataFrame) -> Figure:
    """How many cases of each cause were tried, what was said of them, and what the oracle says of edits."""
    numbers = summarise(frame)
    figure, axes = look.panels(1, 2, height=4.3, width_ratios=(1.15, 1))
    if look.is_narrow():
        figure.set_figheight(8.0)
    _draw_bugs(axes[0][0], by_cause(frame))
    _draw_edits(axes[0][1], frame[frame["part"] == "edits"])
    of_right, of_bugs, of_edits = numbers["right"], numbers["bugs"], numbers["edits"]
    look.title(
        figure,
        f"{of_right['false_alarms']} false alarms in {of_right['verdicts']:,} right loops, {of_bugs['missed']} of "
        f"{of_bugs['cases']:,} wrong ones missed, {of_edits['wrongly_equivalent']} of {of_edits['judged']:,} edits "
        "wrongly passed",
        "Right loops in many styles, sizes, optimizers and dtypes; every wrong loop of the corpus at random sizes "
        "where it shows; random edits of right loops, judged by training a small network in float64 too",
    )
    return figure


def by_cause(frame: pd.DataFrame) -> pd.DataFrame:
    """How many cases of each root cause are named first, found or missed, the most cases first."""
    shown = frame[(frame["part"] == "bugs") & (frame["outcome"] != "hidden")]
    first, missed = shown["outcome"] == "named first", shown["outcome"].isin(MISSED)
    kinds = {"named first": first, "found": ~first & ~missed, "missed": missed}
    counts = pd.DataFrame(
        {kind: shown["cases"].where(mask, 0).groupby(shown["how"]).sum() for kind, mask in kinds.items()}
    )
    return counts.loc[counts.sum(axis=1).sort_values(ascending=False, kind="stable").index]


def _draw_bugs(axis: Any, counts: pd.DataFrame) -> None:
    """A bar for every root cause; beside it the largest rate of misses that so many cases leave."""
    places, total = range(len(counts)), counts.sum(axis=1)
    left = 0 * total
    for kind, colour in {"named first": look.NAMED, "found": look.FOUND, "missed": look.INK}.items():
        if counts[kind].any():
            axis.barh(places, counts[kind], left=left, color=colour, height=0.76, label=LEGEND.get(kind, kind))
        left = left + counts[kind]
    for place, (missed, cases) in enumerate(zip(counts["missed"], total, strict=True)):
        text = f" ≤ {look.percent(bound(int(missed), int(cases)), 2)}"
        axis.text(cases, place, text, va="center", fontsize=8, color=look.FAINT)
    axis.set(xlabel="cases; misses, at most (95 %)", ylim=(len(counts) - 0.4, -0.6))
    axis.set_xlim(0, 1.25 * total.max())
    axis.set_yticks(places, counts.index, fontsize=8)
    axis.grid(visible=False, axis="y")
    axis.legend(loc="lower right", fontsize=8)


def _cell(x: int, y: int, colour: str) -> Rectangle:
    return Rectangle((x - 0.47, y - 0.47), 0.94, 0.94, facecolor=colour, edgecolor="none")


def _draw_edits(axis: Any, frame: pd.DataFrame) -> None:
    rows = {"same": "the same", "differs": "a difference", "no update": "no update", "raises": "fails"}
    columns = ("equivalent", "inconclusive", "diverges", "refused")
    counts = frame.pivot_table(index="how", columns="outcome", values="cases", aggfunc="sum", fill_value=0)
    counts = counts.reindex(index=[*rows], columns=[*columns], fill_value=0)
    for y, how in enumerate(rows):
        for x, outcome in enumerate(columns):
            bad = (how, outcome) in (("differs", "equivalent"), ("same", "diverges"))
            number = int(counts.to_numpy()[y, x])
            colour = look.CELLS["policy"] if bad else look.CELLS["equal"] if number else look.CELLS["none"]
            axis.add_patch(_cell(x, y, colour))
            axis.text(x, y, f"{number:,}", ha="center", va="center", fontsize=10, color=look.INK)
    axis.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    turned = 90 if look.is_narrow() else 0
    axis.set_xticks(range(len(columns)), [*columns], fontsize=8.5, rotation=turned)
    axis.set_yticks(range(len(rows)), [*rows.values()], fontsize=9)
    axis.set(xlabel="accumcheck says", ylabel="the oracle sees")
    axis.grid(visible=False)
