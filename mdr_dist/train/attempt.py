"""A run's folder, opened for a job: taken up where it stands, or refused; and what stopped an attempt at it."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml

from mdr_dist import storage
from mdr_dist.checkpoint.lanes import RESULT, lane_folder
from mdr_dist.config import Job, load
from mdr_dist.errors import Fault, Stopped, UserError
from mdr_dist.redact import redacted, secret_in
from mdr_dist.train.run import ERROR, JOB, METRICS, PLAN, STOPPED, TRACEBACK, plan_of

# what may change between attempts, and what may only where the schedule so far stays the same
_FREE = {"launch", "tables.placement", "tables.device_gb", "data.prefetch", "data.cache_mb", "train.export"}
_FREE |= {f"train.{key}" for key in ("save_minutes", "save_steps", "keep", "log_steps")}
_GROWS = {"data.path", "data.domains", "method.order"}


def open_run(job: Job, runs: str) -> str:
    """The run's folder, its `job.yaml` written; a `UserError` if another job has taken the name.

    What a job computes must be the same; where it runs (`launch`) and how often it saves may change between attempts. A
    job whose data set has got further periods, or that names further domains, extends the run: stages that are done
    stay done, and a run that was finished goes on with those added.
    """
    run, written = storage.join(runs, job.name), job_file(job)
    storage.check_folder(runs)
    path = storage.join(run, JOB)
    if storage.exists(path):
        before, now = _leaves(load(Job, path).model_dump(mode="json")), _leaves(job.model_dump(mode="json"))
        different = [key for key in now if now[key] != before.get(key)]
        if other := [key for key in different if key not in _GROWS]:
            raise UserError(
                f"{run}: the run's name is taken by another job ({other[0]} was {before.get(other[0])!r}, "
                f"now {now[other[0]]!r}); choose another name, or remove the folder"
            )
        _extend(run, job, different)
    storage.write_bytes(path, written)
    return run


def job_file(job: Job) -> bytes:
    """A job as YAML; a `UserError` if it holds a secret, which would then lie in every run's folder."""
    text = yaml.safe_dump(job.model_dump(mode="json"), sort_keys=False)
    if secret := secret_in(text):
        raise UserError(
            f"job {redacted(job.name)}: it holds {secret}; take it out: credentials come from the environment alone"
        )
    return text.encode()


def _leaves(job: dict[str, Any]) -> dict[str, Any]:
    flat = {
        f"{part}.{key}": value
        for part, section in job.items()
        if isinstance(section, dict)
        for key, value in section.items()
    }
    return {key: value for key, value in flat.items() if key not in _FREE and key.partition(".")[0] not in _FREE}


def _extend(run: str, job: Job, different: list[str]) -> None:
    """Unmark as finished what has got further stages; a `UserError` if those so far are not the same any more."""
    path = storage.join(run, PLAN)
    if not storage.exists(path):
        return
    before, now = _by_lane(storage.read_json(path)["stages"]), _by_lane(plan_of(job).to_json(job)["stages"])
    for lane, stages in before.items():
        kept = now.get(lane, [])[: len(stages)]
        if kept != stages:
            found, what = next(stage for stage in stages if stage not in kept), " and ".join(different) or "data set"
            raise UserError(
                f"{run}: this job's {what} takes stage {found!r} away, which the run has; a job may only add to what a "
                "run has learnt: choose another name"
            )
    longer = [lane for lane, stages in now.items() if len(stages) > len(before.get(lane, []))]
    for lane in longer:
        storage.remove(storage.join(lane_folder(run, lane), RESULT))
    if longer:
        storage.remove(storage.join(run, METRICS))


def _by_lane(stages: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Lane → the names of its stages."""
    found: dict[str, list[str]] = {}
    for stage in stages:
        found.setdefault(stage["lane"], []).append(stage["name"])
    return found


@contextmanager
def attempt(run: str) -> Iterator[None]:
    """One attempt at a run, in the process that was asked for it. What stops it stays in the run until the next one.

    A `UserError` is written to `error.json`, if the worker has not, and goes on; from any other error `error.txt` keeps
    the traceback and a `Fault` names it.
    """
    for name in (ERROR, TRACEBACK, STOPPED):
        storage.remove(storage.join(run, name))
    try:
        yield
    except (Stopped, KeyboardInterrupt):
        storage.write_bytes(storage.join(run, STOPPED), b"")
        raise
    except UserError as error:
        write_error(run, error)
        raise
    except Exception as error:
        path = storage.join(run, TRACEBACK)
        storage.write_bytes(path, redacted(traceback.format_exc()).encode())
        reason = redacted(next(iter(str(error).splitlines()), ""))
        raise Fault(f"{type(error).__name__}: {reason}; the traceback is in {path}") from error


def write_error(run: str, error: UserError | FloatingPointError, *, lane: str = "") -> None:
    """Leave in the run what another attempt would meet again, and the lane that met it; the first is kept."""
    path = storage.join(run, ERROR)
    if storage.exists(path):
        return  # lanes side by side may fail within a moment, and the first has been told
    left = {"error": redacted(str(error)), **({"lane": lane} if lane else {})}
    if isinstance(error, FloatingPointError):
        left["traceback"] = redacted(traceback.format_exc())
    storage.write_json(path, left)


def raise_error(run: str) -> None:
    """Raise what a worker left by `write_error`, if one did."""
    path = storage.join(run, ERROR)
    if not storage.exists(path):
        return
    left = storage.read_json(path)
    if "traceback" in left:
        raise FloatingPointError(left["error"]) from RuntimeError(f"in lane {left['lane']}:\n{left['traceback']}")
    raise UserError(left["error"])
