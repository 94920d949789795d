"""Claim: wrong accumulation shows in training. Measured: loss, gradient norm and accuracy, as people look at them.

``python -m experiments symptom``, needs transformers and accelerate

Every training shares its first weights, its samples and their order with the right one of its seed. Differences are
paired by seed, with 95 % intervals of Student's t. What has an interval without 0 is said to differ; among so many
intervals one in twenty does so by chance. Learning rates are the best of a small grid for right training, on seeds of
their own, and fall to 0 linearly. Three parts:

- ``trainer``: a classifier is fine-tuned by Hugging Face's Trainer, in batches of 32 or in 4 micro-batches of 8. Its
  ``forward`` takes ``**kwargs``, and its loss is a plain mean, so Trainer's gradient is k times too large; with
  ``accepts_loss_kwargs = False`` on the model it is right. SGD and AdamW, with and without clipping at a norm of 1.0,
  Trainer's default. What Trainer logs is taken as it is; its loss is k times too large, too. A clipped gradient has the
  same length whatever the factor, and AdamW divides it out; plain SGD takes steps k times as long.
- ``tail``: the same fine-tuning in plain loops whose epochs end with a window of 2 of 4 micro-batches.
- ``tokens``: a small GPT on lines of unequal length, 4 micro-batches of 2 lines: the mean of their means against the
  mean over tokens.

Accuracy is taken at the end, and early: after about three of ten epochs. "No difference seen" is no proof that there is
none: an interval says how large it may be. A loop that carries its tail on makes fewer updates. Not shown: large
models, other data, long training, dropout, several devices.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from accumcheck.adapters import need
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.lab import look
from experiments.lab.runner import Bench, Row
from experiments.symptom.classifier import fine_tuned, images
from experiments.symptom.intervals import DIFFERS, SAME, compared, half_width
from experiments.symptom.loops import HELD_OUT, LINES, STEPS, TAILS, TOKENS, spread, tail, tokens
from experiments.symptom.trainer import VARIANTS, N, fine_tune

# The grids that learning rates are chosen from, by part and setting: an optimizer, and whether gradients are clipped.
RATES: dict[str, dict[str, tuple[float, ...]]] = {
    "trainer": {
        "sgd_off": (0.03, 0.1, 0.3),
        "sgd_clipped": (0.1, 0.3, 1.0),
        "adamw_off": (1e-3, 3e-3, 1e-2),
        "adamw_clipped": (1e-3, 3e-3, 1e-2),
    },
    "tokens": {"sgd_off": (0.1, 0.3, 1.0), "adamw_off": (3e-3, 1e-2, 3e-2)},
}
MIDDLE = {part: {setting: rates[1] for setting, rates in of.items()} for part, of in RATES.items()}
PLAIN = ("sgd_off", "adamw_off")
WAYS: dict[str, tuple[str, ...]] = {"trainer": (*VARIANTS,), "tail": (*TAILS,), "tokens": (*TOKENS,)}
BASES = {"trainer": "k1", "tail": "right", "tokens": "k1"}
SEEDS, TUNING = 8, (100, 101)
SAMPLES, EPOCHS, PRETRAINED = 400, 10, 20
TEXT = 1536  # lines
SETTINGS = {
    "sgd_off": "SGD, not clipped",
    "sgd_clipped": "SGD, clipped at 1.0",
    "adamw_off": "AdamW, not clipped",
    "adamw_clipped": "AdamW, clipped at 1.0",
}
RIGHT: dict[str, Any] = {"color": "#0072B2", "linewidth": 5, "alpha": 0.4}
WRONG: dict[str, Any] = {"color": "#D55E00", "linewidth": 1.6}
LOOKS: dict[str, dict[str, dict[str, Any]]] = {
    "trainer": {
        "k1": {**RIGHT, "label": "k = 1, batches of 32"},
        "as_it_is": {**WRONG, "label": "k = 4, as it is"},
        "remedy": {"color": look.INK, "linewidth": 1.3, "linestyle": (0, (4, 3)), "label": "k = 4 with the remedy"},
    },
    "tail": {
        "right": {**RIGHT, "label": "right"},
        "divided_by_k": {"color": "#E69F00", "linewidth": 1.6, "linestyle": "--", "label": "tail divided by k"},
        "early": {**WRONG, "linestyle": "-", "label": "batch_idx % k == 0"},
        "carried": {"color": "#882255", "linewidth": 1.6, "linestyle": "-.", "label": "tail carried on"},
    },
    "tokens": {
        "k1": {**RIGHT, "label": "mean over tokens"},
        "mean_of_means": {**WRONG, "label": "mean of means"},
    },
}
CONTROLS = ("remedy", "token_mean")  # right accumulation, beside the plain batch
ENDS = (
    *("logged_loss", "first_loss", "norm", "first_norm", "tail_norm", "above_1"),
    *("train_loss", "held_out_loss", "accuracy", "early_accuracy"),
)
LOGGED = {"logged_loss": "training loss, as logged", "norm": "gradient norm, as logged"}
LOGARITHMIC = {("trainer", "logged_loss"), ("trainer", "norm"), ("tail", "logged_loss")}  # scales of panels
ON_TEST = {"accuracy": "held-out accuracy, %"}


def run(bench: Bench) -> pd.DataFrame:
    """Rows of two kinds: a ``run`` for every training, and the points of its ``curve``; and ``rate`` for the grids."""
    seeds = 1 if bench.quick else 20 if bench.full else SEEDS
    sizes: dict[str, Row] = {
        "trainer": {"samples": 80 if bench.quick else SAMPLES, "epochs": 1 if bench.quick else EPOCHS},
        "tokens": {"samples": 24 if bench.quick else TEXT, "epochs": 1},
    }
    for size in sizes.values():
        size["pretrained"] = 1 if bench.quick else PRETRAINED
    sizes["tail"] = sizes["trainer"]
    grid = [
        {"part": part, "variant": BASES[part], "setting": setting, "rate": rate, "seed": seed, **sizes[part]}
        for part, settings in RATES.items()
        for setting, rates in settings.items()
        for rate in rates
        for seed in TUNING
    ]
    ends = [] if bench.quick else [row | {"kind": "rate"} for row in bench.map(measure, grid) if row["kind"] == "run"]
    tried = pd.DataFrame(ends)
    rates = MIDDLE if bench.quick else chosen(tried)
    rates = {**rates, "tail": rates["trainer"]}
    cases = [
        {"part": part, "variant": variant, "setting": setting, "rate": rates[part][setting], "seed": seed} | sizes[part]
        for seed in range(seeds)
        for part, variants in WAYS.items()
        for setting in (SETTINGS if part == "trainer" else PLAIN)
        for variant in variants
        if variant != "token_mean" or seed < 2  # it is k = 1 once more, to rounding
    ]
    return pd.concat([tried, pd.DataFrame(bench.map(measure, cases))], ignore_index=True)


def measure(
    part: str, variant: str, setting: str, rate: float, seed: int, samples: int, epochs: int, pretrained: int
) -> list[Row]:
    """One training: a row for how it ends, and rows for its curve."""
    optimizer, _, clipping = setting.partition("_")
    if part == "trainer":
        clip = 1.0 if clipping == "clipped" else 0.0
        rows = fine_tune(variant, optimizer, clip, rate, seed, samples, epochs, pretrained)
    elif part == "tail":
        rows = tail(variant, optimizer, rate, seed, samples, epochs, pretrained)
    else:
        rows = tokens(variant, optimizer, rate, seed, samples, epochs)
    case = {"part": part, "setting": setting, "variant": variant, "rate": rate, "seed": seed, "samples": samples}
    return [{**case, "epochs": epochs, **row} for row in rows]


def chosen(tried: pd.DataFrame) -> dict[str, dict[str, float]]:
    """By part and setting: the rate of the grid with the least loss on held-out samples, averaged over seeds."""
    losses = tried.fillna({"held_out_loss": math.inf}).groupby(["part", "setting", "rate"])["held_out_loss"].mean()
    return {
        part: {setting: float(losses[part, setting].idxmin()) for setting in settings}
        for part, settings in RATES.items()
    }


def summarise(frame: pd.DataFrame) -> dict[str, Any]:
    """By part, setting and variant: differences from right training, with intervals; and how right training ends."""
    runs = frame[frame["kind"] == "run"]
    trainer, text = (runs[runs["part"] == part].iloc[0] for part in ("trainer", "tokens"))
    model, held_out = fine_tuned(0, 0), images(int(trainer["samples"]), 0)[1]
    numbers: dict[str, Any] = {
        "N": N,
        "k": STEPS,
        "seeds": int(runs["seed"].nunique()),
        "samples": int(trainer["samples"]),
        "held_out": len(held_out),
        "epochs": int(trainer["epochs"]),
        "updates": int(trainer["updates"]),
        "tail_micro_batches": -(-int(trainer["samples"]) * STEPS // N) % STEPS,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "lines": int(text["samples"]),
        "held_out_lines": HELD_OUT,
        "lines_updates": int(text["updates"]),
        "token_spread": spread(int(text["samples"]), 0),
        "transformers": need("transformers", "transformers accelerate").__version__,
        "rates": {part: {} for part in BASES},
        "right": {part: {} for part in BASES},
        **{part: {} for part in BASES},
    }
    numbers["model"] = (
        f"{type(model).__name__} of transformers {numbers['transformers']}: 2 layers, {numbers['parameters']:,} "
        "parameters, no dropout, pretrained on the digits 0 to 4"
    )
    numbers["data"] = (
        f"scikit-learn's digits 5 to 9: {numbers['samples']} images to fine-tune on for {numbers['epochs']} epochs, "
        f"{numbers['held_out']} held out"
    )
    numbers["text"] = (
        f"the interpreter's help text: {numbers['lines']} lines to train on once, {HELD_OUT} held out; the number of "
        f"tokens in a micro-batch of {LINES} lines varies by {numbers['token_spread']:.0%}"
    )
    for key, some in runs.groupby(["part", "setting"], sort=False):
        part, setting = map(str, key)
        right = some[some["variant"] == BASES[part]]
        numbers["rates"][part][setting] = float(some["rate"].iloc[0])
        numbers["right"][part][setting] = {name: float(right[name].mean()) for name in ENDS}
        numbers[part][setting] = compared(some, BASES[part])
    found = differences(frame)
    control = found["variant"].isin(CONTROLS)
    final = found["measure"].isin(["train_loss", "held_out_loss", "accuracy"])
    outcomes = found[~control & final]
    groups = {"all": outcomes, **dict(iter(outcomes.groupby("measure"))), "controls": found[control & final]}
    numbers["told"] = {
        str(name): {
            "all": len(some),
            "differ": int((some["verdict"] == DIFFERS).sum()),
            "largest": float(some["mean"].abs().max()),
            "widest": float((some["high"] - some["low"]).max() / 2),
        }
        for name, some in groups.items()
    }
    numbers["lost"] = int(found["lost"].max())
    numbers["largest_control"] = {name: _largest_control(runs, name) for name in ("train_loss", "accuracy")}
    return numbers | {"finding": _finding(numbers)}


def _finding(numbers: dict[str, Any]) -> str:
    told, early = numbers["told"]["accuracy"], numbers["trainer"]["sgd_off"]["as_it_is"]["early_accuracy"]
    return (
        f"a gradient {numbers['k']} times too large shows in Trainer's logged loss and norm, and early under unclipped "
        f"SGD ({_points(early)} points); final held-out accuracy differs in {_count(told['differ'])} of {told['all']} "
        "wrong trainings"
    )


def _count(number: int) -> str:
    return str(number) if number else "none"


def _points(found: dict[str, Any]) -> str:
    return f"{100 * found['mean']:+.1f}".replace("-", "−")


def _largest_control(runs: pd.DataFrame, measure: str) -> float:
    """The largest difference between the plain batch and right accumulation, of any seed and setting."""
    table = runs.pivot_table(index=["part", "setting", "seed"], columns="variant", values=measure)
    return float(max((table[name] - table["k1"]).abs().max() for name in CONTROLS))


def differences(frame: pd.DataFrame) -> pd.DataFrame:
    """A row for every part, setting, variant and measure: its difference from right training, or its ratio to it."""
    runs = frame[frame["kind"] == "run"]
    return pd.DataFrame(
        {"part": part, "setting": setting, "variant": variant, "measure": name, **found}
        for (part, setting), some in runs.groupby(["part", "setting"], sort=False)
        for variant, measures in compared(some, BASES[str(part)]).items()
        for name, found in measures.items()
    )


def tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """All trainings, the rates that were tried among them; their differences; and their curves, averaged over seeds."""
    runs = frame[frame["kind"].isin(["run", "rate"])]
    keys = ["part", "setting", "variant", "rate", "seed", "samples", "epochs", "kind", "updates"]
    return {
        "symptom": runs[[*keys, *ENDS]],
        "symptom_differences": differences(frame),
        "symptom_curves": curves(frame).drop(columns="kind"),
    }


def from_tables(read: Callable[[str], pd.DataFrame]) -> pd.DataFrame:
    """What is drawn: all trainings, and the averaged curves."""
    return pd.concat([read("symptom"), read("symptom_curves").assign(kind="average")], ignore_index=True)


def curves(frame: pd.DataFrame) -> pd.DataFrame:
    """The mean over seeds of each curve's points, and its 95 % interval; in logarithms for logged losses and norms."""
    keys = ["part", "setting", "variant", "update", "epoch"]
    if "average" in set(frame["kind"]):
        return frame.loc[frame["kind"] == "average", ["kind", *keys, "series", "mean", "low", "high"]]
    rows, points = [], frame[frame["kind"] == "curve"]
    last = points.groupby(["part", "setting", "variant"])["update"].transform("max")
    points = points.assign(epoch=points["epochs"] * points["update"] / last)  # a loop may make fewer updates in it
    for key, point in points.groupby(keys, sort=False):
        for name in (*LOGGED, "train_loss", "held_out_loss", "accuracy"):
            values = point[name].to_numpy(float)
            values = np.log(values) if name in LOGGED else values
            mean, half = float(values.mean()), half_width(values) or 0.0
            ends = np.array([mean, mean - half, mean + half])
            ends = np.exp(ends) if name in LOGGED else ends
            names = ["kind", *keys, "series", "mean", "low", "high"]
            rows.append(dict(zip(names, ["average", *key, name, *ends.tolist()], strict=True)))
    return pd.DataFrame(rows)


