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
from mdr_dist.checkpoint.checkpoint import Checkpoints
from mdr_dist.checkpoint.export import Form, export, load_export
from mdr_dist.config import Job, load_yaml, validated
from mdr_dist.data.source import Dataset, Source
from mdr_dist.errors import UserError
from mdr_dist.eval.evaluate import evaluate
from mdr_dist.stage import Slice
from mdr_dist.train.run import JOB, LANE, Echo, build_trainer, check, open_run, train


def train_here(job: Job, runs: str, *, echo: Echo | None = None) -> tuple[str, dict[str, Any]]:
    """Train a job in this process; the run's folder and its metrics."""
    check(job)
    run = open_run(job, runs)
    with group_of_one() as device:
        return run, train(job, run, device=device, echo=echo)


def evaluate_run(run: str, *, dataset: str = "", split: str = "test") -> dict[str, Any]:
    """Measure a run's newest checkpoint on a split of its data set, or of another with the same schema."""
    job = _job_of(run)
    if dataset:
        job = job.model_copy(update={"data": job.data.model_copy(update={"path": dataset})})
    number = _newest(run)
    with group_of_one() as device:
        trainer = build_trainer(job, check(job), run=run, device=device)
        trainer.restore(number)
        return trainer.measure(Slice(split=split))


def evaluate_export(path: str, *, dataset: str = "", split: str = "test") -> dict[str, Any]:
    """Measure an export, unsharded and without a process group."""
    job, method, tables = load_export(path)
    data = job.data.model_copy(update={"path": dataset}) if dataset else job.data
    opened = Dataset.open(data.path)
    if opened.schema.fingerprint != method.schema.fingerprint:
        raise UserError(f"{data.path}: prepared with another schema than the export {path}; its ids mean other things")
    source = Source(opened, data, seed=job.train.seed)
    cpu = torch.device("cpu")
    return evaluate(method, tables, source=source, slice_=Slice(split=split), device=cpu, config=job.eval)


def export_run(run: str, out: str, *, form: Form) -> dict[str, Any]:
    """Export a run's newest checkpoint; the manifest."""
    job = _job_of(run)
    checkpoints, number = Checkpoints(storage.join(run, LANE, "checkpoints")), _newest(run)
    return export(checkpoints, number, out=out, method=check(job).method, job=job, form=form)


def _job_of(run: str) -> Job:
    path = storage.join(run, JOB)
    if not storage.exists(path):
        raise UserError(f"{run}: not a run (no {JOB}) and not an export (no manifest.json)")
    return validated(Job, load_yaml(path), where=path)


def _newest(run: str) -> int:
    numbers = Checkpoints(storage.join(run, LANE, "checkpoints")).numbers()
    if not numbers:
        raise UserError(f"{run}: the run has no finished checkpoint yet; train it first")
    return numbers[-1]


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
