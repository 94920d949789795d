"""Figures are drawn again from their tables, to the byte; all their words can be read."""

import importlib
import re
from itertools import combinations

import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from experiments import NAMES
from experiments.lab import look
from experiments.lab.redraw import CannotRedrawError, as_read, drawn, main
from experiments.lab.writer import RESULTS, draw

ELSEWHERE = {"frameworks", "history"}  # not drawn from their tables, or not by ``look``
REDRAWN = [name for name in NAMES if name not in ELSEWHERE]
SMALL = {"round_trip", "watching", "start_up"}  # of one panel, and on no page


def read(title):
    return pd.read_csv(RESULTS / f"data/{title}.csv")


@pytest.mark.parametrize("name", REDRAWN)
def test_drawing_again_gives_the_committed_bytes(name, tmp_path):
    figures = drawn(name, read)
    assert (f"{name}.narrow" in figures) == (name not in SMALL)
    for title, figure in figures.items():
        draw(tmp_path, title, figure)
        file = f"figures/{title}.svg"
        assert (tmp_path / file).read_bytes() == (RESULTS / file).read_bytes(), title
        assert (tmp_path / f"figures/{title}.png").exists() == (not title.endswith(".narrow"))


@pytest.mark.parametrize("name", [name for name in REDRAWN if name not in SMALL])
def test_words_are_large_enough_inside_and_apart(name, monkeypatch):
    words = []

    def record(text, renderer, *rest, **more):
        if text.get_visible() and text.get_text().strip():
            words.append((text.get_text(), text.get_fontsize(), text.get_window_extent(renderer).extents))
        paint(text, renderer, *rest, **more)

    paint = Text.draw
    monkeypatch.setattr(Text, "draw", record)
    for title, figure in drawn(name, read).items():
        canvas = FigureCanvasAgg(figure)
        canvas.draw()  # lays the panels out
        words.clear()
        canvas.draw()
        width, height = figure.bbox.width, figure.bbox.height
        for text, size, (left, low, right, high) in words:
            assert size >= look.SMALLEST, f"{title}: {text!r} is too small"
            assert min(left, low, width - right, height - high) > -1, f"{title}: {text!r} is cut"
        for (text, _, one), (other, _, two) in combinations(words, 2):
            across, down = (min(one[i + 2], two[i + 2]) - max(one[i], two[i]) for i in (0, 1))
            assert across < 1 or down < 2, f"{title}: {text!r} lies on {other!r}"


def test_panels_stand_in_one_column_on_a_narrow_screen_and_share_what_they_shared():
    def places(axes):
        return [(round(axis.get_position().x0, 2), round(axis.get_position().y0, 2)) for axis in axes.flat]

    _, wide = look.panels(2, 2, sharey="row", sharex="col", width_ratios=(2, 1))
    with look.narrow():
        figure, axes = look.panels(2, 2, sharey="row", sharex="col", width_ratios=(2, 1))
    assert not look.is_narrow()
    assert axes.shape == wide.shape == (2, 2)
    assert len({x for x, _ in places(axes)}) == 1
    assert [y for _, y in places(axes)] == sorted((y for _, y in places(axes)), reverse=True)
    assert figure.get_figwidth() == look.NARROW
    for grid in (wide, axes):
        grid[0, 0].set(ylim=(3, 4), xlim=(5, 6))
        assert grid[0, 1].get_ylim() == (3, 4)
        assert grid[1, 0].get_xlim() == (5, 6)
        assert grid[1, 1].get_ylim() != (3, 4)


def test_titles_say_something_of_the_numbers(monkeypatch):
    """A title is made from the frame: with other numbers it is another."""
    frame = read("tokens")
    titles = []
    monkeypatch.setattr(look, "title", lambda _, finding, about="": titles.append(finding))
    for changed in (frame, frame.assign(error=frame["error"] / 2)):
        drawn("tokens", as_read({"tokens": changed}))
    assert len(set(titles)) == 2


def test_a_run_draws_what_its_tables_will_give():
    frame = pd.DataFrame({"number": [1 / 3, 2.0]})
    assert as_read({"a": frame})("a")["number"].tolist() == [0.333333, 2.0]


def test_what_cannot_be_drawn_is_named(tmp_path, capsys):
    with pytest.raises(CannotRedrawError, match="drift cannot be drawn: there is no table"):
        main_read = importlib.import_module("experiments.lab.redraw").redraw
        main_read("drift", tmp_path)
    assert main(["drift", "--results", str(tmp_path)]) == 2
    assert "drift cannot be drawn" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["nonsense"])
    assert re.search("no experiment 'nonsense': choose from", capsys.readouterr().err)
