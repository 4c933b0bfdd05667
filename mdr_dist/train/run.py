"""One run: a job made into method, tables, source and trainer, and its result.

<runs>/<name>/  job.yaml  plan.json  metrics.json  lanes/<lane>/{events.jsonl, progress.json, checkpoints/}
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import yaml

from mdr_dist import catalog, storage
from mdr_dist.batch import world_size
from mdr_dist.checkpoint.checkpoint import Checkpoints, barrier, is_first
from mdr_dist.config import Job, load_yaml, validated
from mdr_dist.data.source import Dataset, Source
from mdr_dist.errors import UserError
from mdr_dist.eval.evaluate import metric_names
from mdr_dist.methods.base import Method
from mdr_dist.stage import Slice, Stage, lanes
from mdr_dist.tables import build_tables, check_features
from mdr_dist.tables import plan as plan_tables
from mdr_dist.train.dense import DenseOptimizers
from mdr_dist.train.monitor import Monitor
from mdr_dist.train.trainer import Trainer

JOB, PLAN, METRICS = "job.yaml", "plan.json", "metrics.json"
LANE = "lanes/main"
Echo = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """A job checked against its data set: what will run, and on which tables."""

    dataset: Dataset
    method: Method
    stages: tuple[Stage, ...]

    def to_json(self, job: Job, *, workers: int, device: str) -> dict[str, Any]:
        """Stages, lanes and table placement, as `plan.json` holds them."""
        placed = plan_tables(self.method.tables(), job.tables, world_size=workers, device=device)
        return {
            "stages": [
                {"name": s.name, "lane": s.lane, "needs": list(s.needs), "train": list(s.train)} for s in self.stages
            ],
            "dense_parameters": sum(p.numel() for p in self.method.parameters()),
            "tables": [row.to_json() for row in placed],
        }


def check(job: Job) -> Plan:
    """Everything that can be wrong with a job, found before anything starts: a `UserError` says what."""
    dataset = Dataset.open(job.data.path)
    for name in job.data.domains:
        dataset.schema.domain_index(name)
    method = catalog.build(job.method, dataset.schema, seed=job.train.seed)
    dense = tuple(name for name, _ in method.named_parameters())
    plan = lanes(method.stages(), method.tables(), dense)
    stages = tuple(stage for members in plan.values() for stage in members)
    source = Source(dataset, job.data, seed=job.train.seed)
    for stage in stages:
        source.steps(stage.data)
    on_gpu = job.launch.gpus_per_worker or (not job.launch.workers and torch.cuda.is_available())
    workers, device = max(job.launch.workers, 1), "cuda" if on_gpu else "cpu"
    check_features(method.tables(), dataset.schema)
    known = metric_names(method, job.eval)
    if job.train.eval_epochs and job.train.monitor not in known:
        raise UserError(f"train.monitor: no metric {job.train.monitor!r}; there are: {', '.join(known)}")
    plan_tables(method.tables(), job.tables, world_size=workers, device=device)
    return Plan(dataset, method, stages)


def open_run(job: Job, runs: str) -> str:
    """The run's folder, its `job.yaml` written; a `UserError` if another job has taken the name.

    What a job computes must be the same; where it runs (`launch`) and how often it saves may change between attempts.
    """
    run = storage.join(runs, job.name)
    mine = job.model_dump(mode="json")
    path = storage.join(run, JOB)
    if storage.exists(path):
        theirs = validated(Job, load_yaml(path), where=path).model_dump(mode="json")
        different = [key for key in _leaves(mine) if _leaves(mine)[key] != _leaves(theirs).get(key)]
        if different:
            key = different[0]
            raise UserError(
                f"{run}: the run's name is taken by another job ({key} was {_leaves(theirs).get(key)!r}, "
                f"now {_leaves(mine)[key]!r}); choose another name, or remove the folder"
            )
    storage.write_bytes(path, yaml.safe_dump(mine, sort_keys=False).encode())
    return run


def _leaves(job: dict[str, Any]) -> dict[str, Any]:
    free = {"launch", "data.prefetch", "data.cache_mb"}
    free |= {f"train.{key}" for key in ("save_minutes", "save_steps", "keep", "log_steps")}
    flat = {
        f"{part}.{key}": value
        for part, section in job.items()
        if isinstance(section, dict)
        for key, value in section.items()
    }
    return {key: value for key, value in flat.items() if key not in free and key.partition(".")[0] not in free}


def train(job: Job, run: str, *, device: torch.device, echo: Echo | None = None) -> dict[str, Any]:
    """Train a job in this process of its group, to the end, and return `metrics.json`'s value.

    Called by every process of the group alike; one without a process group is not supported (`launch` makes it).
    """
    finished = storage.join(run, METRICS)
    done = _first_says(storage.exists(finished) if is_first() else False)
    if done:
        return storage.read_json(finished)
    if job.train.threads:
        torch.set_num_threads(job.train.threads)
    plan = check(job)
    if is_first():
        storage.write_json(storage.join(run, PLAN), plan.to_json(job, workers=world_size(), device=device.type))
    trainer = build_trainer(job, plan, run=run, device=device, echo=echo)
    started = time.monotonic()
    trainer.run()
    result = result_of(job, plan, trainer=trainer, seconds=time.monotonic() - started)
    if is_first():
        storage.write_json(finished, result)
    barrier()
    return result


def build_trainer(
    job: Job, plan: Plan, *, run: str, device: torch.device, echo: Echo | None = None, make_tables: Any = build_tables
) -> Trainer:
    """The trainer of a checked job in this process; `make_tables` may put the unsharded twin in place."""
    rank = torch.distributed.get_rank() if world_size() > 1 else 0
    method = plan.method.to(device)
    tables = make_tables(method.tables(), plan.stages, config=job.tables, device=device, seed=job.train.seed)
    return Trainer(
        method=method,
        tables=tables,
        source=Source(plan.dataset, job.data, seed=job.train.seed, rank=rank, world=world_size()),
        checkpoints=Checkpoints(storage.join(run, LANE, "checkpoints")),
        monitor=Monitor(storage.join(run, LANE), echo=echo, every=job.train.log_steps),
        stages=plan.stages,
        config=job.train,
        make_dense=lambda stage: DenseOptimizers(method, stage, job.dense),
        device=device,
        identity={"method": str(job.method["name"]), "schema": plan.dataset.schema.fingerprint},
        evaluation=job.eval,
    )


def result_of(job: Job, plan: Plan, *, trainer: Trainer, seconds: float) -> dict[str, Any]:
    """`metrics.json`: who, on what, how well on the test split, how fast."""
    split = "test" if "test" in plan.dataset.schema.rows else "val"
    test = trainer.measure(Slice(split=split))
    stepped = trainer.monitor.seconds_total
    rows = trainer.monitor.rows_total
    return {
        "method": job.method["name"],
        "dataset": plan.dataset.schema.name,
        "seed": job.train.seed,
        "workers": world_size(),
        "stages": [stage.name for stage in plan.stages],
        "test": test,
        "train": {
            "rows": rows,
            "seconds": round(seconds, 2),
            "rows_per_second": round(rows / stepped, 1) if stepped else None,
        },
    }


def _first_says(value: bool) -> bool:
    said = [value]
    if world_size() > 1:
        torch.distributed.broadcast_object_list(said)
    return said[0]
