"""The matrix of frameworks as a document, and as a table of a web page."""

from __future__ import annotations

import re
from html import escape
from typing import Any

import pandas as pd
from accumcheck.adapters.conformance import COLUMNS, TAIL

from experiments.lab.look import CELLS, signed

COLOURS = {**CELLS, "documented": "#E6E0F0", "some": "#F9D9BE", "all": "#F0A583"}
SAYS = {
    "equal": "as full-batch training",
    "documented": "differs, as documented",
    "policy": "another policy",
    "some": "differs in some updates",
    "all": "differs in every update",
    "none": "does not occur, or is yours",
}
DOCUMENTED = {"yes": "Documented", "partly": "Documented in part", "no": "Not documented"}
# Loops that are the same as one of the matrix, with the lines that show it.
SAME = (
    (
        "diffusers 0.40.0, its training examples",
        "HF Accelerate, accumulate()",
        "https://github.com/huggingface/diffusers/blob/v0.40.0/examples/text_to_image/train_text_to_image.py#L966-L1051",
        "read, not run; all latents have one size, so unequal tokens do not occur",
    ),
    (
        "sentence-transformers 6.2.0, SentenceTransformerTrainer",
        "HF Trainer, model without loss arguments",
        "https://github.com/huggingface/sentence-transformers/blob/v6.2.0/sentence_transformers/base/trainer.py#L470-L513",
        "run: `experiments/frameworks/scripts/sentence_transformers_pairs.py`",
    ),
    (
        "TRL 1.16.0, GRPOTrainer",
        "TRL, SFTTrainer; with loss_type='bnpo' its row without loss arguments",
        "https://github.com/huggingface/trl/blob/v1.16.0/trl/trainer/grpo_trainer.py#L3153-L3183",
        "run with `accumcheck compare`: `experiments/frameworks/scripts/trl_grpo.py`; that bnpo depends on the "
        "micro-batch is documented",
    ),
)


def markdown(cells: pd.DataFrame) -> str:
    """The matrix in Markdown, each difference with the command that shows it and the thread that describes it."""
    lines = [
        "# What frameworks do with gradient accumulation",
        "",
        f"Sizes: {TAIL} for tails; `accumcheck.adapters.conformance` has the others. "
        '"1/4 for 1/3" is the weight that a sample gets, for the weight that it has in full-batch training. '
        "= is as full-batch training; ≈ another policy for micro-batches that fill no window; ≠ differs; without a "
        "sign: it does not occur, or is left to you. What differs may be meant so: below stands what is documented.",
        "",
        "| framework | setting | release | " + " | ".join(COLUMNS) + " |",
        "|---" * (3 + len(COLUMNS)) + "|",
    ]
    for name in dict.fromkeys(cells["name"]):
        own = cells[cells["name"] == name].set_index("column")
        first = own.iloc[0]
        texts = [_cell(own.loc[column]) for column in COLUMNS]
        lines.append("| " + " | ".join([first["framework"], first["setting"], first["release"], *texts]) + " |")
    lines += ["", "## Columns", "", *(f"- **{column}**: {text}" for column, text in COLUMNS.items())]
    lines += [
        "",
        "## Differences",
        "",
        "| setting | column | is | documented | source | thread | reproduce |",
        "|---" * 7 + "|",
    ]
    for row in cells[cells["kind"].isin(["differs", "policy"])].astype(str).to_dict("records"):
        documented = f"{row['documented']}: {row['documented_where']}" if row["documented_where"] else row["documented"]
        known = ". ".join(filter(None, [row["thread"], row["note"]]))
        named = f"{row['framework']}, {row['setting']}"
        texts = [named, row["column"], row["text"], documented, row["source"], known, f"`{row['reproduce']}`"]
        lines.append("| " + " | ".join(texts) + " |")
    lines += ["", "## What does not occur", "", "| setting | column | source |", "|---" * 3 + "|"]
    for row in cells[(cells["kind"] == "none") & (cells["source"] != "")].astype(str).to_dict("records"):
        lines.append(f"| {row['framework']}, {row['setting']} | {row['column']} | {row['source']} |")
    lines += ["", "## The same as", "", "| loop | as | source | shown by |", "|---" * 4 + "|"]
    lines += [f"| {' | '.join(row)} |" for row in SAME]
    return "\n".join(lines) + "\n"


def html(cells: pd.DataFrame) -> str:
    """The matrix as a table of a web page: a legend on top, what spoils most first, details of a cell on click."""
    patch = '<span style="background:{};color:#222;padding:0 .4em">{}</span>'
    legend = " ".join(patch.format(COLOURS[name], says) for name, says in SAYS.items())
    head = "".join(f'<th scope="col" title="{escape(says)}">{column}</th>' for column, says in COLUMNS.items())
    weight = {"all": 100, "some": 10, "policy": 1}
    found = cells.assign(weight=cells["severity"].map(weight).fillna(0)).groupby("name", sort=False)
    rows = []
    for name in found["weight"].sum().sort_values(ascending=False, kind="stable").index:
        own = cells[cells["name"] == name].set_index("column")
        first = own.iloc[0]
        title = f"{escape(first['framework'])}<br><small>{escape(first['setting'])}<br>{first['release']}</small>"
        inside = "".join(_html_cell(own.loc[column]) for column in COLUMNS)
        rows.append(f'<tr><th scope="row">{title}</th>{inside}</tr>')
    body = "\n".join(rows)
    top = f"<thead><tr><th></th>{head}</tr></thead>"
    return f'<table class="matrix">\n<caption>{legend}</caption>\n{top}\n<tbody>\n{body}\n</tbody></table>\n'


def _html_cell(cell: Any) -> str:
    style = f'style="background:{COLOURS[cell["severity"]]};color:#222"'
    shown, said = escape(signed(cell)), []
    if cell["documented"]:
        place = cell["documented_where"]
        where = f" (looked in {place})" if cell["documented"] == "no" else f": {place}"
        said.append(f"{DOCUMENTED[cell['documented']]}{where * bool(place)}.")
    said += [f"Source: {cell['source']}."] * bool(cell["source"])
    said += [f"Thread: {cell['thread']}"] * bool(cell["thread"])
    said += [f"{note[0].upper()}{note[1:]}." for note in [cell["note"]] if note]
    if not said:
        return f"<td {style}>{shown}</td>"
    more = "<br>".join(_linked(each) for each in said)
    return f"<td {style}><details><summary>{shown}</summary><small>{more}</small></details></td>"


def _linked(text: str) -> str:
    """Escaped, with a link where an address stands, named by its end."""

    def link(found: re.Match[str]) -> str:
        address = found[0]
        return f'<a href="{address}">{"/".join(address.rstrip("/").split("/")[-2:])}</a>'

    return re.sub(r"https://[^\s,;)]+[^\s,;).]", link, escape(text, quote=False))


def _cell(row: Any) -> str:
    text = signed(row)
    return f"[{text}]({row['thread']})" if row["thread"] else text
