"""A real cluster of one head: what is submitted to it does as it does here, to the same bits."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mdr_dist import storage
from mdr_dist.config import Job
from mdr_dist.launch import versions
from mdr_dist.launch.process import train_here
from mdr_dist.launch.submit import Cluster
from support.cluster import environment, head
from support.command import mdr
from support.jobs import largest_gap, same_bits, small_job, weights

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with head(cpus=2) as address:
        yield address


@pytest.fixture
def address(cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The cluster's address, as the environment names it too; relative paths are below `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_ADDRESS", cluster)
    return cluster


@pytest.fixture(scope="module")
def job(dataset: str) -> Job:
    return small_job("crocodile", dataset, train={"epochs": 1, "save_steps": 20})


def written(job: Job, **sections: dict[str, Any]) -> Path:
    """The job's file in the working folder, with other keys laid over it."""
    path, value = Path(f"{job.name}.yaml"), job.model_dump(mode="json")
    for section, keys in sections.items():
        value[section] = {**value[section], **keys}
    path.write_text(yaml.safe_dump(value))
    return path


def start(*arguments: object) -> subprocess.Popen[str]:
    """The command in a process of its own, without the cluster's address in its environment."""
    command = [sys.executable, "-m", "mdr_dist", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment(PYTHONPATH=str(ROOT)), **pipes)


def said(told: str) -> list[str]:
    """What the command on the cluster said of itself; Ray's own line of a job may come after it."""
    return [line for line in told.splitlines() if line.startswith("mdr: ")]


def checksums(run: Path | str, job: Job) -> dict[str, str]:
    return {name: hashlib.sha256(t.numpy().tobytes()).hexdigest() for name, t in weights(str(run), job).items()}


def result(run: Path | str) -> Any:
    """The metrics of a run that are of the model, not of the machine."""
    return storage.read_json(f"{run}/metrics.json")["test"]


