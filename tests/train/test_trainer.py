"""The trainer on a method whose every step takes 1 from a weight and from a table row: the state counts the steps."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from mdr_dist.batch import Batch
from mdr_dist.checkpoint.checkpoint import Checkpoints
from mdr_dist.checkpoint.grown import Identity
from mdr_dist.config import DenseConfig, TablesConfig, TrainConfig
from mdr_dist.errors import Stopped, UserError
from mdr_dist.eval.evaluate import Measured
from mdr_dist.stage import Init, Losses, Rows, Slice, Stage, TableOperations, TableSpec, Until
from mdr_dist.tables import PlainTables, read_table
from mdr_dist.train import step
from mdr_dist.train import trainer as module
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
    """A trainer that measures what `script` says of the epochs done; `measured` lists these."""

    script: tuple[float | None, ...] = ()
    measured: list[int]

    def measure(self, slice_: Slice) -> Measured:
        self.measured.append(self.progress.epoch)
        value = self.script[self.progress.epoch - 1] if self.script else 0.5
        return Measured({"macro": {"auc": value, "logloss": value}}, {})


def make(
    run: Path, *stages: Stage, script: tuple[float | None, ...] = (), good: float = math.inf, **train: Any
) -> Scripted:
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
        make_dense=lambda stage: DenseOptimizers(method, stage, DenseConfig(optimizer="sgd", lr=1.0)),
        device=CPU,
        identity=Identity("down", "0" * 64),
        saves=frozenset(spec.name for spec in SPECS),
    )
    trainer.script, trainer.measured = script, []
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


@pytest.mark.parametrize(
    ("monitor", "script", "measured", "best"),
    [
        ("auc", (0.5, 0.7, 0.7, 0.6, 0.9), [1, 2, 3, 4], 2),  # an equal value is no gain
        ("logloss", (0.5, 0.4, 0.6, 0.3, 0.5, 0.4, 0.1), [1, 2, 3, 4, 5, 6], 4),
        ("auc", (0.5, 0.4, 0.6, 0.5, 0.7, 0.6, 0.8), [1, 2, 3, 4, 5, 6, 7], 7),
        ("auc", (-0.5, -0.6, -0.7), [1, 2, 3], 1),
    ],
)
def test_patience_ends_a_stage_at_its_best_state(
    monitor: str, script: tuple[float, ...], measured: list[int], best: int, tmp_path: Path
) -> None:
    trainer = make(tmp_path, script=script, epochs=7, patience=2, monitor=monitor, keep=1, save_steps=1)
    trainer.run()
    assert trainer.measured == measured
    assert state(trainer) == [best * STEPS] * 3
    last = len(measured) * STEPS + 1
    assert trainer.checkpoints.numbers() == [last]
    assert saved(trainer, last) == [best * STEPS] * 3


def test_without_patience_the_last_state_stays(tmp_path: Path) -> None:
    trainer = make(tmp_path, script=(0.9, 0.5, 0.4), epochs=3)
    trainer.run()
    assert trainer.measured == [1, 2, 3]
    assert state(trainer) == [3 * STEPS] * 3


@pytest.mark.parametrize(("every", "measured"), [(0, []), (2, [2, 4]), (9, [])])
def test_eval_epochs(every: int, measured: list[int], tmp_path: Path) -> None:
    trainer = make(tmp_path, epochs=5, eval_epochs=every)
    trainer.run()
    assert trainer.measured == measured


def test_what_cannot_be_monitored_is_told_where_it_is_needed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no metric 'ndcg'; there are: auc, logloss"):
        make(tmp_path / "1", monitor="ndcg").run()
    with pytest.raises(UserError, match=r"train\.monitor: auc does not exist where all labels are alike"):
        make(tmp_path / "2", script=(None,), patience=1).run()
    trainer = make(tmp_path / "3", script=(None,))
    trainer.run()
    assert state(trainer) == [STEPS] * 3


def test_save_steps_and_keep(tmp_path: Path) -> None:
    trainer = make(tmp_path, epochs=3, save_steps=2, keep=3)
    trainer.run()
    assert trainer.checkpoints.numbers() == [6, 8, 3 * STEPS + 1]
    assert saved(trainer, 6) == [6.0] * 3


def test_save_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minutes = iter(range(1000))  # a step asks once, a save once more
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: 60.0 * next(minutes)))
    trainer = make(tmp_path, epochs=3, save_minutes=3, keep=99)
    trainer.run()
    assert trainer.checkpoints.numbers() == [3, 6, 9, 10]


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    trainer = make(tmp_path, good=4, epochs=3, save_steps=2)
    with pytest.raises(FloatingPointError, match="stage 'joint': loss 'down' is nan at epoch 2, step 2"):
        trainer.run()
    assert trainer.checkpoints.numbers() == [2, 4]
    assert saved(trainer, 4) == [4.0] * 3
    again = make(tmp_path, epochs=3)  # a loss that is finite goes on from there
    again.run()
    assert state(again) == [3 * STEPS] * 3


def test_a_device_that_nobody_waits_for_saves_no_state_of_such_a_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: the step does not look at its losses, the report of every 50 steps and a checkpoint do."""
    monkeypatch.setattr(step, "_check_finite", lambda *_: None)
    for save_steps, steps, saved_at in ((2, "steps 1 to 3", [2, 4]), (5, "steps 1 to 2", [])):
        trainer = make(tmp_path / str(save_steps), good=4, epochs=3, save_steps=save_steps)
        trainer.monitor = Monitor(str(tmp_path / str(save_steps)), every=50)
        with pytest.raises(FloatingPointError, match=f"loss 'down' is nan at epoch 2, {steps}"):
            trainer.run()
        assert trainer.checkpoints.numbers() == saved_at


