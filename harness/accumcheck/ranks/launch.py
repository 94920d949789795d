"""Runs loops on several local ranks, as torchrun starts them, and reads each rank's contribution matrix.

A global micro-batch is b·R samples in data set order; each of the R ranks gets a contiguous piece of it. A last, short
one is spread as evenly as possible. Sizes at which a rank would get none of it are not used: data-parallel loops then
wait for each other forever, and samplers for such loops repeat samples instead.

One start runs all loops and sizes, as importing torch takes seconds. Gloo on localhost; no network, no GPU.
"""

from __future__ import annotations

import gc
import json
import os
import pickle
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

import torch
import torch.distributed as dist
from torch.optim import SGD

from accumcheck.probing.reading import Reading
from accumcheck.probing.run import HIGH, LOW, Setup, probe
from accumcheck.ranks.watchdog import Watchdog, read_hang
from accumcheck.task import Loop, LoopError, Objective, Sizes, name_of
from accumcheck.watching.limits import TIME_LIMIT, require_limit
from accumcheck.watching.parents import POLL, end_with
from accumcheck.watching.targets import load

START_LIMIT = 120.0  # seconds for torchrun to start the ranks and to end them
ADVICE = "look for an all-reduce, or a backward pass of DistributedDataParallel, in which not all ranks take part"
PORTION = 15  # last lines of torchrun's output, for an error that no rank has explained


@dataclass(frozen=True)
class Job:
    """What one start of the ranks is to read: ``loops``, by target and objective, each at all ``sizes``.

    ``sizes.micro_batch_size`` is a rank's. Raises ValueError for sizes that leave a rank without samples, or no time.
    """

    loops: tuple[tuple[str, Objective], ...]
    sizes: tuple[Sizes, ...]
    ranks: int = 2
    seed: int = 0
    time_limit: float = TIME_LIMIT
    caller: int = field(default_factory=os.getpid)

    def __post_init__(self) -> None:
        require_limit(self.time_limit)
        for each in self.sizes:
            share(each, self.ranks, 0)


@dataclass(frozen=True)
class Readings:
    """Of one loop, objective and size: on each rank with small and with large gradients, and the loop's own full batch.

    The own full batch was run on one rank, in a process group of its own. ``again`` repeats ``small``, at the first
    size.
    """

    small: list[Reading]
    large: list[Reading]
    own_small: Reading
    own_large: Reading
    again: list[Reading]


Key = tuple[str, Objective, Sizes]


def share(sizes: Sizes, ranks: int, rank: int) -> list[list[int]]:
    """The micro-batches of one rank in an epoch, as lists of samples.

    Raises ValueError where a rank would have an empty one.

    >>> [share(Sizes(samples=7, micro_batch_size=2), 2, rank) for rank in range(2)]
    [[[0, 1], [4, 5]], [[2, 3], [6]]]
    """
    whole = sizes.micro_batch_size * ranks
    pieces = []
    for start in range(0, sizes.samples, whole):
        held = min(whole, sizes.samples - start)
        if held < ranks:
            raise ValueError(f"the last micro-batch at {sizes} has {held} samples, too few for {ranks} ranks")
        even, more = divmod(held, ranks)
        first = start + rank * even + min(rank, more)
        pieces.append(list(range(first, first + even + (rank < more))))
    return pieces


def read(job: Job) -> dict[Key, Readings]:
    """Start the ranks, run the job, end the ranks; readings by target, objective and sizes.

    Raises LoopError that quotes the rank on which a loop cannot be imported, raises or hangs. Leaves nothing behind.
    """
    with TemporaryDirectory(prefix="accumcheck-") as directory:
        folder = Path(directory)
        (folder / "job").write_bytes(pickle.dumps(job))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
        command += ["--nproc-per-node", str(job.ranks), "-m", "accumcheck.ranks.launch", directory]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),  # the ranks import what this process can
            "OMP_NUM_THREADS": "1",
            "TMPDIR": directory,  # torchrun leaves its logs there
        }
        with (folder / "output").open("wb") as output:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
            try:
                status = process.wait(START_LIMIT * (1 + len(job.loops)) + 5 * len(_keys(job)) * job.time_limit)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                _end(process)
        return _collected(job, folder, status)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Torchrun ends its ranks when it is asked to end; if it cannot, they see that it is gone."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            time.sleep(5 * POLL)  # so do they


