"""Whole scripts: the right verdict and first cause, and the same parameters to the bit as without accumcheck."""

import json

import pytest

from tests.forks import SCRIPTS, of_set, plain

TRUTH = {(name, line): each for name in ("known", "fresh") for line, each in
         json.loads((SCRIPTS / name / "truth.json").read_text()).items()}  # fmt: skip
# What is not judged as it is, with the reason.
KNOWN = {
    ("fresh", "gan_interleaved.py"): ("inconclusive", "a critic's passes that are left by another optimizer's losses"),
    ("fresh", "resume.py --save-at 6"): ("inconclusive", "an optimizer that starts in the middle of an epoch"),
    ("fresh", "actor_critic.py --normalise"): ("equivalent", "advantages normalised without a gradient couple samples"),
}
NEED = {"hf": "transformers", "accelerate": "accelerate", "accelerated": "accelerate", "lightning": "lightning",
        "ignite": "ignite", "skorch": "skorch", "keras": "keras"}  # fmt: skip
QUICK = {
    ("known", "published_fix.py"), ("known", "early_gate.py"), ("known", "tok_right.py"), ("known", "clip_micro.py"),
    ("known", "amp_script.py"), ("known", "gan.py"), ("fresh", "mixup.py"), ("fresh", "lm_padded.py"),
    ("fresh", "buckets.py"), ("fresh", "optimizer_per_parameter.py --forget-biases"), ("fresh", "slices.py"),
}  # fmt: skip


def cases():
    for name, line in TRUTH:
        marks = [] if (name, line) in QUICK else [pytest.mark.slow]
        yield pytest.param(name, line, id=f"{name}-{line}", marks=marks)


@pytest.mark.parametrize(("name", "line"), list(cases()))
def test_a_script_is_judged_and_left_alone(name, line):
    for prefix, package in NEED.items():
        if line.startswith(prefix):
            pytest.importorskip(package)
    report, printed = of_set(name, line)
    assert report is not None, printed
    truth = TRUTH[name, line]
    due = KNOWN.get((name, line), (truth["verdict"], ""))[0]
    assert report["verdict"] in due.split("|"), (report["findings"], report["run"])
    if report["verdict"] == "diverges" and truth["first"]:
        assert report["findings"][0]["id"] in truth["first"].split("|"), [f["id"] for f in report["findings"]]
    for finding in report["findings"]:
        assert finding["weight"] is None or finding["weight"] != finding["due"]
    digest = printed.split("digest ")[-1]
    assert digest
    assert digest == plain(name, line).split("digest ")[-1]


def test_there_are_enough_right_scripts():
    right = [key for key, truth in TRUTH.items() if truth["verdict"] == "equivalent" and key not in KNOWN]
    assert len(right) >= 20
    assert set(KNOWN) <= set(TRUTH)
    assert set(TRUTH) >= QUICK