def check(numbers: dict[str, Any]) -> None:
    """What is k times too large shows in the log, hardly in what is learnt; right accumulation is the plain batch."""
    assert numbers["seeds"] >= 5, "too few seeds"
    assert numbers["lost"] == 0, "some training ended in numbers that are not finite"
    assert numbers["largest_control"]["accuracy"] < 1e-3, "right accumulation predicts otherwise than the plain batch"
    assert numbers["largest_control"]["train_loss"] < 1e-4, "right accumulation does not learn what the batch learns"
    for setting, found in numbers["trainer"].items():
        for name in ("first_norm_ratio", "first_loss_ratio"):
            first, remedy = (found[variant][name]["mean"] for variant in ("as_it_is", "remedy"))
            assert abs(first - numbers["k"]) < 1e-3, f"{setting}: {name} is {first}, not k"
            assert abs(remedy - 1) < 1e-3, f"{setting}: {name} is {remedy} with the remedy"
        for name in ("norm_ratio", "logged_loss_ratio"):
            assert found["as_it_is"][name]["low"] > 1.5, f"{setting}: {name} hardly shows"
    early = {setting: found["as_it_is"]["early_accuracy"] for setting, found in numbers["trainer"].items()}
    assert early["sgd_off"]["high"] < -0.05, "unclipped SGD does not suffer early"
    assert all(found["mean"] > -0.02 for setting, found in early.items() if setting != "sgd_off"), "others suffer early"
    accuracy = numbers["told"]["accuracy"]
    assert accuracy["differ"] <= 2, f"final accuracy differs in {accuracy['differ']} of {accuracy['all']} trainings"
    assert accuracy["largest"] < 0.02, f"final accuracy changes by up to {accuracy['largest']:.1%}"


