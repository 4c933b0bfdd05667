"""One lane of a run, trained by one worker group."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from mdr_dist import storage
from mdr_dist.batch import world_size
from mdr_dist.checkpoint.checkpoint import barrier, is_first
from mdr_dist.checkpoint.lanes import RESULT, USERS, Outputs, checkpoints_of, lane_folder
from mdr_dist.config import Job
from mdr_dist.eval.evaluate import Measured
from mdr_dist.eval.figures import write_users
from mdr_dist.tables import build_tables
from mdr_dist.train.dense import DenseOptimizers
from mdr_dist.train.monitor import Monitor
from mdr_dist.train.run import METRICS, PLAN, Plan, check, finish, plan_of
from mdr_dist.train.trainer import Trainer
from mdr_dist.train.vectors import start_from_vectors

Echo = Callable[[str], None]
LEAVE = "leave"  # in a lane's folder: its workers are to end, with a checkpoint


def train(job: Job, run: str, *, device: torch.device, echo: Echo | None = None) -> dict[str, Any]:
    """Train all lanes one after the other in this process of its group, and return `metrics.json`'s value.

    Called by every process of the group alike; one without a process group is not supported (`launch` makes it).
    """
    finished = storage.join(run, METRICS)
    if _first_says(lambda: storage.exists(finished)):
        return storage.read_json(finished)
    plan = check(job)
    if is_first():
        storage.write_json(storage.join(run, PLAN), plan.to_json(job, workers=world_size(), device=device.type))
    for name in plan.lanes:
        train_lane(job, run, lane=name, device=device, echo=echo)
    if is_first():
        finish(job, run)
    barrier()
    return storage.read_json(finished)


def train_lane(job: Job, run: str, *, lane: str, device: torch.device, echo: Echo | None = None) -> None:
    """Train a lane to its end, in every process of its group alike. One that is done is left alone."""
    result = storage.join(lane_folder(run, lane), RESULT)
    if _first_says(lambda: storage.exists(result)):
        return
    if job.train.threads:
        torch.set_num_threads(job.train.threads)
    plan = plan_of(job)
    trainer = build_trainer(job, plan, run=run, lane=lane, device=device, echo=echo)
    started = time.monotonic()
    trainer.run()
    own, trained = plan.lanes[lane], _trained(trainer, seconds=time.monotonic() - started)
    # the lanes that no other needs are measured, each on its domains
    asked = plan.test if own in plan.last else None
    found = trainer.measure(replace(asked, domains=own.domains)) if asked else Measured({}, {})
    if is_first():
        if found.users:
            write_users(storage.join(lane_folder(run, lane), USERS), found.users)
        value = {"lane": lane, "workers": world_size(), "test": found.metrics or None, "train": trained}
        storage.write_json(result, value)
    barrier()
    del trainer
    gc.collect()  # sharded modules hold each other in cycles, and the next lane needs the memory


def build_trainer(
    job: Job,
    plan: Plan,
    *,
    run: str,
    device: torch.device,
    lane: str = "main",
    echo: Echo | None = None,
    make_tables: Any = build_tables,
) -> Trainer:
    """The trainer of a checked job's lane in this process; `make_tables` may put the unsharded twin in place."""
    rank = torch.distributed.get_rank() if world_size() > 1 else 0
    own, method = plan.lanes[lane], plan.method.to(device)
    tables = make_tables(plan.specs(own), own.stages, config=job.tables, device=device, seed=job.train.seed)
    start_from_vectors(method, tables, path=plan.dataset.path)
    return Trainer(
        method=method,
        tables=tables,
        source=plan.source(job, rank=rank, world=world_size()),
        checkpoints=checkpoints_of(run, lane),
        monitor=Monitor(lane_folder(run, lane), echo=echo, every=job.train.log_steps),
        stages=own.stages,
        config=job.train,
        make_dense=lambda stage: DenseOptimizers(method, stage, job.dense),
        device=device,
        identity=plan.identity(job),
        saves=own.saves,
        validates=plan.validates,
        evaluation=job.eval,
        asked_to_leave=lambda: storage.exists(storage.join(lane_folder(run, lane), LEAVE)),
        upstream=Outputs(run, [plan.lanes[name] for name in own.upstream]) if own.upstream else None,
    )


def _trained(trainer: Trainer, *, seconds: float) -> dict[str, Any]:
    stepped = trainer.monitor.seconds_total
    return {
        "rows": trainer.monitor.rows_total,
        "seconds": round(seconds, 2),
        "step_seconds": round(stepped, 2),
        "stages": {name: round(part, 3) for name, part in trainer.monitor.seconds_of.items()},
    }


def _first_says(question: Callable[[], bool]) -> bool:
    """Process 0's answer, in every process."""
    said = [question() if is_first() else False]
    if world_size() > 1:
        torch.distributed.broadcast_object_list(said)
    return said[0]
