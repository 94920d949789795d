"""The widget: its matrices are those of ``simulate`` for every rule; it works with keys, by link and without script."""

import random
import re
from dataclasses import replace
from fractions import Fraction
from itertools import combinations, cycle, islice, product

import pytest
from accumcheck import widget
from accumcheck.cli import main
from accumcheck.programs.javascript import SLOTS, Term, expression, folded, rules
from accumcheck.programs.listing import in_words, mended
from accumcheck.programs.rules import RIGHT, TABLES, Program, Shape
from accumcheck.programs.simulate import Units, simulate, window_mean
from accumcheck.widget import FAMOUS, TEXTS, Matrices, State, fragment, page, save, script
from accumcheck.worker import NOT_SHOWN, judge
from selenium.webdriver.common.keys import Keys

from tests.browser import chromium

SIZES = [
    Shape(*each)
    for each in (
        (1, 1, 2, 1), (3, 1, 2, 2), (4, 2, 2, 1), (5, 2, 4, 2), (7, 1, 4, 2), (7, 2, 3, 2), (9, 2, 2, 3), (10, 1, 4, 2),
        (11, 3, 1, 2), (13, 1, 8, 2), (15, 1, 8, 2), (24, 2, 8, 1),
    )
]  # fmt: skip
LIMIT = 20_000  # bytes of script, rules and texts
EARLY = State(Program(step="early", scale="1/k"), Shape(10, 1, 4, 2))
FIX = State(Program(scale="1/k"), Shape(10, 1, 4, 2))
HERE = "tests/kinds/causes.py"


def single_edits():
    """All programs with at most one slot that is not the right one."""
    yield Program()
    for slot in SLOTS:
        yield from (Program(**{slot: name}) for name in TABLES[slot] if name != RIGHT[slot])


def double_edits():
    """All programs with two slots that are not the right ones."""
    for first, second in combinations(SLOTS, 2):
        for one, other in product(
            *([each for each in TABLES[slot] if each != RIGHT[slot]] for slot in (first, second))
        ):
            yield Program(**{first: one, second: other})


def pairs(more=60):
    """Every rule beside a random one of another slot, and some more."""
    draw = random.Random(0)
    every = [(slot, name) for slot in SLOTS for name in TABLES[slot]]
    for slot, name in [*every, *draw.choices(every, k=more)]:
        other = draw.choice([each for each in SLOTS if each != slot])
        yield Program(**{slot: name, other: draw.choice(list(TABLES[other]))})


def units_of(n, pattern):
    return tuple(pattern[i % len(pattern)] for i in range(n))


def cases(programs, sizes=SIZES):
    """Arguments of the page's function, each with the matrix that it should give."""
    for program in programs:
        names = {slot: getattr(program, slot) for slot in SLOTS}
        for shape in sizes:
            for units in (units_of(shape.n, (1,)), units_of(shape.n, (1, 3, 2))):
                due = [[str(weight) for weight in row] for row in simulate(program, shape, Units(units))]
                yield [names, list(shape[:4]), list(units)], due


def whole(body):
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Widget</title>'
        '<meta name="viewport" content="width=device-width"></head>'
        f'<body style="margin: 0; padding: 0.5rem"><article>{body}</article></body></html>'
    )


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


