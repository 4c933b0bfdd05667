"""A run on Ray Train: a Ray started here for it, or a cluster that is there.

Every worker writes its shards straight into the run's folder, and only our own `DONE` marks a checkpoint: Ray keeps
none. After a worker dies Ray starts the group again, which resumes from the newest `DONE`.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import ray
import ray.train
import ray.train.torch

from mdr_dist import storage
from mdr_dist.config import Job
from mdr_dist.errors import UserError
from mdr_dist.train.monitor import line_of
from mdr_dist.train.run import ERROR, LANE, METRICS, Echo, attempt, check, open_run, train, write_error

OBJECT_STORE_BYTES = 256 * 2**20
# the controller polls this often (seconds); it decides how fast a dead worker is noticed
ENVIRONMENT = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2", "RAY_TRAIN_V2_ENABLED": "1"}


def train_on_ray(job: Job, runs: str, *, address: str = "", echo: Echo | None = None) -> tuple[str, dict[str, Any]]:
    """Train a job with `launch.workers` Ray Train workers; the run's folder and its metrics."""
    check(job)
    runs = os.path.abspath(runs) if storage.is_local(runs) else runs
    data = os.path.abspath(job.data.path) if storage.is_local(job.data.path) else job.data.path
    job = job.model_copy(update={"data": job.data.model_copy(update={"path": data})})
    with connected(address):
        _check_fits(job)
        run = open_run(job, runs)
        with attempt(run), _following(run, echo), tempfile.TemporaryDirectory(prefix="mdr-ray-train-") as scratch:
            _fit(job, run, scratch=scratch)
            return run, _outcome(run)


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """A cluster by address, or one of our own on loopback that ends with the context."""
    os.environ.update({key: os.environ.get(key, value) for key, value in ENVIRONMENT.items()})
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address:
        options["address"] = address
    else:
        options |= {"num_cpus": os.cpu_count(), "object_store_memory": OBJECT_STORE_BYTES}
        options |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    try:
        ray.init(**options)
    except ConnectionError as error:
        raise UserError(f"--address {address}: no Ray cluster answers there: {str(error).splitlines()[0]}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_fits(job: Job) -> None:
    has = ray.cluster_resources()
    for resource, each in (("CPU", job.launch.cpus_per_worker), ("GPU", job.launch.gpus_per_worker)):
        needed = each * job.launch.workers
        if needed > has.get(resource, 0.0):
            raise UserError(
                f"--workers {job.launch.workers}: they need {needed:g} {resource}s, the cluster has "
                f"{has.get(resource, 0.0):g}; ask for fewer workers or join more nodes"
            )


def _fit(job: Job, run: str, *, scratch: str) -> None:
    gpus = job.launch.gpus_per_worker
    resources = {"CPU": job.launch.cpus_per_worker} | ({"GPU": gpus} if gpus else {})
    trainer = ray.train.torch.TorchTrainer(
        _work,
        train_loop_config={"job": job.model_dump(mode="json"), "run": run},
        torch_config=ray.train.torch.TorchConfig(backend="cpu:gloo,cuda:nccl" if gpus else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=job.launch.workers, use_gpu=bool(gpus), resources_per_worker=resources
        ),
        run_config=ray.train.RunConfig(
            # a name that Ray has seen resumes its own state silently: always a new one
            name=f"{job.name}-{uuid.uuid4().hex[:8]}",
            storage_path=scratch,
            failure_config=ray.train.FailureConfig(max_failures=job.launch.max_failures),
        ),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError:
        if not storage.exists(storage.join(run, ERROR)):
            raise


def _work(config: dict[str, Any]) -> None:
    """What every Ray Train worker runs."""
    job, run = Job.model_validate(config["job"]), config["run"]
    if storage.exists(storage.join(run, ERROR)):
        return  # a retry cannot mend the user's input
    try:
        train(job, run, device=ray.train.torch.get_device())
    except UserError as error:
        write_error(run, error)
        raise


def _outcome(run: str) -> dict[str, Any]:
    if storage.exists(storage.join(run, ERROR)):
        raise UserError(storage.read_json(storage.join(run, ERROR))["error"])
    return storage.read_json(storage.join(run, METRICS))


@contextlib.contextmanager
def _following(run: str, echo: Echo | None) -> Iterator[None]:
    """Echo the run's events while the workers write them."""
    ended = threading.Event()
    thread = threading.Thread(target=_follow, args=(run, echo, ended), daemon=True)
    if echo:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if echo:
            thread.join()


def _follow(run: str, echo: Echo, ended: threading.Event) -> None:
    path, seen = storage.join(run, LANE, "events.jsonl"), 0
    if storage.exists(path):
        seen = len(storage.read_bytes(path).splitlines())
    last = False
    while not last:
        last = ended.wait(1.0)
        lines = storage.read_bytes(path).split(b"\n")[:-1] if storage.exists(path) else []
        for line in lines[seen:]:
            if shown := line_of(json.loads(line)):
                echo(shown)
        seen = len(lines)
