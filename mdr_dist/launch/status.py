"""Where a run stands, from its folder alone."""

from __future__ import annotations

from typing import Any

from mdr_dist import storage
from mdr_dist.checkpoint.lanes import RESULT, checkpoints_of, lane_folder
from mdr_dist.errors import UserError
from mdr_dist.events import EVENTS, PROGRESS
from mdr_dist.train.run import ERROR, JOB, METRICS, PLAN, STOPPED, TRACEBACK


def status_of(run: str) -> dict[str, Any]:
    """State of a run and of each of its lanes: `waiting`, `running`, `stopped`, `failed` or `finished`.

    A lane has besides what it waits for, its last report and its finished checkpoints; a failed run the `error`, a
    finished one its result. `reported` is when a lane took the last step that is known (unix seconds): of a run whose
    processes were killed nothing else tells that it does not go on. A file that is half written counts as not there.
    """
    if not storage.exists(storage.join(run, JOB)):
        raise UserError(f"{run}: not a run (no {JOB})")
    metrics, plan = _read(run, METRICS), _read(run, PLAN)
    error = None if metrics else _error(run)
    at = (_read(run, ERROR) or {}).get("lane") if error is not None else None  # the lane that failed, if it could tell
    going = "stopped" if storage.exists(storage.join(run, STOPPED)) else "running"
    lanes = {
        lane["name"]: _lane(run, lane, going if error is None or at not in (None, lane["name"]) else "failed")
        for lane in (plan or {"lanes": ()})["lanes"]
    }
    begun = going == "stopped" or any(lane["state"] != "waiting" for lane in lanes.values())
    return {
        "run": run,
        "state": "finished" if metrics else "failed" if error is not None else going if begun else "waiting",
        "error": error,
        "reported": max((lane["progress"]["time"] for lane in lanes.values() if lane["progress"]), default=None),
        "lanes": lanes,
        "test": metrics["test"] if metrics else None,
    }


def _lane(run: str, lane: dict[str, Any], going: str) -> dict[str, Any]:
    """`going`: the lane's state if it had begun and is not done."""
    folder = lane_folder(run, lane["name"])
    begun = any(storage.exists(storage.join(folder, name)) for name in (PROGRESS, EVENTS))
    return {
        "state": "finished" if storage.exists(storage.join(folder, RESULT)) else going if begun else "waiting",
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
