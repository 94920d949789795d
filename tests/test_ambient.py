import os
import random
import threading

import numpy as np
import pytest
import torch

from harness.ambient import Modes, RandomStream, preserved


def draw():
    return torch.rand(1).item(), random.random(), np.random.rand(), np.random.default_rng is not None


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
    assert all(a != b for a, b in zip(first[:3], second[:3], strict=True))


def test_streams_leave_the_callers_alone():
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    generator = np.random.get_bit_generator()
    with RandomStream(1).active():
        draw()
        np.random.seed(3)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), np.random.get_state()[1].tolist())
    assert np.random.get_bit_generator() is generator


def test_preserved_undoes_everything_also_after_an_exception():
    threads = torch.get_num_threads()
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist(), dict(os.environ)
    with pytest.raises(KeyError), preserved():
        draw()
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(threads + 1)
        os.environ["NEW"] = "1"
        del os.environ["PATH"]
        raise KeyError
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), np.random.get_state()[1].tolist(), dict(os.environ))
    assert (torch.get_default_dtype(), torch.get_num_threads()) == (torch.float32, threads)


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