def test_sigterm_saves_stops_and_leaves_the_signal_alone(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    trainer = make(tmp_path, epochs=2)
    stop_at(trainer, 2)
    assert signal.getsignal(signal.SIGTERM) is before
    assert trainer.checkpoints.numbers() == [2]
    assert saved(trainer, 2) == [2.0] * 3


def test_a_thread_that_may_not_listen_trains_all_the_same(tmp_path: Path) -> None:
    trainer = make(tmp_path)
    thread = threading.Thread(target=trainer.run)
    thread.start()
    thread.join()
    assert state(trainer) == [STEPS] * 3


def double(tables: TableOperations) -> None:
    tables.map_rows("b", lambda row: 2 * row, "b")


def add(tables: TableOperations) -> None:
    tables.map_rows("b", lambda row: row - 100, "b")


STAGES = (
    replace(JOINT, name="one", train=("b", "weight"), before=(add,), until=Until(epochs=3, patience=1)),
    replace(JOINT, name="two", train=("a",), before=(double,), after=(add,), until=Until(epochs=2)),
)


# stage one: b += 100, two epochs, back to the first; stage two: b doubled, two epochs of a alone, b += 100
END = [STEPS, 2 * STEPS, 2 * (100 + STEPS) + 100]


def test_stages_run_in_order_each_with_its_operations(tmp_path: Path) -> None:
    trainer = make(tmp_path, *STAGES, script=(0.6, 0.5), keep=1)
    trainer.run()
    assert state(trainer) == END
    again = make(tmp_path, *STAGES, script=(0.6, 0.5), keep=1)
    again.run()  # nothing is left to do
    assert (state(again), again.measured) == (END, [])


@pytest.mark.parametrize("total", [1, 3, 4, 6, 8, 10, 13])
def test_a_stop_anywhere_changes_nothing(total: int, tmp_path: Path) -> None:
    stop_at(make(tmp_path, *STAGES, script=(0.6, 0.5), keep=1), total)
    again = make(tmp_path, *STAGES, script=(0.6, 0.5), keep=1)
    again.run()
    assert state(again) == END


@pytest.mark.parametrize(("key", "theirs"), [("method", "mmoe"), ("schema", "f" * 64)])
def test_a_checkpoint_of_another_kind_is_refused(key: str, theirs: str, tmp_path: Path) -> None:
    make(tmp_path).run()
    other = make(tmp_path)
    other.identity = replace(other.identity, **{key: theirs})
    with pytest.raises(UserError) as caught:
        other.run()
    mine = "down" if key == "method" else "0" * 64
    assert str(caught.value) == (
        f"{tmp_path}/checkpoints/000004: checkpoint of {key} {mine}, but this job's {key} is {theirs}; "
        "choose another run name"
    )
