"""What training loops hold, in bytes: counters that count, loops that differ in memory alone, theory to the byte."""

import pytest
import torch
from accumcheck.check import check_equivalence
from accumcheck.checks.saved import SavedBytes
from accumcheck.corpus.models import GPT_SIZES

from experiments import memory
from experiments.memory import held
from experiments.memory.bytes import Ledger
from experiments.memory.held import CONTEXT, count, saved_by_gpt
from experiments.memory.loops import LOOPS

LOGITS = CONTEXT["10k"] * GPT_SIZES["10k"].vocabulary * 4  # bytes of one sample's outputs


def counted(loop, n, b, size="10k"):
    [row] = count(size, loop, n, b)
    return row


def test_ledger_counts_each_storage_once_and_forgets_it():
    with Ledger() as ledger:
        given = torch.ones(4)
        views = [given[:2], given.view(2, 2)]
        assert ledger.live == 16
        indices = torch.arange(1000)
        assert ledger.live == 16
        product = given * 2
        del given, views, product, indices
        assert (ledger.live, ledger.peak) == (0, 32)


def test_saved_bytes_are_freed_by_the_backward_pass_only():
    weight = torch.ones(3, requires_grad=True)
    saved = SavedBytes([weight])
    with saved.counting():
        first = (weight * torch.ones(3)).exp().sum()  # saves the ones and what exp returned
        first.backward()
        second = (weight * torch.ones(3)).exp().sum()
        assert saved.peak == {"activations": 24}
        third = (weight * torch.ones(3)).exp().sum()
        assert saved.peak == {"activations": 48}
    del first, second, third


@pytest.mark.parametrize("size", ["10k", "100k"])
@pytest.mark.parametrize("b", [1, 2, 4])
def test_saved_activations_are_those_of_theory_to_the_byte_whatever_k_is(size, b):
    for n in (b, 4):
        row = counted("correct", n, b, size)
        assert (
            row["saved_activations"] == row["predicted_activations"] == saved_by_gpt(GPT_SIZES[size], b, CONTEXT[size])
        )


def test_theory_is_proportional_to_samples_but_for_one_number():
    one, four = (saved_by_gpt(GPT_SIZES["1M"], samples, 64) for samples in (1, 4))
    assert four - 4 == 4 * (one - 4)


def test_one_backward_saves_as_much_as_the_full_batch():
    accumulated, full = counted("one_backward", 4, 1), counted("correct", 4, 4)
    assert accumulated["saved_activations"] == pytest.approx(full["saved_activations"], rel=1e-3)
    assert accumulated["saved_activations"] > 3.9 * accumulated["predicted_activations"]
    assert counted("one_backward", 8, 1)["saved_activations"] > 1.9 * accumulated["saved_activations"]


def test_a_total_of_losses_holds_no_activations_after_their_backward_pass():
    """The graph's nodes stay, which no tensor shows; what they saved is freed."""
    few, many = counted("total_of_losses", 2, 1), counted("total_of_losses", 8, 1)
    assert few["saved_activations"] == many["saved_activations"] == few["predicted_activations"]
    assert few["carried_bytes"] == many["carried_bytes"] == counted("correct", 8, 1)["carried_bytes"] + 4


def test_outputs_cost_what_they_hold():
    correct = counted("correct", 4, 1)
    named, kept = counted("named_outputs", 4, 1), counted("outputs_kept", 4, 1)
    assert named["carried_bytes"] - correct["carried_bytes"] == LOGITS
    assert kept["carried_bytes"] == 3 * LOGITS
    assert kept["peak_bytes"] > named["peak_bytes"] > correct["peak_bytes"]


def test_gradient_buffers_are_one_copy_of_the_parameters():
    row, zeroed = counted("correct", 4, 2), counted("buffers_kept", 4, 2)
    assert (row["gradients_first"], row["gradients_later"]) == (0, row["parameter_bytes"])
    assert zeroed["gradients_first"] == zeroed["gradients_later"] == row["parameter_bytes"]
    full, zeroed = counted("correct", 4, 4), counted("buffers_kept", 4, 4)
    assert zeroed["peak_bytes"] - full["peak_bytes"] == row["parameter_bytes"]


def test_accumulation_of_two_costs_more_than_it_saves_where_parameters_outweigh_a_sample():
    """1 M parameters take 4.1 MB, one sample's activations 2.8; 100 k take 0.4 and 0.7."""
    accumulated, full = counted("correct", 2, 1, "1M"), counted("correct", 2, 2, "1M")
    assert accumulated["peak_bytes"] > full["peak_bytes"]
    assert counted("correct", 2, 1, "100k")["peak_bytes"] < counted("correct", 2, 2, "100k")["peak_bytes"]


@pytest.mark.parametrize("loop", LOOPS)
def test_loops_differ_in_memory_alone(loop):
    assert check_equivalence(LOOPS[loop])


def test_the_resident_set_is_measured_for_one_process():
    [row] = held.time_and_peak("10k", "correct", 4, 2, 1, 0)
    assert row["k"] == 2
    assert row["resident_megabytes"] >= 0
    assert row["seconds_per_sample"] > 0
    assert set(memory.TIMED) == set(row)
