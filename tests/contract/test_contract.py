"""What every method in the indexes must fulfil, on a small synthetic data set."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mdr_dist import catalog
from mdr_dist.config import Job
from mdr_dist.data.synthetic import configure, synthesize
from mdr_dist.launch.process import evaluate_export, evaluate_run, export_run, group_of_one
from mdr_dist.stage import Slice, lanes, matches
from mdr_dist.tables import PlainTables, build_tables
from mdr_dist.train.lane import build_trainer
from mdr_dist.train.run import check
from support.groups import in_group
from support.jobs import CPU, fixed_steps, full_table, largest_gap, losses, same_bits, small_job, train, weights

METHODS = sorted(catalog.INDEX)
# placement, table optimizer: column-wise with row-wise Adagrad is refused, so it goes with SGD
PLACED = (
    ("table_wise", "rowwise_adagrad"),
    ("row_wise", "rowwise_adagrad"),
    ("column_wise", "sgd"),
    ("data_parallel", "rowwise_adagrad"),
    ("row_wise", "adagrad"),
    ("table_wise", "adam"),
)
STEPS = 50


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("contract") / "tiny")
    synthesize(path, configure("tiny", ()))
    return path


@pytest.fixture(scope="session")
def finished(dataset: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Job, str]]:
    """Every method trained to the end in one process."""
    runs = str(tmp_path_factory.mktemp("finished"))
    jobs = {method: small_job(method, dataset) for method in METHODS}
    with group_of_one():
        return {method: (job, train(job, runs)) for method, job in jobs.items()}


@pytest.mark.parametrize("method", METHODS)
def test_declares_itself(method: str, dataset: str) -> None:
    plan = check(small_job(method, dataset))
    specs = plan.method.tables()
    assert len({spec.name for spec in specs}) == len(specs)
    features = {feature.name for feature in plan.dataset.schema.features}
    assert {name for spec in specs for name in spec.features} <= features
    doc = inspect.getdoc(inspect.getmodule(catalog.find(method))) or ""
    for part in ("Paper", "Equation", "differs", "Shape letters"):
        assert part.lower() in doc.lower(), f"the docstring of {method} does not name: {part}"
    config = catalog.find(method).Config
    described = "".join(inspect.getdoc(base) or "" for base in config.__mro__)
    assert not [name for name in config.model_fields if name not in described], "fields without a description"


@pytest.mark.parametrize("method", METHODS)
def test_losses_are_named_finite_and_fall(method: str, finished: dict[str, tuple[Job, str]]) -> None:
    steps = losses(finished[method][1])
    assert all(math.isfinite(value) for step in steps for value in step.values())
    target = "bce" if "bce" in steps[0] else next(iter(steps[0]))
    first, last = ([step[target] for step in part] for part in (steps[:10], steps[-10:]))
    assert sum(last) < sum(first)


@pytest.mark.parametrize("method", METHODS)
def test_resume_equals_uninterrupted(method: str, finished: dict[str, tuple[Job, str]], tmp_path: Path) -> None:
    job, run = finished[method]
    whole = weights(run, job)
    count = len(losses(run))
    epoch = count // 2
    for stop in (3, epoch, count - 2):
        runs = str(tmp_path / str(stop))
        with group_of_one():
            train(job, runs, stop_at=stop)
        with group_of_one():
            assert same_bits(weights(train(job, runs), job), whole), f"stopped at step {stop}"


@pytest.mark.parametrize("method", METHODS)
def test_frozen_names_move_by_no_bit(method: str, dataset: str, tmp_path: Path) -> None:
    job = small_job(method, dataset, train={"epochs": 1})
    plan = check(job)
    names = tuple(spec.name for spec in plan.method.tables())
    dense = all_dense = tuple(name for name, _ in plan.method.named_parameters())
    for number, trained in enumerate((names[:1] + dense, names, dense)):
        frozen = lanes((replace(plan.stages[0], train=trained),), plan.method.tables(), all_dense)
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
@pytest.mark.parametrize("form", ["safetensors", "parquet", "checkpoint"])
def test_export_gives_the_same_scores(
    method: str, form: Any, finished: dict[str, tuple[Job, str]], tmp_path: Path
) -> None:
    _, run = finished[method]
    export_run(run, str(tmp_path / "out"), form=form)
    assert_close(evaluate_export(str(tmp_path / "out")), evaluate_run(run), 1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_evaluation_does_not_depend_on_the_batch(
    method: str, finished: dict[str, tuple[Job, str]], dataset: str
) -> None:
    job, run = finished[method]
    other = job.model_copy(update={"data": job.data.model_copy(update={"batch": 37})})
    with group_of_one():
        trainer = build_trainer(other, check(other), run=run, device=CPU)
        trainer.restore(trainer.checkpoints.latest())
        # a score may round differently in a batch of another size, and so make or break one user's tie
        assert_close(trainer.measure(Slice(split="test")), evaluate_run_in_group(job, run), 1e-6, ties=2e-3)


def evaluate_run_in_group(job: Job, run: str) -> dict[str, Any]:
    trainer = build_trainer(job, check(job), run=run, device=CPU)
    trainer.restore(trainer.checkpoints.latest())
    return trainer.measure(Slice(split="test"))


@pytest.fixture(scope="session")
def two_workers(dataset: str, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Losses, tables and test metrics of two workers after STEPS steps: method, placement, optimizer → result."""
    return in_group(2, _all_sharded, dataset, str(tmp_path_factory.mktemp("two")))[0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("placement", "optimizer"), PLACED)
