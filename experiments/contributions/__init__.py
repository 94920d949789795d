"""Claim: the bug steps at the first iteration and leaves the tail over; the fix covers first iteration, tail, boundary.

``python -m experiments contributions``

The contribution matrices of published loops, read off the running loops by the probe: which samples go into which
update, and with what weight. One ragged size is drawn, data set lengths from 1 to 3k are counted. The claims are those
of an article on https://github.com/rasbt/LLMs-from-scratch/pull/300. Not shown: tokens and short micro-batches.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pandas as pd
from accumcheck.figures import HATCHED, WRONG, heat_map, mark_epochs, mark_windows
from accumcheck.numbers import exact
from accumcheck.task import Sizes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from experiments.contributions.readings import EPOCHS, STEPS, by_length, measure, right
from experiments.lab import look
from experiments.lab.runner import Bench

SIZES = Sizes(samples=7, micro_batch_size=1, accumulation_steps=STEPS, epochs=EPOCHS)  # a window of 4 and a tail of 3
SHOWN = {
    "early_first_step": "the bug: batch_idx % k == 0",
    "published_fix": "the published fix, loss / k",
    "accumulate_samples": look.LOOPS["correct"]["label"],
    "full_batch": "full-batch training",
}


def run(bench: Bench) -> pd.DataFrame:
    """A row for every weight that is not zero or should not be, and for every sample that is left at the end."""
    lengths = (1, 4, SIZES.samples, 8) if bench.quick else range(1, 3 * STEPS + 1)
    return pd.DataFrame(bench.map(measure, [{"loop": loop, "n": n} for loop in SHOWN for n in lengths]))


def tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The matrices that are drawn, and the counts at every length."""
    return {"contributions": frame[frame["n"] == SIZES.samples], "contributions_lengths": by_length(frame)}


def summarise(frame: pd.DataFrame) -> dict[str, Any]:
    """A verdict for each of the article's three claims, from the lengths at which it holds."""
    table = by_length(frame)
    bug, fix = (table[table["loop"] == loop] for loop in ("early_first_step", "published_fix"))
    shown = {loop: table[(table["loop"] == loop) & (table["n"] == SIZES.samples)].iloc[0] for loop in SHOWN}
    several = bug[bug["n"] > 1]  # a window of one sample is whole at its first iteration
    early = several[(several["first_update"] == 1) & (several["first_update_due"] > 1)]
    lost, ragged = _lengths(bug, bug["lost"] > 0), _lengths(bug, bug["n"] % STEPS != 0)
    on_time, equal = _lengths(fix, fix["on_time"]), _lengths(fix, fix["equal"])
    tail = frame.query("loop == 'published_fix' and n == @SIZES.samples and sample == n - 1")
    weight, due = (str(exact(float(tail[column].max()))) for column in ("weight", "due"))
    claims = {
        "first_iteration": {
            "claim": "the condition batch_idx % k == 0 updates at the first iteration",
            "verdict": _verdict(len(early), len(several)),
            "finding": f"at {len(early)} of {len(several)} lengths above 1 the first update of batch_idx % {STEPS} == "
            "0 is made with the first micro-batch alone",
        },
        "leftovers": {
            "claim": "with that condition the last micro-batches may not be handled right, if k does not divide "
            "their number",
            "verdict": "true" if lost == ragged else _verdict(len(lost), len(bug)),
            "finding": f"leftovers join the next epoch's first update and after the last epoch are lost, at "
            f"{len(lost)} of {len(bug)} lengths: {len(set(lost) - set(ragged))} of them are multiples of k = {STEPS}, "
            f"and at {len(set(ragged) - set(lost))} ragged lengths nothing is lost",
        },
        "fix": {
            "claim": "the published fix covers first iteration, tail and boundary",
            "verdict": "false" if len(on_time) < len(fix) else _verdict(len(equal), len(fix)),
            "finding": f"the published fix steps when it is due at {len(on_time)} of {len(fix)} lengths, with the "
            f"weights that are due at {len(equal)}, the multiples of k = {STEPS}; a tail of {SIZES.samples % STEPS} "
            f"weighs {weight} for {due}",
        },
    }
    verdicts = {claim["verdict"] for claim in claims.values()}
    return {
        "k": STEPS,
        "n": SIZES.samples,
        "lengths": int(table["n"].nunique()),
        "first_update": {loop: int(row["first_update"]) for loop, row in shown.items()},
        "wrong": {loop: int(row["wrong"]) for loop, row in shown.items()},
        "weights": len(frame.query("loop == 'full_batch' and n == @SIZES.samples")),
        "lost_at": lost,
        "fix_equal_at": equal,
        "claims": claims,
        "claim": "batch_idx % k == 0 steps too early and leaves the tail over, and the published fix mends both",
        "verdict": verdicts.pop() if len(verdicts) == 1 else "true under conditions",
        "finding": f"over {SIZES.epochs} epochs of {SIZES.samples} micro-batches with k = {STEPS}, the bug gets "
        f"{shown['early_first_step']['wrong']} weights wrong and loses {shown['early_first_step']['lost']} samples, "
        f"the published fix gets {shown['published_fix']['wrong']} wrong, correct accumulation "
        f"{shown['accumulate_samples']['wrong']}",
    }


