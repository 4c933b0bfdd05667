"""What the tests of every method share: which methods there are, and what a trainer has learnt."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from mdr_dist import catalog
from mdr_dist.checkpoint.lanes import lane_folder
from mdr_dist.config import Job
from mdr_dist.train.run import JOB, check
from support.jobs import BATCH, VARIANTS, full_table, small_job, steps_of

METHODS = sorted([*catalog.INDEX, *VARIANTS])
# rows in a batch; the graph's loss falls slowly, and lanes of few steps end before two processes agree to stop
ROWS = dict.fromkeys(METHODS, 128) | BATCH | dict.fromkeys(("cl4rec-graph", "bias", "cmf_rating", "smf"), 64)
KINDS = {"sml": 3}  # how many stages of a lane it takes to meet every kind; elsewhere one


def contract_job(method: str, dataset: str, /, *, rows: int = 0, **sections: dict[str, Any]) -> Job:
    """The job that a method is tested by; `rows` in a batch, if they are to be others."""
    return small_job(method, dataset, data={"batch": rows or ROWS[method]}, **sections)


def begun(job: Job, run: str, *, runs: str, lane: str) -> None:
    """Copy a finished run to another folder of runs, as it was when that lane could begin and none beside it had."""
    upstream, to = check(job).lanes[lane].upstream, Path(runs) / job.name
    for above in upstream:
        shutil.copytree(lane_folder(run, above), lane_folder(str(to), above))
    if upstream:
        shutil.copy(Path(run) / JOB, to / JOB)


def totals(run: str, lane: str) -> list[int]:
    """What `Progress.total` was after every step."""
    return [total for stage in steps_of(run, lane).values() for total in stage]


def state_of(trainer: Any) -> dict[str, torch.Tensor]:
    """All that is trained: a buffer is no stage's."""
    dense = {name: parameter.detach().clone() for name, parameter in trainer.method.named_parameters()}
    return dense | {name: full_table(trainer.tables, name) for name in trainer.tables.specs}


def assert_close(one: dict[str, Any], two: dict[str, Any], tolerance: float, *, ties: float = 0.0) -> None:
    """The same metrics; those that count pairs, unlike logloss, may also differ by `ties`."""
    assert one.keys() == two.keys()
    for domain, values in one.items():
        for name, value in values.items():
            other = two[domain][name]
            assert (value is None) == (other is None)
            allowed = tolerance + ties * (name != "logloss")
            assert value is None or abs(value - other) <= allowed, (domain, name, value, other)
