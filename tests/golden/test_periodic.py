"""Methods that learn period by period: what all of them keep to, and the baselines of SML against numpy."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from mdr_dist.baselines.periodic.spmf import SPMF, weights_of
from mdr_dist.batch import Batch, world_size
from mdr_dist.errors import UserError
from mdr_dist.launch.process import train_here
from mdr_dist.schema import Schema
from mdr_dist.stage import Slice
from support.groups import in_group
from support.jobs import small_job
from support.retrieval import DOMAINS, periodic_log, write_log
from support.rows import SCHEMA, build, cut, look_up, make_batch, make_tables

PERIODIC = ("sml", "full_retrain", "fine_tune", "spmf")
LOOKED_UP = ("user.user", "item.item", "item.negative_0")


def periods(count: int) -> Schema:
    return SCHEMA.model_copy(update={"periods": count})


def negatives(batch: Batch) -> Batch:
    drawn = torch.tensor(np.random.default_rng(1).integers(0, 9, len(batch)))
    return replace(batch, ids={**batch.ids, "negative_0": drawn})


@pytest.mark.parametrize(
    ("name", "epochs", "slices"),
    [
        ("full_retrain", 20, [Slice(period=t, upto=True, negatives=1) for t in (2, 3, 4)]),
        ("fine_tune", 5, [Slice(period=t, negatives=1) for t in (2, 3, 4)]),
        ("spmf", 5, [Slice(period=t, reservoir=7000, negatives=1) for t in (2, 3, 4)]),
    ],
)
def test_a_stage_a_period(name: str, epochs: int, slices: list[Slice]) -> None:
    model: Any = build({"name": name, "first": 2, "tested": 3, "first_epochs": 9}, schema=periods(5))
    start, *rest = model.stages()
    assert (start.name, start.data, start.until.epochs, start.pretest) == (
        "start", Slice(period=1, upto=True, negatives=1), 9, None,
    )  # fmt: skip
    assert [stage.name for stage in rest] == ["period-0002", "period-0003", "period-0004"]
    assert [stage.data for stage in rest] == slices
    assert [stage.pretest for stage in rest] == [None, Slice(period=3), Slice(period=4)]
    assert {stage.until.epochs for stage in rest} == {epochs}
    assert all(stage.train == ("user", "item") and stage.until.patience == 0 for stage in (start, *rest))
    assert start.loss == model.losses
    assert all(stage.loss == (model.weighted_losses if name == "spmf" else model.losses) for stage in rest)
    assert [spec.name for spec in model.tables()] == ["user", "item"] and not list(model.parameters())


def test_what_a_job_sets() -> None:
    spmf: Any = build({"name": "spmf", "reservoir": 30, "epochs": 2, "l2": 0.0}, schema=periods(5))
    last = spmf.stages()[-1]
    assert (last.data.reservoir, last.until.epochs, last.update.weights) == (30, 2, {})


def weighted_by_hand(score: np.ndarray) -> np.ndarray:
    """exp(rank / N) over its mean, the rank being one more than how many score higher."""
    rank = np.array([1 + sum(other > own for other in score) for own in score])
    weight = np.exp(rank / len(score))
    return weight / weight.mean()


def test_badly_ranked_rows_weigh_more() -> None:
    batch = make_batch(12)
    score = np.random.default_rng(3).normal(size=12)
    found = weights_of(torch.tensor(score), batch).numpy()
    assert found == pytest.approx(weighted_by_hand(score), rel=1e-12)
    assert found.argmin() == score.argmax() and found.argmax() == score.argmin()
    assert found.max() / found.min() == pytest.approx(np.exp(11 / 12), rel=1e-12)


def test_rows_lie_in_any_order_and_padding_has_no_rank() -> None:
    """By two processes' shares put together in one: the rank is that among the rows of the whole batch."""
    score, place = np.random.default_rng(4).normal(size=10), np.random.default_rng(5).permutation(10)
    weight, position = torch.ones(13, dtype=torch.float64), torch.tensor([*place, -1, -1, -1])
    weight[10:] = 0
    batch = replace(make_batch(13), position=position, weight=weight, count=10)
    found = weights_of(torch.tensor([*score[place], 99.0, 99.0, -99.0]), batch).numpy()
    assert found[:10] == pytest.approx(weighted_by_hand(score)[place], rel=1e-12)


def weighted(shares: list[Batch], l2: float) -> dict[str, Tensor]:
    """The weights of this process's rows, and losses and gradients averaged over processes."""
    batch = shares[dist.get_rank() if world_size() > 1 else 0]
    model = build({"name": "spmf", "dim": 6, "l2": l2}, schema=periods(5))
    assert isinstance(model, SPMF)
    tables = make_tables(model)
    rows = look_up(model, tables, batch)
    losses = model.weighted_losses(rows, batch)
    torch.stack(list(losses.values())).sum().backward()
    found = {f"loss/{name}": value.detach() for name, value in losses.items()}
    found |= {name: table.grad for name, table in tables.items() if table.grad is not None}
    if world_size() > 1:
        for value in found.values():
            dist.all_reduce(value)
            value.div_(world_size())
    score = (rows["user.user"] * rows["item.item"]).sum(1).detach()
    return found | {"weights": weights_of(score, batch)}