def check(numbers: dict[str, Any]) -> None:
    """The bug and the fix have wrong weights and the correct loop has none; the fix is right at multiples of k."""
    wrong, k = numbers["wrong"], numbers["k"]
    assert wrong["accumulate_samples"] == wrong["full_batch"] == 0, "a right loop has wrong weights"
    assert wrong["early_first_step"] > wrong["published_fix"] > 0, "the fix is no better than the bug, or right"
    assert numbers["first_update"]["early_first_step"] == 1, "the bug's first update has more than one micro-batch"
    assert numbers["fix_equal_at"] == [k, 2 * k, 3 * k], "the fix is not right at the multiples of k alone"
    verdicts = {name: claim["verdict"] for name, claim in numbers["claims"].items()}
    conditions = "true under conditions"
    assert verdicts == {"first_iteration": "true", "leftovers": conditions, "fix": conditions}, str(verdicts)


def from_tables(read: Callable[[str], pd.DataFrame]) -> pd.DataFrame:
    """What is drawn: the matrices of one size, in the fractions that the table has six digits of."""
    frame = read("contributions")
    for column in ("weight", "due"):
        frame[column] = [float(Fraction(value).limit_denominator(1000)) for value in frame[column]]
    return frame


def plot(frame: pd.DataFrame) -> Figure:
    """The matrices at the size that is shown; wrong cells outlined, what was left over hatched."""
    frame = frame[frame["n"] == SIZES.samples]
    # Correct accumulation and the full batch make the same picture.
    loops = {"early_first_step": SHOWN["early_first_step"], "published_fix": SHOWN["published_fix"]}
    same = _pictured(frame, "accumulate_samples") == _pictured(frame, "full_batch")
    loops |= {"full_batch": "as it should be: correct accumulation = full batch"} if same else {**SHOWN}
    figure, axes = look.panels(1 if same else 2, len(loops) if same else 2, height=2.5)
    if same and not look.is_narrow():  # three in a row would be too small to read
        figure, axes = look.panels(2, 2, height=2.5)
    darkest = 1.6 * float(frame["due"].max())
    for axis, (loop, title) in zip(axes.flat, loops.items(), strict=False):
        part = frame[frame["loop"] == loop]
        updates = part[part["part"] == "update"]
        matrix, due = (updates.pivot(index="step", columns="sample", values=of) for of in ("weight", "due"))
        epochs = updates.groupby("step")["epoch"].first().tolist()
        have, want = (of.to_numpy().tolist() for of in (matrix, due))
        heat_map(axis, have, want, SIZES.samples, steps=len(due), darkest=darkest, size=8, corrected=True)
        for _, cell in updates[updates["carried"].astype(bool)].iterrows():
            box = (cell["sample"] - 0.45, cell["step"] - 0.45)
            axis.add_patch(Rectangle(box, 0.9, 0.9, fill=False, **HATCHED))
        mark_epochs(axis, epochs, SIZES.samples)
        mark_windows(axis, SIZES)
        axis.set_title(f"{title}\n{_wrong(part)}" if _wrong(part) else title, fontsize=10)
        axis.grid(visible=False)
        axis.set(xticks=range(SIZES.samples), yticks=range(len(due)))
        axis.set(xlabel="sample; dotted: where a window ends", ylabel="optimizer step")
        axis.tick_params(length=2)
    handles = [
        Patch(facecolor="none", edgecolor=WRONG, linewidth=2, label="wrong weight → the weight it should be"),
        Patch(facecolor="none", label="left over from the epoch before", **HATCHED),
    ]
    for axis in list(axes.flat)[len(loops) :]:
        axis.set_axis_off()
        words = "Each row is one update, each column a sample.\nA number is the weight of the sample's gradient."
        axis.text(0.02, 0.95, words, fontsize=9.5, va="top", linespacing=1.5)
        axis.legend(handles=handles, loc="upper left", bbox_to_anchor=(-0.02, 0.66), frameon=False, fontsize=9.5)
    wrong = {loop: int((~right(_updates(frame, loop))).sum()) for loop in SHOWN}
    fixed = _updates(frame, "published_fix")
    where = ", all in the short last window" * bool((fixed.loc[~right(fixed), "sample"] >= STEPS).all())
    look.title(
        figure,
        f"The bug gets {wrong['early_first_step']} of {len(_updates(frame, 'full_batch'))} weights wrong; the "
        "published "
        f"fix still gets {wrong['published_fix']} wrong{where}",
        f"{SIZES.samples} samples in micro-batches of 1, k = {STEPS} to an update, {EPOCHS} epochs; read off the "
        "running "
        "loops.",
    )
    if len(loops) == axes.size:
        look.legend(figure, handles=handles, columns=2)
    return figure


def _updates(frame: pd.DataFrame, loop: str) -> pd.DataFrame:
    return frame[(frame["loop"] == loop) & (frame["part"] == "update")]


def _pictured(frame: pd.DataFrame, loop: str) -> list[float]:
    return [round(weight, 9) for weight in _updates(frame, loop)["weight"]]


def _wrong(part: pd.DataFrame) -> str:
    """How many weights of a loop are wrong, and which samples it loses."""
    updates, lost = part[part["part"] == "update"], part[part["part"] == "lost"]
    if right(updates).all():
        return ""
    told = f"{(~right(updates)).sum()} of {len(updates)} weights wrong"
    if len(lost):
        told += f"; samples {' and '.join(map(str, lost['sample']))} lost at the end"
    return told


def _lengths(table: pd.DataFrame, where: pd.Series[bool]) -> list[int]:
    return [int(n) for n in table.loc[where, "n"]]


def _verdict(holds: int, of: int) -> str:
    return "true" if holds == of else "true under conditions" if holds else "false"
