"""A translated post: what has fallen behind is named, and the committed one has not."""

import pytest

from experiments.lab.notebook import SCRIPT, SCRIPTS
from experiments.lab.translation import accept, behind

TRANSLATIONS = [path for path in SCRIPTS if ".zh" in path.suffixes]
ORIGINAL = "# %% [markdown]\n# # A title\n#\n# {text}\n\n# %%\n# Alt: A figure.\nshow()\n"


@pytest.fixture
def pair(tmp_path):
    original, translation = tmp_path / "post.py", tmp_path / "post.zh.py"
    original.write_text(ORIGINAL.format(text="Some words."))
    translation.write_text("# %% [markdown]\n# # 标题\n\n# %%\n# Alt: 一张图。\nshow()\n")
    return original, translation


@pytest.mark.parametrize("path", TRANSLATIONS, ids=lambda path: path.stem)
def test_the_translation_is_up_to_date(path):
    assert behind(SCRIPT, path) == []


def test_what_was_never_seen_to_or_has_changed_is_named(pair):
    original, translation = pair
    assert [each.number for each in behind(*pair)] == [0, 1]
    accept(*pair)
    assert behind(*pair) == []
    accept(*pair)
    assert translation.read_text().count(" of=") == 2
    original.write_text(ORIGINAL.format(text="Other words."))
    assert [str(each) for each in behind(*pair)] == ["cell 0: # A title Other words."]


def test_a_cell_too_few_or_too_many_is_named(pair):
    original, translation = pair
    accept(*pair)
    original.write_text(original.read_text() + "\n# %% [markdown]\n# More.\n")
    assert [str(each) for each in behind(*pair)] == ["cell 2: not translated: More."]
    translation.write_text(translation.read_text() + "\n# %% [markdown]\n# 甲\n\n# %% [markdown]\n# 乙\n")
    assert str(behind(*pair)[-1]) == "cell 3: has no original: 乙"


def test_line_breaks_do_not_count(pair):
    original, _ = pair
    accept(*pair)
    original.write_text(ORIGINAL.format(text="Some\n# words."))
    assert behind(*pair) == []
