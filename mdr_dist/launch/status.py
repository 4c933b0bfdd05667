"""Where a run stands, from its folder alone."""

from __future__ import annotations

from typing import Any

from mdr_dist import storage
from mdr_dist.checkpoint.lanes import RESULT, checkpoints_of, lane_folder
from mdr_dist.errors import UserError
from mdr_dist.train.run import ERROR, JOB, METRICS, PLAN, TRACEBACK


def status_of(run: str) -> dict[str, Any]:
    """State of a run and of each of its lanes: `waiting`, `running`, `failed` (the run) or `finished`.

    A lane has besides what it waits for, its last report and its finished checkpoints; a finished run its result.
    """
    if not storage.exists(storage.join(run, JOB)):
        raise UserError(f"{run}: not a run (no {JOB})")
    path = storage.join(run, PLAN)
    lanes = {
        lane["name"]: _lane(run, lane) for lane in (storage.read_json(path)["lanes"] if storage.exists(path) else ())
    }
    finished = storage.exists(storage.join(run, METRICS))
    state = "running" if any(lane["state"] != "waiting" for lane in lanes.values()) else "waiting"
    if any(storage.exists(storage.join(run, name)) for name in (ERROR, TRACEBACK)):
        state = "failed"
    return {
        "run": run,
        "state": "finished" if finished else state,
        "lanes": lanes,
        "test": storage.read_json(storage.join(run, METRICS))["test"] if finished else None,
    }


def _lane(run: str, lane: dict[str, Any]) -> dict[str, Any]:
    folder = lane_folder(run, lane["name"])
    live = storage.join(folder, "progress.json")
    progress = storage.read_json(live) if storage.exists(live) else None
    state = "running" if progress else "waiting"
    return {
        "state": "finished" if storage.exists(storage.join(folder, RESULT)) else state,
        "after": lane["after"],
        "workers": lane["workers"],
        "progress": progress,
        "checkpoints": checkpoints_of(run, lane["name"]).numbers(),
    }
