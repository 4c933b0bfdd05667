"""One run: a job checked, its lanes trained, their results put together.

<runs>/<name>/  job.yaml  plan.json  metrics.json  lanes/<lane>/   (checkpoint/lanes.py)
                error.json or error.txt if the last attempt failed
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import yaml

from mdr_dist import catalog, storage
from mdr_dist.checkpoint.lanes import RESULT, Outputs, lane_folder, stage_file
from mdr_dist.config import Job, load
from mdr_dist.data.source import Dataset, Source
from mdr_dist.errors import Fault, Stopped, UserError
from mdr_dist.eval.candidates import check_catalogue
from mdr_dist.eval.evaluate import metric_names
from mdr_dist.eval.metrics import combined
from mdr_dist.methods.base import Method
from mdr_dist.stage import Lane, Slice, Stage, TableSpec, lanes, within
from mdr_dist.tables import check_tables
from mdr_dist.tables import plan as plan_tables
from mdr_dist.train.trainer import LOSS, held_out, monitored, patience_of

JOB, PLAN, METRICS = "job.yaml", "plan.json", "metrics.json"
ERROR, TRACEBACK = "error.json", "error.txt"  # why the last attempt failed: the user's line, or a fault of ours


@dataclass(frozen=True)
class Plan:
    """A job checked against its data set: what will run, and on which tables."""

    dataset: Dataset
    method: Method
    lanes: dict[str, Lane]

    @property
    def stages(self) -> tuple[Stage, ...]:
        """All stages, lane by lane."""
        return tuple(stage for lane in self.lanes.values() for stage in lane.stages)

    @property
    def last(self) -> tuple[Lane, ...]:
        """The lanes that no other needs: they measure the run."""
        needed = {name for lane in self.lanes.values() for name in lane.upstream}
        return tuple(lane for name, lane in self.lanes.items() if name not in needed)

    @property
    def tables(self) -> tuple[TableSpec, ...]:
        """The tables that some lane holds: those of domains that are left out, none does."""
        read = frozenset[str]().union(*(lane.reads for lane in self.lanes.values()))
        return tuple(spec for spec in self.method.tables() if spec.name in read)

    def specs(self, lane: Lane) -> tuple[TableSpec, ...]:
        """The tables that a lane holds."""
        return tuple(spec for spec in self.method.tables() if spec.name in lane.reads)

    def source(self, job: Job, *, rank: int = 0, world: int = 1) -> Source:
        """A worker's reader of the data set."""
        seed = job.train.seed
        return Source(self.dataset, job.data, seed=seed, rank=rank, world=world, extras=self.method.extras)

    def identity(self, job: Job) -> dict[str, str]:
        """Whose the checkpoints are."""
        return {"method": str(job.method["name"]), "schema": self.dataset.schema.fingerprint}

    @property
    def test(self) -> Slice:
        """What a run is measured on."""
        return Slice(split="test" if "test" in self.dataset.schema.rows else "val")

    def workers(self, workers: int) -> dict[str, int]:
        """Lane → its workers of the run's: lanes that may run at the same time share them, each has one at least."""
        depth: dict[str, int] = {}
        for name, lane in self.lanes.items():
            depth[name] = 1 + max((depth[above] for above in lane.upstream), default=0)
        width = Counter(depth.values())
        return {name: max(1, workers // width[depth[name]]) for name in self.lanes}

    def to_json(self, job: Job, *, workers: int, device: str) -> dict[str, Any]:
        """Stages, lanes and table placement, as `plan.json` holds them."""
        placed = plan_tables(self.tables, job.tables, world_size=workers, device=device)
        each = self.workers(workers)
        return {
            "stages": [
                {"name": s.name, "lane": s.lane, "needs": list(s.needs), "train": list(s.train)} for s in self.stages
            ],
            "lanes": [
                {"name": name, "after": list(lane.upstream), "workers": each[name]} for name, lane in self.lanes.items()
            ],
            "dense_parameters": sum(p.numel() for p in self.method.parameters()),
            "tables": [row.to_json() for row in placed],
        }


def check(job: Job) -> Plan:
    """Everything that can be wrong with a job, found before anything starts: a `UserError` says what."""
    plan = plan_of(job)
    source = plan.source(job)
    for stage in plan.stages:
        source.check(stage.data)
        if stage.test:
            _check_measured(stage.test, plan, source, job=job)
        _check_evaluations(stage, plan, source, job=job)
    for lane in plan.last:
        _check_measured(replace(plan.test, domains=lane.domains), plan, source, job=job)
    if plan.method.extras.active:
        source.check_in_common()
    on_gpu = job.launch.gpus_per_worker or (not job.launch.workers and torch.cuda.is_available())
    for name, workers in plan.workers(max(job.launch.workers, 1)).items():
        plan_tables(plan.specs(plan.lanes[name]), job.tables, world_size=workers, device="cuda" if on_gpu else "cpu")
    return plan


def _check_evaluations(stage: Stage, plan: Plan, source: Source, *, job: Job) -> None:
    """What a stage asks of the evaluations while it trains."""
    if not job.train.eval_epochs:
        if patience := patience_of(stage, job.train):
            whose = "train.patience" if stage.until.patience is None else f"method {job.method['name']}, its patience"
            raise UserError(
                f"train.eval_epochs: 0 means no evaluation while stage {stage.name!r} trains, which is to end after "
                f"{patience} of them without a gain ({whose}); set eval_epochs to 1, or that patience to 0"
            )
    elif monitored(stage, job.train, metric_names(plan.method, job.eval)) == LOSS:
        source.rows(replace(stage.data, split="val"))
    else:
        _check_measured(held_out(stage), plan, source, job=job)


def _check_measured(slice_: Slice, plan: Plan, source: Source, *, job: Job) -> None:
    """What an evaluation asks of a slice."""
    for domain in source.domains(slice_):
        if plan.method.task == "retrieve":
            check_catalogue(source, slice_, domain=domain, config=job.eval)


def plan_of(job: Job) -> Plan:
    """A job's data set, method and stages, whether or not there are rows to train them on."""
    dataset = Dataset.open(job.data.path)
    domains = tuple(dataset.schema.domain_index(name) for name in job.data.domains)
    method = catalog.build(job.method, dataset.schema, seed=job.train.seed)
    dense = tuple(name for name, _ in method.named_parameters())
    check_tables(method.tables(), job.tables, dataset.schema)
    stages = within(method.stages(), domains) if domains else method.stages()
    return Plan(dataset, method, lanes(stages, method.tables(), dense))


def open_run(job: Job, runs: str) -> str:
    """The run's folder, its `job.yaml` written; a `UserError` if another job has taken the name.

    What a job computes must be the same; where it runs (`launch`) and how often it saves may change between attempts.
    """
    run = storage.join(runs, job.name)
    mine = job.model_dump(mode="json")
    path = storage.join(run, JOB)
    if storage.exists(path):
        theirs = load(Job, path).model_dump(mode="json")
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


@contextmanager
def attempt(run: str) -> Iterator[None]:
    """One attempt at a run, in the process that was asked for it. What stops it stays in the run until the next one.

    A `UserError` is written to `error.json`, if the worker has not, and goes on; from any other error `error.txt` keeps
    the traceback and a `Fault` names it.
    """
    for name in (ERROR, TRACEBACK):
        storage.remove(storage.join(run, name))
    try:
        yield
    except Stopped:
        raise
    except UserError as error:
        if not storage.exists(storage.join(run, ERROR)):
            write_error(run, error)
        raise
    except Exception as error:
        path = storage.join(run, TRACEBACK)
        storage.write_bytes(path, traceback.format_exc().encode())
        reason = next(iter(str(error).splitlines()), "")
        raise Fault(f"{type(error).__name__}: {reason}; the traceback is in {path}") from error


def write_error(run: str, error: UserError | FloatingPointError, *, lane: str = "") -> None:
    """Leave in the run what another attempt would meet again, and the lane that met it."""
    left = {"error": str(error), **({"lane": lane} if lane else {})}
    if isinstance(error, FloatingPointError):
        left["traceback"] = traceback.format_exc()
    storage.write_json(storage.join(run, ERROR), left)


def raise_error(run: str) -> None:
    """Raise what a worker left by `write_error`, if one did."""
    path = storage.join(run, ERROR)
    if not storage.exists(path):
        return
    left = storage.read_json(path)
    if "traceback" in left:
        raise FloatingPointError(left["error"]) from RuntimeError(f"in lane {left['lane']}:\n{left['traceback']}")
    raise UserError(left["error"])


def outputs(run: str, plan: Plan, job: Job) -> Outputs:
    """The newest state of all lanes of a run; a `UserError` if one has none yet, or of another method or schema."""
    found = Outputs(run, plan.lanes.values())
    found.check(plan.identity(job))
    return found


def finish(job: Job, run: str) -> dict[str, Any]:
    """Put the results of all lanes, which must be done, together: `metrics.json`."""
    plan = plan_of(job)
    results = {name: storage.read_json(storage.join(lane_folder(run, name), RESULT)) for name in plan.lanes}
    tests = [results[lane.name]["test"] for lane in plan.last]
    trained = [result["train"] for result in results.values()]
    rows, seconds = sum(part["rows"] for part in trained), sum(part["seconds"] for part in trained)
    stepped = sum(part["step_seconds"] for part in trained)
    result = {
        "method": job.method["name"],
        "dataset": plan.dataset.schema.name,
        "seed": job.train.seed,
        "workers": max(result["workers"] for result in results.values()),
        "stages": [stage.name for stage in plan.stages],
        "test": tests[0] if len(tests) == 1 else combined(tests, plan.dataset.schema.domains),
        "train": {
            "rows": rows,
            "seconds": round(seconds, 2),
            "rows_per_second": round(rows / stepped, 1) if stepped else None,
        },
        "after": {
            stage.name: storage.read_json(stage_file(lane_folder(run, stage.lane), stage.name))
            for stage in plan.stages
            if stage.test
        },
        "lanes": {name: {"workers": result["workers"], **result["train"]} for name, result in results.items()},
    }
    storage.write_json(storage.join(run, METRICS), result)
    return result
