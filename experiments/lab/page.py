"""The posts as web pages that load nothing: made of the executed notebooks, read on a phone, by day or by night.

``python -m experiments.lab.page`` writes them. ``--site URL``, where results/ will be served, makes the address of
the preview picture a whole one; ``--repository URL`` adds a link to the code. A script's header says who wrote it and
when, in which language it is and what the other pages are. Comments say what a figure needs::

    # Alt: what a reader who cannot see the figure is told; it may run over several lines.
    # Caption: the line below the figure, in Markdown.
    # Data: drift.csv, scale.csv    (only where the figure's table has another name than the figure)
"""

from __future__ import annotations

import argparse
import base64
import json
import os.path
import re
from collections.abc import Sequence
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

from experiments.lab.notebook import SCRIPT, SCRIPTS
from experiments.lab.runner import ROOT
from experiments.lab.svg import inline
from experiments.lab.writer import RESULTS, write_atomically

_NOTE = re.compile(r"^# (Alt|Caption|Data): (.*(?:\n# (?!(?:Alt|Caption|Data): ).*)*)\n?", re.M)
# Chinese has no spaces between words, so a line's end is none either.
_CHINESE_BREAK = re.compile(r"(?<=[\u3000-\u9fff\uff00-\uffef])(?:\n| +)(?=[\u3000-\u9fff\uff00-\uffef])")
_IMAGE = re.compile(r'<img src="([^"]+)"[^>]*>')
_SCROLL = '<div class="scroll" tabindex="0" role="group" aria-label="{}">'


# What a page says by itself, in each language.
WORDS = {
    "en": {
        "contents": "Contents",
        "enlarge": "Enlarge",
        "data": "Data:",
        "table": "Table",
        "licence": "MIT licence",
        "code": "code",
        "provenance": "Provenance",
        "read": "Every number and figure above is read from the results of these experiments.",
        "unknown": "unknown",
        "cores": "cores",
    },
    "zh": {
        "contents": "目录",
        "enlarge": "放大",
        "data": "数据:",
        "table": "表格",
        "licence": "MIT 许可证",
        "code": "代码",
        "provenance": "数据来源",
        "read": "上文的每个数字和每张图都读自以下实验的结果。",
        "unknown": "未知",
        "cores": "核",
    },
}


class PageError(ValueError):
    """The notebook lacks what a page needs."""


def build(script: Path = SCRIPT, results: Path = RESULTS, site: str = "", repository: str = "") -> Path:
    """Write results/NAME.html of the script's executed notebook."""
    notebook = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    summary = json.loads((results / "summary.json").read_text())
    target = results / f"{script.stem}.html"
    text = render(notebook, summary, results, script.parent, name=script.stem, site=site, repository=repository)
    write_atomically(target, lambda path: path.write_text(text, encoding="utf-8"))
    return target


def render(
    notebook: nbformat.NotebookNode,
    summary: dict[str, Any],
    results: Path,
    folder: Path,
    *,
    name: str = "",
    site: str = "",
    repository: str = "",
) -> str:
    """The page's HTML; ``folder`` is where the notebook's relative links start, the page's start at ``results``."""
    header = notebook.metadata.get("accumcheck", {})
    language = header.get("language", "en")
    prose = _Prose(results, folder, language)
    cells: list[dict[str, Any]] = []
    for number, cell in enumerate(notebook.cells):
        try:
            if cell.cell_type == "markdown":
                cells.append({"prose": prose.html(cell.source)})
            elif cell.cell_type == "code":
                cells.append(_code(cell, prose, results, language))
        except PageError as error:
            raise PageError(f"cell {number}: {error}") from None
    if not prose.title:
        raise PageError("the first cell has no title: a line that starts with '# '")
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    template = environment.get_template("page.html.jinja")
    shown = {each: entry for each, entry in summary.items() if each in header.get("experiments", summary)}
    return (
        template.render(
            prose=prose, cells=cells, provenance=provenance(shown), header=header, words=WORDS[language[:2]],
            language=language, name=name, site=site and site.rstrip("/") + "/", repository=repository,
        )
        + "\n"
    )  # fmt: skip