def plot(frame: pd.DataFrame) -> Figure:
    """What Trainer logs, and held-out accuracy: a row for each optimizer, a line for each way to train."""
    settings = ("sgd_off", "sgd_clipped", "adamw_clipped")
    figure, axes = _curves(frame, "trainer", settings, {**LOGGED, **ON_TEST})
    logged = curves(frame).query("part == 'trainer' and variant == 'as_it_is' and series == 'logged_loss'")
    for axis, setting in zip(axes[:, 0], settings, strict=True):
        line = logged[logged["setting"] == setting]
        dots = {"linewidth": 1.6, "linestyle": (0, (1, 1.2)), "label": f"its loss, divided by {STEPS}"}
        axis.plot(line["epoch"], line["mean"] / STEPS, color=WRONG["color"], **dots)
    numbers = summarise(frame)
    found = [numbers["trainer"][setting]["as_it_is"] for setting in settings]
    suffers = "; accuracy suffers early on, under SGD without clipping, "
    suffers += "and recovers" if found[0]["accuracy"]["verdict"] == SAME else "and stays lower"
    look.title(
        figure,
        f"A gradient {STEPS} times too large shows in Trainer's log"
        + suffers * (found[0]["early_accuracy"]["high"] < 0),
        f"{numbers['model']}; {numbers['data']}. {_bands(numbers)}",
    )
    look.legend(figure, axes[0, 0], columns=4)
    return figure


