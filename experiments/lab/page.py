"""The post as one web page that loads nothing: made of the executed notebook, read on a phone, by day or by night.

``python -m experiments.lab.page`` writes it. Comments in the script say what a figure's page needs to know::

    # Alt: what a reader who cannot see the figure is told; it may run over several lines.
    # Caption: the line below the figure, in Markdown.
    # Data: drift.csv, scale.csv    (only where the figure's table has another name than the figure)
"""

from __future__ import annotations

import base64
import json
import os.path
import re
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jinja2
import nbformat
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup, escape
from mdit_py_plugins.anchors import anchors_plugin
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from experiments.lab.notebook import SCRIPT
from experiments.lab.runner import ROOT
from experiments.lab.svg import inline
from experiments.lab.writer import RESULTS, write_atomically

_NOTE = re.compile(r"^# (Alt|Caption|Data): (.*(?:\n# (?!(?:Alt|Caption|Data): ).*)*)\n?", re.M)
_IMAGE = re.compile(r'<img src="([^"]+)"')
_SCROLL = '<div class="scroll" tabindex="0" role="group" aria-label="Table">'


class PageError(ValueError):
    """The notebook lacks what a page needs."""


def build(script: Path = SCRIPT, results: Path = RESULTS) -> Path:
    """Write results/NAME.html of the script's executed notebook."""
    notebook = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    summary = json.loads((results / "summary.json").read_text())
    target = results / f"{script.stem}.html"
    text = render(notebook, summary, results, script.parent)
    write_atomically(target, lambda path: path.write_text(text, encoding="utf-8"))
    return target


def render(notebook: nbformat.NotebookNode, summary: dict[str, Any], results: Path, folder: Path) -> str:
    """The page's HTML; ``folder`` is where the notebook's relative links start, the page's start at ``results``."""
    prose = _Prose(results, folder)
    cells: list[dict[str, Any]] = []
    for number, cell in enumerate(notebook.cells):
        try:
            if cell.cell_type == "markdown":
                cells.append({"prose": prose.html(cell.source)})
            elif cell.cell_type == "code":
                cells.append(_code(cell, prose, results))
        except PageError as error:
            raise PageError(f"cell {number}: {error}") from None
    if not prose.title:
        raise PageError("the first cell has no title: a line that starts with '# '")
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    template = environment.get_template("page.html.jinja")
    return template.render(prose=prose, cells=cells, provenance=provenance(summary)) + "\n"


class _Prose:
    """Markdown to HTML, cell by cell; it keeps the title, the first paragraph and the headings."""

    def __init__(self, results: Path, folder: Path) -> None:
        self.title = self.description = ""
        self.contents: list[tuple[str, str]] = []
        self._results, self._folder = results, folder
        names = count(1)
        self._markdown = MarkdownIt("commonmark", {"highlight": _block}).enable("table")
        # Numbered, as two cells may have the same heading.
        self._markdown.use(anchors_plugin, max_level=3, slug_func=lambda _: f"section-{next(names)}")
        self._markdown.add_render_rule("table_open", lambda *_: _SCROLL + '<table class="prose">\n')
        self._markdown.add_render_rule("table_close", lambda *_: "</table></div>\n")

    def html(self, source: str) -> Markup:
        """A cell; the first heading of the first cell becomes the page's title and is left out."""
        tokens = self._markdown.parse(source)
        for index, token in enumerate(tokens):
            self._mend(token.children or [])
            if token.type == "inline" and tokens[index - 1].tag == "h2":
                self.contents.append((str(tokens[index - 1].attrs["id"]), _plain(token)))
            if token.type == "inline" and tokens[index - 1].tag == "p" and not self.description:
                self.description = _plain(token)
        if not self.title and tokens and tokens[0].tag == "h1":
            self.title = _plain(tokens[1])
            tokens = tokens[3:]
        return self._render(tokens)

    def line(self, source: str) -> Markup:
        """One line of text, without a paragraph around it."""
        tokens = self._markdown.parseInline(source)
        self._mend(tokens[0].children or [])
        return self._render(tokens)

    def _render(self, tokens: list[Token]) -> Markup:
        return Markup(self._markdown.renderer.render(tokens, self._markdown.options, {}))

    def _mend(self, tokens: Sequence[Token]) -> None:
        for token in tokens:
            if token.type == "image":
                raise PageError("an image in the prose would not be part of the page: display it in a code cell")
            if token.type == "text":  # 3 · 10⁻⁷ stays on one line
                token.content = re.sub(r" · 10(?=[⁻⁰¹²³⁴-⁹])", "\u00a0·\u00a010", token.content)
            target = urlsplit(str(token.attrs.get("href", "")))
            if token.type == "link_open" and target.path and not target.scheme:
                path = os.path.relpath(self._folder / target.path, self._results)
                token.attrs["href"] = Path(path).as_posix() + (f"#{target.fragment}" if target.fragment else "")


