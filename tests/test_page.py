"""The web page: complete in itself, well-formed, and good to look at in a browser. Each check is shown a bad page."""

import base64
import json
import re
import shutil
from html.parser import HTMLParser

import nbformat
import pytest

from experiments.lab.notebook import SCRIPT
from experiments.lab.page import PageError, render
from experiments.lab.svg import inline
from experiments.lab.writer import RESULTS
from tests.browser import chromium

PAGE = RESULTS / "blog_post.html"
SUMMARY = json.loads((RESULTS / "summary.json").read_text())
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


class Structure(HTMLParser):
    """Collects what is wrong with a page's structure."""

    def __init__(self, text):
        super().__init__()
        self.faults, self.ids, self.aims, self.tags = [], [], set(re.findall(r"url\(#([^)]+)\)", text)), []
        self.faults += re.findall(r"\{\{|@import|url\((?!#)", text)
        self.feed(text)
        self.faults += [f"id twice: {name}" for name in {name for name in self.ids if self.ids.count(name) > 1}]
        self.faults += [f"leads nowhere: #{name}" for name in self.aims - set(self.ids)]
        for tag in ("title", "main", "article", "h1"):
            if self.tags.count(tag) != 1:
                self.faults.append(f"{self.tags.count(tag)} × {tag}")

    def handle_starttag(self, tag, pairs):
        attributes = dict(pairs)
        self.tags += [tag]
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag in ("script", "link", "iframe", "object", "embed"):
            self.faults.append(f"{tag} in the page")
        if tag == "img" and not attributes.get("alt"):
            self.faults.append("img without alt")
        if tag == "svg" and not (attributes.get("role") == "img" and attributes.get("aria-label")):
            self.faults.append("svg without a text alternative")
        if tag == "svg" and ("viewbox" not in attributes or "width" in attributes):
            self.faults.append("svg does not scale")
        for name, value in pairs:
            if name in ("src", "href", "xlink:href", "srcset", "poster", "data"):
                self.target(tag, value)

    def target(self, tag, value):
        if value.startswith("#"):
            self.aims.add(value[1:])
        elif tag != "a" and not value.startswith("data:"):
            self.faults.append(f"{tag} loads {value}")
        elif tag == "a" and not value.startswith("https://") and not (RESULTS / value.split("#")[0]).exists():
            self.faults.append(f"leads nowhere: {value}")


def structure(text):
    faults = Structure(text).faults
    for part in ('<html lang="en">', '<meta name="viewport" content="width=device-width', '<meta name="description" c'):
        faults += [f"no {part}"] * (part not in text)
    return faults


def page():
    return PAGE.read_text(encoding="utf-8")


def mutated(pattern, replacement):
    text, changes = re.subn(pattern, lambda _: replacement, page(), count=1)
    assert changes
    return text


STRUCTURE = {
    "svg without a text alternative": ("aria-label=\"(?!Cont|Table)[^\"]*\"", ""),
    "svg does not scale": ("viewBox=", "view="),
    "img without alt": ("</article>", f'<img src="data:image/png;base64,{PIXEL}"></article>'),
    "img loads http://example.org/a.png": ("</article>", '<img src="http://example.org/a.png" alt="a"></article>'),
    "script in the page": ("</article>", "<script></script></article>"),
    "@import": ("<style>", "<style>@import 'a.css';"),
    "url(": ("<style>", "<style>a { background: url(https://example.org) }"),
    "{{": ("</article>", "{{ drift.steps }}</article>"),
    "id twice: provenance": ("<article>", '<article id="provenance">'),
    "leads nowhere: #provenances": ("</article>", '<a href="#provenances">here</a></article>'),
    "leads nowhere: data/no.csv": ("</article>", '<a href="data/no.csv">here</a></article>'),
    "2 × h1": ("</article>", "<h1>Again</h1></article>"),
    '''no <html lang="en">''': ('<html lang="en">', "<html>"),
}  # fmt: skip


def test_the_structure_is_sound():
    assert structure(page()) == []


@pytest.mark.parametrize("fault", STRUCTURE)
def test_an_unsound_structure_is_noticed(fault):
    assert fault in structure(mutated(*STRUCTURE[fault]))


def test_the_page_is_made_of_the_notebook_and_the_results_and_always_the_same():
    notebook = nbformat.read(SCRIPT.with_suffix(".ipynb"), as_version=4)
    first, second = (render(notebook, SUMMARY, RESULTS, SCRIPT.parent) for _ in range(2))
    assert first == second == page()


