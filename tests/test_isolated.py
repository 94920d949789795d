"""Loops that do what they should not to their process: there is always an answer, and the other loops get theirs."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from accumcheck import isolated
from accumcheck.failure import Failure
from accumcheck.isolated import Child, judged

LOOPS = """
import ctypes, os, signal, sys, threading, time
from accumcheck.corpus.published import accumulate_samples as right

def leaves(task):
    os._exit(0)

def exits(task):
    sys.exit(0)

def crashes(task):
    ctypes.string_at(0)

def killed(task):
    os.kill(os.getpid(), signal.SIGKILL)

def interrupted(task):
    raise KeyboardInterrupt

def own(task):
    class Mine(BaseException):
        pass
    raise Mine("text")

def no_memory(task):
    raise MemoryError("none left")

def swallows(task):
    signal.setitimer(signal.ITIMER_REAL, 0)
    while True:
        try:
            while True:
                pass
        except:
            pass

def own_alarm(task):
    signal.signal(signal.SIGALRM, lambda *_: None)
    while True:
        time.sleep(0.1)

def closes(task):
    sys.stdout.close()
    sys.stderr.close()
    right(task)

def writes(task):
    os.write(1, b'{"result": 3}\\n')
    right(task)

def leaves_threads(task):
    threading.Thread(target=time.sleep, args=(1000,)).start()
    right(task)

def forks(task):
    child = os.fork()
    right(task)
    if child:
        os.waitpid(child, 0)

def sleeps(task):
    time.sleep(1000)

def slow(task):
    time.sleep(0.02)
    right(task)
"""
RUN = "at n=7, b=1, k=4, epochs=2, in run 1"
# What each does: the verdict, and what the error begins with.
EXPECTED = {
    "leaves": ("error", f"leaves ended its process {RUN}, with exit status 0: there is no verdict; look for os._exit"),
    "exits": ("error", "exits raised SystemExit at n=7, b=1, k=4, epochs=2, after 0 optimizer steps: 0"),
    "crashes": (
        "error",
        f"the process of crashes was ended by SIGSEGV {RUN}: there is no verdict; look for a crash of",
    ),
    "killed": ("error", f"the process of killed was ended by SIGKILL {RUN}: there is no verdict; is there too little"),
    "interrupted": ("error", "interrupted raised KeyboardInterrupt, at loops.py:18; there is no verdict"),
    "own": ("error", "own raised Mine: text, at loops.py:23; there is no verdict"),
    "no_memory": (
        "error",
        "no_memory raised MemoryError at n=7, b=1, k=4, epochs=2, after 0 optimizer steps: none left",
    ),
    "swallows": (
        "error",
        f"swallows, {RUN}, did not end within 1 seconds, and could not be interrupted: look for a loop without end, or "
        "raise --time-limit",
    ),
    "own_alarm": ("error", f"own_alarm, {RUN}, did not end within 1 seconds, and could not be interrupted: "),
    "sleeps": ("error", "sleeps did not end within 1 seconds at n=7, b=1, k=4, epochs=2 (0 optimizer steps): "),
    "closes": ("equivalent", None),
    "writes": ("equivalent", None),
    "forks": ("equivalent", None),
    "leaves_threads": ("equivalent", None),
}


@pytest.fixture
def loops(tmp_path):
    path = tmp_path / "loops.py"
    path.write_text(LOOPS)
    return path


def test_whatever_a_loop_does_there_is_an_answer(loops, monkeypatch, capfd):
    monkeypatch.setattr(isolated, "GRACE", 1.0)
    monkeypatch.setattr(isolated, "EXIT_LIMIT", 0.5)
    results = list(judged([f"{loops}:{name}" for name in EXPECTED], {"time_limit": 1.0}))
    for (name, (verdict, error)), result in zip(EXPECTED.items(), results, strict=True):
        assert result["object"]["loop"] == f"{loops}:{name}"
        assert result["object"]["verdict"] == verdict, name
        assert (result["object"]["error"] or "")[: len(error or "")] == (error or "")
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import os\nos._exit(0)", "train ended its process before its first run, with exit status 0: there is no"),
        ("raise KeyboardInterrupt", "train raised KeyboardInterrupt, at imported.py:1; there is no verdict"),
        ("while True: pass", "importing '{path}' did not end within 1 seconds: guard what it runs with"),
        (
            "import signal, time\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\ntime.sleep(100)",
            "importing '{path}' did not end within 1 seconds, and could not be interrupted: look for a loop",
        ),
    ],
)
def test_importing_may_fail_in_the_same_ways(tmp_path, monkeypatch, text, message):
    monkeypatch.setattr(isolated, "GRACE", 1.0)
    path = tmp_path / "imported.py"
    path.write_text(text)
    (result,) = judged([f"{path}:train"], {"import_limit": 1.0})
    assert result["object"]["error"].startswith(message.format(path=path))


def test_a_process_that_does_not_start_ends_the_call(monkeypatch):
    monkeypatch.setattr(sys, "path", [])  # there is no accumcheck, nor anything else
    results = list(judged(["a.py:f", "b.py:f"], {}))
    assert [result["object"]["loop"] for result in results] == ["a.py:f", "b.py:f"]
    for result in results:
        assert result["object"]["error"].startswith("the process that judges loops did not start (exit status 1); ")


def test_runs_are_counted(loops):
    seen = []
    list(judged([f"{loops}:slow"], {}, lambda child: seen.append((child.target, child.runs, child.sizes))))
    assert {target for target, *_ in seen} == {f"{loops}:slow"}
    assert [runs for _, runs, _ in seen] == sorted(runs for _, runs, _ in seen)
    assert seen[-1][1] > 30
    assert (f"{loops}:slow", 1, "n=7, b=1, k=4, epochs=2") in seen


def test_a_failure_has_the_form_of_a_report():
    assert list(Failure("a.py:f", "it failed").as_dict()) == [
        "loop", "verdict", "objectives", "findings", "program", "counterexample", "matrix", "error", "versions",
    ]  # fmt: skip


def running(process):
    """Whether it runs, and is not only waiting to be reaped."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks at processes as Linux shows them")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_process_ends_with_the_command(loops, number):
    command = [sys.executable, "-m", "accumcheck.cli", "check", f"{loops}:sleeps"]
    # A group of its own, and Ctrl-C as it is in a terminal, also where the tests run in the background.
    code = f"import os, signal; signal.signal(2, signal.default_int_handler); os.execv({sys.executable!r}, {command!r})"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 60
    while not (found := children.read_text().split()) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert out == ""
    if number == signal.SIGINT:
        assert (process.returncode, err) == (130, "accumcheck: interrupted: there is no verdict\n")
    while any(map(running, found)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(found) == 1
    assert not running(found[0])


def test_leaving_early_ends_the_process(loops):
    with pytest.raises(KeyboardInterrupt), Child([f"{loops}:sleeps"], {}) as child:
        for event in child.events():
            if "sizes" in event:
                raise KeyboardInterrupt
    assert child._process.returncode == -signal.SIGKILL