def _collected(job: Job, folder: Path, status: int | None) -> dict[Key, Readings]:
    errors = [json.loads(path.read_text()) for path in folder.glob("error-*.json")]
    for path in folder.glob("hang-*"):
        if message := read_hang(path):
            rank = path.name.removeprefix("hang-")
            errors.append({"time": path.stat().st_mtime, "message": f"rank {rank} of {job.ranks}: {message}"})
    causes = [error for error in errors if "by peer" not in error["message"]]  # as gloo says of a rank that is gone
    if causes:
        raise LoopError(min(causes, key=lambda error: error["time"])["message"])  # others are its consequences
    results = [folder / f"rank-{rank}" for rank in range(job.ranks)]
    if status != 0 or not all(path.exists() for path in results):
        last = "\n".join((folder / "output").read_text(errors="replace").splitlines()[-PORTION:])
        how = "did not end in time" if status is None else f"ended with status {status}"
        raise LoopError(f"torchrun with {job.ranks} ranks {how}, and no rank said why:\n{last}")
    ranks = [pickle.loads(path.read_bytes()) for path in results]
    own = pickle.loads((folder / "own").read_bytes())
    return {
        key: Readings(
            [rank[key, "small"] for rank in ranks],
            [rank[key, "large"] for rank in ranks],
            own[key, "small"],
            own[key, "large"],
            [rank.get((key, "again"), rank[key, "small"]) for rank in ranks],
        )
        for key in _keys(job)
    }


def _keys(job: Job) -> list[Key]:
    return [(target, objective, sizes) for target, objective in job.loops for sizes in job.sizes]


def work(folder: Path) -> None:
    """What a rank does: run every loop at every size, and write down its readings, or the first error."""
    job: Job = pickle.loads((folder / "job").read_bytes())
    rank = int(os.environ["RANK"])

    def fail(message: str) -> NoReturn:
        error = {"time": time.time(), "message": f"rank {rank} of {job.ranks}: {message}"}
        (folder / f"error-{rank}.part").write_text(json.dumps(error))
        (folder / f"error-{rank}.part").rename(folder / f"error-{rank}.json")
        os._exit(1)  # nothing else ends a rank that others wait for

    end_with(os.getppid(), job.caller)
    watch = Watchdog(folder / f"hang-{rank}")
    try:
        SGD([torch.zeros(1)])  # the first optimizer imports torch's compiler, which is not the loop's time
        loops = {}
        for target in dict.fromkeys(target for target, _ in job.loops):
            with watch.limit(START_LIMIT, f"importing {target!r}"):
                loops[target] = load(target)
        wait = timedelta(seconds=job.time_limit + START_LIMIT)
        dist.init_process_group("gloo", timeout=wait)
        # A group of its own: who has left the loop early must not answer one who waits within it.
        fence = dist.new_group(backend="gloo", timeout=wait)
        found = {}
        for key in _keys(job):
            for name, sizes, gain in _runs(job, key[2]):
                dist.barrier(fence)
                pieces = share(sizes, job.ranks, rank)
                found[key, name] = _probe(job, loops, key, sizes, gain, pieces, watch)
        dist.barrier(fence)
        (folder / f"rank-{rank}").write_bytes(pickle.dumps(found))
        gc.collect()  # a DistributedDataParallel must not outlive its process group
        dist.destroy_process_group()
        if rank == 0:
            (folder / "own").write_bytes(pickle.dumps(_own(job, loops, watch)))
    except LoopError as error:
        fail(str(error))


def _runs(job: Job, sizes: Sizes) -> list[tuple[str, Sizes, float]]:
    """Name, sizes and gain. One epoch shows clipping; what passes from one to the next shows at small gradients."""
    runs = [("small", sizes, LOW), ("large", replace(sizes, epochs=1), HIGH)]
    return runs + [("again", sizes, LOW)] * (sizes == job.sizes[0])


def _own(job: Job, loops: dict[str, Loop], watch: Watchdog) -> dict[tuple[Key, str], Reading]:
    """The loops' own full batches, on this rank alone."""
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", LOCAL_WORLD_SIZE="1")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    found = {}
    for key in _keys(job):
        for name, sizes, gain in _runs(job, key[2])[:2]:
            whole = Sizes(sizes.samples, sizes.effective_batch_size * job.ranks, 1, sizes.epochs)
            try:
                found[key, name] = _probe(job, loops, key, whole, gain, None, watch)
            except LoopError as error:
                raise LoopError(f"alone, on its own full batch, {error}") from error
    gc.collect()
    dist.destroy_process_group()
    return found


def _probe(
    job: Job,
    loops: dict[str, Loop],
    key: Key,
    sizes: Sizes,
    gain: float,
    pieces: list[list[int]] | None,
    watch: Watchdog,
) -> Reading:
    target, objective, _ = key
    setup = Setup(objective, gain, seed=job.seed, micro_batches=pieces, time_limit=job.time_limit)
    with watch.limit(job.time_limit, f"{name_of(loops[target])} at {sizes}", f": {ADVICE}"):
        reading = probe(loops[target], sizes, objective, setup)
    if not dist.is_initialized():
        raise LoopError(
            f"{name_of(loops[target])} destroys the process group: leave init_process_group and "
            "destroy_process_group to the code that calls the loop"
        )
    return reading


if __name__ == "__main__":
    work(Path(sys.argv[1]))
