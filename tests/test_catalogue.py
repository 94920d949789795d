"""The catalogue of bugs: each row is well formed, and what it says of a loop or script is what our tools say."""

import csv
import re
from dataclasses import replace

import pytest
from accumcheck.check import check_equivalence
from accumcheck.corpus import catalogue, happened
from accumcheck.corpus.catalogue import bugs, loop_of, script_of
from accumcheck.corpus.expectations import expected, loops_of
from accumcheck.corpus.problems import PROBLEMS
from accumcheck.programs.laws import LAWS, severity
from accumcheck.ranks.judge import judge_replicas
from accumcheck.scripts.execute import execute

from tests.forks import audited, in_fork

BUGS = bugs().values()
# Findings of which no bug of the catalogue is the cause, with the reason.
WITHOUT = {
    "nondeterministic": "it ends a check before anything is compared; no report of it is about accumulation",
    "split-tail": "no report of it was found",
}
PARALLEL = [bug for bug in BUGS if bug.runs.startswith("parallel:")]
SCRIPTS = [bug for bug in BUGS if bug.is_script]
LOOPS = [bug for bug in BUGS if bug not in PARALLEL + SCRIPTS]
ALONE = [bug for bug in LOOPS if bug.seen_by not in ("problem", "checks")]


def agrees(bug, verdict, ids):
    """Whether a verdict and its findings are what the row of a bug says."""
    if bug.finding and bug.seen_by:
        return verdict == "diverges" and ids[0] == bug.finding
    return verdict in ("equivalent", "inconclusive") and not ids


def by_id(some):
    return pytest.mark.parametrize("bug", some, ids=lambda bug: bug.id)


@by_id(BUGS)
def test_rows_are_well_formed(bug):
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", bug.id)
    assert re.fullmatch(r"[A-Z].*[^.]\.", bug.wrong)
    assert len(bug.wrong) <= 120
    assert 0 < len(bug.cause) <= 100
    assert not re.search(r"[A-Z].*\.$", bug.unseen)
    assert bug.threads
    for thread in bug.threads:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", thread)
    (script_of if bug.is_script else loop_of)(bug)


def test_no_cell_is_lost():
    with (catalogue.HERE / "catalogue.tsv").open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    assert head == list(catalogue.Bug.__dataclass_fields__)
    assert all(len(row) == len(head) for row in rows)
    assert [row[0] for row in rows] == list(bugs())


def test_there_are_enough_bugs_and_each_has_its_own_loop_or_script():
    assert len(bugs()) >= 45
    assert len({bug.runs for bug in BUGS}) == len(BUGS)
    assert len({bug.wrong for bug in BUGS}) == len(BUGS)


def test_bugs_stand_in_the_order_of_laws():
    assert list(BUGS) == sorted(BUGS, key=lambda bug: (severity(bug.finding) if bug.finding else len(LAWS), bug.id))


def test_every_finding_occurs_or_there_is_a_reason():
    assert {bug.finding for bug in BUGS} - {""} == set(LAWS) - set(WITHOUT)


def test_every_condition_and_tool_occurs_in_some_bug():
    assert {bug.seen_by for bug in BUGS} == set(catalogue.SEEN_BY)
    assert {each for bug in BUGS for each in bug.shows} == set(catalogue.SHOWS)


def test_every_loop_and_script_that_was_written_for_it_is_in_it():
    used = {bug.runs for bug in BUGS}
    assert {f"happened:{name}" for name in loops_of(happened)} <= used
    assert {path.name for path in (catalogue.HERE / "scripts").glob("*.py")} == {script_of(b)[0].name for b in SCRIPTS}


@by_id([bug for bug in BUGS if bug not in SCRIPTS])
def test_what_is_expected_of_the_loop_is_what_the_row_says(bug):
    loop = loop_of(bug)
    if bug.seen_by in ("problem", "checks", ""):
        assert expected(loop, bug.objective) in (None, bug.finding)
    else:
        assert expected(loop, bug.objective) == bug.finding


