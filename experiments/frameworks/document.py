"""The matrix of frameworks as a document."""

from __future__ import annotations

from typing import Any

import pandas as pd
from accumcheck.adapters.conformance import COLUMNS, TAIL

SIGNS = {"equal": "=", "policy": "≈", "differs": "≠", "none": ""}


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
    return "\n".join(lines) + "\n"


def _cell(row: Any) -> str:
    text = signed(row)
    return f"[{text}]({row['thread']})" if row["thread"] else text


def signed(row: Any) -> str:
    """What a cell says, behind its sign."""
    return "=" if row["text"] == "equal" else f"{SIGNS[row['kind']]} {row['text']}"
