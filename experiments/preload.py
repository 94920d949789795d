"""What worker processes import once, before they are forked."""

import experiments.drift
import experiments.error_by_step
import experiments.ragged_lengths
import experiments.scale
import experiments.tolerance  # noqa: F401
