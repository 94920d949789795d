"""The committed errors are those of this code."""

import pandas as pd
import pytest

from experiments.error_by_step import run
from experiments.lab.runner import Bench
from experiments.lab.writer import RESULTS


def test_a_quick_rerun_gives_the_committed_numbers():
    """Up to the rounding of another machine: errors within a decade of noise, ratios to three digits."""
    committed = pd.read_csv(RESULTS / "data/error_by_step.csv")
    again = run(Bench())
    keys = ["dtype", "loop", "step", "window"]
    pd.testing.assert_frame_equal(committed[keys], again[keys])
    wide = committed["dtype"] != "bfloat16"
    assert committed["ratio"][wide].to_numpy() == pytest.approx(again["ratio"][wide].to_numpy(), rel=1e-3)
    assert (again["error"] < again["tolerance"]).equals(committed["error"] < committed["tolerance"])
