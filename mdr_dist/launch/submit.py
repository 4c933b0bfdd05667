"""A run as a Ray job: the cluster's head runs `mdr train`, and this machine only sends, follows and asks.

A run may be submitted again and again: `<name>@<n>` is its n-th attempt on a cluster, of which one at a time may run.
Every attempt is the same command on the same folder, so that it goes on where the one before ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import re
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import ray
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from mdr_dist import storage
from mdr_dist.config import Job
from mdr_dist.errors import Fault, UserError
from mdr_dist.launch.package import packaged
from mdr_dist.redact import redacted

# of object storage; what names files of the submitter's machine is not among them
CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
)
COMMAND = "python -m mdr_dist.launch.versions && exec python -m mdr_dist train job.yaml --address auto"
STATES = {
    JobStatus.PENDING: "waiting",
    JobStatus.RUNNING: "running",
    JobStatus.SUCCEEDED: "finished",
    JobStatus.FAILED: "failed",
    JobStatus.STOPPED: "stopped",
}
ENDED = ("finished", "failed", "stopped")
STOPPED_CODE, NO_COMMAND = 143, 127  # 128 + SIGTERM; what a shell says of a program that it does not find
_ID = re.compile(r"(.+)@(\d+)")  # no run's name holds an @
_OURS = {"RAY_JOB_STOP_WAIT_TIME_S": "30"}  # until a driver that was asked to end is killed
_PATIENCE = 10.0  # seconds without an answer
_TRIES = 30  # times to reach a cluster again that was lost while it was followed


@dataclass(frozen=True)
class Attempt:
    """An attempt at a run on a cluster, `number` from 1. Times are unix seconds, `code` is the exit code, if any."""

    id: str
    name: str
    number: int
    state: str
    started: float | None
    ended: float | None
    code: int | None
    message: str


class _Client(JobSubmissionClient):
    """Ray's client, which can also tell the cluster's version."""

    def __init__(self, address: str) -> None:
        try:
            super().__init__(address)
        except RuntimeError as error:  # something else answers there
            raise ConnectionError(str(error)) from error

    def ray_version(self) -> str:
        return self._do_request("GET", "/api/version").json()["ray_version"]


class Cluster:
    """A Ray cluster by the address of its dashboard, `http://HEAD:8265`; `UserError` if none answers there."""

    def __init__(self, address: str) -> None:
        self.address = address = address.rstrip("/")
        if urlsplit(address).scheme not in ("http", "https"):
            raise UserError(f"--address {address!r}: write it as http://HEAD:8265, where the cluster's dashboard is")
        for chatty in ("dashboard_sdk", "job.sdk"):
            logging.getLogger(f"ray.dashboard.modules.{chatty}").setLevel(logging.ERROR)
        with self._reached(), _only(address):
            requests.get(address, timeout=_PATIENCE)  # Ray itself would wait for minutes
            self._client = _Client(address)
            if (there := self._client.ray_version()) != ray.__version__:
                raise UserError(f"--address {address}: Ray {there} is there, {ray.__version__} here; install the same")

    def attempts(self, name: str = "") -> list[Attempt]:
        """All attempts at a run that the cluster knows of, the newest last; without a name, at all runs."""
        with self._reached():
            jobs = self._client.list_jobs()
        ours = [_attempt(job, *found.groups()) for job in jobs if (found := _ID.fullmatch(job.submission_id or ""))]
        return sorted((a for a in ours if name in ("", a.name)), key=lambda a: (a.name, a.number))

    def find(self, name: str) -> Attempt:
        """The newest attempt at a run, or the one of that id; `UserError` if there is none."""
        known = self.attempts()
        found = [attempt for attempt in known if name in (attempt.name, attempt.id)]
        if not found:
            names = ", ".join(dict.fromkeys(attempt.name for attempt in known)) or "none"
            raise UserError(f"no run {name!r} was submitted to {self.address}; those that were: {names}")
        return found[-1]

    def submit(self, job: Job, *, variables: dict[str, str]) -> Attempt:
        """Send a prepared job with environment variables for it; `UserError` while its run is running already."""
        newest = next(reversed(self.attempts(job.name)), None)
        if newest and newest.state not in ENDED:
            raise self._taken(newest)
        id_ = f"{job.name}@{newest.number + 1 if newest else 1}"
        content = packaged(job)
        with tempfile.TemporaryDirectory(prefix="mdr-submit-") as folder, self._reached():
            package = Path(folder) / "package.zip"
            package.write_bytes(content)
            environment = {"working_dir": str(package), "env_vars": {**_OURS, **variables}}
            try:
                self._client.submit_job(entrypoint=COMMAND, submission_id=id_, runtime_env=environment)
            except RuntimeError as error:
                if "already exists" in str(error):  # somebody else was quicker
                    raise self._taken(self.find(id_)) from error
                raise
        return self.find(id_)

    def follow(self, attempt: Attempt, echo: Callable[[str], None]) -> Attempt:
        """Echo the lines of an attempt's log from its beginning until it ends; the attempt as it ended."""
        lines, lost = _Once(echo), 0
        while True:
            try:
                asyncio.run(lines.read(self._client.tail_job_logs(attempt.id)))
                now = self.find(attempt.id)
                if now.state in ENDED:
                    lines.end()
                    return now
            except (RuntimeError, aiohttp.ClientError, UserError) as error:
                if (lost := lost + 1) >= _TRIES:
                    raise Fault(f"{self.address} does not answer any more: {error}; the job may go on there") from error
            time.sleep(1.0)

    def log(self, attempt: Attempt) -> str:
        """What an attempt's log holds so far."""
        with self._reached():
            return redacted(self._client.get_job_logs(attempt.id))

    def stop(self, attempt: Attempt) -> Attempt:
        """Ask an attempt to end and wait until it has; one that ended stays as it is."""
        with self._reached():
            self._client.stop_job(attempt.id)
        while (now := self.find(attempt.id)).state not in ENDED:
            time.sleep(0.5)
        return now

    def _taken(self, by: Attempt) -> UserError:
        more = f"{by.name} --address {self.address}"
        return UserError(
            f"{by.name} is {by.state} on {self.address} as {by.id}; follow it (mdr submit logs --follow {more}), "
            f"or end it (mdr submit stop {more}) and submit it again"
        )

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        """What says that the cluster does not answer, or not us, is the user's to put right."""
        try:
            yield
        except AuthenticationError as error:
            reason = "the cluster asks for a token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to the cluster's"
            raise UserError(f"--address {self.address}: {reason}") from error
        except (requests.RequestException, ConnectionError, KeyError, TypeError) as error:
            reason = "no Ray cluster's dashboard answers there; is it http://HEAD:8265, and is the cluster up?"
            raise UserError(f"--address {self.address}: {reason}") from error
        except RuntimeError as error:
            raise Fault(f"{self.address}: {' '.join(str(error).split())}") from error


