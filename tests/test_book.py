"""The book's classifier: accumulation changes nothing, and each thing that does change something is shown alone."""

from functools import partial

import pandas as pd
import pytest
import torch
from accumcheck.training.problem import seeded
from accumcheck.watching.process import RandomStream
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from experiments.book import compare, summarise
from experiments.book.classifier import LONGEST, Classifier, lines
from experiments.book.settings import ALONE, DROPOUT, NOT_PADDED, PADDED
from experiments.book.training import book_batches, order, train
from experiments.lab.writer import RESULTS

NOISE = 1e-13


def outputs(padding, inputs):
    model = seeded(partial(Classifier, padding), 0).double().eval()
    with torch.no_grad():
        return model(inputs)


def largest(rows):
    found = {}
    for row in rows:
        found[row["setting"]] = max(row["error"], found.get(row["setting"], 0.0))
    return found


def test_behind_a_causal_mask_padding_is_not_seen(monkeypatch):
    inputs, _ = lines(16).tensors
    assert len({int((line != 0).sum()) for line in inputs}) > 8
    torch.testing.assert_close(outputs("last real token", inputs), outputs("none", inputs))
    for padding in ("data set", "batch", "left", "one token", "one token, far off"):
        assert (outputs(padding, inputs) - outputs("none", inputs)).abs().max() > 0.01
    attention = F.scaled_dot_product_attention

    def without_mask(*qkv, dropout_p, is_causal):
        return attention(*qkv)

    monkeypatch.setattr(F, "scaled_dot_product_attention", without_mask)
    assert (outputs("last real token", inputs) - outputs("none", inputs)).abs().max() > 0.01


def test_a_line_that_needs_no_padding_is_read_alike():
    inputs, _ = lines(540).tensors
    longest = inputs[(inputs != 0).sum(dim=1) == LONGEST]
    assert len(longest)
    for padding in ("data set", "batch", "left", "last real token", "one token", "one token, far off"):
        torch.testing.assert_close(outputs(padding, longest), outputs("none", longest))


def test_chapters_are_equally_frequent_and_seeds_shuffle():
    targets = lines(540).tensors[1]
    assert 0.45 < targets.double().mean() < 0.55
    assert torch.equal(lines(10, 1).tensors[0], lines(20, 1).tensors[0][:10])
    assert not torch.equal(lines(10, 1).tensors[0], lines(10, 2).tensors[0])
    with pytest.raises(ValueError, match="got samples=10000"):
        lines(10_000)


def test_accumulation_is_the_large_batch_if_the_padding_is_the_same():
    from_padded = largest(compare(PADDED, 16, 0))
    assert from_padded.pop("1 × 8, padded") < NOISE
    assert min(from_padded.values()) > 0.05
    from_not_padded = largest(compare(NOT_PADDED, 16, 0))
    for same in ("1 × 8, not padded", "1 × 8, last real token read", "batch 8, last real token read"):
        assert from_not_padded.pop(same) < NOISE
    assert min(from_not_padded.values()) > 0.05


def test_dropout_differs_as_much_as_other_masks_and_not_at_all_line_by_line():
    errors = largest(compare(DROPOUT, 16, 0))
    accumulated, other = errors["1 × 8, padded, dropout"], errors["batch 8, padded, dropout, other masks"]
    assert 0.5 < accumulated / other < 2
    assert largest(compare(ALONE, 16, 0))["1 × 8, padded, dropout"] < NOISE


def test_the_script_shuffles_otherwise_from_its_second_epoch_on():
    first, *later = order(0)
    assert (first["steps"], first["steps_accumulated"], first["tail"]) == (130, 131, 5)
    assert first["same_windows"] == 130
    assert max(row["same_windows"] for row in later) < 5


@pytest.mark.parametrize("evaluate", [False, True])
def test_it_is_the_evaluation_that_does_it(evaluate):
    drawn = []
    for batch in (1, 8):
        with RandomStream(0).active():
            loader = DataLoader(TensorDataset(torch.arange(80)), batch, shuffle=True)
            drawn.append([i for _, (samples,) in book_batches(loader, 2, evaluate) for i in samples.tolist()])
    assert drawn[0][:80] == drawn[1][:80]
    assert (drawn[0] == drawn[1]) is not evaluate


def test_whole_trainings_agree_or_differ():
    padded, accumulated, not_padded = (
        train(setting, 0, 1, 24)[0] for setting in (PADDED, "1 × 8, padded", "1 × 8, not padded")
    )
    assert padded["predictions"] == accumulated["predictions"]
    assert padded["loss"] == pytest.approx(accumulated["loss"], rel=1e-9)
    assert padded["loss"] != pytest.approx(not_padded["loss"], rel=1e-3)


def test_the_verdict_hangs_on_the_numbers():
    parts = {"gradient": "book", "accuracy": "book_accuracy", "order": "book_order"}
    frames = [pd.read_csv(RESULTS / f"data/{name}.csv").assign(part=part) for part, name in parts.items()]
    frame = pd.concat(frames, ignore_index=True)
    assert summarise(frame)["verdict"] == "true under conditions"
    assert summarise(frame.assign(error=0.0))["verdict"] == "true"
    assert summarise(frame.assign(error=0.1))["verdict"] == "false"
