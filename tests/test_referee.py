"""``compare`` judges ``run``: whole scripts beside their own full batches give both the same verdict.

``run`` reads weights off the loss, in one run; ``compare`` knows no loss, and looks at the gradients of two runs. Each
script runs as it is, and once more with batches as large as its windows: other arguments, or other numbers in its text.
"""

import shlex

import pytest
import torch
from accumcheck.scripts.compare import Trace, _judge
from accumcheck.scripts.execute import start
from accumcheck.scripts.sketch import Observer

from tests.forks import SCRIPTS, in_fork, of_set

# The script, the arguments of its full batch, and the edits that make one of it.
RIGHT = [
    ("fresh", "digits_mlp.py --grad-accum 4", "--batch-size 64", {}),  # sample means, a tail, a short micro-batch
    ("fresh", "huber_regression.py", "--k 1", {"batch_size=10": "batch_size=40"}),
    ("fresh", "label_smoothing.py", "--accum 1", {"batch_size=8": "batch_size=32"}),  # convolutions, Nesterov
    ("fresh", "multilabel_pos_weight.py", "", {"micro_batch=7, steps=3": "micro_batch=21, steps=1"}),  # RMSprop
    ("fresh", "two_heads.py", "", {"ACCUMULATE = 4": "ACCUMULATE = 1", "batch_size=6": "batch_size=24"}),
    ("fresh", "drop_last.py", "", {"batch_size=8": "batch_size=32", "/ 4\n": "/ 1\n", "(i + 1) % 4": "(i + 1) % 1"}),
    ("fresh", "closure.py", "", {"batch_size=6": "batch_size=24", "islice(batches, 4)": "islice(batches, 1)"}),
    ("fresh", "slices.py", "", {"107, 5, 4": "107, 20, 1"}),  # no loader, no module
    ("fresh", "vae.py", "--accum 1", {"batch_size=8": "batch_size=32"}),  # sums, also in the full batch
    ("fresh", "lm_padded.py --sequences 46", "--sequences 46 --ga 1", {"batch_size=3": "batch_size=12"}),  # attention
    ("fresh", "lm_token_sum.py", "--accumulation-steps 1", {"batch_size=4": "batch_size=12"}),  # tokens, a GRU
    ("known", "tok_right.py", "", {"batch_size=2": "batch_size=8", "accumulation_steps = 4": "accumulation_steps = 1"}),
    ("fresh", "masked.py", "--accumulation 1", {"batch_size=7": "batch_size=21"}),  # sums over what is hidden
    ("fresh", "class_weights.py", "", {"batch_size=6": "batch_size=24", "k = 4": "k = 1"}),
    ("fresh", "lasso.py", "", {"batch_size=8": "batch_size=32", "k = 4": "k = 1", "= 8 * k": "= 32 * k"}),  # a penalty
    ("fresh", "fused_adamw.py", "", {"ACCUM = 8, 4": "ACCUM = 32, 1"}),  # a sum, clipped once, a tail
    ("fresh", "ema_onecycle.py", "", {"batch_size=5": "batch_size=30", "k, epochs = 6, 3": "k, epochs = 1, 3"}),
    ("known", "divides_grads.py", "", {"accum_steps=4": "accum_steps=1", "batch_size=3": "batch_size=12"}),
    ("known", "correct_islice.py", "1", {"MICRO = 3": "MICRO = 12"}),  # dropout
    ("fresh", "optimizer_per_parameter.py", "", {"batch_size=7": "batch_size=21", "update = 3": "update = 1"}),
    ("fresh", "infinite.py", "--accum 1 --max-steps 6", {"batch_size=6": "batch_size=24"}),
    ("fresh", "nanogpt_like.py", "", {"accumulation_steps = 4": "accumulation_steps = 1", "size = 4": "size = 16"}),
    ("known", "one_backward.py", "", {"accumulation = 4": "accumulation = 1", "batch_size=6": "batch_size=24"}),
]
WRONG = [
    ("known", "early_gate.py", "", {"steps = 8": "steps = 1", "batch_size=1,": "batch_size=8,"}),
    ("fresh", "gates.py flush", "flush --k 1", {"batch_size=8": "batch_size=32"}),  # the tail
    ("fresh", "gates.py plain --clear-at-epoch", "plain --k 1", {"batch_size=8": "batch_size=32"}),
    ("fresh", "gates.py tail-each", "plain --k 1", {"batch_size=8": "batch_size=32"}),
    ("fresh", "gates.py one-more --rows 120", "plain --rows 120 --k 1", {"batch_size=8": "batch_size=32"}),
    ("fresh", "gates.py always --rows 128", "plain --rows 128 --k 1", {"batch_size=8": "batch_size=32"}),
    ("fresh", "carried_over.py", "", {"batch_size=5": "batch_size=20", "/ 4\n": "/ 1\n", "(i + 1) % 4": "(i + 1) % 1"}),
    ("fresh", "cleared_each_time.py", "", {"batch_size=8": "batch_size=32", "steps=4": "steps=1"}),
    ("fresh", "short_last_batch.py", "", {"batch_size=8": "batch_size=32", "k = 4": "k = 1"}),
    ("fresh", "nanogpt_like.py --sequences 60", "--sequences 60",
     {"accumulation_steps = 4": "accumulation_steps = 1", "size = 4": "size = 16"}),
    ("known", "unscaled.py", "", {"grad_accum = 4": "grad_accum = 1", "bs = 5": "bs = 20"}),  # no loader
    ("fresh", "huber_regression.py --scale twice", "--k 1", {"batch_size=10": "batch_size=40"}),
    ("fresh", "huber_regression.py --scale loader", "--k 1", {"batch_size=10": "batch_size=40"}),
    ("fresh", "lm_padded.py --normalise steps", "--ga 1", {"batch_size=3": "batch_size=12"}),
    ("fresh", "masked.py --per batch", "--accumulation 1", {"batch_size=7": "batch_size=21"}),
    ("fresh", "class_weights.py --norm batch", "", {"batch_size=6": "batch_size=24", "k = 4": "k = 1"}),
    ("fresh", "optimizer_per_parameter.py --forget-biases", "", {"size=7": "size=21", "update = 3": "update = 1"}),
    ("fresh", "clip_and_tail.py", "", {"batch_size=4": "batch_size=16", "accumulation = 4": "accumulation = 1"}),
    ("known", "clip_micro.py", "", {"accum_iter = 4": "accum_iter = 1", "batch_size=5": "batch_size=20"}),
    ("fresh", "ema_onecycle.py --schedule micro", "", {"size=5": "size=30", "k, epochs = 6, 3": "k, epochs = 1, 3"}),
    ("known", "scheduler_micro.py", "", {"n_accum = 4": "n_accum = 1", "batch_size=5": "batch_size=20"}),
    ("known", "step_each.py", "--train_batch_size 20", {"if step + 1 % args.gradient_accumulation_steps:": "if True:",
                                                       "loss / args.gradient_accumulation_steps": "loss"}),
    ("known", "eval_mid_epoch.py --buggy", "--accum-steps 1", {"batch_size=4": "batch_size=16"}),
    ("known", "unscale_micro.py", "", {"accum = 4": "accum = 1", "batch_size=5": "batch_size=20"}),
    ("known", "rmse.py", "", {"accum_steps = 4": "accum_steps = 1", "batch_size=4": "batch_size=16"}),
    ("fresh", "batch_norm.py", "--accum 1", {"batch_size=8": "batch_size=32"}),
    ("known", "bn_cnn.py", "", {'"B", "4"': '"B", "16"', '"K", "4"': '"K", "1"'}),
    ("known", "class_weights.py", "", {"accum_steps = 4": "accum_steps = 1", "batch_size=5": "batch_size=20"}),
]  # fmt: skip
# Verdicts of compare and of run that differ, and why.
APART = [
    (
        *("known", "amp_script.py", "", {"ACCUM_STEPS = 4": "ACCUM_STEPS = 1", "batch_size=5": "batch_size=20"}),
        *("inconclusive", "equivalent", "gradients under autocast to bfloat16 are too noisy to be compared"),
    ),
    (
        *("known", "cosine_micro.py", "", {'"accum": 4': '"accum": 1', '"batch_size": 5': '"batch_size": 20'}),
        *("diverges", "equivalent", "the schedule moves within a window: each rate is one of its own window, no more"),
    ),
    (
        *("fresh", "huber_regression.py --scale loader", "--scale loader --k 1", {"batch_size=10": "batch_size=40"}),
        *("equivalent", "diverges", "the full batch is divided by the length of its loader too, and as wrong"),
    ),
    (
        *("known", "not_reset.py", "", {"batch_size=4": "batch_size=12", "accum_steps = 3": "accum_steps = 1"}),
        *("equivalent", "diverges", "the full batch clears no gradients either, and is as wrong"),
    ),
    (
        *("fresh", "actor_critic.py --normalise", "--normalise", {"ARMS = 64, 4": "ARMS = 64, 1"}),
        *("diverges", "equivalent", "advantages are normalised without a gradient, so one run does not show it"),
    ),
    (
        *(
            "fresh",
            "resume.py --save-at 6",
            "--save-at 2",
            {"batch_size=6": "batch_size=24", "K, EPOCHS = 4": "K, EPOCHS = 1"},
        ),
        *("diverges", "inconclusive", "an optimizer that starts in the middle of an epoch"),
    ),
    (
        *(
            "fresh",
            "closure.py --optimizer lbfgs",
            "--optimizer lbfgs",
            {"batch_size=6": "batch_size=24", "batches, 4": "batches, 1"},
        ),
        *("equivalent", "inconclusive", "LBFGS steps with several gradients, of which compare sees the first"),
    ),
    (
        *("fresh", "step_in_backward.py", "", {"batch_size=5": "batch_size=20", "K = 4": "K = 1"}),
        *("equivalent", "inconclusive", "optimizers step inside of a backward pass"),
    ),
    (
        *("fresh", "gan_interleaved.py", "--n_accum 1", {"batch_size=6": "batch_size=24"}),
        *("diverges", "inconclusive", "a critic's passes that are left by another optimizer's losses"),
    ),
    (
        *("fresh", "bf16_weights.py", "", {"batch_size=4": "batch_size=64", "k = 16": "k = 1"}),
        *(
            "inconclusive",
            "diverges",
            "bfloat16 is too noisy to tell rounding from a defect; run sees the buffers' dtype",
        ),
    ),
]


