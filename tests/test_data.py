import builtins

import pytest
import torch
from accumcheck.corpus import data
from accumcheck.task import unmasked


@pytest.mark.parametrize("source", [data.diabetes, data.digits, data.text_windows, data.text_lines])
def test_samples_are_chosen_by_seed(source):
    first, again, other = source(20, 0).tensors, source(20, 0).tensors, source(20, 1).tensors
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert len(torch.unique(first[0], dim=0)) > 15


def test_windows_predict_the_next_byte():
    inputs, targets = data.text_windows(5, context=8).tensors
    assert torch.equal(inputs[:, 1:], targets[:, :-1])


def test_lines_mask_their_padding():
    inputs, targets = data.text_lines(200).tensors
    counts = [unmasked(row) for row in targets]
    assert len(set(counts)) > 5
    assert min(counts) >= 1
    for row, count in zip(range(200), counts, strict=True):
        assert torch.equal(inputs[row, 1:count], targets[row, : count - 1])
        assert (inputs[row, count:] == 0).all()
        assert (targets[row, count:] == -100).all()


@pytest.mark.parametrize("samples", [0, -1, 443])
def test_too_many_or_too_few_samples(samples):
    with pytest.raises(ValueError, match=f"diabetes has 442 samples, got samples={samples}: ask for 1 to 442"):
        data.diabetes(samples)


def test_missing_scikit_learn_says_what_to_do(monkeypatch):
    real = builtins.__import__

    def refuse(name, *rest, **keywords):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *rest, **keywords)

    monkeypatch.setattr(data.importlib, "import_module", refuse)
    with pytest.raises(ImportError, match=r"load_wine comes with scikit-learn, .* pip install scikit-learn"):
        data._sklearn_table("load_wine")
