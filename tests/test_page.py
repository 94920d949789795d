"""The web pages: complete in themselves, well-formed, good to look at in a browser. Each check is shown a bad page."""

import base64
import json
import re
import shutil
from html.parser import HTMLParser

import nbformat
import pytest
from axe_core_python.selenium import Axe

from experiments.lab.notebook import SCRIPT, SCRIPTS
from experiments.lab.page import WORDS, PageError, render
from experiments.lab.svg import inline
from experiments.lab.writer import RESULTS
from tests.browser import chromium, fail_or_skip

PAGES = [RESULTS / f"{script.stem}.html" for script in SCRIPTS]
PAGE = PAGES[0]
LANGUAGES = {"blog_post.zh.html": "zh-Hans"}
SUMMARY = json.loads((RESULTS / "summary.json").read_text())
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


class Structure(HTMLParser):
    """Collects what is wrong with a page's structure."""

    def __init__(self, text):
        super().__init__()
        self.scripts = 0
        self.faults, self.ids, self.aims, self.tags = [], [], set(re.findall(r"url\(#([^)]+)\)", text)), []
        self.faults += re.findall(r"\{\{|@import|url\((?!#)", text)
        self.feed(text)
        self.faults += [f"id twice: {name}" for name in {name for name in self.ids if self.ids.count(name) > 1}]
        self.faults += [f"leads nowhere: #{name}" for name in self.aims - set(self.ids)]
        if self.scripts > text.count('class="accumcheck-widget"'):
            self.faults.append("script in the page")
        for tag in ("title", "main", "article", "h1"):
            if self.tags.count(tag) != 1:
                self.faults.append(f"{self.tags.count(tag)} × {tag}")

    def handle_starttag(self, tag, pairs):
        attributes = dict(pairs)
        self.tags += [tag]
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.scripts += tag == "script"
        if tag in ("link", "iframe", "object", "embed") or (tag == "script" and attributes):
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
        elif tag == "a" and not value.startswith("https://"):
            file, _, anchor = value.partition("#")
            there = (RESULTS / file).exists() and not file.startswith("..")
            if not there or (anchor and f'id="{anchor}"' not in (RESULTS / file).read_text(encoding="utf-8")):
                self.faults.append(f"leads nowhere: {value}")


HEAD = (
    '<meta name="viewport" content="width=device-width',
    '<meta name="description" c',
    '<meta property="og:image" content="',
    '<time datetime="20',
    "pip install '.[cli]'",
)


def structure(text, language="en"):
    faults = Structure(text).faults
    for part in (f'<html lang="{language}">', *HEAD):
        faults += [f"no {part}"] * (part not in text)
    return faults


def page(path=PAGE):
    return path.read_text(encoding="utf-8")


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
    "leads nowhere: ../README.md": ("</article>", '<a href="../README.md">here</a></article>'),
    "leads nowhere: claims.html#no": ("</article>", '<a href="claims.html#no">here</a></article>'),
    "no <meta property=\"og:image\" content=\"": ('<meta property="og:image"[^>]*>', ""),
    "2 × h1": ("</article>", "<h1>Again</h1></article>"),
    '''no <html lang="en">''': ('<html lang="en">', "<html>"),
}  # fmt: skip


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_structure_is_sound(path):
    assert structure(page(path), LANGUAGES.get(path.name, "en")) == []


@pytest.mark.parametrize("fault", STRUCTURE)
def test_an_unsound_structure_is_noticed(fault):
    assert fault in structure(mutated(*STRUCTURE[fault]))


@pytest.mark.parametrize(("script", "path"), list(zip(SCRIPTS, PAGES, strict=True)), ids=lambda path: path.name)
def test_the_page_is_made_of_the_notebook_and_the_results_and_always_the_same(script, path):
    notebook = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    first, second = (render(notebook, SUMMARY, RESULTS, script.parent, name=script.stem) for _ in range(2))
    assert first == second == page(path)


def test_addresses_are_whole_where_the_page_is_served():
    notebook = nbformat.read(SCRIPT.with_suffix(".ipynb"), as_version=4)
    places = {"name": "post", "site": "https://example.org/a", "repository": "https://example.org/code"}
    text = render(notebook, SUMMARY, RESULTS, SCRIPT.parent, **places)
    assert '<meta property="og:image" content="https://example.org/a/figures/' in text
    assert '<link rel="canonical" href="https://example.org/a/post.html">' in text
    assert '<a href="https://example.org/code">code</a>' in text


def test_a_page_has_all_its_words_in_each_language():
    assert WORDS["zh"].keys() == WORDS["en"].keys()


CLAIMS = SCRIPTS[1]


def drawn(results):
    """What the page of claims has of the figures in a results folder."""
    notebook = nbformat.read(CLAIMS.with_suffix(".ipynb"), as_version=4)
    return re.findall(r"<svg.*?</svg>", render(notebook, SUMMARY, results, results.parent / "notebooks"), flags=re.S)


