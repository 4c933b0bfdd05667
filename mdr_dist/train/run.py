"""One run: a job checked, its lanes trained, their results put together.

<runs>/<name>/  job.yaml  plan.json  metrics.json  lanes/<lane>/   (checkpoint/lanes.py)
                error.json or error.txt if the last attempt failed, STOPPED if it was asked to end
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import torch

from mdr_dist import catalog, storage
from mdr_dist.checkpoint.grown import Identity
from mdr_dist.checkpoint.lanes import RESULT, Outputs, lane_folder, stage_file
from mdr_dist.config import Job
from mdr_dist.data.source import Dataset, Source
from mdr_dist.errors import UserError
from mdr_dist.eval.candidates import check_catalogue
from mdr_dist.eval.evaluate import metric_names
from mdr_dist.eval.metrics import averaged, combined
from mdr_dist.methods.base import Method
from mdr_dist.stage import Lane, Slice, Stage, TableSpec, lanes, within
from mdr_dist.tables import check_tables
from mdr_dist.tables import plan as plan_tables
from mdr_dist.train.trainer import LOSS, epochs_between, held_out, monitored, patience_of
from mdr_dist.train.vectors import check_vectors

JOB, PLAN, METRICS = "job.yaml", "plan.json", "metrics.json"
ERROR, TRACEBACK = "error.json", "error.txt"  # why the last attempt failed: the user's line, or a fault of ours
STOPPED = "STOPPED"


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

    def identity(self, job: Job) -> Identity:
        """Whose the checkpoints are."""
        schema = self.dataset.schema
        return Identity(str(job.method["name"]), schema.fingerprint, schema.grown_from)

    def validates(self, stage: Stage) -> bool:
        """Whether there are rows to validate a stage on."""
        schema = self.dataset.schema
        rows, domains = schema.rows.get("val", {}), stage.data.domains or range(len(schema.domains))
        return any(rows.get(schema.domains[domain]) for domain in domains)

    @property
    def test(self) -> Slice | None:
        """What a run is measured on at its end; None where everything trains, as where time is cut into periods."""
        return next((Slice(split=split) for split in ("test", "val") if split in self.dataset.schema.rows), None)

    def workers(self, workers: int) -> dict[str, int]:
        """Lane → its workers of the run's: lanes that may run at the same time share them, each has one at least."""
        depth: dict[str, int] = {}
        for name, lane in self.lanes.items():
            depth[name] = 1 + max((depth[above] for above in lane.upstream), default=0)
        width = Counter(depth.values())
        return {name: max(1, workers // width[depth[name]]) for name in self.lanes}

    def to_json(self, job: Job, *, workers: int = 1, device: str = "cpu") -> dict[str, Any]:
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
        for slice_ in filter(None, (stage.pretest, stage.test)):
            _check_measured(slice_, plan, source, job=job)
        _check_evaluations(stage, plan, source, job=job)
    if plan.test:
        for lane in plan.last:
            _check_measured(replace(plan.test, domains=lane.domains), plan, source, job=job)
    elif not any(stage.pretest or stage.test for stage in plan.stages):
        raise UserError(
            f"data set {job.data.path} has neither a test nor a val split to measure {job.method['name']} on; "
            "add a split to its recipe"
        )
    check_vectors(plan.method, plan.dataset.path)
    extras = plan.method.extras
    if extras.active or extras.documents or any(stage.data.users == "common" for stage in plan.stages):
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
    elif not epochs_between(stage, job.train, validates=plan.validates(stage)):
        return
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


def outputs(run: str, plan: Plan, job: Job) -> Outputs:
    """The newest state of all lanes of a run; a `UserError` if one has none yet, or of another method or schema."""
    found = Outputs(run, plan.lanes.values())
    found.check(plan.identity(job))
    return found


def finish(job: Job, run: str) -> dict[str, Any]:
    """Put the results of all lanes, which must be done, together: `metrics.json`."""
    plan = plan_of(job)
    results = {name: storage.read_json(storage.join(lane_folder(run, name), RESULT)) for name in plan.lanes}
    tests = [results[lane.name]["test"] for lane in plan.last if results[lane.name]["test"]]
    before, after = _measured(plan, run, before=True), _measured(plan, run, before=False)
    trained = [result["train"] for result in results.values()]
    rows, seconds = sum(part["rows"] for part in trained), sum(part["seconds"] for part in trained)
    stepped = sum(part["step_seconds"] for part in trained)
    result = {
        "method": job.method["name"],
        "dataset": plan.dataset.schema.name,
        "seed": job.train.seed,
        "workers": max(result["workers"] for result in results.values()),
        "stages": [stage.name for stage in plan.stages],
        "test": _overall(tests, plan) or averaged(list((before or after).values())),
        "train": {
            "rows": rows,
            "seconds": round(seconds, 2),
            "rows_per_second": round(rows / stepped, 1) if stepped else None,
        },
        "before": before,
        "after": after,
        "lanes": {name: {"workers": result["workers"], **result["train"]} for name, result in results.items()},
    }
    storage.write_json(storage.join(run, METRICS), result)
    return result


def _overall(tests: list[dict[str, Any]], plan: Plan) -> dict[str, Any]:
    """The lanes' results as one; empty where no lane was measured."""
    return tests[0] if len(tests) == 1 else combined(tests, plan.dataset.schema.domains) if tests else {}


def _measured(plan: Plan, run: str, *, before: bool) -> dict[str, Any]:
    """Stage, or the period that it met, → what was found before it, or at its end, of those that ask for that."""
    found: dict[str, Any] = {}
    for stage in plan.stages:
        if slice_ := stage.pretest if before else stage.test:
            name = stage.name if slice_.period is None else f"period {slice_.period}"
            found[name] = storage.read_json(stage_file(lane_folder(run, stage.lane), stage.name, before=before))
    return found
