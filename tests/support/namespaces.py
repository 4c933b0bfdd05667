"""Two hosts on one machine: network namespaces, each with an address of its own, and one wire between them.

Neither reaches anything else. Linux and root are needed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from support.cluster import environment

PORT = 6379


class UnavailableError(Exception):
    """Why there can be no hosts here."""


@dataclass(frozen=True)
class Host:
    """A namespace, its address, and the interface that has it."""

    name: str
    address: str
    interface: str

    def command(self, *words: str) -> list[str]:
        """A command line that runs there."""
        return ["ip", "netns", "exec", self.name, *words]

    def processes(self, named: str = "") -> list[psutil.Process]:
        """Those that run there with such a word in their command line."""
        found = []
        for pid in _ip("netns", "pids", self.name).split():
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(int(pid))
                if named in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def connections(self, pid: int) -> set[tuple[str, str]]:
        """The ends, this one first, of every TCP connection of a process there."""
        lines = _run(self.command("ss", "-Htnp", "state", "established")).replace("[::ffff:", "").replace("]", "")
        return {(line.split()[2], line.split()[3]) for line in lines.splitlines() if f"pid={pid}," in line}

    def kill(self) -> None:
        """Kill all that runs there; nothing may be left."""
        deadline = time.monotonic() + 30
        while running := self.processes():
            assert time.monotonic() < deadline, f"{self.name} was not ended: {running}"
            for process in running:
                with contextlib.suppress(psutil.Error):
                    process.send_signal(signal.SIGKILL)
            psutil.wait_procs(running, timeout=1)

    def unplug(self) -> None:
        """Cut the wire: who speaks to it hears no more, not even that a process ended."""
        _ip("-n", self.name, "link", "set", self.interface, "down")


@contextlib.contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Both, gone with all that runs in them when the context ends; `UnavailableError` where that may not be."""
    if not shutil.which("ip") or not hasattr(os, "geteuid") or os.geteuid() != 0:
        raise UnavailableError("network namespaces need Linux, iproute2's `ip` and root")
    hosts = tuple(Host(f"mdr-{os.getpid()}-{at}", f"10.231.0.{at + 1}", f"wire{at}") for at in (0, 1))
    one, two = hosts
    with contextlib.ExitStack() as made:
        try:
            for host in hosts:
                _ip("netns", "add", host.name)
                made.callback(_remove, host)
            ends = [one.interface, "netns", one.name, "type", "veth", "peer", "name", two.interface, "netns", two.name]
            _ip("link", "add", *ends)
            for host in hosts:
                _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", host.interface)
                for interface in ("lo", host.interface):
                    _ip("-n", host.name, "link", "set", interface, "up")
        except subprocess.CalledProcessError as error:
            raise UnavailableError(f"no network namespaces here: {error.stderr.strip()}") from error
        yield one, two


def _remove(host: Host) -> None:
    host.kill()
    _ip("netns", "delete", host.name)


def _ip(*words: str) -> str:
    return _run(["ip", *words])


def _run(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


@contextlib.contextmanager
def ray_over(head: Host, other: Host, **more: str) -> Iterator[str]:
    """A cluster of two nodes of one CPU, the head's address; what runs in the hosts ends with them."""
    folder = tempfile.mkdtemp(prefix="mdr-ray-", dir="/tmp")  # sockets need a short path
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--disable-usage-stats", "--num-cpus=1"]
    start += ["--min-worker-port=0", "--max-worker-port=0", f"--object-store-memory={100 * 2**20}"]
    address = f"{head.address}:{PORT}"
    first = ["--head", f"--port={PORT}", "--include-dashboard=false", f"--temp-dir={folder}"]
    try:
        for host, words in ((head, first), (other, [f"--address={address}"])):
            command = host.command(*start, f"--node-ip-address={host.address}", *words)
            said = subprocess.run(
                command, env=outside(**more), capture_output=True, text=True, timeout=120, cwd=folder, check=False
            )
            assert said.returncode == 0, said.stdout + said.stderr
        yield address
    finally:
        for host in (head, other):
            host.kill()
        shutil.rmtree(folder, ignore_errors=True)


def outside(**more: str) -> dict[str, str]:
    """The environment of a program in a host: nothing in it says which interface to take, or keeps to loopback."""
    kept = environment(PYTHONPATH=str(Path(__file__).parents[2]), OMP_NUM_THREADS="1", **more)
    left_out = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
    return {name: value for name, value in kept.items() if name not in left_out}
