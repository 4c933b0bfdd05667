"""A trainer on a method whose every step takes 1 from a weight and from table rows: the state counts the steps."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from mdr_dist.batch import Batch
from mdr_dist.checkpoint.checkpoint import Checkpoints
from mdr_dist.checkpoint.grown import Identity
from mdr_dist.config import DenseConfig, TablesConfig, TrainConfig
from mdr_dist.errors import Stopped
from mdr_dist.eval.evaluate import Measured
from mdr_dist.stage import Init, Losses, Rows, Slice, Stage, TableSpec
from mdr_dist.tables import PlainTables, read_table
from mdr_dist.train.dense import DenseOptimizers
from mdr_dist.train.monitor import Monitor
from mdr_dist.train.trainer import Trainer

STEPS = 3  # an epoch
CPU = torch.device("cpu")
JOINT = Stage(name="joint", loss=lambda rows, batch: {})
SPECS = tuple(TableSpec(name=n, rows=1, dim=1, features=("user",), init=Init("constant", 0.0)) for n in ("a", "b"))


class Method(nn.Module):
    """Its loss is finite for the first `good` steps."""

    def __init__(self, good: float) -> None:
        super().__init__()
        self.weight, self.good = nn.Parameter(torch.zeros(())), good

    def losses(self, rows: Rows, batch: Batch) -> Losses:
        loss = self.weight + rows["a.user"].sum() + rows["b.user"].sum()
        return {"down": loss * (1.0 if -float(self.weight.detach()) < self.good else float("nan"))}


class Batches:
    """A source of STEPS equal batches an epoch."""

    def steps(self, _: Slice) -> int:
        return STEPS

    def batches(self, _: Slice, *, stage: str, epoch: int, start: int = 0) -> Iterator[Batch]:
        one = torch.zeros(1)
        for _step in range(start, STEPS):
            yield Batch(
                ids={"user": one.long()}, lists={}, dense={}, labels={"label": one}, domain=one.long(),
                user_key=one.long(), weight=one + 1, position=one.long(), count=1, domains=1,
            )  # fmt: skip


class Scripted(Trainer):
    """A trainer that measures what `script` says of the epochs done; `measured` lists these.

    `met` lists what was measured of the slices that stages name, and the state then.
    """

    script: tuple[float | None, ...] = ()
    measured: list[int]
    met: list[tuple[int | None, list[float]]]

    def measure(self, slice_: Slice) -> Measured:
        value = self.script[self.progress.epoch - 1] if self.script else 0.5
        if slice_.split == "val":
            self.measured.append(self.progress.epoch)
        else:
            self.met.append((slice_.period, state(self)))
        return Measured({"macro": {"auc": value, "logloss": value}}, {})


def make(
    run: Path,
    *stages: Stage,
    script: tuple[float | None, ...] = (),
    good: float = math.inf,
    validates: bool = True,
    dense: DenseConfig = DenseConfig(optimizer="sgd", lr=1.0),  # noqa: B008 (frozen)
    **train: Any,
) -> Scripted:
    """A trainer of these stages in a run's folder."""
    method = Method(good)
    stages = tuple(replace(stage, loss=method.losses) for stage in stages or (JOINT,))
    config = TrainConfig.model_validate({"save_minutes": 0, **train})
    tables = PlainTables.build(SPECS, stages, config=TablesConfig(optimizer="sgd", lr=1.0), device=CPU, seed=0)
    trainer = Scripted(
        method=cast(Any, method),
        tables=cast(Any, tables),
        source=cast(Any, Batches()),
        checkpoints=Checkpoints(str(run / "checkpoints")),
        monitor=Monitor(str(run), every=1),
        stages=stages,
        config=config,
        make_dense=lambda stage: DenseOptimizers(method, stage, dense),
        device=CPU,
        identity=Identity("down", "0" * 64),
        validates=lambda _: validates,
        saves=frozenset(spec.name for spec in SPECS),
    )
    trainer.script, trainer.measured, trainer.met = script, [], []
    return trainer


def state(trainer: Trainer) -> list[float]:
    """Steps that the weight and the two tables have taken."""
    tables = (trainer.tables.shards(spec.name)[0].tensor for spec in SPECS)
    return [-float(value) for value in (cast(Method, trainer.method).weight.detach(), *tables)]


def saved(trainer: Trainer, number: int) -> list[float]:
    """The same of a checkpoint."""
    folder = trainer.checkpoints.folder(number)
    weight = trainer.checkpoints.dense(number)["model/weight"]
    return [-float(value) for value in (weight, *(read_table(folder, spec) for spec in SPECS))]


def stop_at(trainer: Trainer, total: int) -> None:
    """Ask the trainer by SIGTERM to stop after that step, and see it stop."""
    step = trainer.monitor.step

    def stopping(progress: Any, losses: dict[str, Tensor], *, rows: int) -> None:
        step(progress, losses, rows=rows)
        if progress.total == total:
            os.kill(os.getpid(), signal.SIGTERM)

    trainer.monitor.step = stopping
    with pytest.raises(Stopped, match=f"stopped at step {total} with a checkpoint"):
        trainer.run()
