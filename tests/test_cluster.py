"""Runs of the bench that are killed, or lose a worker: nothing is lost, and nothing is done twice."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import noted
import pytest

from experiments.__main__ import main
from experiments.lab import cluster
from experiments.lab.runner import Bench

CASES = 24
SCRIPT = """
import json, sys
from pathlib import Path
from experiments.lab.runner import Bench
import noted
Bench._fingerprint = lambda self: "the code does not change"
rows = Bench(jobs=int(sys.argv[2]), partial=Path(sys.argv[1]) / "partial").map(
    noted.measure, [{"number": number, "folder": sys.argv[1]} for number in range(int(sys.argv[3]))]
)
print(json.dumps(rows))
"""


def command(folder, jobs):
    path = os.pathsep.join(map(str, [cluster.ROOT, cluster.ROOT / "harness", Path(__file__).parent]))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    return {"args": [sys.executable, "-c", SCRIPT, str(folder), str(jobs), str(CASES)], "env": environment}


def kept(folder):
    """The keys of the cases that are kept whole."""
    file = folder / "partial" / "noted.jsonl"
    found = []
    for line in file.read_text().splitlines() if file.exists() else []:
        with suppress(ValueError):
            found.append(json.loads(json.loads(line)[1])["number"])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [0, 2])
def test_a_run_that_is_killed_at_random_moments_resumes(jobs, tmp_path):
    draw = random.Random(jobs)
    kills = 0
    while kills < 4:
        running = subprocess.Popen(**command(tmp_path, jobs), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wanted = len(kept(tmp_path)) + draw.randint(1, 4)
        until = time.monotonic() + 120
        while len(kept(tmp_path)) < wanted and running.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.05))
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
        kills += 1
        before = kept(tmp_path)
        if kills == 2:  # as if it had been killed within a line
            with (tmp_path / "partial" / "noted.jsonl").open("a") as file:
                file.write('["torn')
        time.sleep(0.5)
        assert kept(tmp_path) == before
    begun = (tmp_path / "begun").read_text().split()
    last = subprocess.run(**command(tmp_path, jobs), capture_output=True, text=True, check=True)
    assert json.loads(last.stdout) == [{"number": number, "square": number**2} for number in range(CASES)]
    assert sorted(kept(tmp_path)) == [*range(CASES)]  # each once
    again = (tmp_path / "begun").read_text().split()[len(begun) :]
    assert not {int(number) for number in again} & set(before)  # what was kept is not begun again
    assert len(again) == CASES - len(before)


@pytest.mark.slow
def test_workers_end_with_a_run_that_is_killed(tmp_path):
    running = subprocess.Popen(**command(tmp_path, 2), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not kept(tmp_path) and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    workers = {int(line.split()[1]) for line in (tmp_path / "done").read_text().splitlines()}
    until = time.monotonic() + 20
    while any(map(alive, workers)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(alive, workers))


def alive(process):
    try:
        return (Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_a_cluster_that_loses_a_worker_loses_no_case(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    cases = [{"number": number, "folder": str(tmp_path), "pause": 0.5} for number in range(16)]
    before = []
    with distributed.LocalCluster(
        n_workers=4, threads_per_worker=1, processes=True, dashboard_address=":0", local_directory=str(tmp_path)
    ) as local:

        class Killing(Bench):
            def _keep(self, *row):
                super()._keep(*row)
                if len(kept(tmp_path)) == 5:  # midway: all workers are at their cases
                    before.extend(kept(tmp_path))
                    os.kill(next(iter(local.workers.values())).pid, signal.SIGKILL)

        rows = Killing(partial=tmp_path / "partial", dask=local.scheduler_address).map(noted.measure, cases)
    done = [int(line.split()[0]) for line in (tmp_path / "done").read_text().splitlines()]
    assert len(before) == 5
    assert sorted(kept(tmp_path)) == [*range(16)]  # each once
    assert set(done) == {*range(16)}
    assert all(done.count(number) == 1 for number in before)  # what was kept is not done again
    assert rows == Bench().map(noted.measure, cases)


@pytest.mark.slow
def test_a_job_runs_in_a_process_of_its_own_and_tells_what_failed(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    case = {"number": 3, "folder": str(tmp_path)}
    assert json.loads(cluster.in_own_process(json.dumps(["noted", "measure", case]))) == [{"number": 3, "square": 9}]
    assert int((tmp_path / "done").read_text().split()[1]) != os.getpid()
    with pytest.raises(cluster.JobError, match="has no attribute 'nothing'"):
        cluster.in_own_process(json.dumps(["noted", "nothing", {}]))


def test_a_cluster_needs_its_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ModuleNotFoundError, match=r"accumcheck\[dask\]"):
        main(["error_by_step", "--quick", "--dask", "localhost:1", "--results", str(tmp_path)])
