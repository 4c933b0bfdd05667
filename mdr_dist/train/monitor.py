"""What a run says while it goes: events, and lines for a person."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mdr_dist import storage
from mdr_dist.batch import world_size
from mdr_dist.checkpoint.checkpoint import is_first
from mdr_dist.checkpoint.lanes import stage_file
from mdr_dist.events import Events
from mdr_dist.stage import Stage
from mdr_dist.train.progress import Progress

NOT_FINITE = "lower learning rates, or look at the data"  # what to do about such a loss


class Monitor:
    """Collects losses and rates; process 0 writes them below `lane` and passes each line to `echo`.

    Losses are averaged over processes and over the steps since the last report. Reading them waits for the device, so
    only there, and before a checkpoint, is it seen whether they are finite: on any device, by all processes at once.
    """

    def __init__(self, lane: str, *, echo: Callable[[str], None] | None = None, every: int = 50) -> None:
        self._lane, self._every = lane, every
        self._events = Events(lane) if is_first() else None
        self._echo = echo if is_first() else None
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._rows = 0
        self._mark = time.monotonic()
        self._stage, self._steps, self._epochs = "", 0, 0
        self.rows_total, self.seconds_total = 0, 0.0
        self.seconds_of: dict[str, float] = {}  # stage → its share of these seconds

    def start_epoch(self, stage: Stage, *, steps: int, epochs: int) -> None:
        """An epoch of `epochs` at most begins, or is taken up again."""
        self._stage, self._steps, self._epochs = stage.name, steps, epochs
        self._mark = time.monotonic()

    def step(self, progress: Progress, losses: dict[str, Tensor], *, rows: int) -> None:
        """A step was taken; errors as in `check` where it is reported."""
        for name, loss in losses.items():
            self._sums[name] = self._sums[name] + loss if name in self._sums else loss.clone()
        self._count += 1
        self._rows += rows
        if self._count >= self._every or progress.step >= self._steps:
            self._report(progress)

    def check(self, progress: Progress) -> None:
        """Raise `FloatingPointError` if a loss since the last report is not finite, in every process."""
        self._means(progress)

    def validated(self, stage: Stage, progress: Progress, *, metrics: dict[str, Any], monitor: str) -> None:
        """The validation split was measured, for the sake of the metric `monitor`."""
        event = {"kind": "validate", "stage": stage.name, "monitor": monitor, "metrics": metrics}
        self._write({**event, **_place(progress)})

    def tested(self, stage: Stage, *, metrics: dict[str, Any], before: bool) -> None:
        """The slice that a stage names to be measured `before` it, or after, was measured."""
        self._write({"kind": "test", "stage": stage.name, "before": before, "metrics": metrics})
        if is_first():
            storage.write_json(stage_file(self._lane, stage.name, before=before), metrics)

    def started(self, progress: Progress) -> None:
        """The run starts, or goes on from a checkpoint."""
        self._write({"kind": "start", "workers": world_size(), **_place(progress)})

    def saved(self, progress: Progress) -> None:
        """A checkpoint was written."""
        self._write({"kind": "checkpoint", "total": progress.total})

    def close(self) -> None:
        """Make everything readable."""
        if self._events:
            self._events.flush()

    def _report(self, progress: Progress) -> None:
        losses = self._means(progress)
        seconds = max(time.monotonic() - self._mark, 1e-9)
        self.rows_total += self._rows
        self.seconds_total += seconds
        self.seconds_of[self._stage] = self.seconds_of.get(self._stage, 0.0) + seconds
        left = (self._steps - progress.step) * seconds / self._count
        now = {"kind": "step", "stage": self._stage, **_place(progress), "steps": self._steps, "epochs": self._epochs}
        now |= {
            "losses": losses,
            "rows_per_second": round(self._rows / seconds, 1),
            "epoch_seconds_left": round(left, 1),
        }
        self._write(now)
        self._sums, self._count, self._rows, self._mark = {}, 0, 0, time.monotonic()

    def _means(self, progress: Progress) -> dict[str, float]:
        """The losses since the last report; `FloatingPointError` if one is not finite."""
        if not self._sums:
            return {}
        names = sorted(self._sums)
        means = torch.stack([self._sums[name].detach() for name in names]) / self._count
        if world_size() > 1:
            dist.all_reduce(means)
            means /= world_size()
        found = dict(zip(names, means.tolist(), strict=True))
        for name, mean in found.items():
            if not math.isfinite(mean):
                first, at = progress.step - self._count + 1, f"epoch {progress.epoch + 1}"
                steps = f"steps {first} to {progress.step}" if first < progress.step else f"step {first}"
                raise FloatingPointError(
                    f"stage {self._stage!r}: loss {name!r} is {mean} at {at}, {steps}; {NOT_FINITE}"
                )
        return found

    def _write(self, event: dict[str, Any]) -> None:
        if self._events:
            self._events.write(event)
        line = line_of(event)
        if self._echo and line:
            self._echo(line)


def line_of(event: dict[str, Any]) -> str:
    """An event as a person reads it; empty for those not worth a line."""
    if event["kind"] == "step":
        losses = "  ".join(f"{name} {value:.4f}" for name, value in event["losses"].items())
        return (
            f"{event['stage']} epoch {event['epoch'] + 1} step {event['step']}/{event['steps']}  {losses}  "
            f"{event['rows_per_second']:,.0f} rows/s  {event['epoch_seconds_left']:.0f} s left in the epoch"
        )
    if event["kind"] == "validate":
        measured = {name: values.get(event["monitor"]) for name, values in event["metrics"].items()}
        shown = "  ".join(f"{name} {value:.4f}" for name, value in measured.items() if value is not None)
        return f"{event['stage']} epoch {event['epoch']} validation {event['monitor']}  {shown}"
    if event["kind"] == "test":
        macro = event["metrics"]["macro"].items()
        shown = "  ".join(f"{name} {v:.4f}" for name, v in macro if v is not None and name.startswith(("ndcg", "auc")))
        return f"{event['stage']} {'before it' if event['before'] else 'at its end'}  {shown}"
    return ""


def _place(progress: Progress) -> dict[str, int]:
    return {"epoch": progress.epoch, "step": progress.step, "total": progress.total}
