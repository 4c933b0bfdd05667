"""A Ray cluster of one head on loopback, started from outside as a user does it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import requests
from seaweedfs import free_ports


def environment(**more: str) -> dict[str, str]:
    """Of a program that must take its code from what was sent to it, and its Python from the PATH."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHONPATH"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ray = {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_worker_niceness": "0"}
    return kept | {"PATH": path} | ray | more


@contextlib.contextmanager
def head(*, cpus: int) -> Iterator[str]:
    """Start a head, give its dashboard's address, and end every process of it."""
    folder = tempfile.mkdtemp(prefix="mdr-ray-", dir="/tmp")  # sockets need a short path
    gcs, dashboard, agent, client = free_ports(4)
    options = {
        "--node-ip-address": "127.0.0.1",
        "--port": gcs,
        "--dashboard-host": "127.0.0.1",
        "--dashboard-port": dashboard,
        "--dashboard-agent-listen-port": agent,
        "--ray-client-server-port": client,
        "--min-worker-port": 0,
        "--max-worker-port": 0,
        "--num-cpus": cpus,
        "--object-store-memory": 100 * 2**20,
        "--temp-dir": folder,
    }
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--disable-usage-stats"]
    command = [*ray, *(f"{name}={value}" for name, value in options.items())]
    try:
        subprocess.run(command, env=environment(), check=True, capture_output=True, timeout=120, cwd=folder)
        address = f"http://127.0.0.1:{dashboard}"
        _wait_for(f"{address}/api/version")
        yield address
    finally:
        _kill_all(folder)
        shutil.rmtree(folder, ignore_errors=True)


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    """What the run's one lane tells of a kind, while it goes on too."""
    path = run / "lanes" / "main" / "events.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if f'"kind": "{kind}"' in line]


def wait(process: subprocess.Popen[bytes], until: Callable[[], bool]) -> None:
    """Wait until something holds of a run that goes on."""
    deadline = time.monotonic() + 150
    while not until():
        assert process.poll() is None, "the run ended before it could be disturbed"
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.05)


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(requests.RequestException):
            if requests.get(url, timeout=5).ok:
                return
        time.sleep(0.2)
    raise TimeoutError(f"{url} does not answer")


def _kill_all(folder: str) -> None:
    """Kill what was started with the folder in its command line, and all below that; nothing may be left."""
    own: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if folder in " ".join(process.cmdline()):
                own |= {each.pid: each for each in (process, *process.children(recursive=True))}
    for process in own.values():
        with contextlib.suppress(psutil.Error):
            process.kill()
    _, alive = psutil.wait_procs(list(own.values()), timeout=30)
    assert not alive, f"a head was not ended: {alive}"
