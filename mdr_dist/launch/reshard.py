"""A run written anew as another number of workers, or another placement, would have saved it."""

from __future__ import annotations

import os
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from mdr_dist import storage
from mdr_dist.checkpoint.lanes import checkpoints_of
from mdr_dist.config import Job, overlaid
from mdr_dist.errors import UserError
from mdr_dist.launch.process import end_group, job_of, plan_in
from mdr_dist.new_folder import NewFolder
from mdr_dist.redact import redacted
from mdr_dist.train.attempt import job_file
from mdr_dist.train.lane import build_trainer
from mdr_dist.train.run import JOB, outputs


def reshard(run: str, out: str, *, workers: int, settings: tuple[str, ...] = ()) -> None:
    """Write the newest checkpoint of each lane of a run, and what stands beside it, to the new folder `out`.

    So many processes on this machine do it together, each with its share of the tables. `settings` of `tables` are laid
    over the job's. Any run goes on with any number of workers as it is; this spares each the reading of others' shares.
    """
    if os.path.basename(out.rstrip("/")) != (name := job_of(run).name):
        raise UserError(f"{out}: a run's folder has the run's name; end it with {name}")
    job = _job(run, settings)
    outputs(run, plan_in(run, job), job)  # a run without checkpoints is told before anything is made
    with NewFolder(out) as new:
        for path in storage.files(run):
            if "/checkpoints/" not in path:
                storage.write_bytes(storage.join(new.root, path), storage.read_bytes(storage.join(run, path)))
        storage.write_bytes(storage.join(new.root, JOB), job_file(job))
        with tempfile.TemporaryDirectory(prefix="mdr-reshard-") as folder:
            task = _Task(job.model_dump(mode="json"), run, new.root, workers, folder)
            mp.spawn(_work, args=(task,), nprocs=workers, join=True)
            refused = Path(folder, "refused")
            if refused.exists():
                raise UserError(refused.read_text())
        new.commit()


def _job(run: str, settings: tuple[str, ...]) -> Job:
    for setting in settings:
        if not setting.startswith("tables."):
            raise UserError(f"--set {setting}: only tables.* can change between checkpoints")
    return overlaid(Job, job_of(run).model_dump(mode="json"), settings=settings, where="--set")


@dataclass(frozen=True)
class _Task:
    job: dict[str, Any]
    run: str
    out: str
    workers: int
    folder: str  # where the processes meet


def _work(rank: int, task: _Task) -> None:
    """What process `rank` does."""
    warnings.simplefilter("ignore")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = dist.FileStore(f"{task.folder}/store", task.workers)  # pyright: ignore[reportPrivateImportUsage]
    dist.init_process_group("gloo", store=store, rank=rank, world_size=task.workers)
    try:
        _write(Job.model_validate(task.job), task.run, task.out)
    except UserError as error:
        Path(task.folder, "refused").write_text(redacted(str(error)))
    finally:
        end_group()


def _write(job: Job, run: str, out: str) -> None:
    plan = plan_in(run, job)
    for lane in plan.lanes:
        before, after = checkpoints_of(run, lane), checkpoints_of(out, lane)
        trainer = build_trainer(job, plan, run=out, lane=lane, device=torch.device("cpu"))
        trainer.checkpoints = before
        trainer.restore(before.latest())
        trainer.checkpoints = after
        trainer.save(None)
        trainer.monitor.close()
