"""What happens to gradient buffers between two readings, on gradients that are written by hand."""

import pytest
import torch
from accumcheck.scripts.buffers import Buffers
from accumcheck.scripts.log import Log


@pytest.fixture
def watched():
    parameters = [torch.zeros(5, 4, requires_grad=True), torch.zeros(3, requires_grad=True)]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    buffers = Buffers(Log())
    assert buffers.number_of(optimizer) == 0
    return buffers, parameters, optimizer


def add(buffers, parameters, number, value=1.0):
    """A pass that adds to the gradients."""
    buffers.observe()
    for parameter in parameters:
        gradient = torch.full_like(parameter, value) * torch.arange(1, parameter.numel() + 1).view_as(parameter)
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
    return buffers.added(number)


def update(buffers, since=()):
    buffers.observe()
    return buffers.update(0, rates=(0.1,), calls=0, since=tuple(since), scale=1.0)


def test_passes_are_in_the_buffers_until_they_are_cleared(watched):
    buffers, parameters, optimizer = watched
    assert add(buffers, parameters, 0) == [0]
    add(buffers, parameters, 1, 2.0)
    assert update(buffers, [0, 1]).factors == {0: 1.0, 1: 1.0}
    optimizer.zero_grad(set_to_none=False)
    add(buffers, parameters, 2)
    assert update(buffers, [2]).factors == {2: 1.0}
    optimizer.zero_grad()
    assert update(buffers).factors == {}


def test_what_is_scaled_is_scaled_since(watched):
    buffers, parameters, _ = watched
    add(buffers, parameters, 0)
    for parameter in parameters:
        parameter.grad /= 4
    add(buffers, parameters, 1)
    found = update(buffers, [0, 1])
    assert found.factors == {0: pytest.approx(0.25), 1: 1.0}
    assert not found.changed


def test_clipping_is_told_from_scaling(watched):
    buffers, parameters, _ = watched
    add(buffers, parameters, 0)
    torch.nn.utils.clip_grad_norm_(parameters, 0.1)
    buffers.observe("clip")
    add(buffers, parameters, 1)
    found = update(buffers, [0, 1])
    assert found.factors == {0: 1.0, 1: 1.0}
    assert found.clips == {0: (1, 1), 1: (0, 0)}
    assert found.clipped


def test_an_unknown_change_is_seen(watched):
    buffers, parameters, _ = watched
    add(buffers, parameters, 0)
    parameters[0].grad += torch.arange(20.0).view(5, 4).flip(0)
    assert update(buffers, [0]).changed


def test_a_tensor_that_is_not_cleared_is_named(watched):
    buffers, parameters, _ = watched
    add(buffers, parameters, 0)
    parameters[0].grad = None
    add(buffers, parameters, 1)
    found = update(buffers, [1])
    assert found.kept == {0: ("parameter 1 (3,)",)}
    assert found.lost == {}


def test_a_tensor_that_is_cleared_within_a_window_is_named(watched):
    buffers, parameters, _ = watched
    add(buffers, parameters, 0)
    parameters[1].grad.zero_()
    add(buffers, parameters, 1)
    assert update(buffers, [0, 1]).lost == {0: ("parameter 1 (3,)",)}


def test_what_ranks_exchange_is_written_down_and_judged_later(watched):
    buffers, parameters, _ = watched
    buffers.several = True
    add(buffers, parameters, 0)
    before = torch.from_numpy(buffers.values.copy())
    for parameter in parameters:
        parameter.grad = parameter.grad + torch.arange(parameter.numel()).view_as(parameter).flip(0) ** 2
    add(buffers, parameters, 1)
    found = update(buffers, [0, 1])
    assert (found.exchanged, found.changed, found.factors) == ({0: (0,), 1: ()}, False, {0: 1.0, 1: 1.0})
    assert buffers.log.exchanges[0].before.equal(before)
    assert not buffers.log.exchanges[0].after.equal(before)
    assert found.values.equal(torch.from_numpy(buffers.values))


def test_an_empty_shard_has_no_gradient():
    parameters = [torch.zeros(4, requires_grad=True), torch.zeros(0, requires_grad=True)]
    buffers = Buffers(Log())
    buffers.number_of(torch.optim.SGD(parameters, lr=0.1))
    add(buffers, parameters, 0)
    parameters[0].grad = None
    add(buffers, parameters, 1)
    found = update(buffers, [1])
    assert (found.factors, found.lost, found.kept) == ({1: 1.0}, {}, {})
