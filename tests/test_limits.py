import re
import signal
import threading
import time

import pytest
from accumcheck.watching import progress
from accumcheck.watching.limits import TimeUpError, within


def spin():
    while True:
        pass


def catch_and_go_on():
    while True:
        try:
            spin()
        except Exception:  # noqa: BLE001, S112, RUF100
            continue


def outcome_of(run, seconds):
    """The exception that ended it, and how long it took."""
    start = time.monotonic()
    try:
        within(seconds, run)
    except BaseException as error:  # noqa: BLE001, RUF100
        return type(error), time.monotonic() - start
    return None, time.monotonic() - start


@pytest.mark.parametrize("run", [spin, catch_and_go_on])
def test_what_never_ends_is_ended(run):
    error, took = outcome_of(run, 0.1)
    assert error is TimeUpError
    assert 0.1 <= took < 5


def test_there_is_no_limit_in_other_threads():
    results = []
    thread = threading.Thread(target=lambda: results.append(outcome_of(lambda: time.sleep(0.3), 0.1)))
    thread.start()
    thread.join(20)
    ((error, took),) = results
    assert error is None
    assert took >= 0.3


def test_the_listener_hears_when_a_limit_begins_and_ends(monkeypatch):
    heard = []
    monkeypatch.setattr(progress, "listener", heard.append)
    within(60, lambda: heard.append("call"))
    with pytest.raises(KeyError):
        within(0.5, lambda: {}["x"])
    assert heard == [{"limit": 60}, "call", {"limit": None}, {"limit": 0.5}, {"limit": None}]


def test_the_main_thread_is_woken_up():
    error, took = outcome_of(lambda: time.sleep(20), 0.1)
    assert error is TimeUpError
    assert took < 5


def test_it_is_raised_again_where_it_was_swallowed():
    caught = []

    def swallow_once():
        try:
            spin()
        except BaseException as error:  # noqa: BLE001, RUF100
            caught.append(type(error))
        spin()

    error, took = outcome_of(swallow_once, 0.1)
    assert [*caught, error] == [TimeUpError, TimeUpError]
    assert 1 < took < 8


def test_what_ends_in_time_is_left_alone():
    before = signal.getsignal(signal.SIGALRM)
    assert outcome_of(lambda: None, 0.1)[0] is None
    assert outcome_of(lambda: int("x"), 0.1)[0] is ValueError
    time.sleep(0.2)
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@pytest.mark.parametrize(("run", "ended_by"), [(lambda: None, None), (spin, TimeUpError)])
def test_the_callers_alarm_is_put_back(run, ended_by):
    calls = []

    def mine(*_):
        calls.append("mine")

    before = signal.signal(signal.SIGALRM, mine)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5, 30)
        assert outcome_of(run, 0.1)[0] is ended_by
        assert signal.getsignal(signal.SIGALRM) is mine
        left, interval = signal.getitimer(signal.ITIMER_REAL)
        assert 0 < left <= 0.5
        assert interval == 30
        time.sleep(0.7)
        assert calls == ["mine"]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_alarms_that_ring_just_as_the_block_ends_leave_nothing_armed():
    before = signal.getsignal(signal.SIGALRM)
    for i in range(20_000):  # of 3,000 rings, one is that unlucky
        outcome_of(lambda: time.sleep(1e-5), 1e-5 + i % 100 * 1e-6)
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
        assert signal.getsignal(signal.SIGALRM) is before


def test_deadlines_nest():
    error, took = outcome_of(lambda: outcome_of(lambda: None, 10) and spin(), 0.2)
    assert error is TimeUpError
    assert took < 5


@pytest.mark.parametrize("seconds", [0, -1.5, float("nan"), "1"])
def test_a_limit_is_above_zero(seconds):
    message = re.escape(f"a time limit must be above 0 seconds, got {seconds!r}")
    with pytest.raises(ValueError, match=message):
        within(seconds, spin)
