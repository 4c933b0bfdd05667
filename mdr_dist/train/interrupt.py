"""What interrupts training after a step: a checkpoint that is due, SIGTERM, or a wish of who started the workers.

Clocks, signals and files look different to each process: those of process 0 decide, at every 16th step.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from mdr_dist.batch import world_size
from mdr_dist.config import TrainConfig

LOOK_SECONDS = 5.0  # between looks for a file, which may lie on an object store
_STEPS = 16


class Wanted(NamedTuple):
    """A checkpoint; and to end with it, by a signal or as asked."""

    save: bool
    stop: bool
    leave: bool


class Interrupts:
    """`asked_to_leave` says whether who started the workers wants them to end."""

    def __init__(self, config: TrainConfig, asked_to_leave: Callable[[], bool]) -> None:
        self._config, self._asked_to_leave = config, asked_to_leave
        self._signalled = False
        self._saved_at = self._looked_at = time.monotonic()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGTERM for a wish to stop; only a main thread can."""

        def stop(*_: object) -> None:
            self._signalled = True

        try:
            before = signal.signal(signal.SIGTERM, stop)
        except ValueError:
            before = None
        try:
            yield
        finally:
            if before is not None:
                signal.signal(signal.SIGTERM, before)

    def after(self, step: int) -> Wanted:
        """What is wanted after the run's step of this number; the same in all processes."""
        config, wanted = self._config, torch.zeros(3, dtype=torch.int64)
        if world_size() == 1 or step % _STEPS == 0:
            minutes = config.save_minutes
            timed = bool(minutes) and time.monotonic() - self._saved_at >= 60 * minutes
            wanted = torch.tensor([int(timed), int(self._signalled), int(self._leave())])
        if world_size() > 1 and step % _STEPS == 0:
            torch.distributed.broadcast(wanted, src=0)
        due = bool(config.save_steps) and step % config.save_steps == 0
        timed, stop, leave = (bool(each) for each in wanted)
        return Wanted(due or timed or stop or leave, stop, leave)

    def saved(self) -> None:
        """A checkpoint was written now."""
        self._saved_at = time.monotonic()

    def _leave(self) -> bool:
        if time.monotonic() - self._looked_at < LOOK_SECONDS:
            return False
        self._looked_at = time.monotonic()
        return self._asked_to_leave()
