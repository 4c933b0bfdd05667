"""The trainer on a method whose every step takes 1 from a weight and from a table row: the state counts the steps."""

from __future__ import annotations

import signal
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from mdr_dist import storage
from mdr_dist.checkpoint.lanes import stage_file
from mdr_dist.config import DenseConfig, TrainConfig
from mdr_dist.errors import Left, UserError
from mdr_dist.stage import DenseOptimizer, Slice, TableOperations, Until
from mdr_dist.train import interrupt, step
from mdr_dist.train import trainer as module
from mdr_dist.train.monitor import Monitor
from support.trainer import JOINT, STEPS, Method, Scripted, make, saved, state, stop_at


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
    minutes = [0]  # one passes with each step
    monkeypatch.setattr(interrupt, "time", SimpleNamespace(monotonic=lambda: 60.0 * minutes[0]))
    trainer = make(tmp_path, epochs=3, save_minutes=3, keep=99)
    told = trainer.monitor.step

    def passing(*args: Any, **kwargs: Any) -> None:
        told(*args, **kwargs)
        minutes[0] += 1

    monkeypatch.setattr(trainer.monitor, "step", passing)
    trainer.run()
    assert trainer.checkpoints.numbers() == [3, 6, 9, 10]


def test_who_is_asked_to_leave_does_so_with_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(0, 10_000, 3))  # of the first step's look and of every other one after
    monkeypatch.setattr(interrupt, "time", SimpleNamespace(monotonic=lambda: float(next(seconds))))
    trainer = make(tmp_path, epochs=3, keep=99)
    trainer.asked_to_leave = lambda: True
    trainer = replace(trainer)
    with pytest.raises(Left):
        trainer.run()
    (left,) = trainer.checkpoints.numbers()
    assert 0 < left < 3 * STEPS
    again = make(tmp_path, epochs=3)
    again.run()
    assert state(again) == [3 * STEPS] * 3


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


# stage one is met before it adds 100 to b and measured after it has doubled b; stage two is met as one left it
MET = (
    replace(
        JOINT, name="one", train=("b", "weight"), before=(add,), after=(double,),
        pretest=Slice(period=1), test=Slice(period=2), until=Until(epochs=1),
    ),
    replace(JOINT, name="two", train=("a",), before=(add,), pretest=Slice(period=3), until=Until(epochs=2)),
)  # fmt: skip
LEFT = [STEPS, 0, 2 * (100 + STEPS)]
FOUND = [(1, [0, 0, 0]), (2, LEFT), (3, LEFT)]


def kept(trainer: Scripted, run: Path) -> dict[str, bool]:
    """What is kept of the stages' tests."""
    names = [(stage.name, before) for stage in trainer.stages for before in (True, False)]
    return {
        f"{'before' if before else 'after'} {name}": storage.exists(stage_file(str(run), name, before=before))
        for name, before in names
    }


def test_a_stage_is_met_before_anything_of_it_runs(tmp_path: Path) -> None:
    trainer = make(tmp_path, *MET, validates=False)
    trainer.run()
    assert trainer.met == FOUND and trainer.measured == []
    assert kept(trainer, tmp_path) == {"before one": True, "after one": True, "before two": True, "after two": False}
    found = storage.read_json(stage_file(str(tmp_path), "two", before=True))
    assert found == {"macro": {"auc": 0.5, "logloss": 0.5}}


@pytest.mark.parametrize(("total", "left"), [(1, FOUND[1:]), (STEPS, FOUND[1:]), (STEPS + 2, []), (STEPS + 5, [])])
def test_a_run_that_goes_on_meets_nothing_twice(total: int, left: list[object], tmp_path: Path) -> None:
    stop_at(make(tmp_path, *MET), total)
    again = make(tmp_path, *MET)
    again.run()
    assert again.met == left
    assert state(again) == [STEPS, 2 * STEPS, LEFT[2] + 100]


@pytest.mark.parametrize("stop", [0, 2, STEPS + 1 + 2])
def test_optimizers_of_dense_parameters_go_on_from_stage_to_stage(stop: int, tmp_path: Path) -> None:
    """As one Adam that is never interrupted, though a stage between them trains something else."""
    adam = DenseOptimizer("adam", 0.1, 0.01)
    stages = [
        replace(JOINT, name=name, train=(trained,), until=Until(epochs=epochs), optimizers={"weight": adam})
        for name, trained, epochs in (("one", "weight", 1), ("tables", "a", 1), ("two", "weight", 2))
    ]
    arguments = {"dense": DenseConfig(optimizer="sgd", lr=5.0), "validates": False}
    if stop:
        stop_at(make(tmp_path, *stages, **arguments), stop)
    trainer = make(tmp_path, *stages, **arguments)
    trainer.run()
    parameter = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.Adam([parameter], lr=0.1, weight_decay=0.01)
    for _ in range(3 * STEPS):
        optimizer.zero_grad()
        (1 * parameter).backward()
        optimizer.step()
    assert torch.equal(cast(Method, trainer.method).weight.detach(), parameter.detach())


@pytest.mark.parametrize(
    ("patience", "own", "validates", "every", "expected"),
    [
        (0, None, True, 2, 2),
        (0, None, False, 2, 0),
        (3, None, False, 2, 2),  # where patience needs one, its lack is an error for `check` to tell
        (3, 0, False, 2, 0),
        (3, 0, True, 2, 2),
        (0, 1, False, 1, 1),
        (0, None, True, 0, 0),
        (3, None, True, 0, 0),
    ],
)
def test_epochs_between(patience: int, own: int | None, validates: bool, every: int, expected: int) -> None:
    stage, config = replace(JOINT, until=Until(patience=own)), TrainConfig(patience=patience, eval_epochs=every)
    assert module.epochs_between(stage, config, validates=validates) == expected


def test_without_a_val_split_nothing_is_validated(tmp_path: Path) -> None:
    trainer = make(tmp_path, epochs=3, validates=False)
    trainer.run()
    assert trainer.measured == [] and state(trainer) == [3 * STEPS] * 3
