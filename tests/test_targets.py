import functools
import sys

import pytest
from accumcheck import check_equivalence
from accumcheck.corpus.published import accumulate_samples
from accumcheck.task import LoopError
from accumcheck.watching.targets import load, why_no_loop

RIGHT = "from accumcheck.corpus.published import accumulate_samples as train\n"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """The current directory is empty, and imports are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_files_and_modules_below_the_current_directory_are_found(here):
    (here / "mine_right.py").write_text(RIGHT)
    (here / "my_package").mkdir()
    (here / "my_package" / "other.py").write_text("from .relative import train")
    (here / "my_package" / "relative.py").write_text(RIGHT)
    targets = ("mine_right.py:train", "mine_right:train", "my_package.other:train", "my_package/relative.py:train")
    for target in targets:
        assert load(target) is accumulate_samples


def test_what_a_loop_imports_when_it_runs_is_found(here):
    (here / "folder").mkdir()
    (here / "folder" / "late.py").write_text("def train(task):\n    import late_helper\n    return late_helper.x")
    (here / "folder" / "late_helper.py").write_text("x = 3")
    assert load("folder/late.py:train")(None) == 3


@pytest.mark.parametrize(
    ("file", "text", "target", "message"),
    [
        (
            "package/inner/rel.py",
            "from .other import train",
            "package/inner/rel.py:train",
            r"relative import .*; name it package\.inner\.rel:train, from the directory above, '{here}'$",
        ),
        ("sub/right.py", RIGHT, "sub/right:train", r"; did you mean sub/right\.py:train\?$"),
        (
            "script.py",
            "import argparse\nargparse.ArgumentParser().parse_args(['--lr', '1'])",
            "script.py:train",
            r"^importing script\.py runs its command line: put that below `if __name__ == '__main__':`$",
        ),
        (
            "ends.py",
            "import sys\nsys.exit('no data')",
            "ends.py:train",
            r"^importing ends\.py ends the program \(SystemExit: no data\): put that below `if __name__ == '__main",
        ),
        ("lacks.py", "import no_such_thing", "lacks:train", r"ModuleNotFoundError: No module named 'no_such_thing'$"),
        ("right.py", RIGHT, "right.py", r"^a loop is named FILE\.py:FUNCTION or package\.module:FUNCTION, got 'right"),
        ("right.py", RIGHT, "wrong.py:train", r"^there is no file 'wrong\.py'$"),
        ("kinds.py", "async def train(task): pass", "kinds.py:train", r"'kinds\.py:train' returns a coroutine when"),
    ],
)
def test_errors_say_what_to_do(here, file, text, target, message):
    path = here / file
    path.parent.mkdir(parents=True, exist_ok=True)
    if here not in (path.parent, path.parent.parent):
        for folder in (path.parent, path.parent.parent):
            (folder / "__init__.py").touch()
    path.write_text(text)
    with pytest.raises(LoopError, match=message.format(here=here)):
        load(target)


async def coroutine(task):
    pass


def generator(task):
    yield


async def asynchronous_generator(task):
    yield


class Trainer:
    def __call__(self, task):
        pass

    def train(self, task):
        pass

    @staticmethod
    def static(task):
        pass


class AsynchronousTrainer:
    async def __call__(self, task):
        pass


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (coroutine, "returns a coroutine when it is called: nothing runs; "),
        (functools.partial(coroutine), "returns a coroutine when it is called: nothing runs; "),
        (AsynchronousTrainer(), "returns a coroutine when it is called: nothing runs; "),
        (generator, "returns a generator when it is called: nothing runs; "),
        (asynchronous_generator, "returns an asynchronous generator when it is called: nothing runs; "),
        (Trainer, "is a class: calling it makes an object, and trains nothing; "),
        (Trainer.train, "takes (self, task): "),
        (lambda: None, "takes (): "),
        (lambda task, *, rate: None, "takes (task, *, rate): "),
    ],
)
def test_what_is_no_loop_is_told_before_it_runs(found, message):
    whole = f"{message}a loop is a function of one argument: def train(task): ..."
    assert why_no_loop(found).partition("\n")[0] == whole
    with pytest.raises(ValueError, match="a loop is a function of one argument"):
        check_equivalence(found)


def test_a_wrapper_is_written_for_other_arguments():
    def fit(model, loader, criterion, log_every, *, epochs=3, verbose=False):
        pass

    said = why_no_loop(fit)
    assert (
        "\n    def wrapped(task):\n        fit(model=task.model, loader=task.loader, criterion=task.loss_fn, " in said
    )
    assert "log_every=..., epochs=task.epochs)" in said


@pytest.mark.parametrize(
    "found", [accumulate_samples, Trainer(), Trainer().train, Trainer.static, print, lambda task, rate=1: None]
)
def test_what_can_be_called_with_a_task_is_a_loop(found):
    assert why_no_loop(found) is None
