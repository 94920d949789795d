"""The workbench that experiments run on: many cases over worker processes, with progress, resumable."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import rich.progress
import torch
from accumcheck.watching.parents import end_with
from accumcheck.watching.process import preserved

Row = dict[str, Any]
Work = Callable[[Callable[..., list[Row]], list[Row]], Iterator[tuple[int, list[Row]]]]
ROOT = Path(__file__).parents[2]


@dataclass
class Bench:
    """How an experiment is run.

    ``quick`` asks for fewer cases and ``full`` for more; ``jobs`` is the number of worker processes, 0 for none.
    Every case runs on one thread, so that results do not depend on ``jobs``. With a ``partial`` folder, finished cases
    are kept there, and a run that was interrupted takes them up again if code, versions and settings are the same.
    ``dask`` is the address of a dask cluster that the cases are sent to, see ``experiments.lab.cluster``.
    """

    quick: bool = False
    full: bool = False
    device: str = "cpu"
    jobs: int = 0
    partial: Path | None = None
    progress: rich.progress.Progress | None = field(default=None, repr=False)
    dask: str | None = None

    def map(self, measure: Callable[..., list[Row]], cases: Sequence[Row], *, alone: bool = False) -> list[Row]:
        """``measure(**case)`` for every case, rows in the order of the cases.

        ``alone`` gives each case a fresh process and the whole machine, for measurements of time and memory.
        """
        name = measure.__module__.removeprefix("experiments.")
        fingerprint = self._fingerprint()  # of the code that is run, which may change meanwhile
        done = self._finished(name, fingerprint)
        keys = [json.dumps(case, sort_keys=True) for case in cases]
        missing = [index for index, key in enumerate(keys) if key not in done]
        task = (
            self.progress.add_task(name, total=len(cases), completed=len(cases) - len(missing))
            if self.progress
            else None
        )
        with self._workers(alone) as workers:
            todo = [cases[index] for index in missing]
            for place, rows in workers(measure, todo):
                key = keys[missing[place]]
                done[key] = rows
                self._keep(name, fingerprint, key, rows)
                if self.progress and task is not None:
                    self.progress.advance(task)
        return [row for key in keys for row in done[key]]

    @contextmanager
    def _workers(self, alone: bool) -> Iterator[Work]:
        """Something that measures cases and yields (index, rows) as they are done."""
        if self.dask and not alone:
            from experiments.lab.cluster import workers_at  # noqa: PLC0415 - it is an extra

            with workers_at(self.dask) as work:
                yield work
        elif self.jobs or alone:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["experiments.preload"])
            with ProcessPoolExecutor(
                1 if alone else self.jobs,
                context,
                initializer=_end_with,
                initargs=(os.getpid(),),
                max_tasks_per_child=1 if alone else None,
            ) as pool:
                try:
                    yield partial(_as_completed, pool)
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
        else:
            yield lambda measure, cases: ((index, measured(measure, case)) for index, case in enumerate(cases))

    def forget(self, name: str) -> None:
        """Delete the finished cases of an experiment; those of others stay, and so do environments."""
        if self.partial is None:
            return
        for finished in [*self.partial.glob(f"{name}.jsonl"), *self.partial.glob(f"{name}.*.jsonl")]:
            finished.unlink()
        with suppress(OSError):  # no such folder, or it holds something
            self.partial.rmdir()

    def _path(self, name: str) -> Path | None:
        return self.partial / f"{name}.jsonl" if self.partial else None

    def _finished(self, name: str, wanted: str) -> dict[str, list[Row]]:
        path = self._path(name)
        if path is None or not path.exists():
            return {}
        done = {}
        for line in path.read_text().splitlines():
            try:
                fingerprint, key, rows = json.loads(line)
            except ValueError:  # the line that was being written when the run was interrupted
                continue
            if fingerprint == wanted:
                done[key] = rows
        return done

    def _keep(self, name: str, fingerprint: str, key: str, rows: list[Row]) -> None:
        if path := self._path(name):
            path.parent.mkdir(parents=True, exist_ok=True)
            torn = path.exists() and not path.read_bytes().endswith(b"\n")
            with path.open("a") as file:
                file.write("\n" * torn + json.dumps([fingerprint, key, rows]) + "\n")

    def _fingerprint(self) -> str:
        digest = hashlib.sha256(f"{torch.__version__} {self.device}".encode())
        for path in sorted([*ROOT.glob("harness/**/*.py"), *ROOT.glob("experiments/**/*.py")]):
            digest.update(path.read_bytes())
        return digest.hexdigest()[:16]


def measured(measure: Callable[..., list[Row]], case: Row) -> list[Row]:
    """``measure(**case)`` on one thread."""
    with preserved():
        torch.set_num_threads(1)
        return measure(**case)


def _as_completed(
    pool: ProcessPoolExecutor, measure: Callable[..., list[Row]], cases: list[Row]
) -> Iterator[tuple[int, list[Row]]]:
    futures = {pool.submit(measured, measure, case): index for index, case in enumerate(cases)}
    for future in as_completed(futures):
        yield futures[future], future.result()


def _end_with(bench: int) -> None:
    """A worker ends when the bench has been killed; its own parent is the server that forks workers."""
    end_with(os.getppid(), bench)
