"""What every node that may run a worker must have: the driver's versions, and the files that the job names."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mdr_dist import storage
from mdr_dist.config import LaunchConfig
from mdr_dist.errors import UserError
from mdr_dist.launch.versions import differences, versions

SHARED = "put it where every node reaches it: a shared file system or s3://"


@dataclass(frozen=True)
class Seen:
    """A node as a task on it finds it: its name, its versions, and which of the files are not there."""

    node: str
    versions: dict[str, str]
    missing: tuple[str, ...]


def absolute(url: str) -> str:
    """A local path in full, as it is from here; any other URL unchanged."""
    return storage.filesystem(url)[1] if storage.is_local(url) else url


def check_here(path: str) -> None:
    """A `UserError` that names this node if a local path is not there."""
    if storage.is_local(path) and not storage.exists(path):
        raise UserError(f"{path}: not on this node ({platform.node()}); {SHARED}")


def check_nodes(files: Iterable[str], launch: LaunchConfig) -> None:
    """A `UserError` that names the first node with room for a worker that has other versions or not all the files."""
    local = [file for file in files if storage.is_local(file)]
    probes = [
        ray.remote(seen)
        .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
        .remote(local)
        for node in ray.nodes()
        if node["Alive"] and _has_room(node["Resources"], launch)
    ]
    for found in ray.get(probes):
        check_seen(found)


def check_seen(found: Seen) -> None:
    """A `UserError` if what a node has is not as here."""
    if different := differences(versions(), found.versions):
        raise UserError(
            f"versions differ between node {platform.node()} (here) and node {found.node} (there): {different}; "
            "install the same on both"
        )
    if found.missing:
        raise UserError(f"{found.missing[0]}: on {platform.node()}, but not on node {found.node}; {SHARED}")


def seen(files: list[str]) -> Seen:
    """This node."""
    return Seen(platform.node(), versions(), tuple(file for file in files if not os.path.exists(file)))


def _has_room(resources: dict[str, Any], launch: LaunchConfig) -> bool:
    needs = {"CPU": launch.cpus_per_worker, "GPU": launch.gpus_per_worker}
    return all(resources.get(name, 0.0) >= need for name, need in needs.items())
