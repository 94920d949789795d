"""Accumulation in several dtypes: what buffers lose is what theory says, and nothing where nothing can be lost."""

import dataclasses

import pytest
import torch

from experiments.precision import arms
from experiments.precision.arms import ARMS, Arm, build, measure, reference, spacing


def measured(arm, n, b, weight=0):
    [row] = measure(arm, n, b, weight, "10k")
    return row


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_spacing_is_the_distance_to_the_next_number(dtype):
    numbers = torch.tensor([1.0, 1.5, -3.0, 1e-3, 700.0], dtype=dtype)
    bits = torch.int16 if dtype == torch.bfloat16 else torch.int32
    following = (numbers.view(bits) + 1).view(dtype)
    assert torch.equal(spacing(numbers), (following.double() - numbers.double()).abs())
    assert float(spacing(torch.zeros(1, dtype=dtype))) == 0


def test_all_arms_start_from_the_same_numbers():
    states = [build("10k", dtype).state_dict() for dtype in (torch.float64, torch.float32, torch.bfloat16)]
    assert all(torch.equal(states[0][name], s[name].double()) for s in states for name in states[0])


def test_float64_is_exact(monkeypatch):
    monkeypatch.setitem(ARMS, "float64", Arm(torch.float64))
    assert measured("float64", 16, 1)["error"] < 1e-14
    assert measured("float64", 16, 16)["error"] == 0


@pytest.mark.parametrize("k", [4, 16])
@pytest.mark.parametrize("arm", ["bfloat16", "float32"])
def test_rounding_of_buffers_is_what_theory_says(arm, k):
    row = measured(arm, k, 1)
    assert row["buffer_error"] == pytest.approx(row["predicted_buffer_error"], rel=0.2)


def test_bfloat16_buffers_lose_with_k_and_float32_buffers_do_not():
    narrow = [measured("bfloat16", k, 1) for k in (1, 8, 64)]
    wide = [measured("bfloat16, float32 buffer", k, 1) for k in (1, 8, 64)]
    assert narrow[0]["buffer_error"] == 0
    assert narrow[1]["buffer_error"] * 2 < narrow[2]["buffer_error"]
    assert narrow[2]["error"] > 1.5 * narrow[0]["error"]
    assert wide[0]["error"] > wide[1]["error"] > wide[2]["error"]
    assert all(row["buffer_error"] < 1e-6 for row in wide)
    assert narrow[2]["lost_additions"] > narrow[1]["lost_additions"] > 0 == wide[2]["lost_additions"]


def test_both_buffers_get_the_same_gradients():
    narrow, wide = measured("bfloat16", 8, 1), measured("bfloat16, float32 buffer", 8, 1)
    assert narrow["kernel_error"] == wide["kernel_error"]


@pytest.mark.parametrize("arm", ["float32", "bfloat16"])
def test_to_divide_once_changes_nothing_if_k_is_a_power_of_two(arm):
    each, once = (measured(name, 8, 1) for name in (arm, f"{arm}, divided once"))
    assert each["error"] == once["error"]
    each, once = (measured(name, 3, 1) for name in (arm, f"{arm}, divided once"))
    assert each["error"] != once["error"]
    assert each["error"] == pytest.approx(once["error"], rel=0.1)


def test_float16_underflows_unless_the_loss_is_scaled():
    plain, once, scaled = (
        measured(f"autocast float16{how}", 16, 1, -8) for how in ("", ", divided once", ", loss scaled")
    )
    assert plain["error"] > 10 * once["error"] > 10 * scaled["error"]
    assert plain["zeros"] > 100 * once["zeros"] >= scaled["zeros"] == 0
    assert scaled["error"] == pytest.approx(measured("autocast float16, loss scaled", 16, 1)["error"], rel=0.1)
    assert measured("autocast bfloat16", 16, 1, -8)["error"] == measured("autocast bfloat16", 16, 1)["error"]


def test_kernels_sum_in_bfloat16_too():
    """So a larger micro-batch errs more, before anything is accumulated: LayerNorm's sums over tokens are the worst."""
    small, large = measured("bfloat16", 4, 4), measured("bfloat16", 64, 64)
    assert large["kernel_error"] > 2 * small["kernel_error"]
    assert "norm" in large["worst_tensor"]


def test_a_wrong_gradient_shows(monkeypatch):
    monkeypatch.setitem(ARMS, "float32", dataclasses.replace(ARMS["float32"], divided_once=True))
    row = measured("float32", 4, 1)
    assert row["error"] < 1e-6
    monkeypatch.setattr(arms, "reference", lambda size, n: 4 * reference(size, n))
    assert measured("float32", 4, 1)["error"] == pytest.approx(0.75, abs=1e-6)
