"""Where a run stands, from its folder alone."""

from __future__ import annotations

from typing import Any

from mdr_dist import storage
from mdr_dist.checkpoint.checkpoint import Checkpoints
from mdr_dist.errors import UserError
from mdr_dist.train.run import ERROR, JOB, LANE, METRICS, TRACEBACK


def status_of(run: str) -> dict[str, Any]:
    """State (`waiting`, `running`, `failed`, `finished`), last report and finished checkpoints of a run."""
    if not storage.exists(storage.join(run, JOB)):
        raise UserError(f"{run}: not a run (no {JOB})")
    live = storage.join(run, LANE, "progress.json")
    progress = storage.read_json(live) if storage.exists(live) else None
    state = "running" if progress else "waiting"
    if any(storage.exists(storage.join(run, name)) for name in (ERROR, TRACEBACK)):
        state = "failed"
    finished = storage.exists(storage.join(run, METRICS))
    return {
        "run": run,
        "state": "finished" if finished else state,
        "progress": progress,
        "checkpoints": Checkpoints(storage.join(run, LANE, "checkpoints")).numbers(),
        "test": storage.read_json(storage.join(run, METRICS))["test"] if finished else None,
    }
