"""What every method in the indexes must fulfil, on a small synthetic data set: one with periods where it needs them."""

from __future__ import annotations

import inspect
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mdr_dist import catalog
from mdr_dist.checkpoint.lanes import checkpoints_of
from mdr_dist.config import Job
from mdr_dist.launch.process import evaluate_export, evaluate_run, export_run, group_of_one
from mdr_dist.stage import Slice, lanes, matches, trained_by
from mdr_dist.tables import PlainTables, build_tables
from mdr_dist.train.lane import build_trainer
from mdr_dist.train.run import check
from support.groups import in_group
from support.jobs import (
    CPU,
    MAPPED,
    PERIODIC,
    VARIANTS,
    fixed_steps,
    full_table,
    largest_gap,
    losses,
    same_bits,
    small_job,
    steps_of,
    train,
    weights,
)

METHODS = sorted([*catalog.INDEX, *VARIANTS])
PLACED = (  # and by which optimizer: column-wise with row-wise Adagrad is refused
    ("table_wise", "rowwise_adagrad"),
    ("row_wise", "rowwise_adagrad"),
    ("column_wise", "sgd"),
    ("data_parallel", "rowwise_adagrad"),
    ("row_wise", "adagrad"),
    ("table_wise", "adam"),
)
STEPS = 50
# by how much workers may differ, 1e-5 where nothing else is said. Of the graph's millions of leaky ReLUs some lie so
# near their kink that rounding decides the slope; other neighbours would make a difference of 0.1
ROUNDING = {"cl4rec-graph": 1e-3}
SEVERAL_LANES = {"adc", "cat_art", "smf", *MAPPED}  # what freezes in them is tested lane by lane
SEVERAL_STAGES = sorted(PERIODIC | {"cl4rec"})  # in one lane
NOT_CUT = {"sml", "bias", "catn"}  # by columns: tables like others, whose rows are mapped; tables of one column
PENALTIES = {"l2", "alike"}  # losses that need not fall
KINDS = {"sml": 3}  # how many stages of a lane it takes to meet every kind; elsewhere one
# a bias has one column
PLACES = {(m, "column_wise"): {"bias": "auto", "*": "column_wise"} for m in ("gru4rec", "caser", "cdcf")} | {
    (m, "column_wise"): {"*_bias*": "auto", "*": "column_wise"} for m in ("cmf_rating", "anr", *MAPPED)
}
PLACEMENTS = [
    (method, *placed) for method in METHODS for placed in PLACED if method not in NOT_CUT or placed[0] != "column_wise"
]


@pytest.fixture(scope="session")
def asked(request: pytest.FixtureRequest) -> list[str]:
    """The methods that are tested in this session."""
    here = [item for item in request.session.items if isinstance(item, pytest.Function) and item.path == Path(__file__)]
    return sorted({item.callspec.params["method"] for item in here if hasattr(item, "callspec")})


@pytest.fixture(scope="session")
def finished(
    asked: list[str], datasets: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Job, str]]:
    """Every method trained to the end in one process."""
    runs = str(tmp_path_factory.mktemp("finished"))
    jobs = {method: small_job(method, datasets[method]) for method in asked}
    with group_of_one():
        return {method: (job, train(job, runs)) for method, job in jobs.items()}