def drawn(results):
    """What the page has of the figures in a results folder."""
    notebook = nbformat.read(SCRIPT.with_suffix(".ipynb"), as_version=4)
    return re.findall(r"<svg.*?</svg>", render(notebook, SUMMARY, results, SCRIPT.parent), flags=re.S)


def test_the_page_has_the_figures_of_the_results_and_notices_another_one(tmp_path):
    committed = re.findall(r"<svg.*?</svg>", page(), flags=re.S)
    assert len(committed) >= 14
    assert drawn(RESULTS) == committed
    for folder in ("data", "figures"):
        shutil.copytree(RESULTS / folder, tmp_path / folder)
    figure = tmp_path / "figures/drift.svg"
    figure.write_text(figure.read_text().replace("AdamW", "Adam"))
    assert [a == b for a, b in zip(drawn(tmp_path), committed, strict=True)].count(False) == 1


def test_provenance_names_every_experiment_and_commit():
    text = page()
    for name, entry in SUMMARY.items():
        assert re.search(rf"<dt>[^<]*\b{name}\b", text)
        assert f"<code>{entry['provenance']['commit'][:12]}</code>" in text


# Small notebooks: what a page makes of them, and what it refuses.


DRAWING = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><g id="g"/></svg>'


def drawing(*, source, data=None, tags=()):
    """A cell that shows the file which its source names."""
    address = re.search(r'url="([^"]*)"', source)
    data = data or {"text/html": f'<img src="{address[1]}"/>'}
    output = nbformat.v4.new_output("display_data", data=data)
    return nbformat.v4.new_code_cell(source, outputs=[output], metadata={"tags": list(tags)})


def rendered(tmp_path, *cells, title="# A title\n\nThe *first*\nparagraph."):
    (tmp_path / "data").mkdir(exist_ok=True)
    (tmp_path / "data/a.csv").touch()
    (tmp_path / "figures").mkdir(exist_ok=True)
    for name in "ab":
        (tmp_path / f"figures/{name}.svg").write_text(DRAWING)
    (tmp_path / "figures/a.png").write_bytes(base64.b64decode(PIXEL))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(title), *cells])
    return render(notebook, {}, tmp_path, tmp_path.parent / "notebooks")


NOTES = "# Alt: Two <lines>,\n# both rising.\n# Caption: In `grey`: noise.\n"
SHOW = 'display(Image(url="../results/figures/a.svg"))'


def test_a_figure_has_words_a_caption_its_data_and_folded_code(tmp_path):
    text = rendered(tmp_path, drawing(source=NOTES + SHOW, tags=["hide-input"]))
    assert 'aria-label="Two &lt;lines&gt;, both rising."' in text
    assert '<code>grey</code>: noise. Data:\n<a href="data/a.csv">a.csv</a>.' in text
    assert re.search(r'<details class="code">\s*<summary>Code</summary>\s*<pre[^>]*><code><span[^>]*>display<', text)
    assert "Caption" not in text
    assert '<meta name="description" content="The first paragraph.">' in text


def test_a_picture_is_part_of_the_page(tmp_path):
    text = rendered(tmp_path, drawing(source=NOTES + SHOW.replace("svg", "png")))
    assert f'<img src="data:image/png;base64,{PIXEL}" alt="Two &lt;lines&gt;, both rising.">' in text


def test_tables_of_a_cell_and_of_the_prose_scroll_inside_themselves(tmp_path):
    data = {"text/html": '<style>th {}</style><table border="1"><tr><td>1</td></tr></table>'}
    prose = nbformat.v4.new_markdown_cell("| a |\n| - |\n| 1 |")
    text = rendered(tmp_path, drawing(source="table", data=data), prose)
    assert len(re.findall(r'<div class="scroll"[^>]*><table(?: class="prose")?>', text)) == 2
    assert "th {}" not in text


def test_relative_links_of_the_notebook_are_those_of_the_page(tmp_path):
    links = f"[a](../{tmp_path.name}/data/a.csv) [b](https://example.org/b) [c](#c) [d](blog_post.py#L1)"
    text = rendered(tmp_path, nbformat.v4.new_markdown_cell(links))
    found = re.findall(r'href="([^"]+)"', text)
    assert found == ["data/a.csv", "https://example.org/b", "#c", "../notebooks/blog_post.py#L1"]


def test_headings_make_a_table_of_contents(tmp_path):
    text = rendered(tmp_path, *(nbformat.v4.new_markdown_cell("## The same `name`") for _ in range(3)))
    aims = re.findall(r'<li><a href="#([^"]+)">The same name</a>', text)
    assert len(set(aims)) == 3
    assert all(f'<h2 id="{aim}">' in text for aim in aims)


