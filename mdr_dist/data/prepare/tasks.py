"""The same function over many items: here, or as Ray tasks."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Pool:
    """Runs tasks in this process (`workers` 0), or as Ray tasks: on the cluster this process is connected to, else on
    one of `workers` cores that it starts here and stops. The nodes of a cluster must share the folder beside the
    output. Use as a context manager.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._started = False
        self._ray: Any = None

    def __enter__(self) -> Pool:
        if self._workers:
            self._ray = importlib.import_module("ray")
            if not self._ray.is_initialized():
                self._started = True
                self._ray.init(
                    num_cpus=self._workers,
                    object_store_memory=200 * 2**20,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level="ERROR",
                )
        return self

    def __exit__(self, *error: object) -> None:
        if self._started:
            self._ray.shutdown()

    @property
    def share(self) -> int:
        """How many tasks may run at once on one machine."""
        return max(self._workers, 1)

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """`function` of every item, in the order of the items; a task's error is raised here as it was there."""
        if not self._workers:
            return [function(item) for item in items]
        task = self._ray.remote(num_cpus=1)(function)
        try:
            return self._ray.get([task.remote(item) for item in items])
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None
