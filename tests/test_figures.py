import pytest
from accumcheck import Sizes
from accumcheck.corpus.published import accumulate_samples, early_first_step
from accumcheck.corpus.wrong import clips_every_time, never_clears_biases
from accumcheck.explaining.evidence import Evidence, Pair
from accumcheck.figures import WRONG, draw
from accumcheck.probing.run import HIGH, LOW, probe


def readings(train, sizes):
    pairs = [Pair(*(probe(train, each, gain=gain) for each in (sizes, sizes.full_batch()))) for gain in (LOW, HIGH)]
    return Evidence(*pairs)


def outlined(axis):
    return [patch for patch in axis.patches if patch.get_edgecolor()[:3] == pytest.approx(rgb(WRONG), abs=0.01)]


def rgb(colour):
    return [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]


def test_wrong_cells_are_outlined_and_fractions_printed():
    probed = readings(early_first_step, Sizes(samples=7, accumulation_steps=4))
    ours, due = draw(probed, "a loop").axes
    wrong = sum(
        a != b
        for row, other in zip(probed.small.ours.matrix, probed.small.mean, strict=True)
        for a, b in zip(row, other, strict=True)
    )
    assert len(outlined(ours)) == wrong > 0
    assert not outlined(due)
    words = [text.get_text() for text in ours.texts]
    assert sum("→" in word for word in words) == wrong  # what a wrong weight should be
    assert {"0 → 1/4", "1/4 → 0", "1/4\n→ 1/3", "epoch 0", "epoch 1"} <= set(words)
    assert sum(bool(patch.get_hatch()) for patch in ours.patches) == 2  # samples 5 and 6, a step late
    figure = ours.figure
    assert f"a loop: {wrong} of 28 weights are wrong\n7 samples" in figure.get_suptitle()
    assert [text.get_text() for text in figure.legends[0].texts] == [
        "wrong weight → the weight it should be",
        "left over from the epoch before",
    ]
    assert {"1/4", "1/3", "epoch 0", "epoch 1"} <= {text.get_text() for text in due.texts}
    assert len(due.lines) == 2  # the end of an epoch and of a window


def test_a_right_loop_has_no_outlines_and_wide_matrices_no_fractions():
    probed = readings(accumulate_samples, Sizes(samples=20, micro_batch_size=2, accumulation_steps=4))
    ours, _ = draw(probed, "a loop").axes
    assert not outlined(ours)
    assert {text.get_text() for text in ours.texts} == {"epoch 0", "epoch 1"}


def test_nothing_is_hatched_where_an_update_has_all_or_its_own_samples():
    for train in (accumulate_samples, clips_every_time):
        ours, _ = draw(readings(train, Sizes(samples=7, accumulation_steps=4)), "a loop").axes
        assert not [patch for patch in ours.patches if patch.get_hatch()]
        assert len(ours.figure.legends[0].texts) == 1


def test_a_title_does_not_say_the_same_twice():
    probed = readings(early_first_step, Sizes(samples=7, accumulation_steps=4))
    told = [
        draw(probed, title).get_suptitle()
        for title in ("early_first_step: early-first-step", "train: early-first-step")
    ]
    assert told[0].startswith("early_first_step: 20 of 28")
    assert told[1].startswith("train: early-first-step: 20 of 28")


def test_updates_that_were_not_made_are_marked():
    def half(task):
        task.epochs = 1
        accumulate_samples(task)

    full = Sizes(samples=3, accumulation_steps=2)
    probed = readings(half, full)
    ours, _ = draw(probed, "a loop").axes
    assert [text.get_text() for text in ours.texts].count("no update") == 2


def test_what_goes_wrong_at_large_gradients_is_shown_there():
    probed = readings(clips_every_time, Sizes(samples=8, accumulation_steps=4))
    ours, due = draw(probed, "a loop", "own").axes
    assert outlined(ours)
    assert not outlined(due)


def test_the_parameters_that_are_wrong_are_shown():
    probed = readings(never_clears_biases, Sizes(samples=8, accumulation_steps=4))
    ours, _ = draw(probed, "a loop").axes
    assert outlined(ours)
