"""The observer of ``accumcheck compare``: what it writes down, in this process and on literal tensors."""

import math

import pytest
import torch
from accumcheck.scripts.sketch import WIDTH, Names, Observer, _samples
from torch import nn


@pytest.fixture
def observer(tmp_path):
    return Observer({"folder": str(tmp_path), "pin": True, "keep_dropout": True, "updates": None, "neutral": 0})


@pytest.mark.parametrize("shape", [(), (3,), (64,), (65,), (40, 50), (1200, 1000)])
def test_a_sketch_has_the_norm_of_its_tensor(observer, shape):
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    sketch = observer._sketch("weight", tensor)
    assert sketch.shape == (WIDTH,)
    tolerance = 1e-9 if tensor.numel() <= WIDTH else 0.5
    assert float(sketch.norm()) == pytest.approx(float(tensor.double().norm()), rel=tolerance)


def test_a_factor_is_read_exactly(observer):
    tensor = torch.randn(300, 7)
    one, other = observer._sketch("weight", tensor), observer._sketch("weight", tensor * 0.75)
    assert torch.allclose(other, one * 0.75, rtol=1e-6, atol=1e-5)


def test_a_single_wrong_element_is_seen(observer):
    tensor = torch.zeros(5000)
    tensor[4321] = 1e-3
    assert float(observer._sketch("weight", tensor).norm()) == pytest.approx(1e-3)


def test_sketches_depend_on_name_and_shape_only(observer, tmp_path):
    tensor, draw = torch.randn(100), torch.get_rng_state()
    again = Observer(observer._request)
    again._sketch("other", torch.randn(3, generator=torch.Generator()))
    assert torch.equal(observer._sketch("weight", tensor), again._sketch("weight", tensor))
    assert not torch.equal(observer._sketch("weight", tensor), observer._sketch("bias", tensor))
    assert torch.equal(draw, torch.get_rng_state())


def test_sparse_and_complex_gradients_have_sketches(observer):
    sparse = torch.sparse_coo_tensor([[1, 5]], [2.0, 3.0], (9,))
    assert float(observer._sketch("a", sparse).norm()) == pytest.approx(math.sqrt(13))
    assert float(observer._sketch("b", torch.tensor([3 + 4j])).norm()) == pytest.approx(5)


def test_parameters_are_called_as_the_outermost_module_does():
    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    model = Wrapper(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)))
    alone = torch.zeros(2, requires_grad=True)
    names = Names()
    assert names.of([*model.parameters(), alone]) == ["0.weight", "0.bias", "1.weight", "1.bias", "tensor"]
    assert names.of([alone, *model.module[1].parameters()]) == ["tensor", "1.weight", "1.bias"]


def test_two_models_share_no_name():
    one, other = nn.Sequential(nn.Linear(2, 1)), nn.Sequential(nn.Linear(2, 1))
    assert Names().of([one[0].weight, other[0].weight]) == ["0.weight", "0.weight (2)"]


@pytest.mark.parametrize("batch", [(torch.eye(2), torch.zeros(2)), {"x": torch.eye(2)}, [[torch.eye(2)]]])
def test_samples_are_indices_where_there_are_any(batch):
    names, contents = _samples([7, 3], batch)
    assert names == ["7", "3"]
    assert contents[0].startswith("[2] ")
    assert contents[0] != contents[1]
    assert _samples([None, None], batch) == (contents, contents)


def test_contents_are_left_out_where_rows_are_no_samples():
    assert _samples([1, 2], torch.zeros(5)) == (["1", "2"], [])
    assert _samples(None, "text") == ([], [])
