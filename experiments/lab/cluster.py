"""The jobs of a bench on a dask cluster: each case is measured once, whatever happens to the workers.

``python -m experiments NAME --dask ADDRESS`` (needs ``pip install 'accumcheck[dask]'``)

A dask worker runs its tasks in threads, where a loop without end cannot be stopped, and keeps what they return until it
is asked for. So each task starts a process of its own, which ends with its worker; and its rows are fetched as soon as
they are there. What a worker was at when it was lost is given to another one. Workers need the same checkout and the
same packages; the repository should be their working directory.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accumcheck.watching.parents import end_with

Row = dict[str, Any]
ROOT = Path(__file__).parents[2]
RETRIES = 10  # workers that may be lost at one case


class JobError(RuntimeError):
    """A case failed; the message is what its process wrote."""


@contextmanager
def workers_at(address: str) -> Iterator[Callable[[Callable[..., Any], list[Row]], Iterator[tuple[int, list[Row]]]]]:
    """Something that measures cases on the cluster at ``address``; it yields (index, rows) as they are done."""
    try:
        distributed = importlib.import_module("distributed")
    except ImportError:
        raise ModuleNotFoundError("--dask needs distributed: pip install 'accumcheck[dask]'") from None
    with distributed.Client(address) as client:

        def work(measure: Callable[..., Any], cases: list[Row]) -> Iterator[tuple[int, list[Row]]]:
            jobs = [json.dumps([measure.__module__, measure.__qualname__, case]) for case in cases]
            futures = client.map(in_own_process, jobs, pure=False, retries=RETRIES)
            places = {future.key: index for index, future in enumerate(futures)}
            try:
                for future, rows in distributed.as_completed(futures, with_results=True):
                    future.release()  # or it is done again where its worker is lost later
                    yield places[future.key], json.loads(rows)
            finally:
                client.cancel(futures)

        yield work


def in_own_process(job: str) -> str:
    """Run one job in a fresh process; its rows as JSON."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "harness"), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "experiments.lab.cluster", str(os.getpid())]
    env = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, input=job, capture_output=True, text=True, cwd=ROOT, env=env, check=False)
    if done.returncode:
        raise JobError(f"{job} failed: {done.stderr[-2000:]}")
    return done.stdout.splitlines()[-1]


def main() -> None:
    """Do the job that is read from standard input."""
    end_with(int(sys.argv[1]))
    from experiments.lab.runner import measured  # noqa: PLC0415 - it imports torch, after the watch over the parent

    module, name, case = json.loads(sys.stdin.read())
    print(json.dumps(measured(getattr(importlib.import_module(module), name), case)))


if __name__ == "__main__":
    main()
