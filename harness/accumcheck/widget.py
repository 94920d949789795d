"""The interactive contribution matrix: rules, sizes and samples to choose, in a page that needs nothing else."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import NamedTuple

from accumcheck.numbers import close, exact
from accumcheck.programs.javascript import SLOTS, literal, rules
from accumcheck.programs.rules import RIGHT, Program, Shape

# Loops that are often met, with their names.
FAMOUS: Sequence[tuple[Program, str, str]] = (
    (Program(), "the right loop", "正确的循环"),
    (Program(step="early", scale="1/k"), "i % k == 0: the first step comes too early", "i % k == 0：第一次更新过早"),
    (Program(scale="1/k"), "the published fix: loss / k", "公开的修正写法：loss / k"),
    (
        Program(step="window", scale="1/k"),
        "(i + 1) % k == 0: the tail is carried over",
        "(i + 1) % k == 0：尾部窗口带入下一轮",
    ),
    (
        Program(step="window", reset="epoch start too", scale="1/k"),
        "(i + 1) % k == 0: the tail is dropped",
        "(i + 1) % k == 0：尾部窗口被丢弃",
    ),
    (Program(step="every", scale="1/k"), "a step at every micro-batch", "每个微批次都更新一次"),
    (Program(scale="1/count"), "a mean of micro-batch means", "微批次均值的均值"),
    (Program(scale="1"), "no division", "没有除法"),
    (Program(scale="1/k/k"), "divided twice", "除了两次"),
    (Program(reset="never"), "gradients are never cleared", "从不清零梯度"),
)
# Each text in English and in Chinese.
TEXTS = {
    "lang": ("en", "zh"),
    "loop": ("Loop", "训练循环"),
    "own": ("your own choice", "自选规则"),
    "over": ("The loss is a mean over", "损失取平均的单位"),
    "samples": ("samples", "样本"),
    "tokens": ("tokens", "词元"),
    "counts": ("Tokens in each sample, repeated", "每个样本的词元数（循环使用）"),
    "held": ("{0} tokens", "{0} 个词元"),
    "rules": ("Rules and code", "规则与代码"),
    "visit": ("Which micro-batches", "使用哪些微批次"),
    "step": ("When the optimizer steps", "何时执行优化器更新"),
    "reset": ("When gradients are cleared", "何时清零梯度"),
    "scale": ("Weight of each micro-batch’s loss", "每个微批次损失的权重"),
    "loss": ("What the loss is", "损失的定义"),
    "fine": ("right", "正确"),
    "mistakes": ("wrong", "错误"),
    "n": ("samples n\u00a0=\u00a0", "样本数 n\u00a0=\u00a0"),
    "b": ("micro-batch b\u00a0=\u00a0", "微批次大小 b\u00a0=\u00a0"),
    "k": ("accumulation steps k\u00a0=\u00a0", "累积步数 k\u00a0=\u00a0"),
    "epochs": ("epochs\u00a0=\u00a0", "轮数\u00a0=\u00a0"),
    "update": ("step", "更新"),
    "ours": ("This loop", "这个循环"),
    "due": ("Full batch", "全批次"),
    "wrong": ("wrong: ", "错误："),
    "instead": ("instead: ", "应为："),
    "should": ("{0}, should be {1}", "{0}，应为 {1}"),
    "off": (
        "{0} of {1} weights are wrong. The worst update is off by {2}.",
        "{1} 个权重中有 {0} 个是错的。最差的一次更新偏离 {2}。",
    ),
    "right": ("All {0} weights are right.", "{0} 个权重全部正确。"),
    "updates": (
        "The loop makes {0} optimizer steps, the full batch {1}.",
        "循环执行 {0} 次优化器更新，全批次为 {1} 次。",
    ),
    "teeth": (
        "Error of the worst update, for each number of samples n. Press a bar to see its matrix.",
        "各样本数 n 下最差一次更新的误差。点按柱形可查看其矩阵。",
    ),
    "bar": ("n = {0}: {1}", "n = {0}：{1}"),
    "copy": ("Copy link", "复制链接"),
    "copied": ("Copied.", "已复制。"),
}
NO_SCRIPT = ("This figure needs JavaScript.", "此图需要 JavaScript。")
LANGUAGES = {"en": 0, "zh": 1}
FOLDER = Path(__file__).parent


class State(NamedTuple):
    """What the widget shows at first; ``tokens`` are those of each sample, repeated, or none if samples count."""

    program: Program = Program()
    shape: Shape = Shape(10, 1, 4, 2)
    tokens: tuple[int, ...] = ()


def script(state: State, language: str = "en") -> str:
    """The widget's JavaScript, for the element before it; ValueError for a language that it does not speak."""
    if language not in LANGUAGES:
        raise ValueError(f"the widget speaks {' and '.join(LANGUAGES)}, got {language!r}")
    texts = {name: both[LANGUAGES[language]] for name, both in TEXTS.items()}
    edits = [(names[LANGUAGES[language]], _edits(program)) for program, *names in FAMOUS]
    n, b, k, epochs, _ = state.shape
    start = {**_edits(state.program), "n": n, "b": b, "k": k, "epochs": epochs}
    start["units"] = " ".join(map(str, state.tokens))
    function = minified((FOLDER / "widget.js").read_text(encoding="utf-8"))
    told = ",".join([rules(), *map(literal, (texts, edits, start))])
    whole = f"({function})(document.currentScript.previousElementSibling,{told})"
    return whole.replace("</", "<\\/").replace("<!--", "<\\!--")


