"""How the workers of a group meet: at the addresses by which the cluster knows their nodes.

torch's store is told such an address by Ray. Gloo, left alone, listens where a node's host name leads, which is
loopback on many machines, and on others a network that the nodes do not share.
"""

from __future__ import annotations

import os
from typing import Any

import psutil
import ray
import ray.util
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

INTERFACE = "GLOO_SOCKET_IFNAME"


class Rendezvous(TorchConfig):
    """torch's process group, over each node's own address; `GLOO_SOCKET_IFNAME` of a node's environment goes first."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _Backend


class _Backend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        try:
            worker_group.execute(take_interface)
            super().on_start(worker_group, backend_config)
        except Exception:
            worker_group.shutdown()  # Ray (2.60) forgets a group that fails here, and it would keep its places
            raise


def take_interface() -> None:
    """Have gloo use the interface that has this node's address, in this process."""
    if INTERFACE not in os.environ and (name := interface_of(ray.util.get_node_ip_address())):
        os.environ[INTERFACE] = name


def interface_of(address: str) -> str:
    """The name of the interface with an IPv4 or IPv6 address; empty if none has it."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address.partition("%")[0] == address for each in addresses):
            return name
    return ""