def _plain(token: Token) -> str:
    """The text of a heading or a paragraph, without its markup."""
    texts = ((" " if child.type == "softbreak" else child.content) for child in token.children or [])
    return " ".join("".join(texts).split())


def _code(cell: nbformat.NotebookNode, prose: _Prose, results: Path) -> dict[str, Any]:
    """What the template shows of a code cell: its code without the notes, and its outputs."""
    notes = {name: " ".join(text.replace("\n#", " ").split()) for name, text in _NOTE.findall(cell.source)}
    caption = prose.line(notes.get("Caption", ""))
    shown: list[dict[str, Any]] = []
    for output in cell.outputs:
        data = output.get("data", {})
        if output.output_type == "error":
            raise PageError(f"it failed with {output.ename}")
        html = data.get("text/html", "")
        if any(kind.startswith("image/") for kind in data):
            raise PageError("its figure is part of the notebook: show a file, with Image(url='../results/figures/...')")
        if image := _IMAGE.search(html):
            shown.append({"figure": _figure(image[1], notes, results), "caption": caption})
        elif "<table" in html:
            tables = "".join(re.findall(r"<table.*?</table>", html, flags=re.S))
            table = Markup(_SCROLL + tables.replace(' border="1"', "") + "</div>")
            shown.append({"table": table, "caption": caption})
        else:
            shown.append({"text": output.get("text") or data.get("text/plain", "")})
    code = _block(_NOTE.sub("", cell.source).strip())
    return {"code": Markup(code), "hidden": "hide-input" in cell.metadata.get("tags", []), "outputs": shown}


def _figure(address: str, notes: dict[str, str], results: Path) -> dict[str, Any]:
    """A figure's drawing, its name and the tables it was drawn from; the notebook has its address alone."""
    file = results / "figures" / Path(address).name
    if not address.endswith(f"figures/{file.name}") or not file.is_file():
        raise PageError(f"its figure {address} is not a file of results/figures")
    name = file.stem
    for note, use in (("Alt", "for those who cannot see it"), ("Caption", "to stand below it")):
        if not notes.get(note):
            raise PageError(f"the figure {name} needs a comment '# {note}: ...', {use}")
    tables = [table.strip() for table in notes.get("Data", f"{name}.csv").split(",")]
    if missing := [table for table in tables if not (results / "data" / table).is_file()]:
        raise PageError(f"the figure {name} has no table results/data/{missing[0]}: name it in a comment '# Data: ...'")
    if file.suffix == ".svg":
        drawing = inline(file.read_text(encoding="utf-8"), name, notes["Alt"])
    else:
        image = base64.b64encode(file.read_bytes()).decode()
        drawing = Markup('<img src="data:image/png;base64,{}" alt="{}">').format(image, notes["Alt"])
    return {"name": name, "drawing": drawing, "tables": tables}


def _block(code: str, language: str = "python", _: str = "") -> str:
    """A block of code, which the keyboard can scroll; Python is coloured."""
    if language == "python":
        code = highlight(code, PythonLexer(stripnl=False, ensurenl=False), HtmlFormatter(nowrap=True))
    else:
        code = escape(code)
    return f'<pre tabindex="0"><code>{code.rstrip()}</code></pre>'


def provenance(summary: dict[str, Any]) -> list[tuple[list[str], dict[str, Any]]]:
    """The experiments that ran alike, and what they ran with."""
    rows: dict[str, list[str]] = {}
    for name, entry in sorted(summary.items()):
        rows.setdefault(json.dumps(entry["provenance"]), []).append(name)
    return [(names, json.loads(row)) for row, names in rows.items()]


if __name__ == "__main__":
    print(f"wrote {build().relative_to(ROOT)}")