class _Once:
    """Echoes every line of a log once, though it may have to be read from its beginning again."""

    def __init__(self, echo: Callable[[str], None]) -> None:
        self._echo, self._told, self._rest = echo, 0, ""

    async def read(self, chunks: AsyncIterator[str]) -> None:
        """Echo the whole lines of a log, given from its beginning, that have not been."""
        self._rest, number = "", 0
        async for chunk in chunks:
            *lines, self._rest = (self._rest + chunk).split("\n")
            for line in lines:
                number += 1
                if number > self._told:
                    self._told = number
                    self._echo(redacted(line))

    def end(self) -> None:
        """Echo what stands behind the last line's end."""
        if self._rest:
            self._echo(redacted(self._rest))


def exit_code(attempt: Attempt) -> int:
    """What `mdr submit` exits with: as the command on the cluster did."""
    if attempt.state == "finished":
        return 0
    if attempt.state == "stopped":
        return STOPPED_CODE
    return attempt.code if attempt.code and 0 < attempt.code < 256 else 1


def reason(attempt: Attempt) -> str:
    """Why an attempt ended that its log does not tell; empty where it does."""
    if attempt.code == NO_COMMAND:
        return "the head has no `python` in its PATH; activate the environment there before `ray start`"
    return attempt.message if attempt.state == "failed" and attempt.code is None else ""


def passed(job: Job, names: tuple[str, ...], *, credentials: bool = True) -> dict[str, str]:
    """The environment variables that go with a job: those named, and where it uses object storage its credentials."""
    if missing := [name for name in names if name not in os.environ]:
        raise UserError(f"--env {missing[0]}: no such variable in the environment")
    remote = not all(storage.is_local(url) for url in (job.data.path, job.launch.storage))
    usual = tuple(name for name in CREDENTIALS if name in os.environ) if remote and credentials else ()
    return {name: os.environ[name] for name in dict.fromkeys(usual + names)}


def exposure(address: str) -> str:
    """A warning, if the address is one that others can listen to and use; else empty."""
    parts = urlsplit(address)
    if parts.scheme != "http" or os.environ.get("RAY_AUTH_MODE", "").lower() == "token" or _is_loopback(parts.hostname):
        return ""
    return (
        f"{address} is plain HTTP without a token: whoever reaches it can run code there and read what a job is "
        "passed; tunnel it (ssh -L 8265:127.0.0.1:8265 HEAD), or turn on RAY_AUTH_MODE=token"
    )


@contextlib.contextmanager
def _only(address: str) -> Iterator[None]:
    """Let Ray, which puts these variables before what it is told, go to this address."""
    before = {name: os.environ.pop(name) for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS") if name in os.environ}
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    try:
        yield
    finally:
        del os.environ["RAY_API_SERVER_ADDRESS"]
        os.environ.update(before)


def _is_loopback(host: str | None) -> bool:
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return host == "localhost"


def _attempt(job: JobDetails, name: str, number: str) -> Attempt:
    started, ended = (None if at is None else at / 1000 for at in (job.start_time, job.end_time))
    return Attempt(
        id=f"{name}@{number}",
        name=name,
        number=int(number),
        state=STATES[job.status],
        started=started,
        ended=ended,
        code=job.driver_exit_code,
        message=redacted(job.message or ""),
    )