class Page:
    """The widget in the browser."""

    def __init__(self, driver):
        self.driver = driver

    def run(self, code, *values):
        return self.driver.execute_script(code, *values)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def labelled(self, text):
        """The control with this label."""
        found = [
            label for label in self.all("label") if label.find_element("css selector", "span").text.startswith(text)
        ]
        return found[0].find_element("css selector", "select, input")

    def choose(self, label, value):
        self.run(
            "arguments[0].value = arguments[1]; for (const name of ['input', 'change']) "
            "arguments[0].dispatchEvent(new Event(name, {bubbles: true}))",
            self.labelled(label),
            str(value),
        )

    @property
    def summary(self):
        return self.all(".summary")[0].text

    @property
    def matrices(self):
        """Both tables as they are read: rows of texts."""
        code = "return [...document.querySelectorAll('tbody')].map((body) => [...body.rows].map((row) => "
        return self.run(code + "[...row.querySelectorAll('td')].map((cell) => cell.lastChild.data)))")

    @property
    def code(self):
        return [each.text for each in self.all(".code > div")]

    @property
    def link(self):
        return self.run("return location.hash")

    def unlike(self, asked):
        """The cases that the page computes in another way."""
        found = self.run("return arguments[0].map((each) => accumcheckMatrix(...each))", [case for case, _ in asked])
        return [case for case, ours in zip(asked, found, strict=True) if ours != case[1]]


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a page with the widget."""

    def opened(state=None, language="en", *, body=None, link=""):
        path = tmp_path / "widget.html"
        path.write_text(whole(body or fragment(state, language)), encoding="utf-8")
        browser.driver.get("about:blank")
        browser.driver.get(path.as_uri() + link)
        return Page(browser.driver)

    return opened


# The matrices.


def test_sizes_are_ragged_in_every_way():
    for ragged in (lambda s: s.n % s.b, lambda s: s.length % s.k, lambda s: s.n < s.big, lambda s: s.k == 8):
        assert any(ragged(shape) for shape in SIZES)


def test_each_rule_alone_makes_the_matrix_of_simulate(opened):
    assert opened().unlike(list(cases(single_edits()))) == []


def test_rules_together_make_the_matrix_of_simulate(opened):
    asked = list(cases(pairs(), SIZES[3:10]))
    assert {(slot, name) for case, _ in asked for slot, name in case[0].items()} == {
        (slot, name) for slot in SLOTS for name in TABLES[slot]
    }
    assert opened().unlike(asked) == []


@pytest.mark.slow
def test_famous_loops_at_all_sizes_and_every_program_of_two_edits_at_sizes_in_turn(opened):
    page, turn = opened(), cycle(SIZES)
    assert page.unlike(list(cases(program for program, *_ in FAMOUS))) == []
    doubles = double_edits()
    while some := list(islice(doubles, 500)):
        assert page.unlike([case for program in some for case in cases([program], [next(turn)])]) == []


MUTANTS = {
    "a rule": ("i>0&&i%k==0", "i>0&&i%k==1"),
    "a weight": ("[u,U]", "[u,U+1]"),
    "a divisor": ("4:[1,w]", "4:[1,k]"),
    "a visit": ("n/(b*k)", "n/k"),
    "a reset": ('reset=="every"', 'reset=="never"'),
    "the end of a stream": ("up(epochs*length,k)", "up(epochs*length,b)"),
    "the mean of a sequence": ("samples.length*units[i]", "units[i]"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_rule_that_has_changed_is_noticed(opened, name):
    old, new = MUTANTS[name]
    text = fragment()
    assert old in text
    assert opened(body=text.replace(old, new, 1)).unlike(list(cases(single_edits(), SIZES[4:8])))


def test_numbers_that_outgrow_doubles_stay_exact(opened):
    program = Program(reset="never", scale="1/k, each /k")
    ((case, due), _) = cases([program], [Shape(24, 1, 7, 4)])
    assert max(int(weight.partition("/")[2] or 1) for row in due for weight in row) > 2**60
    assert opened().unlike([(case, due)]) == []


# The rules.


def test_the_page_has_every_rule_with_its_code_and_its_law(opened):
    page = opened(State(tokens=(1, 3, 2)))
    code = "return [...arguments[0].options].map((one) => [one.parentElement.label, one.value, one.text])"
    labels = {slot: TEXTS[slot][0] for slot in SLOTS}
    for slot in SLOTS:
        found = page.run(code, page.labelled(labels[slot]))
        wrong = {name for name, rule in TABLES[slot].items() if rule.law or (slot == "loss" and name != "mean")}
        expected = {
            ("wrong" if name in wrong else "right", name, " ".join(shown(rule.code, "token").split()))
            for name, rule in TABLES[slot].items()
        }
        assert set(map(tuple, found)) == expected
        assert len(found) == len(expected)


def shown(code, objective):
    return in_words(code.removeprefix("loss.backward(); "), objective)


@pytest.mark.parametrize("program", [Program(scale="sum/len/k"), Program(step="early", scale="sum, k"), EARLY.program])
def test_wrong_lines_are_marked_and_the_right_ones_beside_them(opened, program):
    right = mended(program)
    lines = opened(State(program)).code
    for slot in ("visit", "scale", "step", "reset"):
        assert ("wrong: " + shown(program.rule(slot).code, "sample") in map(read, lines)) == bool(
            program.rule(slot).law
        )
        assert ("instead: " + shown(right.rule(slot).code, "sample") in map(read, lines)) == bool(
            program.rule(slot).law
        )


def read(line):
    return re.sub(r"^[-+]\s*|\s+(?=\S)", " ", line).strip()


def test_expressions_are_what_the_rule_computes():
    i, k = Term("i"), Term("k")
    assert str(expression(lambda: (i + 1) % max(k - 1, 1) == 0)) == "k-1<1?(i+1)%1==0:(i+1)%(k-1)==0"
    assert str(expression(lambda: i > 0 and i % k == 0)) == "i>0&&i%k==0"
    assert str(expression(lambda: (i > 0 or k > 1) and i == 0)) == "i>0?i==0:k>1&&i==0"
    assert str(expression(lambda: i > 0 and (k > 1 or i == 3))) == "i>0&&(k>1||i==3)"
    assert str(expression(lambda: k + (k > 1) == 2 * (i - 1))) == "k+(k>1)==2*(i-1)"
    assert str(expression(lambda: (1, i * 1 * (k + 1) // 1))) == "[1,i*(k+1)]"
    assert str(expression(lambda: i // k * k)) == "Math.floor(i/k)*k"
    assert str(expression(lambda: True)) == "true"


def test_numbers_that_lack_a_rule_are_refused():
    with pytest.raises(ValueError, match="some rules are there for 7 and not for 5"):
        folded([("1/7",), ("1/3",)], ["5", "7"])


def test_the_script_is_small_and_speaks_two_languages():
    for language in ("en", "zh"):
        assert len(script(EARLY, language).encode()) <= LIMIT
    assert all(both[0] and both[1] and both[0] != both[1] for both in TEXTS.values())
    assert all(set(re.findall(r"\{\d\}", both[0])) == set(re.findall(r"\{\d\}", both[1])) for both in TEXTS.values())
    with pytest.raises(ValueError, match="the widget speaks en and zh, got 'fr'"):
        script(EARLY, "fr")
    assert "</" not in rules() + script(EARLY)


# What is shown.


def counted(program, shape, units):
    """Wrong cells, all cells, and the relative error of the worst update."""
    ours, due = simulate(program, shape, Units(units)), window_mean(shape, Units(units))
    rows = max(len(ours), len(due))
    ours, due = ([*each, *[[Fraction(0)] * shape.n] * (rows - len(each))] for each in (ours, due))
    errors = [
        (sum((a - b) ** 2 for a, b in zip(*both, strict=True)) / square) ** 0.5
        if (square := sum(b * b for b in both[1]))
        else 1
        for both in zip(ours, due, strict=True)
    ]
    wrong = sum(a != b for row, other in zip(ours, due, strict=True) for a, b in zip(row, other, strict=True))
    return wrong, rows * shape.n, max(errors)


@pytest.mark.parametrize("place", range(len(FAMOUS)))
def test_wrong_cells_and_the_worst_error_are_those_of_simulate(opened, place):
    program, name, _ = FAMOUS[place]
    for shape, tokens in ((Shape(10, 1, 4, 2), ()), (Shape(9, 2, 2, 1), (1, 3, 2))):
        page = opened(State(program, shape, tokens))
        wrong, cells, error = counted(program, shape, units_of(shape.n, tokens or (1,)))
        assert len(page.all("td.wrong")) == wrong
        assert page.run("return arguments[0].selectedOptions[0].text", page.labelled("Loop")) == name
        if wrong:
            assert f"{wrong} of {cells} weights are wrong" in page.summary
            said = float(re.search(r"off by ([\d.]+) %", page.summary)[1])
            assert abs(said - 100 * error) <= max(0.5, 0.05 * said)
        else:
            assert page.summary == f"All {cells} weights are right."


def test_the_matrices_are_shown_as_fractions_beside_each_other(opened):
    ours, due = opened(FIX).matrices
    assert ours[2] == ["·"] * 8 + ["1/4"] * 2
    assert due[2] == ["·"] * 8 + ["1/2"] * 2


def test_bars_vanish_where_lengths_divide_evenly_and_set_the_length(opened):
    page = opened(FIX)
    bars = page.all(".bars button")
    right = [i + 1 for i, bar in enumerate(bars) if bar.get_attribute("aria-label").endswith(": right")]
    assert right == [4, 8, 12, 16, 20, 24]
    assert [i + 1 for i, bar in enumerate(bars) if bar.find_element("css selector", "i").size["height"] <= 2] == right
    assert bars[8].get_attribute("aria-label") == "n = 9: 75 %"
    bars[8].click()
    assert page.labelled("samples").get_attribute("value") == "9"
    assert len(page.matrices[0][0]) == 9
    assert [bar.get_attribute("aria-pressed") for bar in page.all(".bars button")].index("true") == 8


def test_everything_can_be_chosen_and_the_link_brings_it_back(opened):
    page = opened()
    page.choose("Loop", 1)
    assert page.code[1].endswith("loss = loss_fn(outputs, targets) / k")
    for label, value in (("samples n", 9), ("micro-batch", 2), ("accumulation", 2), ("epochs", 1)):
        page.choose(label, value)
    page.choose("The loss is", 1)
    page.choose("Tokens in", "4, 1")
    page.choose("When gradients", "never")
    assert page.labelled("Loop").get_attribute("value") == "-1"
    kept, link = (page.matrices, page.summary, page.code), page.link
    assert "reset=never" in link
    again = opened(link=link)
    assert (again.matrices, again.summary, again.code) == kept
    assert again.labelled("Tokens in").get_attribute("value") == "4 1"
    again.run("location.hash = 'n=4'")
    again.driver.execute_async_script("setTimeout(arguments[0], 50)")
    assert again.summary == f"All {4 * 2} weights are right."


@pytest.mark.parametrize("link", ["#part-two", "#n=0&step=none&k=1e9", "#n=abc&units=0+-", "#n=4&__proto__=1&visit="])
def test_a_link_that_makes_no_sense_is_left_alone(opened, link):
    page = opened(FIX, link=link)
    assert page.matrices
    assert "NaN" not in page.summary
    assert page.driver.get_log("browser") == []


def test_keys_are_enough(opened):
    page = opened(FIX)
    page.run("document.body.tabIndex = -1; document.body.focus()")
    names = []
    for _ in range(12):
        page.driver.switch_to.active_element.send_keys(Keys.TAB)
        names.append(page.driver.switch_to.active_element.tag_name)
    assert {"select", "input", "button", "summary"} <= set(names)
    page.labelled("accumulation").send_keys(Keys.ARROW_RIGHT)
    assert "k=5" in page.link
    bar = page.all(".bars button[tabindex='0']")
    assert len(bar) == 1
    bar[0].send_keys(Keys.ARROW_RIGHT)
    page.driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert "n=12" in page.link
    page.driver.switch_to.active_element.send_keys(Keys.HOME)
    assert "n=1&" in page.link


def test_a_screen_reader_is_told(opened):
    page = opened(EARLY)
    assert page.all(".summary")[0].aria_role == "status"
    for control in page.all("select, input, button"):
        if control.is_displayed():
            assert control.accessible_name
    for table in page.all("table"):
        assert table.find_elements("css selector", "caption")
        assert len(table.find_elements("css selector", "thead th[scope=col]")) == 11
        assert len(table.find_elements("css selector", "tbody th[scope=row]")) == 6
    assert all(cell.get_attribute("textContent").startswith("wrong: ") for cell in page.all("td.wrong"))


def test_the_link_is_copied(opened):
    page = opened(EARLY)
    page.run("Object.defineProperty(navigator, 'clipboard', {value: {writeText: async (text) => { copied = text; }}})")
    page.all(".link button")[0].click()
    page.driver.execute_async_script("setTimeout(arguments[0], 50)")
    assert page.run("return copied === location.href")
    assert "step=early" in page.link
    assert page.all(".link [role=status]")[0].text == "Copied."


def test_it_speaks_chinese(opened):
    page = opened(FIX, "zh")
    assert page.summary == "60 个权重中有 4 个是错的。最差的一次更新偏离 50 %。"
    latin = re.findall(r"[A-Za-z]{4,}", " ".join(label.text for label in page.all("label > span, caption, .teeth p")))
    assert latin == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 768, 1280])
def test_it_looks_good(browser, tmp_path, width, scheme):
    for place, state in enumerate((FIX, State(Program(scale="1"), Shape(24, 1, 3, 4), (1, 3, 2)))):
        path = tmp_path / f"{place}.html"
        path.write_text(whole(fragment(state)), encoding="utf-8")
        assert browser.faults(path, width=width, scheme=scheme) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (".code { position: relative; overflow-x: auto;", ".code {", "the page scrolls"),
        ("th { color: var(--w-soft)", "th { color: #999", "text of TH is too dim"),
        ("show();", "show(); console.error('no');", "console: "),
        ("show();", "show(); new Image().src = 'a.png';", "loads file:"),
    ],
)
def test_what_looks_bad_is_noticed(browser, tmp_path, old, new, fault):
    path = tmp_path / "bad.html"
    path.write_text(whole(fragment(FIX).replace(old, new)), encoding="utf-8")
    assert any(fault in found for found in browser.faults(path, width=390, scheme="light"))


def test_without_script_there_is_what_the_page_gives(browser, opened):
    text = fragment(FIX, fallback="<p id='given'>A table.</p>")
    assert opened(body=text).all("#given") == []
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        assert opened(body=text).all("#given")[0].text == "A table."
        assert opened().all(".accumcheck-widget")[0].text == "This figure needs JavaScript."
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


# Pages about loops: accumcheck check --html, accumcheck run --html.


def checked(capfd, path, *words):
    status = main(["check", "--html", str(path), *words])
    return status, capfd.readouterr().out


def test_the_page_of_a_loop_that_is_explained_is_set_to_its_program(capfd, browser, tmp_path):
    path = tmp_path / "loop.html"
    status, printed = checked(capfd, path, "accumcheck.corpus.published:early_first_step")
    assert status == 1
    assert f"Page: {path}" in printed
    for scheme in ("light", "dark"):
        assert browser.faults(path, width=390, scheme=scheme) == []
    found = Page(browser.driver)
    assert "if i % k == 0:" in " ".join(found.code)
    assert "[early-first-step]" in found.all("pre")[0].text
    assert [path.name for path in tmp_path.iterdir()] == ["loop.html"]
    # The report's table and the figure are of the same sizes.
    sizes = re.search(r"(\d+) samples, micro-batches of (\d+), k = (\d+)", printed)
    assert [found.labelled(each).get_attribute("value") for each in ("samples n", "micro", "accum")] == list(
        sizes.groups()
    )


@pytest.mark.slow
def test_the_page_of_a_right_loop_shows_the_right_loop(capfd, browser, tmp_path):
    status, _ = checked(capfd, tmp_path / "a.html", "accumcheck.corpus.published:accumulate_samples")
    assert status == 0
    assert browser.faults(tmp_path / "a.html", width=1280, scheme="light") == []
    assert Page(browser.driver).summary.startswith("All ")


def test_the_page_of_a_loop_without_a_program_has_the_weights_that_were_read(capfd, browser, tmp_path):
    status, _ = checked(capfd, tmp_path / "a.html", f"{HERE}:by_index")
    assert status == 1
    assert browser.faults(tmp_path / "a.html", width=390, scheme="dark") == []
    found = Page(browser.driver)
    assert found.all("select") == []
    assert "No known rules were found that make these weights." in found.all("article > p")[0].text
    assert len(found.all("details")) == len({summary.text for summary in found.all("summary")}) >= 9
    assert found.matrices[0][0] == ["1", "1/2", "1/3", "1/4", "·", "·", "·"]
    assert found.matrices[1][0][:4] == ["1/4"] * 4
    assert len(found.all("td.wrong")) > 10


def test_a_loop_that_the_figure_cannot_show_says_so(tmp_path):
    result = judge("accumcheck.corpus.wrong:clips_each_gradient", html=str(tmp_path / "a.html"))
    assert result["object"]["findings"][0]["id"] == "clipped-per-micro-batch"
    text = (tmp_path / "a.html").read_text()
    assert NOT_SHOWN in text
    assert "<script>" not in text


def test_learning_rates_are_said_not_to_be_shown(tmp_path):
    judge("accumcheck.corpus.wrong:schedules_every_time", html=str(tmp_path / "a.html"))
    text = (tmp_path / "a.html").read_text()
    assert "the weights only, not the learning rates." in text
    assert "<script>" in text


def test_a_loop_that_fails_leaves_no_page(tmp_path):
    (tmp_path / "loops.py").write_text("def idle(task):\n    pass\n")
    assert judge(f"{tmp_path / 'loops.py'}:idle", html=str(tmp_path / "a.html"))["object"]["verdict"] == "error"
    assert [path.name for path in tmp_path.glob("*a.html*")] == []


def test_a_page_is_whole_or_absent(tmp_path, monkeypatch):
    save("before", tmp_path / "a.html")

    def full(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(widget.Path, "replace", full)
    with pytest.raises(OSError, match="no space left"):
        save("after", tmp_path / "a.html")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("page.pdf", "--html writes a file that ends in .html, got 'page.pdf'"),
        ("no/such/page.html", "there is no directory 'no/such' for the page page.html"),
    ],
)
def test_a_page_that_cannot_be_written_is_refused_first(capsys, command, file, message):
    with pytest.raises(SystemExit, match="2"):
        main([command, "--html", file, "a.py:f"])
    assert message in capsys.readouterr().err


def test_a_page_is_about_one_loop(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["check", "--html", "a.html", "a.py:f", "b.py:f"])
    assert "--html is a page about one loop, got 2" in capsys.readouterr().err


def test_what_a_report_says_is_no_markup():
    text = page(
        "<a>.py:f", "1 < 2 & $figure", "so <b>", None, [Matrices("n < 3", [[0.5, 1 / 3]], [[0.5, 0.5]], ["<0>", "1"])]
    )
    for part in ("&lt;a&gt;.py:f", "1 &lt; 2 &amp; $figure", "so &lt;b&gt;", "n &lt; 3", ">&lt;0&gt;</th>"):
        assert part in text
    assert text.count('class="wrong"') == 1
    hostile = fragment(State(replace(Program(), step="</script><b>")))
    assert hostile.count("</script>") == 1


SCRIPT = """
import torch
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(0)
x = torch.randn(13, 3)
model = torch.nn.Linear(3, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
accum = 4
for epoch in range(2):
    for i, (inputs, targets) in enumerate(DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=2)):
        (torch.nn.functional.cross_entropy(model(inputs), targets) / {divisor}).backward()
        if (i + 1) % accum == 0 or i + 1 == 7:
            optimizer.step()
            optimizer.zero_grad()
"""


ODD = "[8, 8, 4, 2][i % 4]"


@pytest.mark.parametrize(
    ("divisor", "status", "words"),
    [
        ("accum", 1, "if (i + 1) % k == 0"),
        pytest.param(ODD, 3, "No known rules were found", marks=pytest.mark.slow),
    ],
)
def test_the_page_of_a_script(browser, tmp_path, divisor, status, words):
    (tmp_path / "train.py").write_text(SCRIPT.format(divisor=divisor))
    assert main(["run", "--html", str(tmp_path / "a.html"), str(tmp_path / "train.py")]) == status
    assert browser.faults(tmp_path / "a.html", width=390, scheme="light") == []
    found = Page(browser.driver)
    assert words in found.all("article")[0].text
    if divisor == "accum":  # k = 4 and a tail of three micro-batches, the last one of one sample
        values = [found.labelled(each).get_attribute("value") for each in ("samples n", "micro", "accum", "epochs")]
        assert values == ["13", "2", "4", "2"]
    else:
        assert found.all("td.wrong")
