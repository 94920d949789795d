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

from typing import Any

import pandas as pd
from accumcheck.corpus.published import full_batch
from accumcheck.training.lockstep import lockstep
from accumcheck.training.tolerance import judge, neutral_runs
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.book.settings import ALONE, DROPOUT, DROPOUT_SETTINGS, NOT_PADDED, PADDED, SETTINGS, N
from experiments.book.training import BOOK_ORDER, TEST, TRAININGS, TWINS, order, train
from experiments.lab import look
from experiments.lab.comparison import tolerance_at
from experiments.lab.runner import Bench, Row

TRAIN, EPOCHS = 240, 3
ACCUMULATED = {**look.LOOPS["published_fix"], "linestyle": "", "label": "1 × 8, the published fix"}
BATCH_8: dict[str, Any] = {"color": look.INK, "marker": "o", "linestyle": "", "label": "batch 8"}
BATCH_1: dict[str, Any] = {"color": "#56B4E9", "marker": "X", "linestyle": "", "label": "batch 1, a line a step"}
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
    names = {"book": "gradient", "book_accuracy": "accuracy", "book_order": "order"}
    return {name: _part(frame, part) for name, part in names.items()}


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


def plot(frame: pd.DataFrame) -> Figure:
    """Errors from both references and accuracy, a line per setting; small dots are single steps or seeds."""
    gradients, accuracy = _part(frame, "gradient"), _part(frame, "accuracy")
    dropout = {
        "dropout: 1 × 8": (DROPOUT, "1 × 8, padded, dropout"),
        "dropout: batch 8, other masks": (DROPOUT, "batch 8, padded, dropout, other masks"),
        "dropout: 1 × 8 against batch 8 line by line": (ALONE, "1 × 8, padded, dropout"),
    }
    shown = [name for name in BOOK_ORDER if name in set(accuracy["setting"])]
    labels = [*SETTINGS, *shown, *dropout][::-1]
    figure, axes = look.panels(1, 3, height=5.6, sharey=True, width_ratios=(3, 3, 2))
    lowest = 1e-17
    for axis, reference in zip(axes[0], (PADDED, NOT_PADDED), strict=False):
        axis.axvspan(lowest, gradients["tolerance"].max(), **look.NOISE)
        pairs = {name: (reference, name) for name in SETTINGS} | (dropout if reference == PADDED else {})
        for label, (of, setting) in pairs.items():
            errors = gradients.loc[(gradients["reference"] == of) & (gradients["setting"] == setting), "error"]
            if len(errors):
                errors = errors.clip(lower=2 * lowest)
                _dots(axis, labels.index(label), errors, setting)
            else:
                axis.annotate(
                    "reference",
                    (lowest, labels.index(label)),
                    (4, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8,
                )
        axis.set(xscale="log", xlim=(lowest, 300), title=f"from {reference}")
        axis.set_xlabel("relative error of the gradient")
    for name, part in accuracy.groupby("setting"):
        _dots(axes[0, 2], labels.index(str(name)), 100 * part["accuracy"], str(name))
    axes[0, 2].set(title="after training", xlabel="test accuracy, %")
    axes[0, 0].set_yticks(range(len(labels)), labels, fontsize=9)
    handles = dict(zip(*reversed(axes[0, 0].get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def _dots(axis: Axes, place: int, values: pd.Series[float], setting: str) -> None:
    style = ACCUMULATED if setting.startswith("1 × 8") else BATCH_8 if "8" in setting else BATCH_1
    axis.plot(values, [place] * len(values), ".", color=style["color"], markersize=5, alpha=0.3)
    axis.plot([values.mean()], [place], **style)


def _verdict(same: pd.Series[bool]) -> str:
    """By which settings step with the gradient of batch 8 as the book pads it."""
    if not same["1 × 8, padded"]:
        return "false"
    return "true" if same["1 × 8, not padded"] else "true under conditions"


def _part(frame: pd.DataFrame, part: str) -> pd.DataFrame:
    found = frame[frame["part"] == part].drop(columns="part").dropna(axis="columns", how="all")
    return found.astype({name: int for name in ("seed", "step", "epoch") if name in found}).reset_index(drop=True)
