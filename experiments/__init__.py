"""One module or folder for each claim; it has five functions.

- ``run(bench) -> DataFrame`` measures, ``plot(frame) -> Figure`` draws, ``summarise(frame) -> dict`` has the numbers.
- ``check(numbers) -> None`` raises AssertionError, with a message, where the numbers do not say what the post says. It
  is for the numbers of a whole run, not for those of ``--quick``.
- ``measure`` is one case of ``run``, in a process of its own.

It may have ``tables``, ``figures`` and ``documents`` too: functions of the frame that name further results; and, beside
``tables``, ``from_tables(read)``, which puts together again what ``plot`` and ``figures`` need. A folder
holds what its claim alone needs, and ``lab`` holds what several claims need; no claim imports another one.
``python -m experiments`` runs all but the slow ones and writes results/; see ``python -m experiments --help``.
"""

NAMES = (
    *("error_by_step", "ragged_lengths", "drift", "tolerance", "scale"),
    *("probe_cost", "round_trip", "watching", "start_up"),
    *("frameworks", "history", "architectures", "contributions", "tail_weight", "tokens", "symptom"),
    *("learning_rate", "smoothness"),
    *("book", "batch_norm"),
    *("memory", "precision"),
    *("detection", "reliability"),
)
# Those that take minutes are made when named, or with --full.
SLOW = ("scale", "probe_cost", "round_trip", "watching", "start_up", "history", "symptom", "detection", "reliability")