def figures(frame: pd.DataFrame) -> dict[str, Figure]:
    """The wrong tails, and the mean of means, drawn as Trainer's classifier."""
    numbers = summarise(frame)
    tails, axes = _curves(frame, "tail", PLAIN, {**LOGGED, **ON_TEST})
    found = [row["accuracy"] for setting in PLAIN for row in numbers["tail"][setting].values()]
    differ, most = sum(row["verdict"] == DIFFERS for row in found), max(abs(row["mean"]) for row in found)
    short = numbers["tail_micro_batches"]
    look.title(
        tails,
        f"A wrong tail hardly shows: held-out accuracy changes by {100 * most:.1f} points at most, and differs in "
        f"{_count(differ)} of {len(found)} cases",
        f"The same fine-tuning in plain loops; epochs end with {short} micro-batches of {STEPS}. {_bands(numbers)}",
    )
    look.legend(tails, axes[0, 0], columns=4)
    means, axes = _curves(frame, "tokens", PLAIN, {**LOGGED, "held_out_loss": "held-out loss"})
    found = [numbers["tokens"][setting]["mean_of_means"]["held_out_loss"] for setting in PLAIN]
    differ = sum(row["verdict"] == DIFFERS for row in found)
    look.title(
        means,
        f"The mean of means hardly shows: held-out loss differs in {_count(differ)} of {len(found)} cases",
        f"A small GPT on {numbers['text']}. {_bands(numbers)}",
    )
    look.legend(means, axes[0, 0], columns=2)
    return {"symptom_tail": tails, "symptom_tokens": means}


