import pytest

pytest_plugins = ["pytester"]

IMPORT = "from accumcheck.corpus.published import accumulate_samples, accumulate_tokens, published_fix"
TESTS = f"""
import pytest
{IMPORT}

known = pytest.param(published_fix, marks=pytest.mark.accumcheck_xfail(reason="tail / k, kept for old runs"))

@pytest.mark.accumcheck(loops=[accumulate_samples, accumulate_tokens, known], objectives=["sample", "token"])
def test_equivalence(accumcheck_report):
    assert accumcheck_report, str(accumcheck_report)

def test_other():
    pass
"""


def test_loops_become_tests(pytester):
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_subprocess("-v", "-rx", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=4, failed=1, xfailed=2)
    result.stdout.fnmatch_lines(
        [
            "*::test_equivalence[[]accumulate_samples-sample[]] PASSED*",
            "*::test_equivalence[[]accumulate_samples-token[]] FAILED*",
            "*::test_equivalence[[]accumulate_tokens-token[]] PASSED*",
            "*::test_equivalence[[]published_fix-sample[]] XFAIL*",
            "*A micro-batch with few tokens counts as much as one with many.*",
            "*tail / k, kept for old runs*",
        ]
    )


@pytest.mark.slow
def test_tests_may_run_in_many_processes(pytester):
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_subprocess("-n", "2", "-k", "accumulate_tokens", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=2)


def test_a_failure_expected_of_a_right_loop_fails(pytester):
    pytester.makepyfile(TESTS.replace("pytest.param(published_fix", "pytest.param(accumulate_tokens"))
    result = pytester.runpytest_subprocess("-k", "accumulate_tokens-token", "-p", "no:cacheprovider")
    assert "[XPASS(strict)] tail / k, kept for old runs" in result.stdout.str()


def test_bad_marks_say_what_is_missing(pytester):
    for old, new, message in (
        ('reason="tail / k, kept for old runs"', "", "pytest.mark.accumcheck_xfail needs a written reason, got ''"),
        ('["sample", "token"]', '["word"]', "objectives must be a list of 'sample' and 'token', got ['word']"),
        ("loops=[accumulate_samples, accumulate_tokens, known]", "loops=3", "needs a list of loops, got loops=3"),
        ("[accumulate_samples, accumulate_tokens, known]", "[3]", "def train(task): ..., got 3"),
    ):
        light = TESTS.replace(IMPORT, "accumulate_samples = accumulate_tokens = published_fix = lambda task: None")
        path = pytester.makepyfile(light.replace(old, new))
        result = pytester.runpytest_subprocess("--collect-only", "-p", "no:cacheprovider", path)
        assert result.ret != 0
        assert message in result.stdout.str() + result.stderr.str()


def test_the_plugin_is_silent_until_used(pytester):
    pytester.makepyfile("import sys\ndef test(): assert not {'torch', 'accumcheck.check'} & set(sys.modules)")
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_other_tests_of_a_marked_class_are_left_alone(pytester):
    pytester.makepyfile(
        """
        import pytest
        from accumcheck.corpus.published import accumulate_samples

        @pytest.mark.accumcheck(loops=[accumulate_samples])
        class TestLoop:
            def test_equivalence(self, accumcheck_report):
                assert accumcheck_report

            def test_other(self, tmp_path):
                pass
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=2)


def test_a_marked_test_that_takes_no_report_is_told(pytester):
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.accumcheck(loops=[print])
        def test_equivalence():
            pass
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    assert result.ret != 0
    assert "test_equivalence is marked accumcheck, but does not take accumcheck_report" in result.stdout.str()


def test_a_loop_that_cannot_be_judged_is_one_sentence(pytester):
    pytester.makepyfile(
        """
        import pytest

        def raises(task):
            raise RuntimeError("out of luck")

        @pytest.mark.accumcheck(loops=[raises])
        def test_equivalence(accumcheck_report):
            assert accumcheck_report
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(errors=1)
    text = result.stdout.str()
    assert "raises raised RuntimeError at n=7, b=1, k=4, epochs=2, after 0 optimizer steps: out of luck" in text
    assert "probe.py" not in text
