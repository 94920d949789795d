"""Jumpiness comes from the samples in a point: theory against measurement, and cases in which it must vanish."""

import math

import pytest
import torch
from accumcheck.corpus import data, models
from accumcheck.training.problem import Problem
from torch.utils.data import TensorDataset

import experiments.smoothness.log as training_log
from experiments.smoothness.log import jumpiness, train


def test_jumpiness_is_the_standard_deviation_of_noise_whatever_the_trend():
    noise = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    trend = torch.linspace(5, 0, len(noise))
    assert jumpiness(noise) == pytest.approx(1, rel=0.03)
    assert jumpiness(noise + trend) == pytest.approx(jumpiness(noise), rel=1e-3)
    assert jumpiness(trend) < 1e-3


def test_a_model_that_does_not_move_shows_noise_alone_which_falls_as_theory_says():
    runs = [train("mlp", 4, 8, 0.0, seed=seed, samples=1536).jumps() for seed in range(6)]
    measured = {}
    for rows in zip(*runs, strict=True):
        assert {row["curve"] for row in rows} == {0}
        measured[rows[0]["recording"]] = found = sum(row["jumpiness"] for row in rows)
        assert found == pytest.approx(sum(row["noise"] for row in rows), rel=0.2)
    assert measured["micro-batch"] / measured["window"] == pytest.approx(math.sqrt(8), rel=0.2)


def test_equal_samples_make_no_noise_so_only_the_updates_show(monkeypatch):
    def one_digit(samples, seed):
        inputs, targets = data.digits(1, seed).tensors
        return TensorDataset(inputs.repeat(samples, 1, 1, 1), targets.repeat(samples))

    monkeypatch.setitem(training_log.PROBLEMS, "one digit", Problem("one digit", models.mlp, one_digit))
    log = train("one digit", 4, 8, 0.01, seed=0, samples=512)
    micro, _, window = log.jumps()
    assert window["noise"] < 1e-5
    assert window["jumpiness"] == pytest.approx(window["curve"], rel=1e-3)
    assert micro["jumpiness"] == pytest.approx(micro["curve"], rel=0.05)  # 8 · 16 - 1 differences, not 8 · 15


def test_one_training_is_logged_as_jumpy_as_its_micro_batches_are_small():
    logs = {b: train("mlp", b, 32 // b, 0.1, seed=0, samples=1024) for b in (1, 4, 32)}
    jumps = {b: {row["recording"]: row["jumpiness"] for row in log.jumps()} for b, log in logs.items()}
    windows = [log.recordings()["window"] for log in logs.values()]
    for other in windows[1:]:
        torch.testing.assert_close(other, windows[0], rtol=1e-4, atol=1e-5)
    assert jumps[1]["micro-batch"] > 1.5 * jumps[4]["micro-batch"] > 2 * jumps[32]["micro-batch"]
    assert jumps[32]["micro-batch"] == jumps[32]["window"] == jumps[32]["last micro-batch"]


def test_rarer_updates_at_one_rate_smooth_the_curve_of_windows():
    once, often = (train("mlp", 4, k, 0.1, seed=0, samples=1024).jumps()[2] for k in (1, 8))
    assert often["jumpiness"] < once["jumpiness"] / 2


def test_a_rate_raised_past_stability_shakes_the_expected_loss_itself():
    calm, wild = (train("mlp", 4, 16, rate, seed=0, samples=1024).jumps()[2] for rate in (0.1, 1.6))
    assert wild["curve"] > 10 * calm["curve"]
    assert wild["jumpiness"] > 10 * calm["jumpiness"]
