import math

import pytest
import torch
from accumcheck.training.differences import Difference, Packed
from hypothesis import given
from hypothesis import strategies as st

shapes = st.lists(st.sampled_from([(), (1,), (3, 5), (4096,), (4097,), (70, 70)]), max_size=5)
dtypes = st.sampled_from([torch.float64, torch.float32, torch.bfloat16])


@given(shapes, dtypes, st.integers(0, 99))
def test_norms_are_those_of_each_tensor_alone(shapes, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    ours, theirs = (
        {str(i): torch.randn(shape, generator=generator).to(dtype) for i, shape in enumerate(shapes)} for _ in range(2)
    )
    packed = Packed(ours)
    norms = dict(zip(packed.names, packed.norms(), strict=True))
    distances = dict(zip(packed.names, Packed(theirs, like=packed).norms(packed), strict=True))
    assert set(norms) == set(ours)
    for name, tensor in ours.items():
        assert norms[name] == pytest.approx(tensor.double().norm().item(), rel=1e-5)
        assert distances[name] == pytest.approx((theirs[name].double() - tensor.double()).norm().item(), rel=1e-2)


def test_what_only_one_side_has():
    ours = Packed({"a": torch.ones(4), "b": torch.full((5000,), 2.0)})
    theirs = Packed({"b": torch.zeros(5000), "c": torch.ones(9)}, like=ours)
    assert theirs.names == ours.names == ["a", "b"]
    assert theirs.norms(ours) == pytest.approx([2, 2 * math.sqrt(5000)])


def test_dtypes_may_be_mixed():
    tensors = [torch.ones(5000, dtype=d) for d in (torch.float32, torch.float64, torch.bfloat16, torch.int64)]
    packed = Packed({str(i): tensor for i, tensor in enumerate([*tensors, torch.ones(4, dtype=torch.int64)])})
    assert packed.norms() == pytest.approx([2.0] + [math.sqrt(5000)] * 4)


def test_numbers_too_small_to_square_in_float32():
    tiny = Packed({"bias": torch.full((4,), 1e-30)})
    assert tiny.norms() == pytest.approx([2e-30])


@given(st.floats(-3, 3), st.floats(0, 2))
def test_ratio_is_the_projection(along, across):
    reference, candidate = (2.0, 0.0), (2 * along, across)
    difference = Difference(2.0, math.dist(reference, candidate), 2.0, math.hypot(*candidate))
    assert difference.ratio == pytest.approx(along, abs=1e-9)


def test_error_of_a_zero_reference():
    assert Difference(0.0, 0.0, 1.0).error == 0
    assert Difference(0.0, 1e-9, 1.0).error == math.inf
    assert math.isnan(Difference(0.0, 1e-9, 1.0).ratio)
