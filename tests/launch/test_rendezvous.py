"""The interface over which a group's workers speak."""

from __future__ import annotations

import os
import socket
from types import SimpleNamespace

import psutil
import pytest

from mdr_dist.launch.rendezvous import interface_of, take_interface


def addresses(*of: str) -> list[SimpleNamespace]:
    return [SimpleNamespace(address=address) for address in of]


@pytest.fixture
def several(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on two networks, of which its host name would give the first."""
    found = {
        "docker0": addresses("172.17.0.1", "fe80::1%docker0"),
        "ib0": addresses("10.0.0.12", "fd00::2", "fe80::2%ib0", "00:00:10:29"),
        "eth0": addresses("10.0.0.1"),
    }
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: found)


def test_the_interface_of_loopback_here() -> None:
    assert interface_of("127.0.0.1") in [name for _, name in socket.if_nameindex() if name.startswith("lo")]


@pytest.mark.parametrize(
    ("address", "name"),
    [("10.0.0.1", "eth0"), ("10.0.0.12", "ib0"), ("fd00::2", "ib0"), ("fe80::1", "docker0"), ("10.0.0.2", "")],
)
def test_the_interface_that_has_an_address(several: None, address: str, name: str) -> None:
    assert interface_of(address) == name


@pytest.mark.parametrize(
    ("address", "given", "taken"),
    [("10.0.0.12", "", "ib0"), ("10.0.0.12", "eth0", "eth0"), ("192.0.2.1", "", None)],
)
def test_what_the_environment_names_goes_first(
    several: None, address: str, given: str, taken: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: address)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", given)  # also to have it back after
    if not given:
        monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    take_interface()
    assert os.environ.get("GLOO_SOCKET_IFNAME") == taken
