"""What every method in the indexes must fulfil, on a small synthetic data set: one with periods where it needs them."""

from __future__ import annotations

import inspect
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mdr_dist.checkpoint.lanes import checkpoints_of
from mdr_dist.config import Job
from mdr_dist.launch.process import evaluate_export, evaluate_run, export_run, group_of_one
from mdr_dist.stage import lanes, matches, trained_by
from mdr_dist.train.lane import build_trainer
from mdr_dist.train.run import check
from support.contract import KINDS, METHODS, assert_close, begun, contract_job, state_of, totals
from support.jobs import (
    CPU,
    MAPPED,
    PERIODIC,
    losses,
    same_bits,
    steps_of,
    train,
    weights,
)

SEVERAL_LANES = {"adc", "cat_art", "smf", *MAPPED}  # what freezes in them is tested lane by lane
SEVERAL_STAGES = sorted(PERIODIC | {"cl4rec"})  # in one lane
PENALTIES = {"l2", "alike"}  # losses that need not fall
Measured = Callable[[str], dict[str, Any]]


@pytest.mark.parametrize("method", METHODS)
def test_declares_itself(method: str, datasets: dict[str, str]) -> None:
    plan = check(contract_job(method, datasets[method]))
    specs = plan.method.tables()
    assert len({spec.name for spec in specs}) == len(specs)
    schema, extras = plan.dataset.schema, plan.method.extras
    features = {feature.name for feature in schema.features} | {*extras.lists(len(schema.domains))}
    looked_up = {name for spec in specs for name in spec.features if not name.startswith("negative_")}
    assert looked_up <= features
    found = type(plan.method)
    doc = inspect.getdoc(inspect.getmodule(found)) or ""
    for part in ("Paper", "Equation", "differs", "Shape letters"):
        assert part.lower() in doc.lower(), f"the docstring of {method} does not name: {part}"
    config = found.Config
    described = "".join(inspect.getdoc(base) or "" for base in config.__mro__)
    assert not [name for name in config.model_fields if name not in described], "fields without a description"


@pytest.mark.parametrize("method", METHODS)
def test_losses_are_named_finite_and_fall(method: str, finished: dict[str, tuple[Job, str]]) -> None:
    job, run = finished[method]
    for lane in check(job).lanes:
        steps = losses(run, lane)
        assert all(math.isfinite(value) for step in steps for value in step.values())
        target = "bce" if "bce" in steps[0] else next(name for name in steps[0] if name not in PENALTIES)
        same = steps[: len(next(iter(steps_of(run, lane).values())))]  # the first stage: the others' data are others
        third = -(-len(same) // 3)
        first, last = ([step[target] for step in part] for part in (same[:third], same[-third:]))
        assert sum(last) < sum(first), f"{target} of lane {lane}"


@pytest.mark.parametrize("method", METHODS)
def test_resume_equals_uninterrupted(method: str, finished: dict[str, tuple[Job, str]], tmp_path: Path) -> None:
    job, run = finished[method]
    whole, names = weights(run, job), list(check(job).lanes)
    steps = {name: totals(run, name) for name in names}
    middle, last = names[len(names) // 2], names[-1]
    stops = {(names[0], 3), (middle, steps[middle][len(steps[middle]) // 2]), (last, steps[last][-3])}
    for stage in list(steps_of(run, last).values())[: KINDS.get(method, 0)]:  # in the middle of every kind
        stops.add((last, stage[len(stage) // 2]))
    for lane, stop in sorted(stops):
        runs = str(tmp_path / f"{lane}-{stop}")
        begun(job, run, runs=runs, lane=lane)
        with group_of_one():
            train(job, runs, stop_at=stop, lane=lane)
        with group_of_one():
            assert same_bits(weights(train(job, runs), job), whole), f"stopped at step {stop} of lane {lane}"


@pytest.mark.parametrize("method", SEVERAL_STAGES)
def test_resume_between_two_stages(method: str, finished: dict[str, tuple[Job, str]], tmp_path: Path) -> None:
    """From the checkpoint that ends a stage: what was saved in the next one is lost."""
    job, run = finished[method]
    before, after = list(steps_of(run).values())[KINDS.get(method, 2) - 2 :][:2]
    with group_of_one():
        stopped = train(job, str(tmp_path), stop_at=after[0])
    saved = checkpoints_of(stopped, "main")
    shutil.rmtree(saved.folder(after[0]))
    assert saved.latest() == before[-1] + 1
    with group_of_one():
        assert same_bits(weights(train(job, str(tmp_path)), job), weights(run, job))


@pytest.mark.parametrize("method", [name for name in METHODS if name not in SEVERAL_LANES])
def test_frozen_names_move_by_no_bit(method: str, datasets: dict[str, str], tmp_path: Path) -> None:
    job = contract_job(method, datasets[method], train={"epochs": 1})
    plan = check(job)
    dense = tuple(name for name, _ in plan.method.named_parameters())
    # the first stage that trains dense parameters, if there is one
    stage = next((stage for stage in plan.stages if trained_by(stage, dense)), plan.stages[0])
    names = tuple(spec.name for spec in plan.method.tables() if matches(spec.name, stage.read))
    stage = replace(stage, read=("*",), pretest=None, before=(), after=())
    for number, trained in enumerate(filter(None, (names[:1] + dense, names, dense))):
        frozen = lanes((replace(stage, train=trained),), plan.method.tables(), dense)
        with group_of_one():
            trainer = build_trainer(job, replace(plan, lanes=frozen), run=str(tmp_path / str(number)), device=CPU)
            before = state_of(trainer)
            trainer.run()
            after = state_of(trainer)
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        assert moved
        assert all(matches(name, trained) for name in moved)
        assert {name for name in moved if name in names} == set(names) & set(trained)


@pytest.mark.parametrize("method", METHODS)
def test_a_lane_moves_what_it_trains_and_nothing_else(method: str, finished: dict[str, tuple[Job, str]]) -> None:
    """Every lane's newest checkpoint against its start: what the lanes upstream left."""
    job, run = finished[method]
    plan = check(job)
    for lane in plan.lanes.values():
        with group_of_one():
            # as a worker of the lane does, from a method of its own
            trainer = build_trainer(job, check(job), run=run, lane=lane.name, device=CPU)
            trainer.inherit()
            before = state_of(trainer)
            trainer.restore(trainer.checkpoints.latest())
            after = state_of(trainer)
        copied = {spec.name for spec in plan.method.tables() if spec.like}  # written by table operations
        assert {name for name in before if not torch.equal(before[name], after[name])} == lane.writes | copied


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("form", ["safetensors", "parquet", "checkpoint"])
def test_export_gives_the_same_scores(
    method: str, form: Any, finished: dict[str, tuple[Job, str]], measured: Measured, tmp_path: Path
) -> None:
    _, run = finished[method]
    export_run(run, str(tmp_path / "out"), form=form)
    assert_close(evaluate_export(str(tmp_path / "out")), measured(method), 1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_evaluation_does_not_depend_on_the_batch(
    method: str, finished: dict[str, tuple[Job, str]], measured: Measured, tmp_path: Path
) -> None:
    job, run = finished[method]
    other = tmp_path / "run"
    shutil.copytree(run, other)
    (other / "job.yaml").write_text((other / "job.yaml").read_text().replace(f"batch: {job.data.batch}", "batch: 37"))
    # a score may round differently in a batch of another size, and so make or break one user's tie
    assert_close(evaluate_run(str(other)), measured(method), 1e-6, ties=2e-3)
