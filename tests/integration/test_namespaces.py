"""A cluster of two nodes that have files in common, an address each and one wire: nothing works there by loopback."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from torch import Tensor

from mdr_dist.config import Job
from mdr_dist.launch.process import train_here
from support.cluster import events, wait
from support.jobs import largest_gap, small_job, weights
from support.namespaces import Host, UnavailableError, outside, ray_over, two_hosts

pytestmark = pytest.mark.slow
LOW = {"lr": 1e-3}  # so that rounding, which differs between one worker and two, stays rounding
SOON = {  # Ray finds within seconds, not a minute, that a node which says nothing is gone
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "4",
}


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    try:
        with two_hosts() as found:
            yield found
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def job(dataset: str) -> Job:
    launch = {"workers": 2, "min_workers": 1}
    train = {"save_steps": 25, "epochs": 3, "eval_epochs": 0, "keep": 3}
    tables = {**LOW, "placement": "row_wise"}
    return small_job("crocodile", dataset, train=train, tables=tables, dense=LOW, launch=launch)


@pytest.fixture(scope="module")
def calm(job: Job, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """What the job learns in one process."""
    return weights(train_here(job, str(tmp_path_factory.mktemp("calm")))[0], job)


@contextlib.contextmanager
def training(job: Job, on: Host, address: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The job's run in `folder/runs`, which must end well; what it prints goes to `folder/said.txt`."""
    folder.mkdir()
    (folder / "job.yaml").write_text(yaml.safe_dump(job.model_dump(mode="json")))
    words = ("-m", "mdr_dist", "train", "job.yaml", "--runs", "runs", "--address", address)
    with (folder / "said.txt").open("wb") as said:
        command = on.command(sys.executable, *words)
        process = subprocess.Popen(command, cwd=folder, env=outside(), stdout=said, stderr=said)
    try:
        yield process
        assert process.wait(timeout=240) == 0, (folder / "said.txt").read_text()[-2000:]
    finally:
        process.kill()
        process.wait()


def lines_between(hosts: tuple[Host, Host]) -> int:
    """How many connections the workers of one host have with those of the other."""
    one, two = (
        {line for worker in host.processes("RayTrainWorker") for line in host.connections(worker.pid)} for host in hosts
    )
    return len(one & {(there, here) for here, there in two})


def train_and_lose(lose: Callable[[], None], job: Job, on: Host, address: str, folder: Path) -> Path:
    """A run that loses a node after its first checkpoint and goes on with one worker of two."""
    run = folder / "runs" / job.name
    with training(job, on, address, folder) as process:
        wait(process, lambda: any(run.glob("lanes/main/checkpoints/*/DONE")))
        lose()
    starts = events(run, "start")
    assert [start["workers"] for start in starts] == [2, 1] and starts[1]["total"] > 0
    assert "goes on with 1 of 2 workers" in (folder / "said.txt").read_text()
    return run


def test_workers_with_an_address_each_until_one_host_is_killed(
    hosts: tuple[Host, Host], job: Job, calm: dict[str, Tensor], tmp_path: Path
) -> None:
    run = tmp_path / "whole" / "runs" / job.name
    with ray_over(*hosts) as address:
        with training(job, hosts[0], address, tmp_path / "whole") as process:
            wait(process, lambda: len(events(run, "step")) > 1)
            assert [len(host.processes("RayTrainWorker")) for host in hosts] == [1, 1]
            assert lines_between(hosts) >= 2  # to torch's store, and Gloo's
        assert [start["workers"] for start in events(run, "start")] == [2]
        assert largest_gap(weights(str(run), job), calm) < 1e-5
        run = train_and_lose(hosts[1].kill, job, hosts[0], address, tmp_path / "killed")
    assert largest_gap(weights(str(run), job), calm) < 1e-5


def test_a_host_that_falls_silent(hosts: tuple[Host, Host], job: Job, calm: dict[str, Tensor], tmp_path: Path) -> None:
    """Its worker lives on, and waits for an answer."""
    with ray_over(*hosts, **SOON) as address:
        run = train_and_lose(hosts[1].unplug, job, hosts[0], address, tmp_path / "silent")
    assert largest_gap(weights(str(run), job), calm) < 1e-5
