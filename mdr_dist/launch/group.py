"""A lane trained by several workers together: on fewer where a loss is not made good, on more when they come back.

Ray Train runs a group of one size and ends it when a worker dies. What size comes next is decided here: all that a
group knows is in the run, and any number of workers goes on from there. A group that could be larger is asked to leave
with a checkpoint, so that nothing is computed twice.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
import ray.train.torch
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from mdr_dist import storage
from mdr_dist.checkpoint.lanes import RESULT, lane_folder
from mdr_dist.config import LaunchConfig
from mdr_dist.errors import Fault
from mdr_dist.launch.rendezvous import Rendezvous
from mdr_dist.launch.worker import JOINED
from mdr_dist.train.attempt import raise_error
from mdr_dist.train.lane import LEAVE, Echo

_GATHERING = threading.Lock()  # lanes that each held some of the places would wait for one another
GRACE = 10.0  # seconds for a worker's place to come back before a group goes on without it
_POLL = 1.0


@dataclass(frozen=True, kw_only=True)
class Group:
    """The workers of a lane: `wanted` of them, `least` at the least; `work` is what each of them runs on `config`."""

    work: Callable[[dict[str, Any]], None]
    config: dict[str, Any]
    launch: LaunchConfig
    wanted: int
    least: int
    scratch: str
    stopping: threading.Event
    echo: Echo | None = None

    @property
    def _folder(self) -> str:
        return lane_folder(self.config["run"], self.config["lane"])

    def train(self) -> None:
        """Train the lane to its end, or until it is to stop; what stops the workers for good is raised."""
        failures = 0
        while not storage.exists(storage.join(self._folder, RESULT)):
            workers = self._gather()
            clear(self._folder)
            if self.stopping.is_set():
                return
            if workers < self.wanted:
                self._say(f"lane {self.config['lane']}: goes on with {workers} of {self.wanted} workers")
            try:
                with self._growing(workers):
                    self._fit(workers)
            except ray.train.TrainingFailedError:
                raise_error(self.config["run"])
                failures += 1
                if failures > self.launch.max_failures:
                    raise

    def _gather(self) -> int:
        """How many workers the cluster has room for now; waits for the least, and a little for all."""
        wait = max(60 * self.launch.wait_minutes, GRACE)
        with _GATHERING, places(self.launch, self.wanted) as held:
            start = time.monotonic()
            while (room := held.ready()) < self.wanted:
                waited = time.monotonic() - start
                if self.stopping.is_set() or (room >= self.least and waited > GRACE):
                    break
                if waited > wait:
                    raise Fault(
                        f"lane {self.config['lane']}: the cluster has had room for {room} of its {self.wanted} workers "
                        f"for {waited:.0f} s, and {self.least} are needed; the same command goes on when there is more"
                    )
                time.sleep(_POLL)
        return room

    @contextlib.contextmanager
    def _growing(self, workers: int) -> Iterator[None]:
        """While a group is smaller than wanted, ask the cluster for the rest; once it has some, mark the lane."""
        if workers == self.wanted:
            yield
            return
        ended = threading.Event()
        thread = threading.Thread(target=self._watch, args=(self.wanted - workers, ended), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _watch(self, missing: int, ended: threading.Event) -> None:
        joined = storage.join(self._folder, JOINED)
        while not storage.exists(joined):  # what is asked for earlier could be the group's own places
            if ended.wait(_POLL):
                return
        with places(self.launch, missing) as held:
            while not ended.wait(_POLL):
                if held.ready():
                    self._say(f"lane {self.config['lane']}: there is room for more workers; it takes them in")
                    ask_to_leave(self._folder)
                    ended.wait()

    def _fit(self, workers: int) -> None:
        gpus = bool(self.launch.gpus_per_worker)
        trainer = ray.train.torch.TorchTrainer(
            self.work,
            train_loop_config=self.config,
            torch_config=Rendezvous(backend="cpu:gloo,cuda:nccl" if gpus else "gloo"),
            scaling_config=ray.train.ScalingConfig(
                num_workers=workers, use_gpu=gpus, resources_per_worker=resources(self.launch)
            ),
            run_config=ray.train.RunConfig(
                # a name that Ray has seen resumes its own state silently: always a new one
                name=f"mdr-{uuid.uuid4().hex[:8]}",
                storage_path=self.scratch,
                # a group that cannot start, as when a node is lost that Ray still counts on, ends too
                failure_config=ray.train.FailureConfig(max_failures=0, controller_failure_limit=0),
            ),
        )
        trainer.fit()

    def _say(self, text: str) -> None:
        if self.echo:
            self.echo(text)


def ask_to_leave(folder: str) -> None:
    """Have a lane's workers end soon, with a checkpoint."""
    storage.write_bytes(storage.join(folder, LEAVE), b"")


def clear(folder: str) -> None:
    """Forget what an earlier group was asked, and that it was there."""
    for name in (LEAVE, JOINED):
        storage.remove(storage.join(folder, name))


def resources(launch: LaunchConfig) -> dict[str, float]:
    """What a worker takes."""
    gpus = launch.gpus_per_worker
    return {"CPU": launch.cpus_per_worker} | ({"GPU": gpus} if gpus else {})


@dataclass(frozen=True)
class Places:
    """Places for workers that are asked of the cluster, and so of whatever adds nodes to it."""

    groups: tuple[PlacementGroup, ...]

    def ready(self) -> int:
        """How many the cluster has given."""
        return len(ray.wait([group.ready() for group in self.groups], num_returns=len(self.groups), timeout=_POLL)[0])


@contextlib.contextmanager
def places(launch: LaunchConfig, count: int) -> Iterator[Places]:
    """So many places for workers, held until the context ends; they go with the driver if that dies."""
    groups = tuple(placement_group([resources(launch)]) for _ in range(count))
    try:
        yield Places(groups)
    finally:
        for group in groups:
            remove_placement_group(group)
