"""What is written and said of a run, against hand-worked numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn

from mdr_dist import events as events_module
from mdr_dist.config import DenseConfig
from mdr_dist.stage import Stage
from mdr_dist.train import monitor
from mdr_dist.train.dense import DenseOptimizers
from mdr_dist.train.monitor import Monitor
from mdr_dist.train.progress import Progress
from support.groups import in_group

STAGE = Stage(name="joint", loss=lambda rows, batch: {})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time that goes only when told."""
    clock = SimpleNamespace(now=0.0)
    fake = SimpleNamespace(monotonic=lambda: clock.now, time=lambda: 1e9 + clock.now)
    for module in (monitor, events_module):
        monkeypatch.setattr(module, "time", fake)
    return clock


def events(lane: Path) -> list[dict]:
    return [json.loads(line) for line in (lane / "events.jsonl").read_text().splitlines()]


def test_losses_are_averaged_between_reports_and_rates_by_hand(tmp_path: Path, clock: SimpleNamespace) -> None:
    said: list[str] = []
    told = Monitor(str(tmp_path), echo=said.append, every=2)
    told.started(Progress())
    clock.now = 100.0  # before the epoch: counts for nothing
    told.start_epoch(STAGE, steps=3, epochs=4)
    for step, loss in enumerate((1.0, 2.0, 7.0), 1):
        clock.now += 2.0
        told.step(Progress(step=step, total=step), {"bce": torch.tensor(loss)}, rows=500)
    told.saved(Progress(step=3, total=3))
    told.validated(
        STAGE, Progress(epoch=1, total=3), metrics={"d0": {"auc": 0.75}, "macro": {"auc": None}}, monitor="auc"
    )
    told.close()
    found = events(tmp_path)
    assert [event["kind"] for event in found] == ["start", "step", "step", "checkpoint", "validate"]
    first, last = found[1:3]
    assert (first["step"], first["losses"], first["rows_per_second"]) == (2, {"bce": 1.5}, 250.0)
    assert first["epoch_seconds_left"] == 2.0
    assert (last["step"], last["losses"], last["epoch_seconds_left"]) == (3, {"bce": 7.0}, 0.0)  # the epoch's end
    assert (told.rows_total, told.seconds_total) == (1500, 6.0)
    now = json.loads((tmp_path / "progress.json").read_text())
    assert now == {
        **now,
        "stage": "joint",
        "epoch": 0,
        "step": 3,
        "steps": 3,
        "epochs": 4,
        "total": 3,
        "losses": {"bce": 7.0},
    }
    assert now["time"] == 1e9 + 106
    assert said == [
        "joint epoch 1 step 2/3  bce 1.5000  250 rows/s  2 s left in the epoch",
        "joint epoch 1 step 3/3  bce 7.0000  250 rows/s  0 s left in the epoch",
        "joint epoch 1 validation auc  d0 0.7500",
    ]


def test_two_processes_average_and_one_writes(tmp_path: Path) -> None:
    moved = in_group(2, _two, str(tmp_path))
    assert moved == [(-2.0, []), (-2.0, [])]  # gradients 1 and 3
    assert [event["losses"] for event in events(tmp_path / "0")] == [{"bce": 1.5}]
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


def _two(folder: str) -> tuple[float, list[str]]:
    rank, said = dist.get_rank(), []
    told = Monitor(f"{folder}/{rank}", echo=said.append if rank else None, every=1)
    told.start_epoch(STAGE, steps=1, epochs=1)
    told.step(Progress(step=1, total=1), {"bce": torch.tensor(1.0 + rank)}, rows=10)
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    dense = DenseOptimizers(model, STAGE, DenseConfig(optimizer="sgd", lr=1.0))
    model(torch.tensor([[1.0 + 2 * rank]])).sum().backward()
    dense.step()
    return model.weight.item(), said


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_seen_at_the_report_and_not_reported(tmp_path: Path, bad: float) -> None:
    told = Monitor(str(tmp_path), every=2)
    told.start_epoch(STAGE, steps=9, epochs=1)
    for step in (1, 2):
        told.step(Progress(step=step, total=step), {"bce": torch.tensor(1.0)}, rows=5)
    told.step(Progress(step=3, total=3), {"bce": torch.tensor(bad), "l2": torch.tensor(0.0)}, rows=5)
    says = rf"stage 'joint': loss 'bce' is {bad} at epoch 1, steps 3 to 4; lower learning rates, or look at the data"
    with pytest.raises(FloatingPointError, match=says):
        told.step(Progress(step=4, total=4), {"bce": torch.tensor(1.0), "l2": torch.tensor(0.0)}, rows=5)
    assert [event["step"] for event in events(tmp_path)] == [2]


def test_all_processes_see_what_one_lost_before_a_checkpoint(tmp_path: Path) -> None:
    says = "stage 'joint': loss 'bce' is nan at epoch 1, step 1; lower learning rates, or look at the data"
    assert in_group(2, _one_is_lost, str(tmp_path)) == [says, says]


def _one_is_lost(folder: str) -> str:
    told = Monitor(folder, every=50)
    told.start_epoch(STAGE, steps=99, epochs=1)
    told.check(Progress())  # nothing yet
    told.step(Progress(step=1, total=1), {"bce": torch.tensor(math.nan if dist.get_rank() else 1.0)}, rows=10)
    with pytest.raises(FloatingPointError) as caught:
        told.check(Progress(step=1, total=1))
    return str(caught.value)
