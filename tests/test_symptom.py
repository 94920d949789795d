"""Right accumulation is the plain batch, wrong accumulation differs by what its rule says; intervals say no more."""

import pandas as pd
import pytest

from experiments import symptom
from experiments.symptom import loops
from experiments.symptom.intervals import DIFFERS, SAME, UNKNOWN, paired
from experiments.symptom.record import Record, geometric_mean

SIZES = {"seed": 0, "samples": 80, "epochs": 1, "pretrained": 0}
ENDS = ("first_loss", "first_norm", "logged_loss", "norm", "train_loss", "held_out_loss", "accuracy")


def end(rows):
    """How a training ends: its row, whose points come behind it."""
    assert [row["kind"] for row in rows].count("run") == 1
    return rows[0]


def fine_tuned(variant, setting="sgd_off", rate=0.03):
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    return symptom.measure("trainer", variant, setting, rate, **SIZES)


def tail(variant, rate=0.0, epochs=1):
    pytest.importorskip("transformers")
    return symptom.measure("tail", variant, "sgd_off", rate, **SIZES | {"samples": 48, "epochs": epochs})


def tokens(variant, rate=0.1, setting="sgd_off"):
    return end(symptom.measure("tokens", variant, setting, rate, **SIZES | {"samples": 32}))


@pytest.mark.parametrize("setting", ["sgd_off", "sgd_clipped"])
def test_with_the_remedy_trainer_accumulates_to_the_plain_batch(setting):
    plain, remedy = (end(fine_tuned(variant, setting)) for variant in ("k1", "remedy"))
    assert plain["updates"] == remedy["updates"] == 3
    for name in ENDS:
        assert remedy[name] == pytest.approx(plain[name], rel=1e-4), name


def test_as_it_is_the_first_gradient_and_loss_are_k_times_too_large():
    plain, wrong = (end(fine_tuned(variant)) for variant in ("k1", "as_it_is"))
    assert wrong["first_norm"] / plain["first_norm"] == pytest.approx(4, rel=1e-4)
    assert wrong["first_loss"] / plain["first_loss"] == pytest.approx(4, rel=1e-4)
    assert wrong["train_loss"] != pytest.approx(plain["train_loss"], rel=1e-4)


def test_clipping_at_1_hides_the_factor_from_all_but_the_log():
    plain, wrong = (end(fine_tuned(variant, "sgd_clipped")) for variant in ("k1", "as_it_is"))
    assert plain["above_1"] == 1  # every gradient is cut to the same length
    assert wrong["train_loss"] == pytest.approx(plain["train_loss"], rel=1e-4)
    assert wrong["first_norm"] > 3 * plain["first_norm"]


def test_a_tail_that_is_divided_by_k_has_its_share_of_the_gradient():
    right, wrong = (end(tail(variant)) for variant in ("right", "divided_by_k"))  # nothing moves at a rate of 0
    assert wrong["tail_norm"] / right["tail_norm"] == pytest.approx(2 / 4, rel=1e-4)
    assert wrong["first_norm"] == pytest.approx(right["first_norm"], rel=1e-6)


@pytest.mark.parametrize(("variant", "updates"), [("right", 4), ("divided_by_k", 4), ("early", 4), ("carried", 2)])
def test_loops_make_the_updates_that_their_schedule_expects(variant, updates, monkeypatch):
    rates = []
    build = loops.Task.build

    def watched(model, optimizer, *rest, **more):
        optimizer.register_step_pre_hook(lambda made, *_: rates.append(made.param_groups[0]["lr"]))
        return build(model, optimizer, *rest, **more)

    monkeypatch.setattr(loops.Task, "build", watched)
    row = end(tail(variant, rate=0.03, epochs=2))
    assert row["updates"] == updates
    assert rates == pytest.approx([0.03 * (1 - done / updates) for done in range(updates)])


def test_the_plain_batch_of_tokens_is_the_token_mean_and_not_the_mean_of_means():
    plain, right, wrong = (tokens(variant) for variant in ("k1", "token_mean", "mean_of_means"))
    assert plain["updates"] == right["updates"] == wrong["updates"] == 4
    for name in ENDS:
        assert right[name] == pytest.approx(plain[name], rel=1e-4), name
    assert wrong["first_norm"] != pytest.approx(plain["first_norm"], rel=1e-3)


def test_a_record_has_a_point_every_few_updates_and_the_norms_of_the_last_ones(monkeypatch):
    monkeypatch.setattr(Record, "evaluated", lambda _: dict.fromkeys(("train_loss", "held_out_loss", "accuracy"), 0.5))
    record = Record(None, None, None, every=2, epochs=2)
    for norm in (1.0, 4.0, 2.0, 8.0):
        record.update(loss=norm, norm=norm)
    whole, *points = record.rows()
    assert [(point["update"], point["logged_loss"], point["norm"]) for point in points] == [
        (2, 2.5, pytest.approx(2.0)),
        (4, 5.0, pytest.approx(4.0)),
    ]
    assert whole["tail_norm"] == pytest.approx(geometric_mean([4.0, 8.0]))
    assert (whole["first_norm"], whole["above_1"], whole["updates"]) == (1.0, 0.75, 4)


