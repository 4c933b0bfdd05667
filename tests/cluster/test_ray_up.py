"""The file of `ray up` holds to the schema that ray itself checks it by, and starts what mdr needs."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from support.repository import ROOT, ray_up


def problems(config: dict[str, Any]) -> list[str]:
    found = find_spec("ray")
    assert found and found.origin
    schema = json.loads((Path(found.origin).parent / "autoscaler" / "ray-schema.json").read_text())
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(config)]


def starts() -> list[str]:
    """The `ray start` of the head and of the workers."""
    config = ray_up()
    commands = config["head_start_ray_commands"], config["worker_start_ray_commands"]
    return [next(line for line in lines if "ray start" in line) for lines in commands]


def test_file_is_accepted() -> None:
    assert problems(ray_up()) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"max_worker": 2}, "'max_worker' was unexpected"),
        ({"max_workers": "2"}, "max_workers: '2' is not of type 'integer'"),
        ({"cluster_name": None}, "cluster_name: None is not of type 'string'"),
        ({"provider": {"type": "aws", "security_group": {"Name": "x"}}}, "'Name' was unexpected"),
    ],
)
def test_mistake_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        assert problems(ray_up() | change) == []


def test_workers_are_there_from_the_start_and_none_is_on_the_head() -> None:
    config = ray_up()
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert (head["resources"], head["max_workers"]) == ({"CPU": 0}, 0)
    assert sum(kind["min_workers"] for kind in types.values()) == config["max_workers"] > 0
    assert all(kind["min_workers"] == kind["max_workers"] for kind in types.values())


def test_every_node_names_its_security_group_and_profile() -> None:
    for kind in ray_up()["available_node_types"].values():
        assert kind["node_config"]["SecurityGroupIds"]  # else `ray up` opens SSH to the world
        assert kind["node_config"]["IamInstanceProfile"]
        assert kind["node_config"]["MetadataOptions"] == {"HttpTokens": "required"}


def test_ray_asks_for_the_token_that_was_sent_and_its_dashboard_stays_on_loopback() -> None:
    config = ray_up()
    assert config["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"
    assert any("RAY_AUTH_MODE=token" in command and "~/.bashrc" in command for command in config["setup_commands"])
    head, worker = starts()
    assert "--dashboard-host=127.0.0.1" in head.split()
    assert re.search(r"--address=\$RAY_HEAD_IP:(\d+)", worker)[1] == re.search(r"--port=(\d+)", head)[1]  # type: ignore[index]


def test_nodes_set_up_the_folder_that_is_sent() -> None:
    config = ray_up()
    assert config["file_mounts"]["/home/ubuntu/mdr_dist"] == "."
    assert any(command == "cd ~/mdr_dist && MDR_DEV=0 tools/setup.sh" for command in config["setup_commands"])
    assert {".git", ".venv"} <= set(config["rsync_exclude"])
    assert (ROOT / "tools" / "setup.sh").exists()