def minified(code: str) -> str:
    """JavaScript without comments and without spaces that mean nothing; each statement must have its semicolon.

    >>> minified("// a\\nconst b = (c) => c + ' d';")
    "const b=c=>c+' d';"
    """
    kept = r"""("[^"\n]*"|'[^'\n]*'|`[^`]*`|(?<=\()/(?:\\.|[^/\\\n])+/g?)"""
    parts = re.split(kept, re.sub(r"^\s*//.*\n", "", code, flags=re.M))
    shorter = ((r"\s+", " "), (r" ?([^\w\s$]) ?", r"\1"), (r"[,;]+(?=[}\])])", ""), (r"(?<!async)\((\w+)\)=>", r"\1=>"))
    for pattern, short in shorter:
        parts[::2] = [re.sub(pattern, short, part) for part in parts[::2]]
    return "".join(parts).strip()


def _edits(program: Program) -> dict[str, str]:
    return {slot: getattr(program, slot) for slot in SLOTS if getattr(program, slot) != RIGHT[slot]}


def fragment(state: State | None = None, language: str = "en", fallback: str = "") -> str:
    """The widget as part of a page, with its style and script; ``fallback`` is HTML that stands there without script.

    >>> fragment(fallback="<p>A table.</p>").count("<p>A table.</p>")
    1
    """
    instead = fallback or f"<p>{NO_SCRIPT[LANGUAGES.get(language, 0)]}</p>"
    return f"{_framed(instead)}\n<script>{script(state or State(), language)}</script>"


def _framed(inside: str) -> str:
    style = (FOLDER / "widget.css").read_text(encoding="utf-8").strip()
    return f'<style>{style}</style>\n<div class="accumcheck-widget">{inside}</div>'


class Matrices(NamedTuple):
    """Weights as they were read and as they should be, a row for each update, from the ``first`` on."""

    title: str
    ours: Sequence[Sequence[float]]
    due: Sequence[Sequence[float]]
    columns: Sequence[str]
    first: int = 0


def page(loop: str, text: str, said: str = "", state: State | None = None, matrices: Sequence[Matrices] = ()) -> str:
    """A page with the report on a loop and one sentence; then the widget, or tables of the weights if there is none.

    >>> "<h1>accumcheck: a.py:f</h1>" in page("a.py:f", "a.py:f: equivalent", state=State())
    True
    """
    shown = "\n".join(_tables(each, opened=not i) for i, each in enumerate(matrices))
    tables = f'<div class="inside">{shown}</div>' if shown else ""
    figure = fragment(state, fallback=tables) if state else _framed(tables) if tables else ""
    whole = Template((FOLDER / "widget.html").read_text(encoding="utf-8"))
    words = {"title": f"accumcheck: {loop}", "text": text, "said": said}
    return whole.substitute({name: html.escape(each) for name, each in words.items()}, figure=figure)


def save(text: str, path: str | os.PathLike[str]) -> None:
    """Write a page, whole or not at all."""
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _tables(shown: Matrices, *, opened: bool) -> str:
    both = ((shown.ours, shown.due, "This loop"), (shown.due, shown.due, "Full batch"))
    tables = "\n".join(_table(rows, due, caption, shown) for rows, due, caption in both)
    title = f"<summary>{html.escape(shown.title)}</summary>"
    return f'<details{" open" * opened}>{title}<div class="matrices">{tables}</div></details>'


def _table(rows: Sequence[Sequence[float]], due: Sequence[Sequence[float]], caption: str, shown: Matrices) -> str:
    largest = max((abs(w) for row in [*shown.ours, *shown.due] for w in row), default=0.0) or 1.0
    heads = "".join(f'<th scope="col">{html.escape(column)}</th>' for column in ("step", *shown.columns))
    lines = []
    for s in range(max(len(shown.ours), len(shown.due))):
        cells = f'<th scope="row">{shown.first + s}</th>'
        for i in range(len(shown.columns)):
            weight, wanted = (each[s][i] if s < len(each) else 0.0 for each in (rows, due))
            kind = "" if close(weight, wanted) else ' class="wrong"'
            shade = f"{0.08 + 0.5 * abs(weight) / largest:.3f}" if weight else "0"
            cells += f'<td{kind} style="--v:{shade}">{_weight(weight) if s < len(rows) else "–"}</td>'
        lines.append(f"<tr>{cells}</tr>")
    table = f"<table><caption>{caption}</caption><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}">{table}</div>'


def _weight(weight: float) -> str:
    shown = exact(weight)
    return "·" if not shown else f"{shown:.2g}" if isinstance(shown, float) else str(shown)