@pytest.mark.parametrize("method", METHODS)
def test_declares_itself(method: str, datasets: dict[str, str]) -> None:
    plan = check(small_job(method, datasets[method]))
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
        size = min(10, len(same) // 2)
        first, last = ([step[target] for step in part] for part in (same[:size], same[-size:]))
        assert sum(last) < sum(first), f"{target} of lane {lane}"


@pytest.mark.parametrize("method", METHODS)
def test_resume_equals_uninterrupted(method: str, finished: dict[str, tuple[Job, str]], tmp_path: Path) -> None:
    job, run = finished[method]
    whole, names = weights(run, job), list(check(job).lanes)
    totals = {name: _totals(run, name) for name in names}
    middle, last = names[len(names) // 2], names[-1]
    stops = {(names[0], 3), (middle, totals[middle][len(totals[middle]) // 2]), (last, totals[last][-3])}
    for stage in list(steps_of(run, last).values())[: KINDS.get(method, 0)]:  # in the middle of every kind
        stops.add((last, stage[len(stage) // 2]))
    for lane, stop in sorted(stops):
        runs = str(tmp_path / f"{lane}-{stop}")
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
    job = small_job(method, datasets[method], train={"epochs": 1})
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
            before = _state(trainer)
            trainer.run()
            after = _state(trainer)
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
            before = _state(trainer)
            trainer.restore(trainer.checkpoints.latest())
            after = _state(trainer)
        copied = {spec.name for spec in plan.method.tables() if spec.like}  # written by table operations
        assert {name for name in before if not torch.equal(before[name], after[name])} == lane.writes | copied


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("form", ["safetensors", "parquet", "checkpoint"])
def test_export_gives_the_same_scores(
    method: str, form: Any, finished: dict[str, tuple[Job, str]], tmp_path: Path
) -> None:
    _, run = finished[method]
    export_run(run, str(tmp_path / "out"), form=form)
    assert_close(evaluate_export(str(tmp_path / "out")), evaluate_run(run), 1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_evaluation_does_not_depend_on_the_batch(
    method: str, finished: dict[str, tuple[Job, str]], tmp_path: Path
) -> None:
    job, run = finished[method]
    other = tmp_path / "run"
    shutil.copytree(run, other)
    (other / "job.yaml").write_text((other / "job.yaml").read_text().replace(f"batch: {job.data.batch}", "batch: 37"))
    # a score may round differently in a batch of another size, and so make or break one user's tie
    assert_close(evaluate_run(str(other)), evaluate_run(run), 1e-6, ties=2e-3)


@pytest.fixture(scope="session")
def two_workers(
    asked: list[str], datasets: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Losses, tables and test metrics of two workers after STEPS steps: method, placement, optimizer → result."""
    jobs = {each: _placed(each[0], datasets[each[0]], *each[1:]) for each in PLACEMENTS if each[0] in asked}
    return in_group(2, _all_sharded, jobs, str(tmp_path_factory.mktemp("two")))[0]


@pytest.mark.parametrize(("method", "placement", "optimizer"), PLACEMENTS)
def test_sharded_equals_unsharded(
    method: str, placement: str, optimizer: str, two_workers: dict[tuple[str, str, str], dict[str, Any]],
    datasets: dict[str, str], tmp_path: Path,
) -> None:  # fmt: skip
    two = two_workers[method, placement, optimizer]
    one = _fixed_steps(_placed(method, datasets[method], "auto", optimizer), str(tmp_path), plain=True)
    assert len(one["losses"]) % STEPS == 0
    for ours, theirs in zip(one["losses"], two["losses"], strict=True):
        assert ours.keys() == theirs.keys()
        # a covariance summed over 4096 rows is in the hundreds: 1e-5 of its size
        assert theirs == pytest.approx(ours, rel=ROUNDING.get(method, 1e-5), abs=ROUNDING.get(method, 1e-5))
    gaps = {name: largest_gap({name: value}, {name: two["state"][name]}) for name, value in one["state"].items()}
    assert max(gaps.values()) < ROUNDING.get(method, 1e-5), max(gaps, key=gaps.__getitem__)
    for ours, theirs in zip(one["test"], two["test"], strict=True):
        assert_close(ours, theirs, 1e-3, ties=1e-2)


@pytest.fixture(scope="session")
def two_one_two(finished: dict[str, tuple[Job, str]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The run of every method: stopped with two workers, gone on and stopped with one, ended with two."""
    runs = str(tmp_path_factory.mktemp("two-one-two"))
    jobs = {method: job for method, (job, _) in finished.items()}
    lanes = {method: list(check(job).lanes)[-1] for method, job in jobs.items()}
    in_group(
        2, _all_trained, jobs, runs, {method: (16 if lane == "main" else 1, lane) for method, lane in lanes.items()}
    )
    for method, (job, run) in finished.items():
        lane = lanes[method]
        with group_of_one():
            train(job, runs, stop_at=_totals(run, lane)[len(losses(run, lane)) // 2 + 2], lane=lane)
    return in_group(2, _all_trained, jobs, runs, {})[0]


@pytest.mark.parametrize("method", METHODS)
def test_two_one_two_workers(method: str, finished: dict[str, tuple[Job, str]], two_one_two: dict[str, str]) -> None:
    job, run = finished[method]
    assert largest_gap(weights(two_one_two[method], job), weights(run, job)) < ROUNDING.get(method, 1e-5)


def _totals(run: str, lane: str) -> list[int]:
    """What `Progress.total` was after every step."""
    return [total for stage in steps_of(run, lane).values() for total in stage]


def _all_trained(jobs: dict[str, Job], runs: str, stops: dict[str, tuple[int, str]]) -> dict[str, str]:
    """Each method's run, trained to its end or to where it stops: a step of a lane."""
    found = {}
    for method, job in jobs.items():
        stop, lane = stops.get(method, (0, "main"))
        found[method] = train(job, runs, stop_at=stop, lane=lane)
    return found


def _placed(method: str, dataset: str, placement: str, optimizer: str) -> Job:
    tables = {
        "placement": PLACES.get((method, placement), placement),
        "optimizer": optimizer,
        "lr": 0.05 if "adagrad" in optimizer else 0.01,
    }
    return small_job(method, dataset, tables=tables, train={"epochs": 50})


def _all_sharded(jobs: dict[tuple[str, str, str], Job], runs: str) -> dict[tuple[str, str, str], dict[str, Any]]:
    return {each: _fixed_steps(job, f"{runs}/{'-'.join(each)}", plain=False) for each, job in jobs.items()}


def _fixed_steps(job: Job, run: str, *, plain: bool) -> dict[str, Any]:
    """STEPS steps of every lane and kind: losses averaged over processes, full tables and dense tensors, metrics."""
    plan = check(job)
    result: dict[str, Any] = {"losses": [], "state": {}, "test": []}
    for lane in plan.lanes.values():
        make = PlainTables.build if plain else build_tables
        trainer = build_trainer(job, plan, run=run, lane=lane.name, device=CPU, make_tables=make)
        trainer.inherit()
        for stage in trainer.stages[: KINDS.get(str(job.method["name"]), 1)]:
            result["losses"] += fixed_steps(trainer, stage, STEPS)
        result["state"] |= _state(trainer)
        if lane in plan.last:
            result["test"].append(trainer.measure(Slice(split="test", domains=lane.domains)).metrics)
        else:
            trainer.save(None)
    return result


def _state(trainer: Any) -> dict[str, torch.Tensor]:
    """All that is trained: a buffer is no stage's."""
    dense = {name: parameter.detach().clone() for name, parameter in trainer.method.named_parameters()}
    return dense | {name: full_table(trainer.tables, name) for name in trainer.tables.specs}


def assert_close(one: dict[str, Any], two: dict[str, Any], tolerance: float, *, ties: float = 0.0) -> None:
    """The same metrics; those that count pairs, unlike logloss, may also differ by `ties`."""
    assert one.keys() == two.keys()
    for domain, values in one.items():
        for name, value in values.items():
            other = two[domain][name]
            assert (value is None) == (other is None)
            allowed = tolerance + ties * (name != "logloss")
            assert value is None or abs(value - other) <= allowed, (domain, name, value, other)
