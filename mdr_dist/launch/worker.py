"""What a worker on Ray runs.

Ray's controller of a group looks the function up by its name too, and never calls it. So this module imports what
trains only where it trains: some seconds of every start.
"""

from __future__ import annotations

import contextlib
from typing import Any

from mdr_dist import storage
from mdr_dist.config import Job
from mdr_dist.errors import Left, UserError

JOINED = "joined"  # in a lane's folder: its workers are there


def alone(config: dict[str, Any]) -> None:
    """A lane of one worker. `config`: the `job` as it is in its file, the folder of the `run`, the `lane`."""
    from mdr_dist.launch.process import group_of_one

    with group_of_one() as device, contextlib.suppress(Left):
        _train(config, device)


def together(config: dict[str, Any]) -> None:
    """What every worker of a lane of several runs; `config` as above."""
    import ray.train.torch

    from mdr_dist.checkpoint.lanes import lane_folder

    if ray.train.get_context().get_world_rank() == 0:
        storage.write_bytes(storage.join(lane_folder(config["run"], config["lane"]), JOINED), b"")
    with contextlib.suppress(Left):
        _train(config, ray.train.torch.get_device())


def _train(config: dict[str, Any], device: Any) -> None:
    from mdr_dist.train.attempt import write_error
    from mdr_dist.train.lane import train_lane
    from mdr_dist.train.run import ERROR

    job, run, lane = Job.model_validate(config["job"]), config["run"], config["lane"]
    if storage.exists(storage.join(run, ERROR)):
        return  # Ray tries again, but neither the user's input nor a loss that is not finite would be another
    try:
        train_lane(job, run, lane=lane, device=device)
    except (UserError, FloatingPointError) as error:
        write_error(run, error, lane=lane)
        raise
