"""Claim: whether Trainer accumulates right depends on the model's class; most classifiers ignore the count they get.

``python -m experiments architectures``, needs transformers and accelerate

Tiny models of real architectures, randomly initialised, on lines of real text through ``transformers.Trainer``: 4
micro-batches of 2 samples, then a tail of 3, at a learning rate of 0, so that all gradients are taken at one point.
They are compared with those of the same Trainer on full batches, and these with ``model(**batch).loss``, as an error
that both runs share would stay unseen. Trainer hands the number of labels to every ``forward`` that takes ``**kwargs``,
and then leaves the division to it (https://github.com/huggingface/transformers/issues/47688). Causal language models do
not predict their first token, so it is not to be counted (https://github.com/huggingface/transformers/pull/46204).
Not shown: other versions, trained weights, dropout, several devices.
"""

from __future__ import annotations

from textwrap import wrap
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.architectures.models import HEADS, build
from experiments.architectures.trainer import BATCH, STEPS, TAIL, compare
from experiments.lab import look
from experiments.lab.runner import Bench, Row

FAMILIES = (
    *("albert", "bart", "bert", "biogpt", "bloom", "cpmant", "ctrl", "distilbert", "electra", "esm", "falcon", "gemma"),
    *("gemma2", "gpt2", "gpt_neo", "gpt_neox", "llama", "mamba", "mistral", "modernbert", "mpt", "openai-gpt", "opt"),
    *("phi", "phi3", "qwen2", "qwen3", "roberta", "t5"),
)
DIVIDERS: dict[str, dict[str, Any]] = {
    "model is handed the count, ignores it": {"color": "#D55E00", "marker": "v", "linestyle": ""},
    "model divides by the count": {"color": "#0072B2", "marker": "o", "linestyle": ""},
    "Trainer divides by k": {"color": "#009E73", "marker": "s", "linestyle": ""},
}
PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}  # behind words, so that no line goes through them
SHORT = "tail, last micro-batch short"
SAME = 1e-4  # relative error below which gradients are called the same; the summary tells how far both kinds are off


def run(bench: Bench) -> pd.DataFrame:
    """A row for every architecture, head and window."""
    families = ("gpt2", "esm", "llama") if bench.quick else FAMILIES
    return pd.DataFrame(bench.map(measure, [{"family": family, "head": head} for head in HEADS for family in families]))


def measure(family: str, head: str) -> list[Row]:
    """Compare one architecture with its full batches; no rows if it has no such head."""
    model = build(family, head)
    return [] if model is None else [{"family": family, **row} for row in compare(model, head)]


def summarise(frame: pd.DataFrame) -> dict[str, Any]:
    """By head: how many classes accumulate to their full batch's gradient, and how many ignore the count."""
    even = frame[frame["window"].isin(["full", "tail"])]
    numbers: dict[str, Any] = {"b": BATCH, "k": STEPS, "r": TAIL, "transformers": frame["transformers"].iloc[0]}
    for head, part in even.groupby("head", sort=False):
        classes = part.groupby("class", sort=False)
        ignored = part["accepts_count"] & ~part["uses_count"]
        numbers[str(head)] = {
            "classes": len(classes),
            "same": int((classes["error"].max() < SAME).sum()),
            "ignore_count": sorted(part.loc[ignored, "class"].unique()),
            "divided_by_trainer": sorted(part.loc[~part["accepts_count"], "class"].unique()),
        }
    own = frame[(frame["window"] == "full") & (frame["full_error"] > SAME)]
    errors = pd.concat([frame["error"], frame["full_error"]])
    numbers["full_batch_differs"] = dict(zip(own["class"], own["full_ratio"], strict=True))
    numbers["largest_noise"] = float(errors[errors < SAME].max())
    numbers["smallest_difference"] = float(errors[errors >= SAME].min())
    classifiers, causal = numbers["sequence classifier"], numbers["causal language model"]
    numbers["finding"] = (
        f"through Trainer of transformers {numbers['transformers']}, {len(classifiers['ignore_count'])} of "
        f"{classifiers['classes']} sequence classifiers step with k = {STEPS} times the gradient of the full batch; "
        f"{causal['same']} of {causal['classes']} causal language models step with just that gradient, but for "
        f"{len(own)} of them Trainer's full batch itself has a smaller gradient than the mean over its tokens"
    )
    return numbers


def check(numbers: dict[str, Any]) -> None:
    """Gradients are either the same or far from it, and many classes are right."""
    assert numbers["largest_noise"] < 1e-5, "gradients that are the same are not so to rounding"
    assert numbers["smallest_difference"] > 1e-2, "gradients that differ do so by little"
    assert sum(numbers[head]["same"] for head in HEADS) >= 20, "few classes accumulate right"
    classifiers = numbers["sequence classifier"]
    assert len(classifiers["ignore_count"]) > classifiers["classes"] / 2, "most classifiers heed the count"


