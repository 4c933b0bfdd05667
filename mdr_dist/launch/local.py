"""A run on Ray: one started here for it, or a cluster that is there.

Lanes run side by side where the plan and the cluster allow: a lane of one worker as a Ray task, a lane of several as a
Ray Train run. Every worker writes its shards straight into the run's folder, and only our own `DONE` marks a
checkpoint: Ray keeps none. After a worker dies Ray starts its lane again, which resumes from the newest `DONE`; the
other lanes do not notice.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
import ray.train.torch
from ray.exceptions import RayTaskError

from mdr_dist import storage
from mdr_dist.checkpoint.lanes import lane_folder
from mdr_dist.config import Job
from mdr_dist.errors import Stopped, UserError
from mdr_dist.events import Tail
from mdr_dist.launch import worker
from mdr_dist.launch.graph import run_lanes
from mdr_dist.launch.group import Group, ask_to_leave, clear, places, resources
from mdr_dist.launch.nodes import absolute, check_here, check_nodes
from mdr_dist.launch.process import leave_export
from mdr_dist.train.attempt import attempt, open_run, raise_error
from mdr_dist.train.interrupt import at_sigterm
from mdr_dist.train.lane import Echo
from mdr_dist.train.monitor import line_of
from mdr_dist.train.run import JOB, METRICS, PLAN, Plan, check, finish

OBJECT_STORE_BYTES = 256 * 2**20
# the controller polls this often (seconds); it decides how fast a dead worker is noticed
ENVIRONMENT = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2", "RAY_TRAIN_V2_ENABLED": "1"}
# the watcher is a process that tells of nodes that are about to be taken away
ON_ONE_MACHINE = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}


def train_on_ray(job: Job, runs: str, *, address: str = "", echo: Echo | None = None) -> tuple[str, dict[str, Any]]:
    """Train a job with `launch.workers` workers on Ray; the run's folder and its metrics.

    This process, the driver, uses no device: it may be where none is.
    """
    runs, data = absolute(runs), absolute(job.data.path)
    if address:
        check_here(data)
    job = job.model_copy(update={"data": job.data.model_copy(update={"path": data})})
    plan = check(job)
    with connected(address):
        _check_fits(job, wait=60 * job.launch.wait_minutes if address else 0, echo=echo)
        run = open_run(job, runs)
        with attempt(run):
            metrics = _train(job, run, plan=plan, address=address, echo=echo)
            leave_export(job, run)  # of a run that was finished too: its driver may have died before
            return run, metrics


def _train(job: Job, run: str, *, plan: Plan, address: str, echo: Echo | None) -> dict[str, Any]:
    """Train what is left of a run; its metrics."""
    finished = storage.join(run, METRICS)
    if storage.exists(finished):
        return storage.read_json(finished)
    device = "cuda" if job.launch.gpus_per_worker else "cpu"
    storage.write_json(storage.join(run, PLAN), plan.to_json(job, workers=job.launch.workers, device=device))
    each, least, names = plan.workers(job.launch.workers), plan.workers(job.launch.least), tuple(plan.lanes)
    with tempfile.TemporaryDirectory(prefix="mdr-ray-train-") as scratch:
        if address:
            check_nodes((job.data.path, storage.join(run, JOB)), job.launch)
        with _following(run, names, echo), _stopping(run, names) as stopping:
            lanes = _Lanes(job, run, scratch, each, least, stopping, echo)
            run_lanes(plan.lanes, lanes.train, cost=each, room=job.launch.workers)
    if stopping.is_set():
        raise Stopped("stopped with a checkpoint of each lane; the same command goes on from them")
    return finish(job, run)


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """A cluster by address, or one of our own on loopback that ends with the context."""
    environment = ENVIRONMENT if address else ENVIRONMENT | ON_ONE_MACHINE
    os.environ.update({key: os.environ.get(key, value) for key, value in environment.items()})
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address:
        options["address"] = address
    else:
        # `local`: a cluster that happens to run on this machine is not ours
        options |= {"address": "local", "num_cpus": os.cpu_count(), "object_store_memory": OBJECT_STORE_BYTES}
        options |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    with at_sigterm(_stop):
        try:
            ray.init(**options)
        except ConnectionError as error:
            raise UserError(
                f"--address {address}: no Ray cluster answers there: {str(error).splitlines()[0]}; if it asks for a "
                "token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
            ) from error
        try:
            with at_sigterm(_stop):  # once more: Ray has set its own, which prints its C++ stack
                yield
        finally:
            ray.shutdown()


def _stop(*_: object) -> None:
    raise Stopped("stopped; the same command goes on from the newest checkpoint")


def _check_fits(job: Job, *, wait: float = 0, echo: Echo | None = None) -> None:
    """Raise `UserError` unless the cluster has, or has within `wait` seconds, what the least of the workers need."""
    lacking, started = _lacking(job), time.monotonic()
    if lacking and wait and echo:
        echo(f"{lacking}; waiting up to {wait / 60:g} minutes for more")
    with places(job.launch, job.launch.least if lacking and wait else 0):
        while lacking and time.monotonic() - started < wait:
            time.sleep(1)
            lacking = _lacking(job)
    if lacking:
        raise UserError(f"{lacking}; ask for fewer workers or join more nodes")


def _lacking(job: Job) -> str:
    """What the cluster lacks, in words."""
    has, asked = ray.cluster_resources(), f"--workers {job.launch.workers}"
    if job.launch.least < job.launch.workers:
        asked += f", {job.launch.least} at the least"
    for resource, each in resources(job.launch).items():
        if (needed := each * job.launch.least) > has.get(resource, 0.0):
            return f"{asked}: they need {needed:g} {resource}s, the cluster has {has.get(resource, 0.0):g}"
    return ""


class LaneError(Exception):
    """A lane's workers have ended, and are not to be started again."""


