"""Where a run stands, from its folder alone."""

from __future__ import annotations

from typing import Any

from mdr_dist import storage
from mdr_dist.checkpoint.lanes import RESULT, checkpoints_of, lane_folder
from mdr_dist.errors import UserError
from mdr_dist.events import EVENTS, PROGRESS
from mdr_dist.train.run import ERROR, JOB, METRICS, PLAN, TRACEBACK


def status_of(run: str) -> dict[str, Any]:
    """State of a run and of each of its lanes: `waiting`, `running`, `failed` or `finished`.

    A lane has besides what it waits for, its last report and its finished checkpoints; a failed run the `error`, a
    finished one its result. A file that is half written counts as not there.
    """
    if not storage.exists(storage.join(run, JOB)):
        raise UserError(f"{run}: not a run (no {JOB})")
    metrics, plan = _read(run, METRICS), _read(run, PLAN)
    error = None if metrics else _error(run)
    left = _read(run, ERROR) or {}
    lanes = {
        lane["name"]: _lane(run, lane, failed=error is not None and left.get("lane", lane["name"]) == lane["name"])
        for lane in (plan or {"lanes": ()})["lanes"]
    }
    state = "running" if any(lane["state"] != "waiting" for lane in lanes.values()) else "waiting"
    return {
        "run": run,
        "state": "finished" if metrics else "failed" if error is not None else state,
        "error": error,
        "lanes": lanes,
        "test": metrics["test"] if metrics else None,
    }


def _lane(run: str, lane: dict[str, Any], *, failed: bool) -> dict[str, Any]:
    """`failed`: what stopped the run may have been this lane; it was if the lane had begun and is not done."""
    folder = lane_folder(run, lane["name"])
    begun = any(storage.exists(storage.join(folder, name)) for name in (PROGRESS, EVENTS))
    state = ("failed" if failed else "running") if begun else "waiting"
    return {
        "state": "finished" if storage.exists(storage.join(folder, RESULT)) else state,
        "after": lane["after"],
        "workers": lane["workers"],
        "progress": _read(folder, PROGRESS),
        "checkpoints": checkpoints_of(run, lane["name"]).numbers(),
    }


def _error(run: str) -> str | None:
    """Why the last attempt failed, in a line; `None` if it did not."""
    if storage.exists(storage.join(run, ERROR)):
        return (_read(run, ERROR) or {}).get("error", "")
    path = storage.join(run, TRACEBACK)
    if not storage.exists(path):
        return None
    lines = storage.read_bytes(path).decode(errors="replace").splitlines()
    return next((line for line in reversed(lines) if line.strip()), "")


def _read(folder: str, name: str) -> dict[str, Any] | None:
    """A JSON object, if it is there and whole."""
    try:
        value = storage.read_json(storage.join(folder, name))
    except UserError:
        return None
    return value if isinstance(value, dict) else None
