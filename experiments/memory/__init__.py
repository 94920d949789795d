"""Claim: accumulation saves memory, but intermediate variables cost. True if the activations outweigh the gradients.

``python -m experiments memory`` (``--full`` adds GPT-2 small with 124 M parameters)

GPTs on real text, two windows, SGD, float32. Counted to the byte: what autograd has saved at once (activations, apart
from parameters and token indices), the gradient buffers that a forward pass finds, what else the loop carries from one
micro-batch to the next, and the peak of all floating-point tensors. Theory says that saved activations are b times
those of one sample and do not depend on k, and that a forward pass from the second micro-batch on finds gradients of
the parameters' size, which a full batch after ``zero_grad()`` does not. Measured beside it, in fresh processes on one
thread: growth of the peak resident set, and time per sample. The claim is the article's advice on memory; no number
comes with it there. Not shown: optimizer state, which depends on neither b nor k; recomputed activations; the GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.lab import look
from experiments.lab.runner import Bench
from experiments.memory.held import count, time_and_peak
from experiments.memory.loops import LOOPS

DETAILED = "1M"  # the size whose loops are all measured; of the others the correct one
LARGEST = {"100k": 16, "1M": 16, "10M": 8, "124M": 2}  # samples in a window
LOOKS: dict[str, dict[str, Any]] = {
    "correct": {**look.LOOPS["correct"], "markersize": 8},
    "named_outputs": {
        "color": "#56B4E9",
        "marker": "D",
        "linestyle": "--",
        "label": "outputs = model(...) in the loop",
    },
    "outputs_kept": {"color": "#882255", "marker": "^", "linestyle": "-.", "label": "outputs kept in a list"},
    "total_of_losses": {"color": "#E69F00", "marker": "x", "linestyle": ":", "label": "total += loss, not detached"},
    "one_backward": {"color": "#D55E00", "marker": "s", "linestyle": "--", "label": "one backward for a whole window"},
}
# Sizes of the correct loop, in one colour: a darker grey is a larger model.
GREYS = (("#AAAAAA", "^"), ("#666666", "v"), ("#000000", "P"), ("#000000", "X"))
EXACT = (
    *("size", "loop", "n", "b", "k", "parameter_bytes", "saved_activations", "predicted_activations", "saved_integers"),
    *("saved_parameters", "gradients_first", "gradients_later", "carried_bytes", "peak_bytes"),
)
TIMED = ("size", "loop", "n", "b", "k", "repetition", "resident_megabytes", "seconds_per_sample")


def run(bench: Bench) -> pd.DataFrame:
    """A row for every exact count, and one for every repetition of a timing."""
    sizes = ["100k", "1M"] if bench.quick else ["100k", "1M", "10M"] + ["124M"] * bench.full
    powers, repetitions = ([1, 4], 1) if bench.quick else ([1, 2, 4, 8, 16], 3)
    exact = [(size, "correct", n, b) for size in sizes for n in powers if n <= LARGEST[size] for b in (1, n)]
    largest = powers[-1]
    exact += [(DETAILED, loop, largest, b) for loop in ("correct", "one_backward") for b in powers]
    exact += [(DETAILED, loop, largest, largest) for loop in LOOPS]
    exact += [(DETAILED, loop, n, 1) for loop in LOOPS for n in powers[1:]]
    timed = [(DETAILED, "correct", largest, b, 2) for b in powers] + [(DETAILED, "one_backward", largest, 1, 2)]
    once = [("10k", loop, 64 if bench.quick else 256, 1, 1) for loop in ("correct", "total_of_losses")]
    if not bench.quick:
        once += [("10M", loop, 8, b, 1) for loop, b in (("correct", 1), ("correct", 8), ("one_backward", 1))]
    repeated = [(*case, repetition) for repetition in range(repetitions) for case in timed]
    names = ("size", "loop", "n", "b", "epochs", "repetition")
    cases = [dict(zip(names, case, strict=True)) for case in repeated + [(*case, 0) for case in once]]
    rows = bench.map(count, [dict(zip(names[:4], case, strict=True)) for case in dict.fromkeys(exact)])
    return pd.DataFrame(rows + bench.map(time_and_peak, cases, alone=True))


def tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Exact counts, and what is measured with a clock or by the system."""
    exact = frame[frame["repetition"].isna()].reindex(columns=EXACT)
    timed = frame[frame["repetition"].notna()].reindex(columns=TIMED)
    whole = [name for name in EXACT if name not in ("size", "loop")]
    return {"memory": exact.astype(dict.fromkeys(whole, "Int64")), "memory_timings": timed.astype({"repetition": int})}


