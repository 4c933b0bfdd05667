"""What interrupts training after a step: a checkpoint that is due, SIGTERM, or a wish of who started the workers.

Clocks, signals and files look different to each process: those of process 0 decide, at every 16th step.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

import torch

from mdr_dist.batch import world_size
from mdr_dist.checkpoint.checkpoint import is_first
from mdr_dist.config import TrainConfig

LOOK_SECONDS = 5.0  # between looks for a file, which may lie on an object store
_STEPS = 16


@contextmanager
def at_sigterm(handler: Callable[..., None]) -> Iterator[None]:
    """Have SIGTERM call the handler until the context ends; only a main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


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

    def listening(self) -> AbstractContextManager[None]:
        """Take SIGTERM for a wish to stop."""

        def stop(*_: object) -> None:
            self._signalled = True

        return at_sigterm(stop)

    def after(self, step: int) -> Wanted:
        """What is wanted after the run's step of this number; the same in all processes."""
        asked = world_size() == 1 or step % _STEPS == 0
        wanted = self._wanted() if asked and is_first() else Wanted(save=False, stop=False, leave=False)
        if asked and world_size() > 1:
            told = torch.tensor(wanted, dtype=torch.int64)
            torch.distributed.broadcast(told, src=0)
            wanted = Wanted(*map(bool, told.tolist()))
        due = bool(self._config.save_steps) and step % self._config.save_steps == 0
        return wanted._replace(save=due or any(wanted))

    def saved(self) -> None:
        """A checkpoint was written now."""
        self._saved_at = time.monotonic()

    def _wanted(self) -> Wanted:
        """By this process's clock, signal and look."""
        minutes = self._config.save_minutes
        timed = bool(minutes) and time.monotonic() - self._saved_at >= 60 * minutes
        return Wanted(timed, self._signalled, self._leave())

    def _leave(self) -> bool:
        if time.monotonic() - self._looked_at < LOOK_SECONDS:
            return False
        self._looked_at = time.monotonic()
        return self._asked_to_leave()
