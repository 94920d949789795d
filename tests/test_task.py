import pytest
import torch
from accumcheck.strategies import even_sizes, ragged_sizes
from accumcheck.task import Sizes, as_loader
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import TensorDataset


@pytest.mark.parametrize("name", ["samples", "micro_batch_size", "accumulation_steps", "epochs"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, "{} must be at least 1, got 0"),
        (-3, "{} must be at least 1, got -3"),
        (2.0, "{} must be a whole number, got 2.0"),
        (True, "{} must be a whole number, got True"),
    ],
)
def test_sizes_refuse_what_is_no_size(name, value, message):
    with pytest.raises(ValueError, match=f"^{message.format(name)}$"):
        Sizes(**{"samples": 1, name: value})


@given(ragged_sizes() | even_sizes())
def test_windows_hold_every_sample_once_an_epoch(sizes):
    lengths = sizes.window_lengths()
    assert sum(lengths) == sizes.samples * sizes.epochs
    assert max(lengths) <= sizes.effective_batch_size
    assert sizes.is_ragged == (min(lengths) < sizes.effective_batch_size)
    assert sizes.full_batch().window_lengths() == lengths
    assert len(lengths) == sizes.epochs * -(-sizes.micro_batches // sizes.accumulation_steps)


@given(st.integers(1, 9), st.integers(1, 4))
def test_loader_keeps_the_order_and_the_random_stream(samples, micro_batch_size):
    stream = torch.get_rng_state()
    loader = as_loader(TensorDataset(torch.arange(samples), torch.arange(samples)), micro_batch_size)
    for _ in range(2):
        assert torch.cat([inputs for inputs, _ in loader]).tolist() == list(range(samples))
    assert len(loader) == Sizes(samples, micro_batch_size).micro_batches
    assert torch.equal(stream, torch.get_rng_state())


def test_loader_takes_listed_micro_batches_and_leaves_the_random_stream():
    stream = torch.get_rng_state()
    loader = as_loader(TensorDataset(torch.arange(5), torch.arange(5)), 2, [[3, 0], [4]])
    assert [inputs.tolist() for inputs, _ in loader] == [[3, 0], [4]]
    assert len(loader) == 2
    assert torch.equal(stream, torch.get_rng_state())