def plot(frame: pd.DataFrame) -> Figure:
    """Ratio of gradients, a row of dots per head; the classes that are right named on the left, the wrong on the right.

    Names are in the order of the ratio; marks tell who divides.
    """
    letters, right, wrong = (25, 0.45, 2.55) if look.is_narrow() else (58, 0.45, 2.55)
    heads = {head: frame[frame["head"] == head] for head in frame["head"].unique()}
    heads = dict(sorted(heads.items(), key=lambda item: _full(item[1])["ratio"].mean()))
    lists = {head: [_names(_full(part), right, letters) for right in (True, False)] for head, part in heads.items()}
    lines = {head: max(len(text) for text in texts) for head, texts in lists.items()}
    whole = sum(lines.values()) + 3.6 * len(heads)
    figure, axes = look.panels(1, 1, height=0.6 + 0.145 * whole)
    axis, top = axes[0, 0], 0.0
    axis.axvline(1, color="#333333", linewidth=1.2, linestyle=(0, (2, 2)), zorder=0)
    for head, part in heads.items():
        for who, marks in DIVIDERS.items():
            rows = part[part.apply(_divider, axis=1) == who]
            for window, face, place in (("full", marks["color"], 1.4), ("tail", "white", 2.2)):
                some = rows[rows["window"] == window]
                axis.plot(some["ratio"], [top + place] * len(some), markersize=5, markerfacecolor=face, **marks)
        same = int((part[part["window"] != SHORT].groupby("class")["error"].max() < SAME).sum())
        told = f"{head}: {same} of {part['class'].nunique()} right"
        axis.text(right, top + 0.5, told, fontsize=9.5, fontweight="bold", va="center", bbox=PAPER)
        for place, text in zip((right, wrong), lists[head], strict=True):
            axis.text(place, top + 2.75, "\n".join(text), fontsize=8, va="top", linespacing=1.15, bbox=PAPER)
        top += lines[head] + 3.6
        axis.axhline(top - 0.35, color="#bbbbbb", linewidth=0.7)
    axis.set(xlim=(0.4, 4.75), xticks=range(1, STEPS + 1), ylim=(whole - 0.3, -0.2), yticks=[])
    axis.set_xticklabels(["1\n(right)", *(f"{ratio}" for ratio in range(2, STEPS + 1))])
    axis.set_xlabel("gradient with accumulation / gradient of the full batch")
    axis.spines["left"].set_visible(False)
    axis.grid(visible=False, axis="y")
    numbers = summarise(frame)
    classifiers, causal = numbers["sequence classifier"], numbers["causal language model"]
    about = (
        f"transformers {numbers['transformers']}, tiny models with random weights, {STEPS} micro-batches of {BATCH} "
        "lines of real text; names in the order of the ratio."
    )
    if off := numbers["full_batch_differs"]:
        about += (
            f" *: without accumulation, too, Trainer's gradient is {min(off.values()):.3f} of the model's own: it "
            "counts "
            "a token that is not predicted."
        )
    look.title(
        figure,
        f"Trainer makes the gradient {STEPS} times too large in {len(classifiers['ignore_count'])} of "
        f"{classifiers['classes']} sequence classifiers; of {causal['classes']} causal language models, "
        f"{causal['same']} accumulate right",
        about,
    )
    handles = [Line2D([], [], label=who, **marks) for who, marks in DIVIDERS.items()]
    hollow: dict[str, Any] = {"color": look.FAINT, "marker": "o", "linestyle": "", "markerfacecolor": "white"}
    handles.append(Line2D([], [], label=f"hollow: the last window, of {TAIL} micro-batches", **hollow))
    look.legend(figure, handles=handles, columns=2)
    return figure


def _full(part: pd.DataFrame) -> pd.DataFrame:
    return part[part["window"] == "full"].sort_values("ratio", kind="stable")


def _names(full: pd.DataFrame, near: bool, letters: int) -> list[str]:
    """The families whose full windows have about the right gradient, or another one, in lines.

    A star where the full batch is off itself; the ratio where it is near and not right.
    """
    chosen = full[(full["ratio"] < STEPS / 2) == near]
    stars = (chosen["full_error"] > SAME).map({True: "*", False: ""})
    ratios = zip(chosen["ratio"], chosen["error"], strict=True)
    off = [f" ({ratio:.2f})" if near and error >= SAME else "" for ratio, error in ratios]
    names = (chosen["family"] + stars + off).tolist()
    return wrap(", ".join(names), letters, break_on_hyphens=False)


def _divider(row: Any) -> str:
    ignored, used, divided = DIVIDERS
    return divided if not row["accepts_count"] else used if row["uses_count"] else ignored
