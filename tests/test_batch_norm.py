"""BatchNorm under accumulation: theory and measurement agree, and without batch statistics nothing shows."""

import pandas as pd
import pytest
import torch
from accumcheck.corpus.data import digits
from accumcheck.training.tolerance import SAFETY
from torch import nn

from experiments.batch_norm import measure, summarise
from experiments.batch_norm.norms import BATCH_NORMS, MOMENTUM, NORMS, N, accumulate, build, momentum, predicted_bias
from experiments.lab.writer import RESULTS

PLAIN, RESCALED, SCHEDULED = BATCH_NORMS
K = 4


@pytest.fixture(scope="module")
def batch():
    return digits(N).tensors


def weights(norm, k):
    """What the running mean keeps of its past, and of each micro-batch's mean, unrolled from the momenta."""
    kept = [1.0] + [0.0] * k
    for j in range(1, k + 1):
        now = momentum(norm, j, k)
        kept = [(1 - now) * weight for weight in kept]
        kept[j] = now
    return kept


def test_momentum_by_policy():
    past, *parts = weights(PLAIN, K)
    assert past == pytest.approx((1 - MOMENTUM) ** K)
    past, *parts = weights(RESCALED, K)
    assert past == pytest.approx(1 - MOMENTUM)
    assert sum(parts) == pytest.approx(MOMENTUM)
    assert parts == sorted(parts)
    assert parts[-1] > 1.05 * parts[0]
    assert weights(SCHEDULED, K) == pytest.approx([1 - MOMENTUM] + [MOMENTUM / K] * K)
    assert [momentum(norm, 1, 1) for norm in BATCH_NORMS] == pytest.approx([MOMENTUM] * 3)


@pytest.mark.parametrize("norm", BATCH_NORMS)
def test_running_statistics_are_what_the_weights_say(norm, batch):
    model = build(norm, 0, batch[0])
    found = accumulate(model, batch, K, norm)
    values = model[0](batch[0]).detach().chunk(K)
    past, *parts = weights(norm, K)
    for name, before, statistics in (
        ("mean, layer 1", model[1].running_mean, [part.mean(dim=(0, 2, 3)) for part in values]),
        ("variance, layer 1", model[1].running_var, [part.var(dim=(0, 2, 3)) for part in values]),
    ):
        theory = past * before + sum(weight * value for weight, value in zip(parts, statistics, strict=True))
        torch.testing.assert_close(found[name], theory)


def test_what_the_variance_lacks_is_how_the_means_of_micro_batches_differ(batch):
    """(M−1)·s² = Σⱼ (Mⱼ−1)·s²ⱼ + Σⱼ Mⱼ·(μⱼ−μ)², and the running variance is a mean of the s²ⱼ."""
    model = build(SCHEDULED, 0, batch[0])
    full, found = (accumulate(model, batch, k, SCHEDULED)["variance, layer 1"] for k in (1, K))
    values = model[0](batch[0]).detach()
    size = values[:, 0].numel()
    means = torch.stack([part.mean(dim=(0, 2, 3)) for part in values.chunk(K)])
    between = size / K * ((means - values.mean(dim=(0, 2, 3))) ** 2).sum(dim=0)
    whole = values.var(dim=(0, 2, 3))
    within = ((size - 1) * whole - between) / (size - K)
    torch.testing.assert_close(found - full, MOMENTUM * (within - whole), rtol=1e-9, atol=1e-15)
    assert (found - full).norm() > 1e-6 * full.norm()


def test_predicted_bias_is_the_mean_over_random_splits(batch):
    inputs = batch[0]
    model = build(PLAIN, 0, inputs)
    values = model[0](inputs).detach()
    whole = values.var(dim=(0, 2, 3)).sum()
    generator = torch.Generator().manual_seed(0)
    splits = [values[torch.randperm(N, generator=generator)].chunk(16) for _ in range(200)]
    found = torch.stack([torch.stack([p.var(dim=(0, 2, 3)).sum() for p in split]).mean() for split in splits])
    bias, error = (found / whole - 1).mean().item(), (found / whole).std().item() / len(splits) ** 0.5
    assert abs(bias - predicted_bias(model, inputs, 16)) < 4 * error
    assert abs(bias) > 4 * error
    alike = inputs.mean(dim=(2, 3), keepdim=True).expand_as(inputs)  # images that differ in their means alone
    assert predicted_bias(model, alike, 16) < -0.01 < 0 < predicted_bias(model, inputs, 16)


def test_only_norms_with_batch_statistics_differ():
    errors = {}
    for norm in NORMS:
        for row in measure(norm, 0, 1, "cpu"):
            errors[norm, row["k"], row["quantity"]] = row["error"]
            if norm not in BATCH_NORMS:
                assert row["error"] <= SAFETY * max(row["noise"], torch.finfo(torch.float64).eps)
    for k in (2, 16):
        assert errors[PLAIN, k, "gradient"] > 0.01
        assert errors[PLAIN, k, "gradient"] == errors[RESCALED, k, "gradient"] == errors[SCHEDULED, k, "gradient"]
        means = [errors[norm, k, "mean, layer 1"] for norm in BATCH_NORMS]
        assert means[0] > 10 * means[1] > 1e6 * means[2]
        assert errors[SCHEDULED, k, "variance, layer 1"] > 1e-7
        assert errors[SCHEDULED, k, "mean, layer 2"] > 1e-7
    assert errors[PLAIN, 16, "gradient"] > errors[PLAIN, 2, "gradient"]


def test_a_frozen_norm_that_thaws_is_seen(batch):
    """The null case can fail: in training mode it is plain BatchNorm again."""
    model = build("frozen BatchNorm", 0, batch[0])
    model[1].train()
    full, found = (accumulate(model, batch, k, "frozen BatchNorm")["gradient"] for k in (1, K))
    assert (found - full).norm() > 0.01 * full.norm()
    assert isinstance(model[4], nn.BatchNorm2d)
    assert not model[4].training


def test_the_verdict_hangs_on_the_numbers():
    frame = pd.read_csv(RESULTS / "data/batch_norm.csv")
    assert summarise(frame)["verdict"] == "true"
    plain = frame["norm"].isin(BATCH_NORMS)
    assert summarise(frame.assign(error=frame["error"].where(~plain, 0.0)))["verdict"] == "false"
    assert summarise(frame.assign(error=frame["error"].where(plain, 0.1)))["verdict"] == "false"
