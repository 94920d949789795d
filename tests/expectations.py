"""The loops that ship, with what is expected of them, as tests take them."""

from accumcheck.corpus import published, right, wrong
from accumcheck.corpus.expectations import cases_of, expectation_of, loops_of
from accumcheck.task import OBJECTIVES

LOOPS = loops_of(published, right, wrong)
CASES = cases_of(published, right, wrong)
WRONG = [case for case in CASES if case[2] not in (None, "nondeterministic")]  # that one raises an error
RIGHT = [(loop, objective) for loop, objective, finding in CASES if finding is None]
# Right, but not by the mean of each window in the order of the data, for all parameters.
_OTHER_MATRICES = (
    "joins_micro_batches",
    "streams_rows",
    "drops_the_last_window",
    "trains_biases_only",
    "stops_after_three_steps",
    "shuffles_with_its_own_seed",
)
PLAIN = {
    name: loop
    for name, loop in loops_of(right).items()
    if set(expectation_of(loop).first) == set(OBJECTIVES) and name not in _OTHER_MATRICES
}