def _bands(numbers: dict[str, Any]) -> str:
    return f"Mean of {numbers['seeds']} trainings and its 95 % interval."


def _curves(frame: pd.DataFrame, part: str, settings: tuple[str, ...], series: dict[str, str]) -> tuple[Figure, Any]:
    """A row of panels for each setting, a column for each series; every column has one scale."""
    table = curves(frame)
    figure, axes = look.panels(len(settings), len(series), height=2.2, sharex=True, sharey="col")
    for place, (row, setting) in enumerate(zip(axes, settings, strict=True)):
        for axis, (name, title) in zip(row, series.items(), strict=True):
            some = table[(table["part"] == part) & (table["setting"] == setting) & (table["series"] == name)]
            for variant, style in LOOKS[part].items():
                _line(axis, some[some["variant"] == variant], style, 100 if name == "accuracy" else 1)
            if (part, name) in LOGARITHMIC:
                axis.set_yscale("log")
                axis.yaxis.set_major_formatter("{x:g}")
                axis.yaxis.set_minor_formatter("")
            if not place or look.is_narrow():
                axis.set_title(f"{SETTINGS[setting]}: {title}" if look.is_narrow() else title, fontsize=10)
        if not look.is_narrow():
            row[0].set_ylabel(SETTINGS[setting])
    look.labels(axes, x="epoch")
    return figure, axes


def _line(axis: Axes, line: pd.DataFrame, style: dict[str, Any], scale: int) -> None:
    axis.plot(line["epoch"], scale * line["mean"], **style)
    low, high = scale * line["low"], (scale * line["high"]).clip(upper=100 if scale == 100 else math.inf)
    axis.fill_between(line["epoch"], low, high, color=style["color"], alpha=0.15, linewidth=0)
