"""Trainer's gradients on real architectures: mutants show that each column can tell right from wrong."""

import os
import sys

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from experiments.architectures.models import build, examples
from experiments.architectures.trainer import BATCH, STEPS, TAIL, WINDOWS, N, compare, direct, gradients

CAUSAL, CLASSIFIER = "causal language model", "sequence classifier"


def mutant(model, edit):
    """The model with a forward that edits the count it is handed, or drops it for None."""
    parent = type(model)

    def forward(self, input_ids=None, attention_mask=None, labels=None, num_items_in_batch=None, **kwargs):
        if num_items_in_batch is not None and (count := edit(num_items_in_batch)) is not None:
            kwargs["num_items_in_batch"] = count
        return parent.forward(self, input_ids, attention_mask=attention_mask, labels=labels, **kwargs)

    model.__class__ = type("Mutant", (parent,), {"forward": forward, "accepts_loss_kwargs": True})
    return model


def by_window(model, head):
    return {row["window"]: row for row in compare(model, head)}


def test_gpt2_accumulates_to_its_full_batch():
    for row in compare(build("gpt2", CAUSAL), CAUSAL):
        assert row["error"] < 1e-5
        assert (row["ratio"], row["cosine"]) == pytest.approx((1, 1))
        assert (row["class"], row["accepts_count"], row["uses_count"]) == ("GPT2LMHeadModel", True, True)
        assert row["fraction"] == "1"


def test_a_model_that_ignores_the_count_is_not_divided_at_all():
    found = by_window(mutant(build("esm", CLASSIFIER), lambda count: None), CLASSIFIER)
    assert (found["full"]["fraction"], found["tail"]["fraction"]) == (str(STEPS), str(TAIL))
    assert (found["full"]["accepts_count"], found["full"]["uses_count"]) == (True, False)
    assert found["full"]["error"] == pytest.approx(STEPS - 1)
    assert all(row["full_error"] < 1e-5 for row in found.values())
    tokens = by_window(mutant(build("gpt2", CAUSAL), lambda count: None), CAUSAL)
    assert tokens["full"]["ratio"] == pytest.approx(STEPS, rel=0.05)
    assert tokens["full"]["fraction"] == ""


def test_a_model_that_trainer_divides_is_right_while_micro_batches_are_equal():
    found = by_window(build("esm", CLASSIFIER), CLASSIFIER)
    assert found["full"]["error"] < 1e-5
    assert found["tail"]["error"] < 1e-5
    assert found["tail, last micro-batch short"]["error"] > 0.05
    assert not found["full"]["accepts_count"]


def test_an_error_that_both_runs_share_is_seen_against_the_models_own_loss():
    model = mutant(build("llama", CAUSAL), lambda count: count + N)
    found = by_window(model, CAUSAL)["full"]
    assert found["error"] < 1e-5
    tokens = sum(int((row["labels"][1:] >= 0).sum()) for row in examples(CAUSAL, N))
    assert found["full_ratio"] == pytest.approx(tokens / (tokens + N))
    assert by_window(build("llama", CAUSAL), CAUSAL)["full"]["full_error"] < 1e-5


def test_windows_are_what_their_names_say():
    samples, step = WINDOWS["tail, last micro-batch short"]
    assert samples == step * N + BATCH * TAIL - 1
    data = examples(CAUSAL, samples)
    assert len({int(row["attention_mask"].sum()) for row in data}) > 3
    steps, _ = gradients(build("gpt2", CAUSAL), data, BATCH, STEPS)
    assert len(steps) == 2


def test_nothing_moves_and_nothing_is_left_behind(capsys):
    model = build("gpt2", CAUSAL)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state, environment, threads = torch.get_rng_state(), dict(os.environ), torch.get_num_threads()
    shared = dict(sys.modules["accelerate.state"].PartialState._shared_state)
    gradients(model, examples(CAUSAL, N), BATCH, STEPS)
    direct(model, examples(CAUSAL, N), accepts_count=True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert (dict(os.environ), torch.get_num_threads()) == (environment, threads)
    assert sys.modules["accelerate.state"].PartialState._shared_state == shared
    assert capsys.readouterr().out == ""


def test_a_family_without_such_a_head_has_no_model():
    assert build("llama", "masked language model") is None


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ImportError, match=r"architectures needs accelerate, .*: pip install 'accumcheck\[frameworks"):
        build("gpt2", CAUSAL)
