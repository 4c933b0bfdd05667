"""A run in this process: one worker, debuggable with pdb. The default."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage]

from mdr_dist import storage
from mdr_dist.checkpoint.export import Form, export, is_export, load_export
from mdr_dist.checkpoint.grown import load_dense
from mdr_dist.checkpoint.lanes import schema_of
from mdr_dist.config import Job, load, overlaid
from mdr_dist.data.source import Dataset, Source
from mdr_dist.errors import UserError
from mdr_dist.eval.evaluate import evaluate
from mdr_dist.stage import Slice
from mdr_dist.tables import build_tables
from mdr_dist.train.attempt import attempt, open_run
from mdr_dist.train.lane import Echo, train
from mdr_dist.train.run import JOB, Plan, check, outputs, plan_of


def train_here(job: Job, runs: str, *, echo: Echo | None = None) -> tuple[str, dict[str, Any]]:
    """Train a job in this process; the run's folder and its metrics."""
    check(job)
    run = open_run(job, runs)
    with attempt(run):
        with group_of_one() as device:
            metrics = train(job, run, device=device, echo=echo)
        leave_export(job, run)
        return run, metrics


def evaluate_run(run: str, *, dataset: str = "", split: str = "test", settings: tuple[str, ...] = ()) -> dict[str, Any]:
    """Measure a run's newest state on a split of its data set, or of another with the same schema.

    `settings` of `eval` are laid over the job's.
    """
    job = _measured_as(job_of(run), settings)
    if dataset:
        job = job.model_copy(update={"data": job.data.model_copy(update={"path": dataset})})
    plan = plan_in(run, job)
    saved = outputs(run, plan, job)
    with group_of_one() as device:
        method = plan.method.to(device)
        load_dense(method, saved.dense())
        tables = build_tables(plan.tables, plan.stages, config=job.tables, device=device, seed=job.train.seed)
        saved.load(tables, tables.specs)
        source, slice_ = plan.source(job), Slice(split=split)
        return evaluate(method, tables, source=source, slice_=slice_, device=device, config=job.eval).metrics


def evaluate_export(
    path: str, *, dataset: str = "", split: str = "test", settings: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Measure an export, unsharded and without a process group; else as `evaluate_run`."""
    job, method, tables = load_export(path)
    job = _measured_as(job, settings)
    data = job.data.model_copy(update={"path": dataset}) if dataset else job.data
    opened = Dataset.open(data.path)
    _check_schema(opened, method.schema.fingerprint, of=f"the export {path}")
    source = Source(opened, data, seed=job.train.seed, extras=method.extras)
    cpu = torch.device("cpu")
    return evaluate(method, tables, source=source, slice_=Slice(split=split), device=cpu, config=job.eval).metrics


def _measured_as(job: Job, settings: tuple[str, ...]) -> Job:
    """The job with settings of `eval` laid over it; a `UserError` for others: they would be of another model."""
    for setting in settings:
        if not setting.startswith("eval."):
            raise UserError(f"--set {setting}: only eval.* can change after training")
    return overlaid(Job, job.model_dump(mode="json"), settings=settings, where="--set")


def plan_in(run: str, job: Job) -> Plan:
    """The plan of a run that was trained; lanes have other names where domains have."""
    _check_schema(Dataset.open(job.data.path), schema_of(run), of=f"the run {run}")
    return plan_of(job)


def _check_schema(dataset: Dataset, fingerprint: str, *, of: str) -> None:
    """Refuse a data set whose ids mean other things than those `of` what is evaluated; an empty fingerprint is any."""
    if fingerprint not in ("", dataset.schema.fingerprint, *dataset.schema.grown_from):
        raise UserError(
            f"data set {dataset.path} (domains {', '.join(dataset.schema.domains)}): prepared with another schema than "
            f"{of}; its ids mean other things"
        )


def export_run(run: str, out: str, *, form: Form) -> dict[str, Any]:
    """Export a run's newest state; the manifest."""
    job = job_of(run)
    plan = plan_in(run, job)
    return export(outputs(run, plan, job), out=out, method=plan.method, job=job, form=form)


def leave_export(job: Job, run: str) -> None:
    """Leave the export that the job asks for in the folder of its finished run, unless it is there."""
    if not job.train.export:
        return
    plan = plan_of(job)
    saved = outputs(run, plan, job)
    out = storage.join(run, "export", f"{saved.step:06d}")
    if not is_export(out):
        export(saved, out=out, method=plan.method, job=job, form=job.train.export)


def job_of(run: str) -> Job:
    """The job in a run's folder; a `UserError` if it is no run."""
    path = storage.join(run, JOB)
    if not storage.exists(path):
        raise UserError(f"{run}: not a run (no {JOB}) and not an export (no manifest.json)")
    return load(Job, path)


@contextmanager
def group_of_one() -> Iterator[torch.device]:
    """A process group of this process alone, which torchrec's sharded tables need, and the device to use."""
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    try:
        yield device
    finally:
        end_group()


def end_group() -> None:
    """Leave the process group and end its threads.

    Sharded modules hold the group in reference cycles. A gloo thread that outlives it and drops a tensor while the
    interpreter shuts down aborts the process.
    """
    gc.collect()
    dist.destroy_process_group()