def summarise(frame: pd.DataFrame) -> dict[str, Any]:
    """Bytes per sample, what buffers cost, where accumulation begins to pay, and what each mistake costs."""
    exact, timed = tables(frame).values()
    detailed = exact[exact["size"] == DETAILED].set_index(["loop", "n", "b"]).to_dict("index")
    n = int(exact.loc[exact["size"] == DETAILED, "n"].max())
    small, whole = detailed["correct", n, 1], detailed["correct", n, n]
    correct = exact[exact["loop"] == "correct"]
    numbers: dict[str, Any] = {
        "claim": "accumulation saves memory, but intermediate variables cost",
        "n": n,
        "predicted_exactly": bool((correct["saved_activations"] == correct["predicted_activations"]).all()),
        "saved_by_full_batch": int(whole["saved_activations"]),
        "saved_at_b_1": int(small["saved_activations"]),
        "peak_of_full_batch": int(whole["peak_bytes"]),
        "peak_at_b_1": int(small["peak_bytes"]),
        "one_backward_saved_at_b_1": int(detailed["one_backward", n, 1]["saved_activations"]),
        "carried_at_b_1": {loop: int(detailed[loop, n, 1]["carried_bytes"]) for loop in LOOPS},
        "gradients_over_parameters": float((correct["gradients_later"] / correct["parameter_bytes"]).max()),
        "sizes": {},
    }
    for size, part in correct.groupby("size", sort=False):
        ratios = _peak_ratios(part)
        own, each = (int(part[column].min()) for column in ("parameter_bytes", "saved_activations"))
        numbers["sizes"][str(size)] = {
            "parameter_bytes": own,
            "saved_per_sample": each,
            "samples_that_pay_for_buffers": own / each,
            "peak_over_full_batch": {str(k): float(ratio) for k, ratio in ratios.items()},
        }
    medians = timed.groupby(["size", "loop", "n", "b"], sort=False)[list(TIMED[-2:])].median().reset_index()
    numbers["timings"] = medians.round(5).to_dict("records")
    seconds = _timed(medians, DETAILED, "correct")["seconds_per_sample"]
    numbers["seconds_per_sample_ratio"] = float(seconds[1] / seconds[n])
    resident = {loop: _timed(medians, "10k", loop)["resident_megabytes"][1] for loop in ("correct", "total_of_losses")}
    kept = resident["total_of_losses"] - resident["correct"]
    numbers["graph_kilobytes_per_micro_batch"] = float(kept * 1024 / timed.loc[timed["size"] == "10k", "k"].max())
    peaks = [ratio for size in numbers["sizes"].values() for ratio in size["peak_over_full_batch"].values()]
    saves, costs = min(peaks) < 1, max(peaks) > 1
    numbers["verdict"] = "true under conditions" if saves and costs else "true" if saves else "false"
    numbers["finding"] = (
        f"with b = 1 and k = {n} a GPT of {DETAILED} parameters saves {numbers['saved_at_b_1'] / 2**20:.1f} MiB of "
        f"activations at once where the full batch saves {numbers['saved_by_full_batch'] / 2**20:.1f}, and one "
        f"backward pass at the window's end {numbers['one_backward_saved_at_b_1'] / 2**20:.1f}; gradient buffers cost "
        f"{numbers['gradients_over_parameters']:.2f} times the parameters, so the peak of all tensors is between "
        f"{min(peaks):.2f} and {max(peaks):.2f} times the full batch's"
    )
    return numbers


def check(numbers: dict[str, Any]) -> None:
    """Saved activations are those of theory; one backward pass at a window's end saves as much as the full batch."""
    assert numbers["verdict"] == "true under conditions", numbers["verdict"]
    assert numbers["predicted_exactly"], "saved activations are not those of theory"
    assert numbers["gradients_over_parameters"] == 1, "gradient buffers are not one copy of the parameters"
    whole = numbers["saved_by_full_batch"]
    assert numbers["one_backward_saved_at_b_1"] > 0.99 * whole, "one backward pass saves less than the full batch"
    assert whole > 15 * numbers["saved_at_b_1"], "accumulation hardly saves memory"


def _peak_ratios(part: pd.DataFrame) -> pd.Series:
    """Peak of accumulation with b = 1 over that of the full batch, by k; of one size's rows with the correct loop."""
    small = part[part["b"] == 1].set_index("n")["peak_bytes"].astype(float)
    whole = part[part["b"] == part["n"]].set_index("n")["peak_bytes"].astype(float)
    return (small / whole).drop(1)


def _timed(medians: pd.DataFrame, size: str, loop: str) -> pd.DataFrame:
    """One size's and loop's rows, by b."""
    return medians[(medians["size"] == size) & (medians["loop"] == loop)].set_index("b").sort_index()


def from_tables(read: Callable[[str], pd.DataFrame]) -> pd.DataFrame:
    """The frame: counts and timings."""
    return pd.concat([read("memory"), read("memory_timings")], ignore_index=True)


