import pytest
import torch
from torch import nn
from torch.optim import LBFGS, SGD, Adam
from torch.optim import optimizer as optim

from experiments.lab.recording import record

BEFORE = torch.tensor([[1.0, 2.0]])


class Slope(nn.Module):
    """Its gradient is its input's sum."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(BEFORE.clone())

    def forward(self, inputs):
        return (self.weight * inputs).sum()


def hooks():
    return [len(optim._global_optimizer_pre_hooks), len(optim._global_optimizer_post_hooks)]


def backward(model, value):
    model(torch.full((1, 2), float(value))).backward()


def gradients(steps):
    return [step.gradients["weight"][0, 0].item() for step in steps]


def test_records_gradient_parameters_rate_and_state():
    model = Slope()
    optimizer = SGD(model.parameters(), lr=0.5, momentum=0.5)
    with record(model, state=True) as steps:
        for value in (1, 2):
            optimizer.zero_grad()
            backward(model, value)
            optimizer.step()
            optimizer.param_groups[0]["lr"] /= 2
    assert gradients(steps) == [1, 2]
    assert [step.learning_rates for step in steps] == [{"weight": 0.5}, {"weight": 0.25}]
    assert torch.equal(steps[0].before["weight"], BEFORE)
    assert torch.equal(steps[0].after["weight"], BEFORE - 0.5)
    assert torch.equal(steps[1].before["weight"], steps[0].after["weight"])
    assert steps[1].state["weight/momentum_buffer"].tolist() == [[2.5, 2.5]]


@pytest.mark.parametrize("by_name", [False, True])
def test_a_closure_computes_the_gradient_inside_of_step(by_name):
    model = Slope()
    optimizer = SGD(model.parameters(), lr=0.5)

    def closure():
        backward(model, 3)
        return torch.tensor(7.0)

    with record(model) as steps:
        backward(model, 1)
        loss = optimizer.step(closure=closure) if by_name else optimizer.step(closure)
    assert gradients(steps) == [4]
    assert loss == 7
    assert torch.equal(steps[0].before["weight"], BEFORE)


def test_the_first_of_several_closure_calls_counts():
    model = Slope()
    optimizer = LBFGS(model.parameters(), lr=0.1, max_iter=3)

    def closure():
        optimizer.zero_grad()
        loss = (model.weight**2).sum()
        loss.backward()
        return loss

    with record(model) as steps:
        optimizer.step(closure)
    assert gradients(steps) == [2]


def test_a_closure_that_is_never_called():
    class Ignores(SGD):
        def step(self, closure=None):
            return super().step()

    model = Slope()
    optimizer = Ignores(model.parameters(), lr=0.5)
    with record(model) as steps:
        backward(model, 2)
        optimizer.step(lambda: None)
    assert gradients(steps) == [2]


def tenfold(optimizer, *_):
    optimizer.param_groups[0]["params"][0].grad.mul_(10)


def test_hooks_that_change_the_gradient_come_first():
    model = Slope()
    optimizer = SGD(model.parameters(), lr=0.5)
    optimizer.register_step_pre_hook(tenfold)
    with record(model) as steps:
        backward(model, 1)
        optimizer.step()
        backward(model, 0)
        optimizer.step()
    assert gradients(steps) == [10, 100]


def test_a_step_inside_a_step_is_one():
    class Twice(SGD):
        def step(self, closure=None):
            super().step(closure)
            return super().step()

    class Wrapper(SGD):
        def __init__(self, inner):
            super().__init__(inner.param_groups[0]["params"], lr=0.5)
            self.inner = inner

        def step(self, closure=None):
            return self.inner.step(closure)

    model = Slope()
    SGD(model.parameters(), lr=1)  # hooks SGD.step itself
    for optimizer in (Twice(model.parameters(), lr=0.5), Wrapper(SGD(model.parameters(), lr=1))):
        with record(model) as steps:
            backward(model, 1)
            optimizer.step()
            optimizer.zero_grad()
        assert len(steps) == 1
        assert (steps[0].before["weight"] - steps[0].after["weight"])[0, 0] == 1


def test_optimizers_of_other_models_are_not_seen():
    model, other = Slope(), Slope()
    with record(model) as steps:
        backward(other, 1)
        SGD(other.parameters(), lr=1).step()
    assert steps == []


def test_each_optimizer_shows_its_own_parameters():
    model = nn.Linear(2, 1)
    with record(model) as steps:
        model(torch.ones(1, 2)).sum().backward()
        SGD([model.weight], lr=1).step()
        SGD([model.bias], lr=1).step()
    assert [list(step.gradients) for step in steps] == [["weight"], ["bias"]]


def test_missing_and_sparse_gradients():
    model = nn.Embedding(3, 2, sparse=True)
    optimizer = SGD(model.parameters(), lr=1)
    with record(model) as steps:
        optimizer.step()
        model(torch.tensor([1])).sum().backward()
        optimizer.step()
    assert [step.gradients["weight"].sum(1).tolist() for step in steps] == [[0, 0, 0], [0, 2, 0]]


def test_a_fused_optimizer_unscales_by_itself():
    model = Slope()
    optimizer = Adam(model.parameters(), fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with record(model) as steps:
        scaler.scale(model(torch.ones(1, 2))).backward()
        scaler.step(optimizer)
    assert gradients(steps) == [1]


def test_nothing_is_left_behind_after_an_exception():
    model, before = Slope(), hooks()
    optimizer = SGD(model.parameters(), lr=1)

    def fail():
        raise KeyError("inside step")

    with pytest.raises(KeyError), record(model):
        assert hooks() != before
        optimizer.step(fail)
    assert hooks() == before
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_parameters_that_replace_the_models_own_are_watched():
    """As under ``fully_shard``; a step on the old ones is no update of the model."""
    model = Slope()
    stale = SGD(model.parameters(), lr=0.5)
    with record(model) as steps:
        model.weight = nn.Parameter(BEFORE.clone())
        optimizer = SGD(model.parameters(), lr=0.25)
        backward(model, 3)
        optimizer.step()
        stale.step()
    assert gradients(steps) == [3.0]
    assert steps[0].learning_rates == {"weight": 0.25}
