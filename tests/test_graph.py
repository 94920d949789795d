"""The terms of losses, and the weights that are read off their graphs, on literal numbers."""

import pytest
import torch
from accumcheck.scripts.graph import find_terms, joined, reading
from torch.nn import functional as F

B, C, T = 4, 3, 2
TARGETS = torch.tensor([0, 2, 1, 1])
TOKENS = torch.tensor([[0, 1], [2, -100], [-100, -100], [1, 1]])
MASK = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])


def read(loss_of, *shape):
    """Units and weights of each term of a loss of logits, which come out of a layer."""
    torch.manual_seed(0)
    weight = torch.randn(shape[-1], shape[-1], dtype=torch.float64, requires_grad=True)
    outputs = torch.randn(*shape, dtype=torch.float64) @ weight
    root = loss_of(outputs)
    terms = find_terms([root])
    with reading(terms):
        root.backward()
    for term in terms:
        term.finish()
    return [(t.units.tolist(), t.weights.tolist()) for t in joined(terms) if t.weights.any()]


def quarter(times=1.0):
    return [times / B] * B


ONES = [1.0] * B


@pytest.mark.parametrize(
    ("loss", "units", "weights"),
    [
        (lambda o: F.cross_entropy(o, TARGETS), ONES, quarter()),
        (lambda o: F.cross_entropy(o, TARGETS) / 8, ONES, quarter(1 / 8)),
        (lambda o: F.cross_entropy(o, TARGETS, reduction="sum") / 5, ONES, [1 / 5] * B),
        (lambda o: F.cross_entropy(o, TARGETS, reduction="none").mean() * 3, ONES, quarter(3)),
        (lambda o: F.cross_entropy(o, TARGETS, label_smoothing=0.1), ONES, quarter()),
        (lambda o: 0.3 * F.cross_entropy(o, TARGETS) + 0.7 * F.cross_entropy(o, TARGETS.flip(0)), ONES, quarter()),
        (lambda o: F.cross_entropy(o, torch.tensor([0, -100, 1, 1])), [1, 0, 1, 1], [1 / 3, 0, 1 / 3, 1 / 3]),
        (
            lambda o: F.cross_entropy(o, TARGETS, weight=torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)),
            [1, 5, 2, 2],
            [0.1, 0.5, 0.2, 0.2],
        ),
        (lambda o: -F.log_softmax(o, 1).gather(1, TARGETS[:, None]).mean(), ONES, quarter(-1)),
        (lambda o: F.mse_loss(o, torch.zeros_like(o)), [C] * B, quarter()),
        (lambda o: ((o - 1) ** 2).mean(), [C] * B, quarter()),
        (lambda o: ((o - 1) ** 2).sum(1).mean(), ONES, quarter()),
        (lambda o: (o - 1).abs().sum() / 7, [C] * B, [C / 7] * B),
        (lambda o: F.binary_cross_entropy_with_logits(o[:, 0], TARGETS.clamp(max=1).double()), ONES, quarter()),
    ],
)
def test_weights_of_samples(loss, units, weights):
    [(found_units, found)] = read(loss, B, C)
    assert found_units == pytest.approx(units)
    assert [abs(w) for w in found] == pytest.approx([abs(w) for w in weights])


@pytest.mark.parametrize(
    ("loss", "weights"),
    [
        (lambda o: F.cross_entropy(o.flatten(0, 1), TOKENS.flatten(), ignore_index=-100), [2 / 5, 1 / 5, 0, 2 / 5]),
        (lambda o: F.cross_entropy(o.mT, TOKENS), [2 / 5, 1 / 5, 0, 2 / 5]),
        (lambda o: (F.cross_entropy(o.mT, TOKENS, reduction="none") * MASK).sum() / 10, [0.2, 0.1, 0, 0.2]),
        (lambda o: (o.pow(2).sum(2) * MASK).sum() / MASK.sum(), [2 / 5, 1 / 5, 0, 2 / 5]),
    ],
)
def test_weights_of_tokens(loss, weights):
    [(units, found)] = read(loss, B, T, C)
    rows = torch.tensor(units).view(B, -1).sum(1).tolist(), torch.tensor(found).view(B, -1).sum(1).tolist()
    assert rows[0] == pytest.approx([2, 1, 0, 2])
    assert rows[1] == pytest.approx(weights)


def test_a_penalty_on_parameters_is_no_term():
    parameter = torch.ones(3, requires_grad=True)
    assert find_terms([parameter.abs().sum() + parameter.square().sum()]) == []


def test_what_bends_a_mean_is_seen():
    outputs = torch.ones(B, C, requires_grad=True) * 2
    [term] = find_terms([F.mse_loss(outputs, torch.zeros(B, C)).sqrt()])
    assert term.nonlinear == "sqrt"


def test_nothing_stays_in_the_graph():
    outputs = torch.ones(B, C, requires_grad=True) * 2
    loss = F.cross_entropy(outputs, TARGETS)
    terms = find_terms([loss])
    with reading(terms):
        pass
    loss.backward()
    assert all(term.arrived is None for term in terms)
