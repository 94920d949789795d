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
    """Ratio of gradients by architecture, a panel per head; marks tell who divides."""
    families = list(dict.fromkeys(frame["family"]))
    places = {family: place for place, family in enumerate(sorted(families, reverse=True))}
    height = 1.7 + 0.23 * len(families)
    figure, axes = look.panels(1, len(HEADS), height=height, sharex=True, sharey=True)
    for axis, head in zip(axes[0], HEADS, strict=True):
        axis.axvline(1, color="#333333", linewidth=1.2, linestyle=(0, (2, 2)), zorder=0)
        part = frame[frame["head"] == head]
        for who, marks in DIVIDERS.items():
            rows = part[part.apply(_divider, axis=1) == who]
            for window, size, face in (("full", 7, marks["color"]), ("tail", 5, "white")):
                some = rows[rows["window"] == window]
                axis.plot(some["ratio"], some["family"].map(places), markersize=size, markerfacecolor=face, **marks)
        for _, row in part[(part["window"] == "full") & (part["full_error"] > SAME)].iterrows():
            text = f"* {row['full_ratio']:.3f}"
            axis.annotate(text, (1, places[row["family"]]), (8, 0), textcoords="offset points", va="center", fontsize=8)
        axis.set_title(head.replace(" ", "\n", 1), fontsize=10)
        axis.set(xlim=(0.4, 4.8), xticks=range(1, STEPS + 1), ylim=(-0.7, len(families) - 0.3))
    axes[0, 0].set_yticks(list(places.values()), list(places), fontsize=9)
    figure.supxlabel(
        f"gradient accumulated by Trainer, over that of its full batch; filled: {STEPS} micro-batches, "
        f"hollow: a tail of {TAIL}\n"
        "* ratio of Trainer's own full batch to the gradient of the model's mean loss, where that is not 1",
        fontsize=9,
    )
    handles = [Line2D([], [], label=who, **marks) for who, marks in DIVIDERS.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False)
    return figure


def _divider(row: Any) -> str:
    ignored, used, divided = DIVIDERS
    return divided if not row["accepts_count"] else used if row["uses_count"] else ignored
