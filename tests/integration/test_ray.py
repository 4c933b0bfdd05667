"""Real Ray Train: a run through the command line comes to the bits that processes without Ray come to, also after a
worker or a save is killed.

Every test starts its own Ray through `mdr train --workers` and leaves none behind.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from mdr_dist.config import Job
from mdr_dist.data.synthetic import configure, synthesize
from mdr_dist.launch.status import status_of
from mdr_dist.train.attempt import open_run
from mdr_dist.train.lane import train_lane
from mdr_dist.train.run import check
from support.groups import in_group
from support.jobs import CPU, losses, same_bits, small_job, train, weights

pytestmark = pytest.mark.slow
STEPS_PER_SAVE = 10


@pytest.fixture(scope="module")
def job(dataset: str) -> Job:
    # tables large enough for a save to last, so that it can be hit
    method = {"dim": 64}
    return small_job("crocodile", dataset, method=method, train={"save_steps": STEPS_PER_SAVE, "epochs": 1, "keep": 50})


@pytest.fixture(scope="module")
def undisturbed(job: Job, tmp_path_factory: pytest.TempPathFactory) -> str:
    return in_group(2, train, job, str(tmp_path_factory.mktemp("undisturbed")))[0]


@pytest.fixture(autouse=True)
def no_ray_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tempfile.mkdtemp(dir=os.environ.get("RAY_TMPDIR", "/tmp"))  # sockets need a short path
    monkeypatch.setenv("RAY_TMPDIR", folder)
    yield
    deadline = time.monotonic() + 20
    while rays(folder) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not rays(folder), "a test left Ray processes behind"
    shutil.rmtree(folder)


def rays(folder: str) -> list[str]:
    """The processes of Ray that write into a folder; other tests may start theirs meanwhile."""
    names = ("raylet", "gcs_server")
    found = [p.info for p in psutil.process_iter(["name", "cmdline"]) if p.info["name"] in names]
    return [info["name"] for info in found if folder in " ".join(info["cmdline"] or ())]


def start(job: Job, runs: Path) -> subprocess.Popen[bytes]:
    path = runs / "job.yaml"
    path.write_text(yaml.safe_dump(job.model_dump(mode="json")))
    command = [sys.executable, "-m", "mdr_dist", "train", str(path), "--runs", str(runs), "--workers", "2", "--quiet"]
    with (runs / "stderr.txt").open("wb") as errors:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)


def workers(of: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The Ray Train workers below a driver."""
    try:
        below = psutil.Process(of.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    found = []
    for process in below:
        try:
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def killed_when(job: Job, runs: Path, moment: Callable[[Path], bool]) -> str:
    """Run the job, kill -9 one worker at the moment, wait for the end; the run's folder."""
    process = start(job, runs)
    lane = runs / job.name / "lanes" / "main"
    deadline = time.monotonic() + 240
    victims: list[psutil.Process] = []
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail("the run ended before it could be disturbed")
        victims = victims or workers(process)
        if victims and moment(lane):
            break
        time.sleep(0.0005)
    victim = random.Random(0).choice(victims)
    os.kill(victim.pid, signal.SIGKILL)
    assert process.wait(timeout=300) == 0, (runs / "stderr.txt").read_text()
    attempts = {line for line in (lane / "events.jsonl").read_text().splitlines() if '"kind": "start"' in line}
    assert len(attempts) == 2, "the group was not started again: the kill missed"
    return str(runs / job.name)


def unfinished_save(lane: Path) -> bool:
    """Whether a save is between its first file and DONE (not the first save)."""
    folders = sorted((lane / "checkpoints").glob("*"))
    return len(folders) > 1 and any(folders[-1].iterdir()) and not (folders[-1] / "DONE").exists()


def test_kill_at_a_random_step(job: Job, undisturbed: str, tmp_path: Path) -> None:
    at = random.Random(1).randint(STEPS_PER_SAVE + 1, len(losses(undisturbed)) - 5)

    def moment(lane: Path) -> bool:
        events = lane / "events.jsonl"
        return events.exists() and events.read_text().count('"kind": "step"') >= at

    run = killed_when(job, tmp_path, moment)
    assert same_bits(weights(run, job), weights(undisturbed, job))


def test_kill_in_the_middle_of_a_save(job: Job, undisturbed: str, tmp_path: Path) -> None:
    run = killed_when(job, tmp_path, unfinished_save)
    assert same_bits(weights(run, job), weights(undisturbed, job))


def test_more_workers_than_the_cluster(job: Job, tmp_path: Path) -> None:
    big = job.model_copy(update={"launch": job.launch.model_copy(update={"cpus_per_worker": 1000.0})})
    process = start(big, tmp_path)
    assert process.wait(timeout=240) == 2
    message = (tmp_path / "stderr.txt").read_text()
    assert "2000 CPUs" in message
    assert "Traceback" not in message
    assert not (tmp_path / job.name).exists()


@pytest.mark.parametrize(("method", "stages"), [("crocodile", ("joint",)), ("smf", ("smf-d0", "smf-d1"))])
def test_a_loss_that_is_not_finite_ends_a_run_at_once(
    method: str, stages: tuple[str, ...], dataset: str, tmp_path: Path
) -> None:
    """Of two workers together, and of one by itself, whichever of those side by side is the first: with the traceback,
    and though Ray may try three times more."""
    settings = {"dense": {"lr": 1e30}, "tables": {"lr": 1e30}, "train": {"eval_epochs": 5}}
    job = small_job(method, dataset, **settings, launch={"max_failures": 3})
    run = tmp_path / job.name
    process = start(job, tmp_path)
    assert process.wait(timeout=240) == 1
    (said,) = (tmp_path / "stderr.txt").read_text().splitlines()
    (stage,) = (name for name in stages if f"mdr: fault: FloatingPointError: stage '{name}': loss " in said)
    lane = stage.replace("joint", "main")
    assert said.endswith(f"the traceback is in {run}/error.txt")
    assert "in train_lane\n" in (run / "error.txt").read_text()
    assert (run / "lanes" / lane / "events.jsonl").read_text().count('"kind": "start"') == 1
    assert status_of(str(run))["lanes"][lane]["state"] == "failed"


def test_workers_that_cannot_meet_end_a_run_with_the_reason(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not with a wait for the places that their group had."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "none")
    launch = job.launch.model_copy(update={"max_failures": 1, "wait_minutes": 1.0})
    process = start(job.model_copy(update={"launch": launch}), tmp_path)
    assert process.wait(timeout=300) == 1
    (said,) = (line for line in (tmp_path / "stderr.txt").read_text().splitlines() if line.startswith("mdr: fault"))
    assert said.startswith("mdr: fault: LaneError: lane main: ") and "address for: none; the traceback is in" in said


def lane_pids(of: subprocess.Popen[bytes]) -> dict[int, psutil.Process]:
    """The processes below a driver in which a lane of one worker runs."""
    try:
        below = psutil.Process(of.pid).children(recursive=True)
        return {process.pid: process for process in below if "ray::alone" in " ".join(process.cmdline())}
    except psutil.Error:
        return {}


def spans(lanes: Path, first: str) -> list[tuple[float, float]]:
    """When lanes of that beginning took their first and their last step."""
    files = [lane / "events.jsonl" for lane in lanes.glob(f"{first}*")]
    times = [[json.loads(line)["time"] for line in file.read_text().splitlines()] for file in files]
    return sorted((min(each), max(each)) for each in times)


def train_lane_here(job: Job, run: str, lane: str) -> None:
    train_lane(job, run, lane=lane, device=CPU)


def test_lanes_side_by_side_with_two_of_them_killed(tmp_path: Path) -> None:
    """One process killed while the first domains train, one in the last stage: the bits of an undisturbed run."""
    dataset, times = str(tmp_path / "tiny"), {"epochs": 15, "eval_epochs": 5, "save_steps": 20}
    synthesize(dataset, configure("tiny", ("domains=2",)))
    job = small_job("cat_art", dataset, method={"patience": 0, "cat_patience": 0}, train=times)
    runs = tmp_path / "killed"
    runs.mkdir()
    process = start(job, runs)
    lanes, killed = runs / job.name / "lanes", 0
    for first in ("smf-", "art-"):
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and process.poll() is None:
            saved = [path.parent for path in lanes.glob(f"{first}*/checkpoints") if any(path.glob("*/DONE"))]
            busy = [lane for lane in saved if not (lane / "result.json").exists()]
            pids = lane_pids(process)
            if 0 < len(pids) <= len(busy):  # so that none is of a lane which is still to begin
                os.kill(min(pids), signal.SIGKILL)
                killed += 1
                break
            time.sleep(0.002)
    assert process.wait(timeout=300) == 0, (runs / "stderr.txt").read_text()
    assert killed == 2
    starts = {lane.name: (lane / "events.jsonl").read_text().count('"kind": "start"') for lane in lanes.iterdir()}
    assert sum(count > 1 for name, count in starts.items() if name.startswith("smf-")) == 1
    assert sum(count > 1 for name, count in starts.items() if name.startswith("art-")) == 1
    (_, end), (start_of_second, _) = spans(lanes, "smf-")
    assert start_of_second < end, "lanes that could run side by side did not"
    calm = open_run(job, str(tmp_path / "calm"))
    for lane, count in check(job).workers(2).items():  # as Ray ran them
        in_group(count, train_lane_here, job, calm, lane)
    assert same_bits(weights(str(runs / job.name), job), weights(calm, job))
    status = status_of(str(runs / job.name))
    assert status["lanes"]["cat"]["workers"] == 2 and status["lanes"]["smf-d0"]["workers"] == 1
