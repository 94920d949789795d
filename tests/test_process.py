import gc
import os
import random
import signal
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from accumcheck.watching.process import SIGNALS, Modes, RandomStream, preserved, quiet


def current_umask():
    umask = os.umask(0)
    os.umask(umask)
    return umask


def draw():
    return torch.rand(1).item(), random.random(), np.random.rand()


def test_streams_are_independent_and_repeat_by_seed():
    one, other = RandomStream(0), RandomStream(0)
    with one.active():
        first = draw()
        random.seed(5)
        np.random.seed(5)
    with one.active():
        second = draw()
    with other.active():
        again = draw()
    assert first == again
    assert all(a != b for a, b in zip(first, second, strict=True))


def test_streams_leave_the_callers_alone():
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    generator = np.random.get_bit_generator()
    with RandomStream(1).active():
        draw()
        np.random.seed(3)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), np.random.get_state()[1].tolist())
    assert np.random.get_bit_generator() is generator


def test_preserved_undoes_everything_also_after_an_exception(tmp_path):
    threads, directory, umask = torch.get_num_threads(), Path.cwd(), current_umask()
    handlers = [signal.getsignal(number) for number in SIGNALS]
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist(), dict(os.environ)
    with pytest.raises(KeyError), preserved():
        draw()
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(threads + 1)
        os.environ["NEW"] = "1"
        del os.environ["PATH"]
        os.chdir(tmp_path)
        os.umask(umask ^ 0o011)
        torch.set_default_device("meta")
        gc.disable()
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)
        raise KeyError
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), np.random.get_state()[1].tolist(), dict(os.environ))
    assert (torch.get_default_dtype(), torch.get_num_threads()) == (torch.float32, threads)
    assert (Path.cwd(), current_umask(), gc.isenabled()) == (directory, umask, True)
    assert torch.empty(1).device == torch.device("cpu")
    assert [signal.getsignal(number) for number in SIGNALS] == handlers
    assert len(handlers) == 3


def test_threads_are_only_set_where_they_have_changed(monkeypatch):
    calls = []
    monkeypatch.setattr(torch, "set_num_threads", calls.append)
    with preserved():
        draw()
    assert calls == []


def test_a_directory_that_is_gone_is_left_alone(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    with preserved():
        os.chdir(tmp_path)
    assert Path.cwd() == gone
    gone.rmdir()
    with preserved():
        draw()


def test_preserved_works_in_other_threads():
    errors = []

    def run():
        try:
            with preserved():
                draw()
        except BaseException as error:  # noqa: BLE001, RUF100
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert errors == []


def test_weights_that_autocast_has_cast_are_cast_anew():
    weight, ones = torch.nn.Parameter(torch.ones(2, 2)), torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        modes = Modes.current()
        assert (ones @ weight).sum() == 8
        weight.data.zero_()
        assert (ones @ weight).sum() == 8  # from autocast's cache
        modes.resume()
        assert (ones @ weight).sum() == 0


def test_what_is_printed_in_quiet_is_dropped(capfd):
    out, err = sys.stdout, sys.stderr
    with quiet():
        for stream in (sys.stdout, sys.stderr):
            print("text", file=stream, flush=True)
            stream.buffer.write(b"bytes")
            stream.reconfigure(line_buffering=True)
            os.write(stream.fileno(), b"bytes")
            assert (stream.encoding, stream.isatty(), stream.writable()) == ("utf-8", False, True)
        warnings.warn("a warning", stacklevel=1)
    assert (sys.stdout, sys.stderr) == (out, err)
    assert capfd.readouterr() == ("", "")


def test_streams_that_were_closed_or_kept_do_no_harm():
    with quiet():
        kept = sys.stdout
        sys.stderr.close()
    with quiet():
        print("text", file=kept)
        print("text", file=sys.stderr)


def test_modes_are_those_of_a_new_thread_and_come_back():
    fresh = {}
    thread = threading.Thread(target=lambda: fresh.update(vars(Modes.current())))
    thread.start()
    thread.join()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        inside = Modes.current()
        Modes().resume()
        assert vars(Modes.current()) == fresh
        assert (torch.ones(2, 2, requires_grad=True) @ torch.ones(2, 2)).requires_grad
        inside.resume()
        assert vars(Modes.current()) == vars(inside)
        assert (torch.ones(2, 2, requires_grad=True) @ torch.ones(2, 2)).dtype is torch.bfloat16
        assert not torch.is_grad_enabled()
    assert vars(Modes.current()) == fresh