def test_only_python_is_coloured(tmp_path):
    prose = nbformat.v4.new_markdown_cell("```python\nreturn 1\n```\n\n```text\nreturn <1>\n```")
    text = rendered(tmp_path, prose)
    assert '<pre tabindex="0"><code><span class="k">return</span>' in text
    assert '<pre tabindex="0"><code>return &lt;1&gt;</code></pre>' in text


def test_ids_of_figures_do_not_clash():
    svg = """<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="9" height="9">
      <metadata>m</metadata><style>* {fill: red}</style><clipPath id="p"/><path id="q" fill="#fff"/>
      <g id="r"/><g id="r"/><use xlink:href="#q" clip-path="url(#p)"/></svg>"""
    text = inline(svg, "a", "Words.")
    assert set(re.findall(r' id="([^"]+)"', text)) == {"a-svg", "a-p", "a-q"}
    assert 'xlink:href="#a-q" clip-path="url(#a-p)"' in text
    assert "#a-svg {* {fill: red}}" in text
    assert "#fff" in text
    assert not re.search("width|height|metadata", text)


REFUSED = {
    "cell 1: the figure a needs a comment '# Alt: ...', for those who cannot see it": drawing(source=SHOW),
    "cell 1: the figure a needs a comment '# Caption: ...', to stand below it": drawing(source="# Alt: a\n" + SHOW),
    "cell 1: its figure http://x/a.svg is not a file of results/figures": drawing(
        source=NOTES + 'display(Image(url="http://x/a.svg"))'
    ),
    "cell 1: its figure ../results/figures/c.svg is not a file of results/figures": drawing(
        source=NOTES + SHOW.replace("a.svg", "c.svg")
    ),
    "cell 1: its figure is part of the notebook: show a file, with Image(url='../results/figures/...')": drawing(
        source=NOTES + "plot()", data={"image/png": PIXEL}
    ),
    "cell 1: the figure b has no table results/data/b.csv: name it in a comment '# Data: ...'": drawing(
        source=NOTES + SHOW.replace("a.svg", "b.svg")
    ),
    "cell 1: the figure a has no table results/data/c.csv: name it in a comment '# Data: ...'": drawing(
        source=NOTES + "# Data: a.csv, c.csv\n" + SHOW
    ),
    "cell 1: an image in the prose would not be part of the page: display it in a code cell": (
        nbformat.v4.new_markdown_cell("![a](a.png)")
    ),
    "cell 1: it failed with ValueError": nbformat.v4.new_code_cell(
        "fail()", outputs=[nbformat.v4.new_output("error", ename="ValueError", evalue="no")]
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_a_page_refuses(reason, tmp_path):
    with pytest.raises(PageError, match=re.escape(reason)):
        rendered(tmp_path, REFUSED[reason])


def test_a_page_needs_a_title(tmp_path):
    with pytest.raises(PageError, match=r"the first cell has no title: a line that starts with '# '"):
        rendered(tmp_path, title="No heading.")


# In the browser.

LOOKS = [(width, scheme) for width in (390, 1200) for scheme in ("light", "dark")]
BAD_LOOKS = {
    "the page scrolls": ("</article>", '<div style="width: 2000px">.</div></article>'),
    "image is missing": ("</article>", '<img src="data:image/png;base64,AAAA" alt="a"></article>'),
    "loads file:": ("</article>", '<img src="no.png" alt="a"></article>'),
    "console: ": ("</article>", '<script>console.error("no")</script></article>'),
    "figure is not visible": ("</style>", ".card > svg { display: none }</style>"),
    "figure is wider than the column": ("</style>", ".card > svg { width: 1150px }</style>"),
    "text is cut": ('<text ', '<text dx="9999" '),
    "figure is too dim": (r"background: #fff;", "background: var(--paper);"),
    "text of P is too dim": ("</style>", "p { color: #777 }</style>"),
}  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_the_page_looks_good(browser, width, scheme):
    assert browser.faults(PAGE, width=width, scheme=scheme) == []


def test_figures_can_be_enlarged_within_the_page(browser):
    for box in browser.driver.find_elements("css selector", ".enlarge input"):
        box.click()
    widths = "[...document.querySelectorAll('.card')].map((card) => [card.clientWidth, card.firstChild.clientWidth])"
    for card, drawing in browser.driver.execute_script(f"return {widths}"):
        assert drawing > 1.5 * card
    assert browser.driver.execute_script("return document.scrollingElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("fault", BAD_LOOKS)
def test_a_page_that_looks_bad_is_noticed(fault, browser, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(mutated(*BAD_LOOKS[fault]), encoding="utf-8")
    assert any(fault in found for found in browser.faults(path, width=1200, scheme="dark"))