def test_sharded_equals_unsharded(
    method: str, placement: str, optimizer: str, two_workers: dict[tuple[str, str, str], dict[str, Any]], dataset: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    two = two_workers[method, placement, optimizer]
    if isinstance(two, str):
        pytest.fail(two)
    one = _fixed_steps(_placed(method, dataset, "auto", optimizer), str(tmp_path), plain=True)
    assert len(one["losses"]) == STEPS
    for ours, theirs in zip(one["losses"], two["losses"], strict=True):
        assert ours.keys() == theirs.keys()
        # a covariance summed over 4096 rows is in the hundreds: 1e-5 of its size
        assert theirs == pytest.approx(ours, rel=1e-5, abs=1e-5)
    assert largest_gap(one["state"], two["state"]) < 1e-5
    assert_close(one["test"], two["test"], 1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_two_one_two_workers(method: str, finished: dict[str, tuple[Job, str]], tmp_path: Path) -> None:
    job, run = finished[method]
    runs = str(tmp_path)
    in_group(2, _train_and_stop, job, runs, 16)
    with group_of_one():
        train(job, runs, stop_at=len(losses(run)) // 2 + 3)
    ended = in_group(2, train, job, runs)[0]
    assert largest_gap(weights(ended, job), weights(run, job)) < 1e-5


def _train_and_stop(job: Job, runs: str, stop_at: int) -> str:
    return train(job, runs, stop_at=stop_at)


def _placed(method: str, dataset: str, placement: str, optimizer: str) -> Job:
    tables = {"placement": placement, "optimizer": optimizer, "lr": 0.05 if "adagrad" in optimizer else 0.01}
    return small_job(method, dataset, tables=tables, train={"epochs": 50})


def _all_sharded(dataset: str, runs: str) -> dict[tuple[str, str, str], dict[str, Any] | str]:
    results: dict[tuple[str, str, str], dict[str, Any] | str] = {}
    for method in METHODS:
        for placement, optimizer in PLACED:
            job = _placed(method, dataset, placement, optimizer)
            results[method, placement, optimizer] = _fixed_steps(
                job, f"{runs}/{method}-{placement}-{optimizer}", plain=False
            )
    return results


def _fixed_steps(job: Job, run: str, *, plain: bool) -> dict[str, Any]:
    """STEPS steps; the losses averaged over processes, full tables and dense tensors, and the test metrics."""
    make = PlainTables.build if plain else build_tables
    trainer = build_trainer(job, check(job), run=run, device=CPU, make_tables=make)
    taken = fixed_steps(trainer, STEPS)
    return {"losses": taken, "state": _state(trainer), "test": trainer.measure(Slice(split="test"))}


def _state(trainer: Any) -> dict[str, torch.Tensor]:
    dense = {name: tensor.clone() for name, tensor in trainer.method.state_dict().items()}
    return dense | {name: full_table(trainer.tables, name) for name in trainer.tables.specs}


def assert_close(one: dict[str, Any], two: dict[str, Any], tolerance: float, *, ties: float = 0.0) -> None:
    """The same metrics; those that count pairs, unlike logloss, may also differ by `ties`."""
    assert one.keys() == two.keys()
    for domain, values in one.items():
        for name, value in values.items():
            other = two[domain][name]
            assert (value is None) == (other is None)
            allowed = tolerance + ties * (name in ("auc", "gauc"))
            assert value is None or abs(value - other) <= allowed, (domain, name, value, other)