class _Prose:
    """Markdown to HTML, cell by cell; it keeps the title, the first paragraph and the headings."""

    def __init__(self, results: Path, folder: Path, language: str) -> None:
        self.title = self.description = ""
        self.contents: list[tuple[str, str]] = []
        self._results, self._folder = results, folder
        self._markdown = MarkdownIt("commonmark", {"highlight": _block}).enable("table")
        self._names: list[str] = []
        self._markdown.use(anchors_plugin, max_level=3, slug_func=self._anchor)
        scroll = _SCROLL.format(WORDS[language[:2]]["table"])
        self._markdown.add_render_rule("table_open", lambda *_: scroll + '<table class="prose">\n')
        self._markdown.add_render_rule("table_close", lambda *_: "</table></div>\n")

    def _anchor(self, heading: str) -> str:
        """The words of a heading; numbered where another one has the same."""
        words = "-".join(re.findall(r"\w+", heading.lower())) or "section"
        self._names.append(words)
        return words if self._names.count(words) == 1 else f"{words}-{self._names.count(words)}"

    def html(self, source: str) -> Markup:
        """A cell; the first heading of the first cell becomes the page's title and is left out."""
        tokens = self._markdown.parse(_CHINESE_BREAK.sub("", source))
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
        tokens = self._markdown.parseInline(_CHINESE_BREAK.sub("", source))
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
                if path.startswith(".."):
                    raise PageError(f"the link {target.path} leads out of results/, which may be all that is served")
                token.attrs["href"] = Path(path).as_posix() + (f"#{target.fragment}" if target.fragment else "")


def _plain(token: Token) -> str:
    """The text of a heading or a paragraph, without its markup."""
    texts = ((" " if child.type == "softbreak" else child.content) for child in token.children or [])
    return " ".join("".join(texts).split())


def _code(cell: nbformat.NotebookNode, prose: _Prose, results: Path, language: str) -> dict[str, Any]:
    """What the template shows of a code cell: its code without the notes, and its outputs."""
    found = {name: _CHINESE_BREAK.sub("", text.replace("\n#", " ")) for name, text in _NOTE.findall(cell.source)}
    notes = {name: " ".join(text.split()) for name, text in found.items()}
    caption = prose.line(notes.get("Caption", ""))
    shown: list[dict[str, Any]] = []
    for output in cell.outputs:
        data = output.get("data", {})
        if output.output_type == "error":
            raise PageError(f"it failed with {output.ename}")
        html = data.get("text/html", "")
        if any(kind.startswith("image/") for kind in data):
            raise PageError("its figure is part of the notebook: show a file, with Image(url='../results/figures/...')")
        if "<script" in html:  # the widget, with a figure for those whose browser runs no scripts
            inside = _IMAGE.sub(lambda image: str(_figure(image[1], notes, results)["drawing"]), html)
            shown.append({"widget": Markup(inside), "caption": caption})
        elif image := _IMAGE.search(html):
            shown.append({"figure": _figure(image[1], notes, results), "caption": caption})
        elif "<table" in html:
            tables = "".join(re.findall(r"<table.*?</table>", html, flags=re.S))
            if language != "en":  # what an experiment writes is English
                tables = tables.replace("<table", '<table lang="en"')
            table = Markup(_SCROLL.format(WORDS[language[:2]]["table"]) + tables.replace(' border="1"', "") + "</div>")
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
    narrow = file.with_name(f"{name}.narrow.svg")
    stacked = ""
    if narrow.is_file():
        stacked = inline(narrow.read_text(encoding="utf-8"), f"{name}-narrow", notes["Alt"])
    if file.suffix == ".svg":
        drawing = inline(file.read_text(encoding="utf-8"), name, notes["Alt"])
    else:
        image = base64.b64encode(file.read_bytes()).decode()
        drawing = Markup('<img src="data:image/png;base64,{}" alt="{}">').format(image, notes["Alt"])
    return {"name": name, "drawing": drawing, "narrow": stacked, "tables": tables}


def _block(code: str, language: str = "python", _: str = "") -> str:
    """A block of code, which the keyboard can scroll; Python is coloured, and the lines of a diff have grounds."""
    if language in ("python", "diff"):
        marks = [line[:1] for line in code.splitlines()] if language == "diff" else []
        text = "\n".join(line[1:] for line in code.splitlines()) if marks else code
        code = highlight(text, PythonLexer(stripnl=False, ensurenl=False), HtmlFormatter(nowrap=True))
        if marks:
            lines = [f"{mark}{line}" for mark, line in zip(marks, code.splitlines(), strict=True)]
            tags = {"+": "<ins>{}</ins>", "-": "<del>{}</del>"}
            code = "\n".join(tags.get(line[:1], "{}").format(line) for line in lines)
            code = code.replace("</ins>\n", "</ins>").replace("</del>\n", "</del>")
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
    parser = argparse.ArgumentParser(prog="python -m experiments.lab.page", description="Write the web pages.")
    parser.add_argument("--site", default="", metavar="URL", help="where results/ will be served")
    parser.add_argument("--repository", default="", metavar="URL", help="where the code is")
    options = parser.parse_args()
    for each in SCRIPTS:
        print(f"wrote {build(each, site=options.site, repository=options.repository).relative_to(ROOT)}")
