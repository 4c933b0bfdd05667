"""What a node must have; of a real cluster in integration/test_submit.py."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from mdr_dist.config import LaunchConfig
from mdr_dist.errors import UserError
from mdr_dist.launch import nodes
from mdr_dist.launch.nodes import Seen, absolute, check_here, check_nodes, check_seen, seen
from mdr_dist.launch.versions import versions


def test_paths_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("data/a") == f"{tmp_path}/data/a" == absolute(f"file://{tmp_path}/data/a")
    assert absolute("s3://bucket/a") == "s3://bucket/a"


def test_a_path_that_is_not_here(tmp_path: Path) -> None:
    check_here(str(tmp_path))
    check_here("s3://bucket/unasked")
    with pytest.raises(UserError, match=rf"/nowhere: not on this node \({os.uname().nodename}\); put it where every"):
        check_here(str(tmp_path / "nowhere"))


def test_a_node(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    here = seen([str(tmp_path / "a"), str(tmp_path / "b")])
    assert here == Seen(os.uname().nodename, versions(), (str(tmp_path / "b"),))
    check_seen(seen([str(tmp_path / "a")]))
    with pytest.raises(UserError, match=r"/b: on .*, but not on node .*; put it where every node reaches it"):
        check_seen(here)
    with pytest.raises(UserError, match=r"versions differ .* and node far \(there\): torch .* here, 1\.0 there; inst"):
        check_seen(Seen("far", versions() | {"torch": "1.0"}, ()))


def test_nodes_that_cannot_run_a_worker_need_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every node that can is asked, and asked for local files alone."""
    asked: list[tuple[str, Any]] = []

    class Probe:
        def options(self, *, num_cpus: float, scheduling_strategy: Any) -> Probe:
            assert num_cpus == 0 and not scheduling_strategy.soft
            self.node = scheduling_strategy.node_id
            return self

        def remote(self, files: list[str]) -> Seen:
            asked.append((self.node, files))
            return Seen(self.node, versions(), ("/data",) if self.node == "3" * 56 else ())

    def node(digit: str, *, alive: bool = True, **resources: float) -> dict[str, Any]:
        return {"NodeID": digit * 56, "Alive": alive, "Resources": resources}

    there = [
        node("1", CPU=0.0),
        node("2", CPU=4.0, GPU=1.0),
        node("4", alive=False, CPU=9.0, GPU=9.0),
        node("5", CPU=9.0),
    ]
    monkeypatch.setattr(nodes.ray, "nodes", lambda: there)
    monkeypatch.setattr(nodes.ray, "remote", lambda function: Probe() if function is seen else None)
    monkeypatch.setattr(nodes.ray, "get", list)
    launch = LaunchConfig(workers=2, gpus_per_worker=1)
    check_nodes(("/data", "s3://bucket/runs"), launch)
    assert asked == [("2" * 56, ["/data"])]
    there.append(node("3", CPU=1.0, GPU=2.0))
    with pytest.raises(UserError, match=r"/data: on .*, but not on node 333"):
        check_nodes(("/data", "s3://bucket/runs"), launch)
