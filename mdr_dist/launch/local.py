"""A run on Ray: one started here for it, or a cluster that is there.

Lanes run side by side where the plan and the cluster allow: a lane of one worker as a Ray task, a lane of several as a
Ray Train run. Every worker writes its shards straight into the run's folder, and only our own `DONE` marks a
checkpoint: Ray keeps none. After a worker dies Ray starts its lane again, which resumes from the newest `DONE`; the
other lanes do not notice.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
import threading
import uuid
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
from mdr_dist.launch.graph import run_lanes
from mdr_dist.launch.nodes import absolute, check_here, check_nodes
from mdr_dist.launch.process import group_of_one, leave_export
from mdr_dist.train.attempt import attempt, open_run, raise_error, write_error
from mdr_dist.train.lane import Echo, train_lane
from mdr_dist.train.monitor import line_of
from mdr_dist.train.run import ERROR, JOB, METRICS, PLAN, check, finish

OBJECT_STORE_BYTES = 256 * 2**20
# the controller polls this often (seconds); it decides how fast a dead worker is noticed
ENVIRONMENT = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2", "RAY_TRAIN_V2_ENABLED": "1"}


def train_on_ray(job: Job, runs: str, *, address: str = "", echo: Echo | None = None) -> tuple[str, dict[str, Any]]:
    """Train a job with `launch.workers` workers on Ray; the run's folder and its metrics.

    This process, the driver, uses no device: it may be where none is.
    """
    runs, data = absolute(runs), absolute(job.data.path)
    if address:
        check_here(data)
    job = job.model_copy(update={"data": job.data.model_copy(update={"path": data})})
    plan = check(job)
    each = plan.workers(job.launch.workers)
    with connected(address):
        room = _check_fits(job)
        run = open_run(job, runs)
        finished = storage.join(run, METRICS)
        if storage.exists(finished):
            return run, storage.read_json(finished)
        device = "cuda" if job.launch.gpus_per_worker else "cpu"
        storage.write_json(storage.join(run, PLAN), plan.to_json(job, workers=job.launch.workers, device=device))
        with attempt(run), tempfile.TemporaryDirectory(prefix="mdr-ray-train-") as scratch:
            if address:
                check_nodes((data, storage.join(run, JOB)), job.launch)
            with _following(run, tuple(plan.lanes), echo):
                lanes = _Lanes(job, run, scratch, each)
                run_lanes(plan.lanes, lanes.train, cost=each, room=room)
            metrics = finish(job, run)
            leave_export(job, run)
            return run, metrics


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """A cluster by address, or one of our own on loopback that ends with the context."""
    os.environ.update({key: os.environ.get(key, value) for key, value in ENVIRONMENT.items()})
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address:
        options["address"] = address
    else:
        # `local`: a cluster that happens to run on this machine is not ours
        options |= {"address": "local", "num_cpus": os.cpu_count(), "object_store_memory": OBJECT_STORE_BYTES}
        options |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    main, before = threading.current_thread() is threading.main_thread(), signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**options)
    except ConnectionError as error:
        raise UserError(
            f"--address {address}: no Ray cluster answers there: {str(error).splitlines()[0]}; if it asks for a token, "
            "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        ) from error
    try:
        if main:
            signal.signal(signal.SIGTERM, _stop)  # Ray's own way to end prints its C++ stack
        yield
    finally:
        ray.shutdown()
        if main:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _stop(*_: object) -> None:
    raise Stopped("stopped; the same command goes on from the newest checkpoint")


def _check_fits(job: Job) -> int:
    """How many workers the cluster holds; a `UserError` if not as many as the job asks for."""
    has, launch = ray.cluster_resources(), job.launch
    room = []
    for resource, each in (("CPU", launch.cpus_per_worker), ("GPU", launch.gpus_per_worker)):
        needed = each * launch.workers
        if needed > has.get(resource, 0.0):
            raise UserError(
                f"--workers {launch.workers}: they need {needed:g} {resource}s, the cluster has "
                f"{has.get(resource, 0.0):g}; ask for fewer workers or join more nodes"
            )
        room += [int(has.get(resource, 0.0) / each)] if each else []
    return min(*room, launch.workers)


@dataclass(frozen=True)
class _Lanes:
    """Trains one lane of a run at a time a call, on as many workers as it has."""

    job: Job
    run: str
    scratch: str
    workers: dict[str, int]

    def train(self, lane: str) -> None:
        """Train a lane to its end; what stops a worker for good is raised, whatever Ray made of it."""
        failure: Exception | None = None
        config = {"job": self.job.model_dump(mode="json"), "run": self.run, "lane": lane}
        try:
            if self.workers[lane] == 1:
                self._task(config)
            else:
                self._group(config, self.workers[lane])
        except (RayTaskError, ray.train.TrainingFailedError) as error:
            failure = error
        raise_error(self.run)
        if failure:
            raise failure

    def _task(self, config: dict[str, Any]) -> None:
        launch = self.job.launch
        ray.get(
            ray.remote(max_calls=1)(_alone)  # a process a lane: nothing of it is left to the next
            .options(
                num_cpus=launch.cpus_per_worker,
                num_gpus=launch.gpus_per_worker,
                max_retries=launch.max_failures,
            )
            .remote(config)
        )

    def _group(self, config: dict[str, Any], workers: int) -> None:
        gpus = self.job.launch.gpus_per_worker
        resources = {"CPU": self.job.launch.cpus_per_worker} | ({"GPU": gpus} if gpus else {})
        trainer = ray.train.torch.TorchTrainer(
            _together,
            train_loop_config=config,
            torch_config=ray.train.torch.TorchConfig(backend="cpu:gloo,cuda:nccl" if gpus else "gloo"),
            scaling_config=ray.train.ScalingConfig(
                num_workers=workers, use_gpu=bool(gpus), resources_per_worker=resources
            ),
            run_config=ray.train.RunConfig(
                # a name that Ray has seen resumes its own state silently: always a new one
                name=f"{self.job.name}-{uuid.uuid4().hex[:8]}",
                storage_path=self.scratch,
                failure_config=ray.train.FailureConfig(max_failures=self.job.launch.max_failures),
            ),
        )
        trainer.fit()


def _alone(config: dict[str, Any]) -> None:
    """A lane of one worker."""
    with group_of_one() as device:
        _work(config, device)


def _together(config: dict[str, Any]) -> None:
    """What every worker of a lane of several runs."""
    _work(config, ray.train.torch.get_device())


def _work(config: dict[str, Any], device: Any) -> None:
    job, run, lane = Job.model_validate(config["job"]), config["run"], config["lane"]
    if storage.exists(storage.join(run, ERROR)):
        return  # Ray tries again, but neither the user's input nor a loss that is not finite would be another
    try:
        train_lane(job, run, lane=lane, device=device)
    except (UserError, FloatingPointError) as error:
        write_error(run, error, lane=lane)
        raise


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
    paths = [storage.join(lane_folder(run, lane), "events.jsonl") for lane in lanes]
    seen = {path: len(_lines(path)) for path in paths}
    last = False
    while not last:
        last = ended.wait(1.0)
        for path in paths:
            lines = _lines(path)
            for shown in filter(None, (line_of(json.loads(line)) for line in lines[seen[path] :])):
                echo(shown)
            seen[path] = len(lines)


def _lines(path: str) -> list[bytes]:
    """The whole lines of a file, none if there is no file yet."""
    return storage.read_bytes(path).split(b"\n")[:-1] if storage.exists(path) else []