@pytest.mark.parametrize(
    ("gaps", "verdict"),
    [
        ([0.1, 0.2, 0.3], SAME),  # 0.2 ± 4.303 · 0.1 / √3
        ([0.2, 0.2, 0.3], DIFFERS),
        ([-0.2, -0.2, -0.3], DIFFERS),
        ([-0.1, 0.1, 0.0], SAME),
        ([0.0, 0.0, 0.0], SAME),
        ([2e-6, 2e-6, 3e-6], SAME),  # rounding
        ([0.2], UNKNOWN),
    ],
)
def test_what_has_an_interval_without_zero_differs(gaps, verdict):
    base = pd.Series([1.0, 5.0, 3.0][: len(gaps)])
    assert paired(base + pd.Series(gaps), base)["verdict"] == verdict


def test_intervals_are_those_of_students_t():
    base = pd.Series([1.0, 5.0, 3.0])
    found = paired(base + pd.Series([0.1, 0.2, 0.3]), base)
    half = 4.302653 * 0.1 / 3**0.5
    assert (found["mean"], found["low"], found["high"]) == pytest.approx((0.2, 0.2 - half, 0.2 + half))
    ratio = paired(base * pd.Series([2.0, 8.0, 4.0]), base, ratio=True)
    assert ratio["mean"] == pytest.approx(4.0)
    assert ratio["low"] * ratio["high"] == pytest.approx(16.0)


def test_a_training_that_is_lost_is_left_out_and_counted():
    base = pd.Series([1.0, 1.0, 1.0])
    found = paired(pd.Series([1.1, float("nan"), 1.2]), base)
    assert found["lost"] == 1
    assert found["mean"] == pytest.approx(0.15)


def test_the_best_rate_is_that_of_the_least_mean_loss_and_none_that_is_lost():
    tried = [
        {"part": part, "setting": setting, "rate": rate, "seed": seed, "held_out_loss": loss}
        for part, settings in symptom.RATES.items()
        for setting, rates in settings.items()
        for rate, losses in zip(rates, [(1.0, 3.0), (1.5, 1.6), (0.1, float("nan"))], strict=True)
        for seed, loss in enumerate(losses)
    ]
    found = symptom.chosen(pd.DataFrame(tried))
    assert found == {part: {s: rates[1] for s, rates in of.items()} for part, of in symptom.RATES.items()}


# Summaries of trainings that did not happen.

NOISE = (0.004, -0.006, 0.002, 0.005, -0.005)


def made_up(effect):
    """All trainings of five seeds: wrong ones have ``effect`` on every outcome, beside noise, and k times the norm."""
    rows = []
    for part, looks in {"trainer": symptom.VARIANTS, "tail": symptom.TAILS, "tokens": symptom.TOKENS}.items():
        for setting in symptom.SETTINGS if part == "trainer" else symptom.PLAIN:
            for variant in looks:
                wrong = variant not in (symptom.BASES[part], *symptom.CONTROLS)
                for seed, noise in enumerate(NOISE):
                    off = (effect + noise) * wrong
                    factor = 4.0 if variant == "as_it_is" else 1.0
                    row = {"kind": "run", "part": part, "setting": setting, "variant": variant, "seed": seed}
                    row |= {"rate": 0.1, "samples": 400, "epochs": 10, "updates": 130, "above_1": 1.0}
                    row |= dict.fromkeys(("first_loss", "first_norm", "logged_loss", "norm", "tail_norm"), factor)
                    row |= {
                        "train_loss": 0.1 + off,
                        "held_out_loss": 0.3 + off,
                        "accuracy": 0.9 - off,
                        "early_accuracy": 0.6 - off,
                    }
                    rows.append(row)
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("effect", "verdict"), [(0.05, DIFFERS), (0.0, SAME)])
def test_a_summary_says_what_differs_and_what_does_not(effect, verdict):
    pytest.importorskip("transformers")
    numbers = symptom.summarise(made_up(effect))
    for part, setting, variant in (
        ("trainer", "sgd_off", "as_it_is"),
        ("tail", "adamw_off", "early"),
        ("tokens", "sgd_off", "mean_of_means"),
    ):
        found = numbers[part][setting][variant]
        assert {found[name]["verdict"] for name in ("train_loss", "held_out_loss", "accuracy")} == {verdict}
        assert found["accuracy"]["mean"] == pytest.approx(-effect)
    assert numbers["trainer"]["adamw_off"]["as_it_is"]["norm_ratio"]["mean"] == pytest.approx(4)
    assert numbers["told"]["controls"]["differ"] == 0
    assert (numbers["told"]["all"]["all"], numbers["told"]["accuracy"]["all"]) == (36, 12)
    assert numbers["told"]["all"]["differ"] == (36 if verdict == DIFFERS else 0)
    assert numbers["largest_control"] == {"train_loss": 0, "accuracy": 0}
    assert len(numbers["finding"].split()) <= 35