def watched(script, arguments, folder, neutral):
    torch.set_num_threads = lambda number: None  # a forked process starts no threads
    folder.mkdir()
    Observer({"folder": str(folder), "pin": True, "keep_dropout": False, "updates": None, "neutral": neutral}).install()
    start(str(script), arguments)
    return True


def trace(folder, script, arguments, neutral=0):
    done, said = in_fork(watched, script, shlex.split(arguments), folder, neutral)
    assert done, said
    return Trace([torch.load(path, weights_only=True) for path in sorted(folder.glob("*.pt"))])


def compared(name, line, arguments, edits, folder):
    """The outcome of comparing a script with its full batch."""
    script, _, own = line.partition(" ")
    source = (SCRIPTS / name / script).read_text()
    for old, new in edits.items():
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    (folder / script).write_text(source)
    full = [trace(folder / str(seed), folder / script, arguments, seed) for seed in range(3)]
    ours = trace(folder / "ours", SCRIPTS / name / script, own)
    return _judge(full[0], ours, full[1:], ["full batch", line])


def cases(verdict, table):
    for case in table:
        yield pytest.param(verdict, *case, id=f"{case[0]}-{case[1]}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verdict", "name", "line", "arguments", "edits"), [*cases("equivalent", RIGHT), *cases("diverges", WRONG)]
)
def test_both_give_the_same_verdict(tmp_path, verdict, name, line, arguments, edits):
    outcome = compared(name, line, arguments, edits, tmp_path)
    report, printed = of_set(name, line)
    assert report is not None, printed
    assert (outcome.verdict, report["verdict"]) == (verdict, verdict), (outcome.reasons, report["findings"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "line", "arguments", "edits", "theirs", "ours", "reason"),
    [pytest.param(*case, id=f"{case[0]}-{case[1]}") for case in APART],
)
def test_verdicts_differ_for_a_reason(tmp_path, name, line, arguments, edits, theirs, ours, reason):
    outcome = compared(name, line, arguments, edits, tmp_path)
    report, printed = of_set(name, line)
    assert report is not None, printed
    assert (outcome.verdict, report["verdict"]) == (theirs, ours), (outcome.reasons, report["findings"], reason)


def test_half_are_right():
    assert len(RIGHT) >= 20 <= len(WRONG)
