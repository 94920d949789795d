import pytest
import torch
from accumcheck.corpus import models
from accumcheck.corpus.models import GPT, GPT_SIZES, GPTConfig
from accumcheck.corpus.problems import PROBLEMS
from accumcheck.training.problem import seeded


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=str)
def test_two_builds_from_one_seed_are_equal_to_the_bit(problem):
    stream = torch.get_rng_state()
    one, two, other = (seeded(problem.model, seed).state_dict() for seed in (7, 7, 8))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(stream, torch.get_rng_state())


@pytest.mark.parametrize(("size", "parameters"), [("10k", 1.1e4), ("100k", 1e5), ("1M", 1e6), ("10M", 1e7)])
def test_sizes_are_what_they_are_called(size, parameters):
    assert sum(p.numel() for p in GPT(size).parameters()) == pytest.approx(parameters, rel=0.05)


def test_the_largest_size_is_gpt2_small():
    with torch.device("meta"):
        model = GPT(GPTConfig(**{**vars(GPT_SIZES["124M"]), "tied": False}))
    head = model.head.weight.numel()
    assert sum(p.numel() for p in model.parameters()) - head == 124_439_808  # as published, with the head tied


def test_no_token_sees_later_ones():
    model, inputs = seeded(GPT, 0), torch.randint(256, (2, 32))
    changed = inputs.clone()
    changed[:, 20:] = 0
    before, after = model(inputs), model(changed)
    assert torch.equal(before[:, :20], after[:, :20])
    assert not torch.equal(before[:, 20:], after[:, 20:])


def test_key_bias_has_no_gradient_beyond_rounding():
    model, (inputs, targets) = seeded(GPT, 0).double(), PROBLEMS["gpt-windows"].data(4, 0).tensors
    PROBLEMS["gpt-windows"].loss(model(inputs), targets).backward()
    attention = model.blocks[0].attention
    assert attention.key.bias.grad.norm() < 1e-12 * attention.query.bias.grad.norm()


def test_options_of_the_transformer():
    model = GPT(GPTConfig(qkv_bias=False, tied=False, dropout=0.5))
    assert model.blocks[0].attention.key.bias is None
    assert model.head.weight is not model.tokens.weight
    inputs = torch.zeros(1, 4, dtype=torch.int64)
    assert not torch.equal(model(inputs), model(inputs))
    assert torch.equal(model.eval()(inputs), model(inputs))


@pytest.mark.parametrize(("norm", "alike"), [("group", True), ("batch", False)])
def test_batchnorm_couples_samples_and_groupnorm_does_not(norm, alike):
    model, images = seeded(lambda: models.cnn(norm), 0), torch.randn(4, 1, 8, 8)
    assert torch.allclose(model(images)[:1], model(images[:1]), atol=1e-5) is alike


def test_bad_models_are_refused():
    with pytest.raises(ValueError, match="no GPT size '7B': choose one of 10k, 100k, 1M, 10M, 124M"):
        GPT("7B")
    with pytest.raises(ValueError, match="heads must divide width, got heads=3 and width=16"):
        GPTConfig(heads=3)
    with pytest.raises(TypeError, match=r"model must be a function that returns a torch.nn.Module, got Linear\("):
        seeded(_NotCallable(), 0)
    with pytest.raises(TypeError, match=r"model must return a torch.nn.Module, got int"):
        seeded(lambda: 3, 0)


class _NotCallable:
    def __repr__(self):
        return "Linear(...)"