@pytest.mark.parametrize("l2", [0.0, 0.01])
def test_the_weighted_loss_and_its_gradient(l2: float) -> None:
    """The weights are no part of what is differentiated."""
    batch = negatives(make_batch(12))
    model: Any = build({"name": "spmf", "dim": 6, "l2": l2}, schema=periods(5))
    tables = make_tables(model)
    user, item, other = (look_up(model, tables, batch)[name].detach().numpy() for name in LOOKED_UP)
    positive, negative = (user * item).sum(1), (user * other).sum(1)
    weight = weighted_by_hand(positive)
    counts = weight * (batch.label.numpy() > 0)
    losses = np.log1p(np.exp(-positive)) + np.log1p(np.exp(negative))
    found = weighted([batch], l2)
    assert found["loss/log_loss"].item() == pytest.approx((counts * losses).sum() / counts.sum(), rel=1e-12)
    down, up = -1 / (1 + np.exp(positive)), 1 / (1 + np.exp(-negative))
    expected = np.zeros((7, 6))
    for at in range(12):
        slope = down[at] * item[at] + up[at] * other[at]
        expected[batch.ids["user"][at]] += counts[at] / counts.sum() * slope
        if l2:
            expected[batch.ids["user"][at]] += weight[at] / 12 * 2 * user[at]
    assert found["user"].numpy() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    if l2:
        lengths = (user**2 + item**2 + other**2).sum(1)
        assert found["loss/l2"].item() == pytest.approx((weight * lengths).mean(), rel=1e-12)


def test_two_processes_weigh_as_one() -> None:
    batch = negatives(make_batch(11))
    shares = cut(batch, 2, padding=2)
    one, two = weighted([batch], 0.01), in_group(2, weighted, shares, 0.01)
    together = torch.full((11,), float("nan"), dtype=torch.float64)
    for share, found in zip(shares, two, strict=True):
        real = share.position >= 0
        together[share.position[real]] = found["weights"][real]
    assert torch.equal(together, one["weights"])
    for name in set(one) - {"weights"}:
        assert two[0][name].numpy() == pytest.approx(one[name].numpy(), rel=1e-9, abs=1e-12), name


@pytest.mark.parametrize("name", PERIODIC)
def test_more_periods_add_stages_at_the_end(name: str) -> None:
    def listed(count: int) -> list[tuple[Any, ...]]:
        stages = build({"name": name, "dim": 4, "first": 2}, schema=periods(count)).stages()
        return [(s.name, s.data, s.train, s.read, s.until, s.pretest, len(s.before), len(s.after)) for s in stages]

    for count in (3, 4, 5, 6):
        fewer, more = listed(count), listed(count + 1)
        assert more[: len(fewer)] == fewer and len(more) > len(fewer)


@pytest.mark.parametrize("name", PERIODIC)
def test_all_are_met_in_the_same_periods(name: str) -> None:
    def met(**settings: Any) -> list[int | None]:
        stages = build({"name": name, "dim": 4, "first": 2, **settings}, schema=periods(6)).stages()
        return [stage.pretest.period for stage in stages if stage.pretest]

    assert met() == [2, 3, 4, 5] and met(tested=4) == [4, 5]


@pytest.mark.parametrize("name", PERIODIC)
@pytest.mark.parametrize(
    ("settings", "count", "text"),
    [
        ({"first": 5}, 5, r"method\.first: 5; a period from 1 to 4 is needed, of those numbered 0 to 4"),
        ({"tested": 5}, 5, r"method\.tested: 5; a period from 1 to 4 is needed"),
        ({"first": 3, "tested": 2}, 5, r"method\.tested: 2; a period from 3 to 4 is needed"),
        ({}, 0, r"data set tiny: its time is not cut into periods; add `periods` to its recipe"),
    ],
)
def test_periods_that_are_not_there(name: str, settings: dict[str, Any], count: int, text: str) -> None:
    with pytest.raises(UserError, match=text):
        build({"name": name, **settings}, schema=periods(count))
    build({"name": name, "first": 4, "tested": 4}, schema=periods(5))


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A data set of four periods without a val or test split."""
    path = str(tmp_path_factory.mktemp("data") / "log")
    return write_log(path, periodic_log(0, periods=4)).path


@pytest.mark.parametrize(
    ("name", "sampled"),
    [("sml", 0), ("sml", 30), ("fine_tune", 0)],
)
def test_a_run_is_measured_by_the_periods_it_met(name: str, sampled: int, log: str, tmp_path: Path) -> None:
    """Its result is their mean, by how much there was to find in each."""
    settings = {"dim": 8, "first_epochs": 2} | ({"hidden": 8, "rounds": 2} if name == "sml" else {})
    job = small_job(name, log, method=settings, eval={"ks": [5], "sampled": sampled})
    run, metrics = train_here(job, str(tmp_path))
    assert json.loads((Path(run) / "metrics.json").read_text()) == metrics
    assert metrics["after"] == {} and list(metrics["before"]) == ["period 1", "period 2", "period 3"]
    test, parts = metrics["test"], list(metrics["before"].values())
    for domain in DOMAINS:
        weights = [part[domain]["truths" if sampled else "users"] for part in parts]
        assert min(weights) > 10 and len(set(weights)) > 1
        for figure in ("ndcg@5", "random/ndcg@5"):
            mean = np.average([part[domain][figure] for part in parts], weights=weights)
            assert test[domain][figure] == pytest.approx(mean, rel=1e-12)
        assert test[domain]["users"] == sum(weights)
        assert test[domain]["items"] == parts[-1][domain]["items"] > parts[0][domain]["items"]
    both = [test[domain]["ndcg@5"] for domain in DOMAINS]
    assert test["macro"]["ndcg@5"] == pytest.approx(np.mean(both), rel=1e-12)
