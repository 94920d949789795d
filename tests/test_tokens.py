"""Micro-batches of unequal token counts: masks, weights and the theory of their error."""

import pytest
import torch
from accumcheck.corpus.data import text_lines
from accumcheck.corpus.models import GPT
from accumcheck.corpus.published import accumulate_tokens
from accumcheck.task import IGNORE_INDEX
from accumcheck.training.problem import seeded
from torch.utils.data import TensorDataset

from experiments import tokens
from experiments.tokens.windows import gradients_of


@pytest.fixture(scope="module")
def tokens_case():
    lines = text_lines(400, 0)
    whole = (lines.tensors[1] != IGNORE_INDEX).all(dim=1)
    lines = TensorDataset(*(tensor[whole][: 3 * tokens.STEPS * tokens.BATCH] for tensor in lines.tensors))
    return seeded(GPT, 0).double(), lines


@pytest.mark.parametrize("masking", ["random", "line ends"])
def test_masks_spread_the_counts_and_keep_the_total(tokens_case, masking):
    _, lines = tokens_case
    for spread in tokens.SPREADS:
        counts = tokens.token_counts(tokens.masked(lines, spread, masking, 0), tokens.BATCH)
        assert counts.sum(dim=1).tolist() == [512] * 3
        assert (counts.std(dim=1, correction=0) / counts.mean(dim=1)).tolist() == pytest.approx([spread] * 3)


def test_the_error_of_mean_of_means_is_that_of_its_weights(tokens_case, monkeypatch):
    model, lines = tokens_case
    dataset = tokens.masked(lines, 0.5, "random", 0)
    gradients, counts = gradients_of(model, dataset), tokens.token_counts(dataset, tokens.BATCH)
    due = counts / counts.sum(dim=1, keepdim=True)
    difference, reference = (torch.einsum("wk,wkp->wp", w, gradients).norm() for w in (1 / tokens.STEPS - due, due))
    found = tokens.compared(model, dataset, tokens.BATCH, *tokens.moments(model, tokens.masked(lines, 0, "random", 0)))
    assert found["error"] == pytest.approx(float(difference / reference), rel=1e-6)
    assert found["excess"] == pytest.approx(0.5**2 / (1 - 0.5**2))
    assert 0.7 < found["error"] / found["theory"] < 1.4
    equal = tokens.compared(model, tokens.masked(lines, 0, "random", 0), tokens.BATCH, 1.0, 1.0)
    assert equal["error"] < 1e-12
    assert equal["theory"] == 0
    monkeypatch.setattr(tokens, "accumulate_samples", accumulate_tokens)
    assert tokens.compared(model, dataset, tokens.BATCH, 1.0, 1.0)["error"] == 0


def test_the_theory_of_token_counts_holds_for_noise_that_meets_its_assumption():
    generator = torch.Generator().manual_seed(0)
    counts = torch.tensor([3.0, 5.0, 20.0, 4.0])
    signal = torch.ones(50)
    noise = torch.randn(4000, 4, 50, generator=generator) / counts.sqrt()[:, None]  # S = 50
    due = counts / counts.sum()
    difference, mean = (
        torch.einsum("k,wkp->wp", w, signal + noise).square().sum(dim=1).mean() for w in (1 / 4 - due, due)
    )
    excess = counts.mean() * (1 / counts).mean() - 1
    assert float(difference) == pytest.approx(float(50 / counts.sum() * excess), rel=0.02)
    assert float(mean) == pytest.approx(float(50 + 50 / counts.sum()), rel=0.02)
