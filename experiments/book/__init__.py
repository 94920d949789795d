"""Claim: batch size 1 with 8 accumulation steps is batch size 8. True for one padding, one order, and no dropout.

``python -m experiments book``

The article says so of the book's code, the book's script of its options; and its table of additional experiments calls
a run with ``--no_padding --batch_size 1 --accumulation_steps 8`` "no padding (batch size 8)"
(https://github.com/rasbt/LLMs-from-scratch/tree/main/ch06/02_bonus_additional-experiments). But who takes batches of 1
there takes the padding away as well, and with it the token that is read. Three parts, in three tables:

- ``book``: the gradient of each optimizer step against a reference, both runs starting each step from the same state.
  Settings change one thing at a time, so that each cause stands alone.
- ``book_accuracy``: whole trainings, and their accuracy on other lines, padded or not as the training lines. With
  ``--full`` from ten seeds, and in the order in which the book's script draws the lines, too.
- ``book_order``: which samples the windows of the book's script hold, at the book's own sizes.

Not shown: pretrained weights, the size of GPT-2, training of the last block only.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

import pandas as pd
from accumcheck.corpus.published import full_batch
from accumcheck.training.lockstep import lockstep
from accumcheck.training.tolerance import judge, neutral_runs
from matplotlib.figure import Figure

from experiments.book.settings import ALONE, DROPOUT, DROPOUT_SETTINGS, NOT_PADDED, PADDED, SETTINGS, N
from experiments.book.training import BOOK_ORDER, TEST, TRAININGS, TWINS, order, train
from experiments.lab import look
from experiments.lab.comparison import tolerance_at
from experiments.lab.runner import Bench, Row

TRAIN, EPOCHS = 240, 3
PARTS = {
    "book": "gradient",
    "book_accuracy": "accuracy",
    "book_order": "order",
}  # by the tables that they are written to
WORDS = {  # settings, as a stranger would call them
    PADDED: "batch 8, all padded to the longest line, as in the book",
    "1 × 8, padded": "1 × 8, padded the same",
    NOT_PADDED: "batch 8, not padded",
    "1 × 8, not padded": "1 × 8, not padded",
    "batch 8, last real token read": "batch 8, padded, the last real token read",
    "1 × 8, last real token read": "1 × 8, padded, the last real token read",
    "batch 8, padded to its longest": "batch 8, padded to the longest line of the batch",
    "1 × 8, padded on the left": "1 × 8, padded on the left",
    "1 × 8, one padding token": "1 × 8, one padding token after the line",
    "1 × 8, one padding token, far off": "1 × 8, one padding token at the far end",
    "batch 1, not padded": "batch 1, not padded, an update for each line",
}
DROPPED = {  # (reference, setting), under dropout
    (DROPOUT, "1 × 8, padded, dropout"): "1 × 8, beside batch 8",
    (DROPOUT, "batch 8, padded, dropout, other masks"): "batch 8 with another seed, beside batch 8",
    (ALONE, "1 × 8, padded, dropout"): "1 × 8, beside batch 8 that draws masks line by line",
}
MARKS = {True: ("✓ same", "#0072B2"), False: ("✗", "#D55E00")}
REFERENCES = {PADDED: SETTINGS, NOT_PADDED: SETTINGS, DROPOUT: DROPOUT_SETTINGS, ALONE: DROPOUT_SETTINGS}


def run(bench: Bench) -> pd.DataFrame:
    """Rows of three parts: gradients by reference, setting, seed and step; trainings by setting and seed; windows."""
    seeds = range(2 if bench.quick else 10 if bench.full else 3)
    epochs, samples, steps = (2, 6 * N, 2) if bench.quick else (EPOCHS, TRAIN, 6)
    cases = [
        {"setting": setting, "seed": seed, "epochs": epochs, "samples": samples}
        for setting in (TRAININGS if bench.full else [name for name in TRAININGS if name not in BOOK_ORDER])
        for seed in seeds
    ]
    trained = bench.map(train, sorted(cases, key=lambda case: -TRAININGS[case["setting"]].steps))
    predictions = {(row["setting"], row["seed"]): row.pop("predictions") for row in trained}
    for row in trained:
        twin = TWINS.get(row["setting"], row["setting"])
        pair = predictions[row["setting"], row["seed"]], predictions[twin, row["seed"]]
        row |= {"twin": twin, "changed": sum(one != other for one, other in zip(*pair, strict=True))}
    compared = [
        {"reference": reference, "samples": steps * N, "seed": seed} for reference in REFERENCES for seed in seeds
    ]
    frames = {
        "gradient": pd.DataFrame(bench.map(compare, compared)),
        "accuracy": pd.DataFrame(trained),
        "order": pd.DataFrame(bench.map(order, [{"seed": seed} for seed in seeds])),
    }
    return pd.concat([frame.assign(part=part) for part, frame in frames.items()], ignore_index=True)


def compare(reference: str, samples: int, seed: int) -> list[Row]:
    """The gradients of all settings against the reference's, step by step."""
    settings = REFERENCES[reference]
    case, lead = settings[reference].run(reference, samples, seed)
    others = [setting.run(name, samples, seed)[1] for name, setting in settings.items() if name != reference]
    # Under dropout no run is neutral: there the noise is that of the same batches without.
    neutral = [] if settings[reference].dropout else neutral_runs(case, full_batch)
    trajectories = lockstep(lead, *others, *neutral, seed=seed)
    rows = []
    for other, trajectory in zip(others, trajectories, strict=False):
        comparison = judge(case, trajectory, trajectories[len(others) :] or [trajectory])
        rows += [
            {
                "reference": reference,
                "setting": other.name,
                "seed": seed,
                "step": pair.step,
                "error": comparison.error(pair.step),
                "tolerance": tolerance_at(comparison, pair.step) if neutral else None,
            }
            for pair in trajectory.pairs
        ]
    return rows


def tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The three parts, each with its own columns."""
    return {name: _part(frame, part) for name, part in PARTS.items()}


def summarise(frame: pd.DataFrame) -> dict[str, Any]:
    """By reference: the largest error of each setting; by setting: accuracy; and the windows of the book's script."""
    gradients, accuracy, windows = (_part(frame, part) for part in ("gradient", "accuracy", "order"))
    errors = gradients.groupby(["reference", "setting"])["error"].agg(["min", "max", "mean"])
    noise = float(gradients["tolerance"].max())
    of = {reference: errors.loc[reference] for reference in REFERENCES}
    by_setting = accuracy.groupby("setting", sort=False)
    means = by_setting["accuracy"].mean()
    first = windows["epoch"] == 1
    numbers: dict[str, Any] = {
        "claim": "batch size 1 with 8 accumulation steps is the same training as batch size 8",
        "verdict": _verdict(of[PADDED]["max"] <= noise),
        "noise": noise,
        "errors": {reference: found["mean"].to_dict() for reference, found in of.items()},
        "same": {reference: found.index[found["max"] <= noise].tolist() for reference, found in of.items()},
        "accuracy": means.to_dict(),
        "accuracy_range": {str(name): [float(a.min()), float(a.max())] for name, a in by_setting["accuracy"]},
        "changed_predictions": by_setting["changed"].mean().to_dict(),
        "seeds": int(accuracy["seed"].nunique()),
        "test_lines": TEST,
        "order": {
            "steps": int(windows["steps"].iloc[0]),
            "steps_accumulated": int(windows["steps_accumulated"].iloc[0]),
            "tail": int(windows["tail"].iloc[0]),
            "same_windows_first_epoch": int(windows.loc[first, "same_windows"].min()),
            "same_windows_later": int(windows.loc[~first, "same_windows"].max()),
        },
    }
    padded, dropout = numbers["errors"][PADDED], numbers["errors"][DROPOUT]
    numbers["finding"] = (
        f"1 × 8 is batch 8 to {padded['1 × 8, padded']:.0e} if it is padded alike; without padding its gradient is "
        f"{padded['1 × 8, not padded']:.0%} off, as another token is read, and with dropout "
        f"{dropout['1 × 8, padded, dropout']:.0%}, as are other masks "
        f"({dropout['batch 8, padded, dropout, other masks']:.0%}); from its second epoch on the book's script "
        f"shuffles otherwise: {numbers['order']['same_windows_later']} of {numbers['order']['steps']} windows agree"
    )
    return numbers