def test_the_page_has_the_figures_of_the_results_and_notices_another_one(tmp_path):
    committed = re.findall(r"<svg.*?</svg>", page(PAGES[1]), flags=re.S)
    assert len(committed) >= 12
    assert drawn(RESULTS) == committed
    for folder in ("data", "figures"):
        shutil.copytree(RESULTS / folder, tmp_path / "results" / folder)
    figure = tmp_path / "results/figures/tail_weight.svg"
    figure.write_text(figure.read_text().replace("AdamW", "Adam"))
    assert [a == b for a, b in zip(drawn(tmp_path / "results"), committed, strict=True)].count(False) == 1


@pytest.mark.parametrize(("script", "path"), list(zip(SCRIPTS, PAGES, strict=True)), ids=lambda path: path.name)
def test_provenance_names_the_experiments_that_are_shown_and_no_others(script, path):
    text, source = page(path), script.read_text()
    named = set(re.findall(r"\w+", " ".join(re.findall(r"<dt>(.*?)</dt>", text))))
    shown = {name for name in SUMMARY if re.search(rf"\{{\{{ {name}\b|figures/{name}\b|data/{name}\b", source)}
    assert shown <= named <= SUMMARY.keys()
    assert len(named) < len(SUMMARY)
    for name in named:
        assert f"<code>{SUMMARY[name]['provenance']['commit'][:12]}</code>" in text


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


def test_a_figure_has_words_a_caption_and_its_data(tmp_path):
    text = rendered(tmp_path, drawing(source=NOTES + SHOW, tags=["hide-input"]))
    assert 'aria-label="Two &lt;lines&gt;, both rising."' in text
    assert '<code>grey</code>: noise. Data:\n<a href="data/a.csv">a.csv</a>.' in text
    assert "Image(" not in text  # nobody reads a page for such a line
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
    links = f"[a](../{tmp_path.name}/data/a.csv) [b](https://example.org/b) [c](#c) [d](../{tmp_path.name}/d.html#x)"
    text = rendered(tmp_path, nbformat.v4.new_markdown_cell(links))
    found = re.findall(r'href="([^"]+)"', text)
    assert found == ["data/a.csv", "https://example.org/b", "#c", "d.html#x"]


def test_headings_make_a_table_of_contents(tmp_path):
    text = rendered(tmp_path, *(nbformat.v4.new_markdown_cell("## The same `name`") for _ in range(3)))
    aims = re.findall(r'<li><a href="#([^"]+)">The same name</a>', text)
    assert aims == ["the-same-name", "the-same-name-2", "the-same-name-3"]
    assert all(f'<h2 id="{aim}">' in text for aim in aims)


def test_only_python_is_coloured(tmp_path):
    prose = nbformat.v4.new_markdown_cell("```python\nreturn 1\n```\n\n```text\nreturn <1>\n```")
    text = rendered(tmp_path, prose)
    assert '<pre tabindex="0"><code><span class="k">return</span>' in text
    assert '<pre tabindex="0"><code>return &lt;1&gt;</code></pre>' in text


def test_lines_of_a_diff_have_marks_and_colours(tmp_path):
    prose = nbformat.v4.new_markdown_cell("```diff\n a = 1\n-b = 2\n+c = 3\n```")
    text = rendered(tmp_path, prose)
    assert re.search(r'<del>-<span class="n">b</span>.*</del><ins>\+<span class="n">c</span>', text)


def test_a_figure_that_has_a_narrow_drawing_shows_it_on_a_phone(tmp_path):
    cell = drawing(source=NOTES + SHOW)
    assert 'class="card narrow"' not in rendered(tmp_path, cell)
    (tmp_path / "figures/a.narrow.svg").write_text(DRAWING)
    text = rendered(tmp_path, cell)
    assert '<figure id="figure-a" class="stacks">' in text
    assert 'id="a-narrow-svg"' in text


