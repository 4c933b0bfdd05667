"""A cluster of two nodes, one of which is lost in training and comes back: the run goes on, on the same data."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from ray.cluster_utils import Cluster

from mdr_dist.config import Job
from mdr_dist.launch.process import train_here
from support.cluster import environment, events, wait
from support.jobs import small_job

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "node_ip_address": "127.0.0.1"}
LOW = {"lr": 1e-3}  # so that rounding, which differs between one worker and two, stays rounding


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head of one CPU on loopback."""
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        yield cluster
    finally:
        cluster.shutdown()


@pytest.fixture
def job(dataset: str) -> Job:
    launch = {"workers": 2, "min_workers": 1}
    train = {"save_steps": 25, "epochs": 14, "eval_epochs": 0, "keep": 3}
    return small_job("crocodile", dataset, method={"dim": 64}, train=train, tables=LOW, dense=LOW, launch=launch)


def test_a_node_is_lost_and_another_comes(cluster: Cluster, job: Job, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job.model_dump(mode="json")))
    command = [sys.executable, "-m", "mdr_dist", "train", "job.yaml", "--runs", "runs", "--address", cluster.address]
    run, node = tmp_path / "runs" / job.name, cluster.add_node(**NODE)
    with (tmp_path / "said.txt").open("wb") as said:
        env = environment(PYTHONPATH=str(ROOT), GLOO_SOCKET_IFNAME="lo")
        process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=said, stderr=said)
    try:
        wait(process, lambda: any(run.glob("lanes/main/checkpoints/*/DONE")))
        cluster.remove_node(node, allow_graceful=False)
        wait(process, lambda: len(events(run, "start")) > 1)
        cluster.add_node(**NODE)
        assert process.wait(timeout=240) == 0, (tmp_path / "said.txt").read_text()[-2000:]
    finally:
        process.kill()
        process.wait()
    starts = events(run, "start")
    assert [start["workers"] for start in starts] == [2, 1, 2]
    assert 0 < starts[1]["total"] < starts[2]["total"]
    said_so = (tmp_path / "said.txt").read_text()
    assert "goes on with 1 of 2 workers" in said_so and "room for more workers" in said_so
    calm, _ = train_here(job, str(tmp_path / "calm"))
    expected = {event["total"]: event["losses"]["bce"] for event in events(Path(calm), "step")}
    found = {event["total"]: event["losses"]["bce"] for event in events(run, "step")}
    assert found.keys() == expected.keys()
    assert max(abs(found[total] - expected[total]) for total in expected) < 1e-4