def check(numbers: dict[str, Any]) -> None:
    """Accumulated and padded alike, nothing changes; without padding, predictions do."""
    changed = numbers["changed_predictions"]
    assert changed["1 × 8, padded"] == 0, "accumulation changes predictions"
    assert changed["1 × 8, not padded"] > 0, "padding changes no prediction"
    assert numbers["noise"] < 1e-12, "the noise is not that of float64"
    assert numbers["verdict"] == "true under conditions", numbers["verdict"]


def from_tables(read: Callable[[str], pd.DataFrame]) -> pd.DataFrame:
    """The frame: its three parts."""
    return pd.concat([read(name).assign(part=part) for name, part in PARTS.items()], ignore_index=True)


def plot(frame: pd.DataFrame) -> Figure:
    """A table: which settings make the gradient of batch 8, padded or not, and the accuracy of some of them."""
    numbers = summarise(frame)
    errors, same, accuracy = (numbers[name] for name in ("errors", "same", "accuracy"))
    letters, places = (21, (0.0, 0.55, 0.75, 0.93)) if look.is_narrow() else (60, (0.0, 0.56, 0.73, 0.9))
    heads = ("", "same gradient as\nbatch 8, padded?", "as batch 8,\nnot padded?", "test\naccuracy")
    if look.is_narrow():
        heads = ("", "as\nbatch 8,\npadded?", "as\nbatch 8, not\npadded?", "test\naccu-\nracy")
    rows: list[list[tuple[str, str]]] = []
    for setting, words in WORDS.items():
        row = [(words, look.INK)]
        for reference in (PADDED, NOT_PADDED):
            row.append(_mark(errors[reference].get(setting), setting in same[reference]))
        rows.append([*row, (look.percent(accuracy[setting], 1) if setting in accuracy else "", look.INK)])
    rows.append([("With dropout", look.FAINT)])
    for (reference, setting), words in DROPPED.items():
        rows.append([(words, look.INK), _mark(errors[reference][setting], setting in same[reference])])
    wrapped = [textwrap.wrap(row[0][0], letters) for row in rows]
    whole = sum(len(lines) for lines in wrapped) + 0.55 * len(rows) + 3
    figure, axes = look.panels(1, 1, height=0.175 * whole)
    axis, top = axes[0, 0], 3.0
    for place, head in zip(places, heads, strict=True):
        middle = "left" if not place else "center"
        axis.text(place, top - 0.6, head, fontsize=9, fontweight="bold", ha=middle, va="bottom", linespacing=1.1)
    for row, lines in zip(rows, wrapped, strict=True):
        axis.axhline(top - 0.25, color="#dddddd", linewidth=0.7)
        middle_of_row = top + len(lines) / 2 + 0.05
        for place, (text, color) in zip(places, row, strict=False):
            shown = "\n".join(lines) if not place else text
            axis.text(
                place, middle_of_row, shown, fontsize=9, color=color, va="center", ha="center" if place else "left"
            )
        top += len(lines) + 0.55
    axis.set(xlim=(0, 1), ylim=(whole, 0))
    axis.set_axis_off()
    off = look.percent(errors[PADDED]["1 × 8, not padded"])
    finding = "1 × 8 is batch 8 to the last digit if both are padded the same; without padding"
    if "1 × 8, padded" not in same[PADDED]:
        finding = "1 × 8 is not batch 8, even if both are padded the same; without padding"
    look.title(
        figure,
        f"{finding}, another token is read, and the gradient is {off} off",
        "The book's classifier in small, on real text, float64. 1 × 8: eight micro-batches of one line to an update. "
        "✗: mean "
        f"relative error of the gradient. Accuracy: mean of {numbers['seeds']} trainings.",
    )
    return figure


def _mark(error: float | None, same: bool) -> tuple[str, str]:
    if error is None:
        return "reference", look.FAINT
    text, color = MARKS[same]
    return text if same else f"{text} {look.percent(error)}" + " off" * (not look.is_narrow()), color


def _verdict(same: pd.Series[bool]) -> str:
    """By which settings step with the gradient of batch 8 as the book pads it."""
    if not same["1 × 8, padded"]:
        return "false"
    return "true" if same["1 × 8, not padded"] else "true under conditions"


def _part(frame: pd.DataFrame, part: str) -> pd.DataFrame:
    found = frame[frame["part"] == part].drop(columns="part").dropna(axis="columns", how="all")
    return found.astype({name: int for name in ("seed", "step", "epoch") if name in found}).reset_index(drop=True)
