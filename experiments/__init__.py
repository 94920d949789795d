"""One module per claim: ``run(bench) -> DataFrame``, ``plot(frame) -> Figure``, ``summarise(frame) -> dict``.

``python -m experiments`` runs them all and writes results/; see ``python -m experiments --help``.
"""

NAMES = ("error_by_step", "ragged_lengths", "drift", "tolerance", "scale", "probe_cost", "architectures")
