"""Where a run stands: three integers name any moment, so that every start is a resume."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The next step to take: `stage` and `epoch` number from 0, `step` within the epoch.

    `total` counts the steps taken in the run and numbers its checkpoints. `best` is the monitored metric's best value
    in this stage, `best_at` the checkpoint that has it (-1: none yet) and `stale` the evaluations since.
    """

    stage: int = 0
    epoch: int = 0
    step: int = 0
    total: int = 0
    best: float = float("-inf")
    best_at: int = -1
    stale: int = 0

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "best": None if self.best_at < 0 else self.best}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Progress:
        """From `to_json`."""
        return cls(**{**value, "best": float("-inf") if value["best"] is None else value["best"]})
