"""One module per claim: ``run(bench) -> DataFrame``, ``plot(frame) -> Figure``, ``summarise(frame) -> dict``.

A module may have ``tables``, ``figures`` and ``documents`` as well: functions of the frame that name further results.
``python -m experiments`` runs all but the slow ones and writes results/; see ``python -m experiments --help``.
"""

NAMES = (
    *("error_by_step", "ragged_lengths", "drift", "tolerance", "scale", "probe_cost", "frameworks", "architectures"),
    *("contributions", "tail_weight", "tokens"),
    *("learning_rate", "smoothness"),
    *("book", "batch_norm"),
    *("memory", "precision"),
)
SLOW = ("probe_cost",)  # minutes: made when named, or with --full