def test_the_same_job_here_on_ray_of_its_own_and_on_a_cluster(
    job: Job, address: str, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The same file and seed: bit for bit with one worker, from disk or S3; a worker more is as much as rounding."""
    path = written(job)
    here = Path(train_here(job, "here")[0])
    alone = start("train", path, "--runs", "ray", "--workers", 1, "--quiet")
    assert (alone.communicate(timeout=240)[1], alone.returncode) == ("", 0)
    assert mdr(monkeypatch, "submit", path, "--runs", "one") == 0
    shown = capsys.readouterr()
    assert f"submitted: {job.name}@1 to {address}" in shown.out and shown.err == ""
    assert "rows/s" in shown.out and "crocodile on tiny, test" in shown.out
    assert mdr(monkeypatch, "submit", path, "--runs", "two", "--workers", 2) == 0
    assert mdr(monkeypatch, "synth", f"{s3}/tiny", "--preset", "tiny") == 0
    stored, remote = written(job, data={"path": f"{s3}/tiny"}), f"{s3}/runs/{job.name}"
    assert mdr(monkeypatch, "submit", stored, "--runs", f"{s3}/runs") == 0
    of_ray, one, two = (tmp_path / runs / job.name for runs in ("ray", "one", "two"))
    assert result(here) == result(of_ray) == result(one) == result(remote)
    assert checksums(here, job) == checksums(of_ray, job) == checksums(one, job) == checksums(remote, job)
    assert json.loads((two / "metrics.json").read_text())["workers"] == 2
    assert largest_gap(weights(str(two), job), weights(str(here), job)) < 1e-5
    for domain, metrics in result(here).items():
        assert result(two)[domain] == pytest.approx(metrics, abs=1e-5)


def test_what_is_wrong_is_told_by_one_line_and_the_same_exit_code(
    job: Job, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run's name is another job's; the cluster is too small; the data set is not there."""
    path, run = written(job), tmp_path / "runs" / job.name
    run.mkdir(parents=True)
    written(job, train={"seed": 9}).rename(run / "job.yaml")
    written(job)
    for settings, says in (
        ((), f"{run}: the run's name is taken by another job (train.seed was 9, now 0); "),
        (("--workers", 5, "--set", "launch.wait_minutes=0"), "--workers 5: they need 5 CPUs, the cluster has 2; "),
        (("--set", "data.path=nowhere"), f"{tmp_path}/nowhere: not on this node ("),
    ):
        assert mdr(monkeypatch, "submit", path, *settings) == 2
        shown = capsys.readouterr()
        (line,) = said(shown.out)
        assert line.startswith(f"mdr: error: {says}")
        assert "Traceback" not in shown.out and shown.err == ""
    assert [path for path in tmp_path.rglob("runs/**/*") if path.is_file()] == [run / "job.yaml"]


def test_other_versions_are_named_before_anything_starts(
    job: Job, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = versions.versions()
    monkeypatch.setattr(versions, "versions", lambda: real | {"torch": "1.0.0", "Python": "3.7"})
    assert mdr(monkeypatch, "submit", written(job)) == 2
    (line,) = said(capsys.readouterr().out)
    assert line.startswith("mdr: error: versions differ between node ")
    assert f"Python {real['Python']} here, 3.7 there; torch {real['torch']} here, 1.0.0 there; install" in line
    assert not (tmp_path / "runs").exists()


def test_a_fault_is_mirrored_and_keeps_no_secret(
    address: str, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is planted as a variable's value is text that this fault is certain to have."""
    job = small_job("smf", dataset, dense={"lr": 1e30}, tables={"lr": 1e30}, train={"eval_epochs": 5})
    planted, run = "look at the data", tmp_path / "runs" / job.name
    monkeypatch.setenv("MDR_PLANTED_TOKEN", planted)
    assert mdr(monkeypatch, "submit", written(job), "--env", "MDR_PLANTED_TOKEN") == 1
    shown = capsys.readouterr()
    (line,) = said(shown.out)
    assert line.startswith("mdr: fault: FloatingPointError: stage 'smf-d0': loss ")
    assert "whoever reaches the cluster's dashboard: MDR_PLANTED_TOKEN\n" in shown.out
    left = [path for path in run.rglob("*") if path.is_file()]
    assert {"error.json", "error.txt", "job.yaml", "events.jsonl"} <= {path.name for path in left}
    assert not [path for path in left if planted.encode() in path.read_bytes()]
    for name in ("error.json", "error.txt"):
        assert "lower learning rates, or ***" in (run / name).read_text()
    assert "/_ray_pkg_" in (run / "error.txt").read_text()  # the code that ran is that which was sent
    log = Cluster(address)._client.get_job_logs(f"{job.name}@1")  # as the cluster has it: it was redacted there
    assert planted not in shown.out + shown.err + log and "lower learning rates, or ***" in log


def test_left_alone_refused_stopped_and_resumed(
    job: Job, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An interrupt ends the following, not the job; one that was stopped goes on when it is submitted again."""
    train = job.train.model_copy(update={"epochs": 40, "eval_epochs": 0, "save_steps": 10})
    long = job.model_copy(update={"name": "long", "train": train})
    path, events = written(long), tmp_path / "runs/long/lanes/main/events.jsonl"
    following = start("submit", path, "--address", address)
    deadline = time.monotonic() + 120
    while not (events.exists() and '"checkpoint"' in events.read_text()) and time.monotonic() < deadline:
        assert following.poll() is None, following.communicate()
        time.sleep(0.05)
    following.send_signal(signal.SIGINT)
    errors = following.communicate(timeout=60)[1]
    assert following.returncode == 130
    again = f"mdr submit logs --follow long --address {address}"
    assert f"mdr: long@1 goes on without you; follow it again: {again}" in errors
    assert mdr(monkeypatch, "submit", path) == 2
    assert f"long is running on {address} as long@1; follow it ({again})" in capsys.readouterr().err
    assert mdr(monkeypatch, "submit", "stop", "long") == 0
    assert capsys.readouterr().out == "long@1 stopped\n"
    assert mdr(monkeypatch, "submit", "logs", "long") == 0
    assert said(capsys.readouterr().out) == [
        "mdr: stopped with a checkpoint of each lane; the same command goes on from them"
    ]
    assert mdr(monkeypatch, "submit", "logs", "--follow", "long") == 143
    assert not (tmp_path / "runs/long/metrics.json").exists()

    assert mdr(monkeypatch, "submit", path) == 0
    assert "submitted: long@2" in capsys.readouterr().out
    starts = [json.loads(line) for line in events.read_text().splitlines() if '"start"' in line]
    assert len(starts) == 2 and starts[1]["total"] >= 10
    undisturbed, _ = train_here(long, "here")
    assert same_bits(weights("runs/long", long), weights(undisturbed, long))
    assert mdr(monkeypatch, "submit", "status", "long", "--json") == 0
    attempts = [(each["id"], each["state"], each["code"]) for each in json.loads(capsys.readouterr().out)]
    assert attempts == [("long@1", "stopped", None), ("long@2", "finished", 0)]
