"""What every method must come to with several workers: what one comes to, however its tables are placed."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from mdr_dist import catalog
from mdr_dist.config import Job
from mdr_dist.launch.process import group_of_one
from mdr_dist.stage import Slice
from mdr_dist.tables import PlainTables, build_tables
from mdr_dist.train.lane import build_trainer
from mdr_dist.train.run import check
from support.contract import KINDS, METHODS, assert_close, begun, contract_job, state_of, totals
from support.groups import in_group
from support.jobs import CPU, MAPPED, fixed_steps, largest_gap, losses, train, weights

PLACED = (  # and by which optimizer: column-wise with row-wise Adagrad is refused
    ("row_wise", "rowwise_adagrad"),
    ("table_wise", "rowwise_adagrad"),
    ("column_wise", "sgd"),
    ("data_parallel", "rowwise_adagrad"),
    ("row_wise", "adagrad"),
    ("table_wise", "adam"),
)
STEPS = 20
# by how much workers may differ, 1e-5 where nothing else is said. Of the graph's millions of leaky ReLUs some lie so
# near their kink that rounding decides the slope; other neighbours would make a difference of 0.1
ROUNDING = {"cl4rec-graph": 1e-3}
NOT_CUT = {"sml", "bias", "catn"}  # by columns: tables like others, whose rows are mapped; tables of one column
# a bias has one column
PLACES = {(m, "column_wise"): {"bias": "auto", "*": "column_wise"} for m in ("gru4rec", "caser", "cdcf")} | {
    (m, "column_wise"): {"*_bias*": "auto", "*": "column_wise"} for m in ("cmf_rating", "anr", *MAPPED)
}


def ways(method: str) -> tuple[tuple[str, str], ...]:
    """How a method's tables are placed: in every way for one of the six; by rows and in a way of its own for others."""
    able = [each for each in PLACED if method not in NOT_CUT or each[0] != "column_wise"]
    if method.partition("-")[0] in catalog.METHODS:
        return tuple(able)
    return able[0], able[1 + zlib.crc32(method.encode()) % (len(able) - 1)]


PLACEMENTS = [(method, *each) for method in METHODS for each in ways(method)]


@pytest.fixture(scope="session")
def two_workers(
    asked: list[str], datasets: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Losses, tables and test metrics of two workers after STEPS steps: method, placement, optimizer → result."""
    jobs = {each: _placed(each[0], datasets[each[0]], *each[1:]) for each in PLACEMENTS if each[0] in asked}
    return in_group(2, _all_sharded, jobs, str(tmp_path_factory.mktemp("two")))[0]


@pytest.fixture(scope="session")
def unsharded(
    datasets: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], dict[str, Any]]:
    """The same of one process with plain tables, which have no placement: method and optimizer → result."""

    @functools.cache
    def of(method: str, optimizer: str) -> dict[str, Any]:
        run = str(tmp_path_factory.mktemp(f"{method}-{optimizer}"))
        return _fixed_steps(_placed(method, datasets[method], "auto", optimizer), run, plain=True)

    return of


@pytest.mark.parametrize(("method", "placement", "optimizer"), PLACEMENTS)
def test_sharded_equals_unsharded(
    method: str, placement: str, optimizer: str, two_workers: dict[tuple[str, str, str], dict[str, Any]],
    unsharded: Callable[[str, str], dict[str, Any]],
) -> None:  # fmt: skip
    two, one = two_workers[method, placement, optimizer], unsharded(method, optimizer)
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
    """The run of every method: its last lane stopped with two workers, gone on and stopped with one, ended with two."""
    runs = str(tmp_path_factory.mktemp("two-one-two"))
    jobs = {method: job for method, (job, _) in finished.items()}
    lanes = {method: list(check(job).lanes)[-1] for method, job in jobs.items()}
    for method, (job, run) in finished.items():
        begun(job, run, runs=runs, lane=lanes[method])
    stops = {method: (16 if lane == "main" else 1, lane) for method, lane in lanes.items()}
    in_group(2, _all_trained, jobs, runs, stops)
    for method, (job, run) in finished.items():
        lane = lanes[method]
        with group_of_one():
            train(job, runs, stop_at=totals(run, lane)[len(losses(run, lane)) // 2 + 2], lane=lane)
    return in_group(2, _all_trained, jobs, runs, {})[0]


@pytest.mark.parametrize("method", METHODS)
def test_two_one_two_workers(method: str, finished: dict[str, tuple[Job, str]], two_one_two: dict[str, str]) -> None:
    job, run = finished[method]
    assert largest_gap(weights(two_one_two[method], job), weights(run, job)) < ROUNDING.get(method, 1e-5)


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
    return contract_job(method, dataset, tables=tables, train={"epochs": 50})


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
        result["state"] |= state_of(trainer)
        if lane in plan.last:
            result["test"].append(trainer.measure(Slice(split="test", domains=lane.domains)).metrics)
        else:
            trainer.save(None)
    return result