@dataclass(frozen=True)
class _Lanes:
    """Trains one lane of a run at a time a call, on as many workers as it has."""

    job: Job
    run: str
    scratch: str
    workers: dict[str, int]
    least: dict[str, int]
    stopping: threading.Event
    echo: Echo | None

    def train(self, lane: str) -> None:
        """Train a lane to its end, or until it is to stop; what its work cannot go on from is raised as it was,
        and a `LaneError` for all else that ends a worker for good."""
        failure: Exception | None = None
        config = {"job": self.job.model_dump(mode="json"), "run": self.run, "lane": lane}
        try:
            if self.workers[lane] == 1:
                self._task(config)
            else:
                Group(
                    work=worker.together,
                    config=config,
                    launch=self.job.launch,
                    wanted=self.workers[lane],
                    least=self.least[lane],
                    scratch=self.scratch,
                    stopping=self.stopping,
                    echo=self.echo,
                ).train()
        except (RayTaskError, ray.train.TrainingFailedError) as error:
            failure = error
        raise_error(self.run)
        if failure:
            # above its last line Ray tells where it was, and that a worker or its controller failed
            reason = next(reversed(str(failure).strip().splitlines()), type(failure).__name__)
            raise LaneError(f"lane {lane}: {reason}") from failure

    def _task(self, config: dict[str, Any]) -> None:
        launch = self.job.launch
        clear(lane_folder(self.run, config["lane"]))
        if self.stopping.is_set():
            return
        ray.get(
            ray.remote(max_calls=1)(worker.alone)  # a process a lane: nothing of it is left to the next
            .options(
                num_cpus=launch.cpus_per_worker,
                num_gpus=launch.gpus_per_worker,
                max_retries=launch.max_failures,
            )
            .remote(config)
        )


@contextlib.contextmanager
def _stopping(run: str, lanes: tuple[str, ...]) -> Iterator[threading.Event]:
    """An event that SIGTERM sets, which also asks all workers to leave; at once, if it comes again."""
    stopping = threading.Event()

    def stop(*_: object) -> None:
        if stopping.is_set():
            _stop()
        stopping.set()
        for lane in lanes:
            ask_to_leave(lane_folder(run, lane))

    with at_sigterm(stop):
        yield stopping


@contextlib.contextmanager
def _following(run: str, lanes: tuple[str, ...], echo: Echo | None) -> Iterator[None]:
    """Echo the lanes' events while the workers write them."""
    ended = threading.Event()
    thread = threading.Thread(target=_follow, args=(run, lanes, echo), kwargs={"ended": ended}, daemon=True)
    if echo:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if echo:
            thread.join()


def _follow(run: str, lanes: tuple[str, ...], echo: Echo, *, ended: threading.Event) -> None:
    tails = [Tail(lane_folder(run, lane)) for lane in lanes]
    for tail in tails:
        tail.new()  # those of attempts before, which were shown then
    last = False
    while not last:
        last = ended.wait(1.0)
        for shown in filter(None, (line_of(event) for tail in tails for event in tail.new())):
            echo(shown)