def plot(frame: pd.DataFrame) -> Figure:
    """Saved activations against b, what is carried against k, and the peak over that of the full batch against k."""
    exact = tables(frame)["memory"]
    detailed = exact[exact["size"] == DETAILED]
    n = detailed["n"].max()
    figure, axes = look.panels(1, 3, height=3.7)
    fixed, growing, peak = axes[0]
    theory = {"color": "#777777", "linewidth": 5, "alpha": 0.35, "label": "theory, from the tensors of a GPT"}
    for loop, style in LOOKS.items():
        rows = detailed[detailed["loop"] == loop]
        if loop in ("correct", "one_backward"):
            line = rows[rows["n"] == n].sort_values("b")
            fixed.plot(line["b"], line["saved_activations"] / 2**20, **style)
        if loop == "correct":
            fixed.plot(line["b"], line["predicted_activations"] / 2**20, zorder=0, **theory)
        line = rows[(rows["b"] == 1) & (rows["k"] > 1)].sort_values("k")
        growing.plot(line["k"], line["carried_bytes"] / 2**20, **style)
    sizes = exact[exact["loop"] == "correct"].groupby("size", sort=False)
    for index, ((size, rows), (color, marker)) in enumerate(zip(sizes, GREYS, strict=False)):
        ratios = _peak_ratios(rows)
        peak.plot(ratios.index, ratios, color=color, marker=marker)
        end = (ratios.index[-1], ratios.iloc[-1])
        place = (0, 7 if index else -15)  # the smallest model's line is the lowest
        peak.annotate(str(size), end, place, textcoords="offset points", ha="center", fontsize=9)
    peak.axhline(1, color="#333333", linewidth=1.2, linestyle=(0, (2, 2)), zorder=0)
    for axis in axes[0]:
        _ticks(axis, sorted(set(detailed["b"]) - ({1} if axis is not fixed else set())))
    fixed.set_yscale("log", base=2)
    fixed.set_yticks([2, 4, 8, 16, 32, 64], ["2", "4", "8", "16", "32", "64"])
    fixed.set(xlabel="samples b in a micro-batch", ylabel="MiB", title="activations held at once")
    growing.set(xlabel="micro-batches k of 1 sample", ylabel="MiB", yscale="log", title="held between micro-batches")
    peak.set(xlabel="micro-batches k of 1 sample", ylabel="peak / peak of the full batch", ylim=(0, None))
    peak.set(title="peak of all tensors, by size")
    for axis in axes[0]:
        axis.title.set_fontsize(10.5)
    numbers = summarise(frame)
    peaks = [entry["peak_over_full_batch"] for entry in numbers["sizes"].values()]
    fewest = min((k for ratios in peaks for k in ratios), key=int)
    most = max(ratios[fewest] for ratios in peaks if fewest in ratios)
    largest = {str(size): int(rows["n"].max()) for size, rows in sizes}
    shorter = [f"{size} to k = {n}" for size, n in largest.items() if n < max(largest.values())]
    look.title(
        figure,
        f"{numbers['n']} micro-batches of one cut activations from {numbers['saved_by_full_batch'] / 2**20:.0f} to "
        f"{numbers['saved_at_b_1'] / 2**20:.1f} MiB; but k = {fewest} can take {most:.2f} times the full batch's "
        "memory",
        f"GPTs on real text, float32; first two panels: {DETAILED} parameters, first: {n} samples a window. "
        "Accumulation needs gradient buffers as large as the model."
        + f" Measured: {', '.join(shorter)}."
        * bool(shorter),
    )
    look.legend(figure, growing, fixed, columns=2)
    return figure


def _ticks(axis: Axes, places: list[int]) -> None:
    axis.set_xscale("log", base=2)
    axis.set_xticks(places, [str(place) for place in places])


def figures(frame: pd.DataFrame) -> dict[str, Figure]:
    """Time per sample and resident memory against b, with every repetition as a dot."""
    timed = tables(frame)["memory_timings"]
    timed = timed[timed["size"] == DETAILED]
    figure, axes = look.panels(1, 2, height=3.4)
    for loop in ("correct", "one_backward"):
        rows = timed[timed["loop"] == loop]
        middle = rows.groupby("b")[list(TIMED[-2:])].median()
        for axis, column, factor in zip(axes[0], ("seconds_per_sample", "resident_megabytes"), (1e3, 1), strict=True):
            axis.plot(rows["b"], rows[column] * factor, ".", color=LOOKS[loop]["color"], alpha=0.4)
            axis.plot(middle.index, middle[column] * factor, **LOOKS[loop])
    n = timed["n"].max()
    for axis in axes[0]:
        _ticks(axis, sorted(timed["b"].unique()))
        axis.set(xlabel=f"samples b in a micro-batch, of {n} in a window", ylim=(0, None))
    axes[0, 0].set(ylabel="milliseconds", title="time for each sample, one thread")
    axes[0, 1].set(ylabel="MiB", title="growth of the process")
    numbers = summarise(frame)
    look.title(
        figure,
        f"Micro-batches of 1 take {numbers['seconds_per_sample_ratio']:.1f} times as long for each sample as a batch "
        f"of {n}",
        f"A GPT of {DETAILED} parameters on real text. Dots: single runs; lines: their medians.",
    )
    look.legend(figure, axes[0, 0])
    return {"memory_timings": figure}