@pytest.mark.slow
@by_id(ALONE)
def test_check_says_of_a_loop_what_the_row_says(bug):
    report = check_equivalence(loop_of(bug), objective=bug.objective)
    assert agrees(bug, report.verdict, [finding.id for finding in report.findings]), report


@pytest.mark.slow
@by_id([bug for bug in LOOPS if bug.seen_by == "checks"])
def test_checks_see_what_weights_do_not_tell(bug):
    report = check_equivalence(loop_of(bug), objective=bug.objective, checks=True)
    assert report, report
    assert [check.name for check in report.checks if check.status == "failed"] == [bug.beside]


@pytest.mark.slow
@by_id([bug for bug in LOOPS if bug.seen_by == "problem"])
def test_a_model_is_needed_to_see_what_a_model_does(bug):
    assert check_equivalence(loop_of(bug), objective=bug.objective)
    report = check_equivalence(loop_of(bug), objective=bug.objective, problem=PROBLEMS["cnn-batchnorm"])
    assert agrees(bug, report.verdict, [finding.id for finding in report.findings]), report


@pytest.mark.slow
def test_check_says_of_data_parallel_loops_what_their_rows_say():
    outcomes = judge_replicas([f"accumcheck.corpus.{bug.runs}" for bug in PARALLEL], objectives=("sample", "token"))
    for bug in PARALLEL:
        judged = {each.objective: each for each in outcomes[f"accumcheck.corpus.{bug.runs}"]}[bug.objective]
        assert agrees(bug, judged.verdict, [finding.id for finding in judged.findings]), bug.id


@pytest.mark.slow
@by_id(SCRIPTS)
def test_run_says_of_a_script_what_the_row_says(bug):
    path, arguments = script_of(bug)
    report, printed = in_fork(audited, path, *arguments)
    if bug.unseen.startswith("torch itself raises"):
        assert report["verdict"] == "error"
        return
    assert agrees(bug, report["verdict"], [finding["id"] for finding in report["findings"]]), report
    digest = printed.split("digest ")[-1]
    assert digest == in_fork(lambda: execute(str(path), arguments)[0])[1].split("digest ")[-1]
    assert re.fullmatch(r"[0-9a-f]{64}\n", digest)


@pytest.mark.slow
@pytest.mark.parametrize("line", ["bfloat16_weights.py", "max_steps.py"])
def test_a_script_can_run_without_its_bug(line):
    report, _ = in_fork(audited, catalogue.HERE / "scripts" / line, "--right")
    assert report["verdict"] == "equivalent"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"finding": "tail"}, "no finding 'tail': choose one of nondeterministic"),
        ({"objective": "batch"}, "no objective 'batch': choose one of sample, token"),
        ({"seen_by": "eye"}, "no tool 'eye': choose one of check, checks, replicas, run, problem"),
        ({"shows": ("never",)}, "no condition 'never': choose one of always"),
        ({"seen_by": ""}, "say what sees it or why nothing does, one of the two"),
        ({"unseen": "it is small"}, "say what sees it or why nothing does, one of the two"),
        ({"finding": ""}, "what check sees has a finding"),
    ],
)
def test_rows_that_make_no_sense_are_refused(change, message):
    with pytest.raises(ValueError, match=f"gate-true-at-zero: {message}"):
        replace(bugs()["gate-true-at-zero"], **change)


def test_loops_and_scripts_are_asked_for_by_their_kind():
    loop, script = bugs()["gate-true-at-zero"], bugs()["rate-below-zero"]
    with pytest.raises(ValueError, match=r"is no loop but the script scripts/max_steps\.py: take script_of"):
        loop_of(script)
    with pytest.raises(ValueError, match="is no script but the loop published:early_first_step: take loop_of"):
        script_of(loop)
    for runs in ("published:none", "none:none"):
        with pytest.raises(ValueError, match=f"there is no loop {runs}"):
            loop_of(replace(loop, runs=runs))
    with pytest.raises(ValueError, match="there is no script"):
        script_of(replace(script, runs="scripts/none.py"))