def test_a_widget_stands_in_place_of_a_figure(tmp_path):
    widget = '<div class="accumcheck-widget"><img src="../results/figures/a.svg"></div><script>1</script>'
    source = NOTES + f"display(HTML('{widget}'))"
    text = rendered(tmp_path, drawing(source=source.replace("src=", "url="), data={"text/html": widget}))
    assert re.search(
        r'<div class="accumcheck-widget"><svg[^>]*aria-label="Two[^>]*>.*</svg></div><script>1', text, re.S
    )


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
    "cell 1: the link ../../README.md leads out of results/, which may be all that is served": (
        nbformat.v4.new_markdown_cell("[a](../../README.md)")
    ),
    "cell 1: it failed with ValueError": nbformat.v4.new_code_cell(
        "fail()", outputs=[nbformat.v4.new_output("error", ename="ValueError", evalue="no")]
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_a_page_refuses(reason, tmp_path):
    with pytest.raises(PageError, match=re.escape(reason)):
        rendered(tmp_path, REFUSED[reason])


def test_lines_of_chinese_are_joined_without_a_space(tmp_path):
    text = rendered(tmp_path, nbformat.v4.new_markdown_cell("## 梯度\n\n梯度\n累积 and\nmore\n\n梯度"))
    assert "<p>梯度累积 and\nmore</p>\n<p>梯度</p>" in text
    assert ">梯度</h2>" in text


def test_a_page_needs_a_title(tmp_path):
    with pytest.raises(PageError, match=r"the first cell has no title: a line that starts with '# '"):
        rendered(tmp_path, title="No heading.")


# In the browser.

LOOKS = [(path, width, scheme) for path in PAGES for width in (390, 768, 1280) for scheme in ("light", "dark")]
BAD_LOOKS = {
    "the page scrolls": ("</article>", '<div style="width: 2000px">.</div></article>'),
    "image is missing": ("</article>", '<img src="data:image/png;base64,AAAA" alt="a"></article>'),
    "loads file:": ("</article>", '<img src="no.png" alt="a"></article>'),
    "console: ": ("</article>", '<script>console.error("no")</script></article>'),
    "figure is not visible": ("</style>", ".card > svg { display: none }</style>"),
    "figure is wider than the column": ("</style>", ".card > svg { width: 1150px }</style>"),
    "text is cut": ("<text (?=[^>]*>Trainer makes)", '<text dx="9999" '),
    "figure is too dim": (r"background: #fff;", "background: var(--paper);"),
    "text of P is too dim": ("</style>", "p { color: #777 }</style>"),
}  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.mark.parametrize(("path", "width", "scheme"), LOOKS, ids=str)
def test_the_page_looks_good(browser, path, width, scheme):
    assert browser.faults(path, width=width, scheme=scheme) == []


SERIOUS = ("serious", "critical")


def violations(browser):
    browser.driver.set_script_timeout(120)
    outside = {"exclude": [["svg > *"]]}  # of thousands of shapes, which a text alternative stands for
    found = Axe().run(browser.driver, context=outside)["violations"]
    return [f"{each['id']}: {each['nodes'][0]['html'][:80]}" for each in found if each["impact"] in SERIOUS]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_axe_finds_nothing_serious(browser, path, scheme):
    browser.faults(path, width=1280, scheme=scheme)
    assert violations(browser) == []


def test_what_axe_finds_serious_is_noticed(browser, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(mutated("</article>", '<img src="data:image/png;base64,AAAA"></article>'), encoding="utf-8")
    browser.faults(path, width=1280, scheme="light")
    assert [each.split(":")[0] for each in violations(browser)] == ["image-alt"]


DRAW = """
const canvas = document.createElement("canvas"), brush = canvas.getContext("2d");
brush.font = getComputedStyle(document.querySelector("h1")).font;
return [...arguments[0]].map((letter) => {
  brush.clearRect(0, 0, 300, 150);
  brush.fillText(letter, 50, 100);
  return canvas.toDataURL();
});
"""


def test_chinese_is_drawn_in_letters_and_not_in_boxes(browser):
    browser.faults(PAGES[2], width=390, scheme="light")
    if len(set(browser.driver.execute_script(DRAW, "梯度累积"))) < 4:
        fail_or_skip("no font for Chinese to look at the page with: apt-get install fonts-wqy-microhei")


def test_the_page_can_be_printed(browser):
    browser.faults(PAGE, width=1280, scheme="light")
    printed = browser.driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"]
    assert base64.b64decode(printed).startswith(b"%PDF")


@pytest.mark.parametrize("path", [path for path in PAGES if "accumcheck-widget" in page(path)], ids=lambda p: p.name)
def test_without_scripts_a_figure_stands_in_the_place_of_the_widget(browser, path, tmp_path):
    shown = "document.querySelector('.accumcheck-widget > svg')?.getBoundingClientRect().height"
    browser.driver.get(path.as_uri())
    assert browser.driver.execute_script(f"return {shown}") is None
    bare = tmp_path / "page.html"
    bare.write_text(re.sub(r"<script>.*?</script>", "", page(path), flags=re.S), encoding="utf-8")
    assert browser.faults(bare, width=390, scheme="light") == []
    assert browser.driver.execute_script(f"return {shown}") > 100


def test_figures_can_be_enlarged_within_the_page(browser):
    browser.faults(PAGES[1], width=1280, scheme="light")
    for box in browser.driver.find_elements("css selector", ".enlarge input"):
        box.click()
    cards = "[...document.querySelectorAll('.card.wide')]"
    widths = f"{cards}.map((card) => [card.clientWidth, card.firstChild.clientWidth])"
    for card, drawing in browser.driver.execute_script(f"return {widths}"):
        assert drawing > 1.5 * card
    assert browser.driver.execute_script("return document.scrollingElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("fault", BAD_LOOKS)
def test_a_page_that_looks_bad_is_noticed(fault, browser, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(mutated(*BAD_LOOKS[fault]), encoding="utf-8")
    assert any(fault in found for found in browser.faults(path, width=1200, scheme="dark"))
