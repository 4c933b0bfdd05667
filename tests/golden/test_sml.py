"""SML against its equations as a program of loops, and its schedule against one worked by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mdr_dist.batch import Batch
from mdr_dist.config import TablesConfig
from mdr_dist.methods.sml import SML, SMLConfig, TransferNet
from mdr_dist.stage import DenseOptimizer, Slice, Stage, lanes, trained_by
from mdr_dist.tables import PlainTables
from support.rows import SCHEMA, arrays, build, look_up, make_batch, make_tables


def periods(count: int) -> Any:
    return SCHEMA.model_copy(update={"periods": count})


def shaken(model: nn.Module) -> Any:
    """With every parameter, biases too, away from 0."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) / 2)
    return model


def prepared(**settings: Any) -> tuple[SML, dict[str, Tensor], Batch]:
    batch = make_batch(12)
    negative = torch.tensor(np.random.default_rng(1).integers(0, 9, 12))
    batch = replace(batch, ids={**batch.ids, "negative_0": negative})
    model = shaken(build({"name": "sml", "dim": 6, "hidden": 7, **settings}, schema=periods(5)))
    return model, look_up(model, make_tables(model), batch), batch


def gelu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-1.702 * x))


def transferred(weights: dict[str, np.ndarray], last: np.ndarray, hat: np.ndarray, dot: Any = None) -> np.ndarray:
    """One row: a picture of three lines and D columns under filters of height 3 and width 1, then of 1 x 1."""
    if dot is None:
        dot = last * hat / max(np.sqrt((last * last).sum()), 1e-8)
    picture, columns = [last, hat, dot], range(len(last))
    filters, biases = weights["first.weight"], weights["first.bias"]
    first = np.array(
        [[sum(filters[c, y] * picture[y][x] for y in range(3)) + biases[c] for x in columns] for c in range(10)]
    )
    first = gelu(first)
    filters, biases = weights["second.weight"], weights["second.bias"]
    second = np.array(
        [[sum(filters[c, y] * first[y, x] for y in range(10)) + biases[c] for x in columns] for c in range(5)]
    )
    flat = [value for channel in gelu(second) for value in channel]
    hidden = gelu(weights["hidden.weight"] @ np.array(flat) + weights["hidden.bias"])
    return weights["out.weight"] @ hidden + weights["out.bias"]


def test_the_transfer_network() -> None:
    net = shaken(TransferNet(6, SMLConfig(hidden=7)).double())
    last, hat = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    last[1], hat[2], last[3], hat[3] = 0, 0, 0, 0
    hat.requires_grad_()
    expected = [transferred(arrays(net), *(part[row].detach().numpy() for part in (last, hat))) for row in range(4)]
    out = net(last, hat)
    assert out.detach().numpy() == pytest.approx(np.array(expected), rel=1e-12)
    out.sum().backward()
    assert hat.grad is not None and bool(hat.grad.isfinite().all())
    assert len({tuple(row) for row in np.array(expected).round(9).tolist()}) == 4


def test_the_third_vector_carries_no_gradient() -> None:
    net = shaken(TransferNet(3, SMLConfig(hidden=7)).double())
    weights, last, hat = arrays(net), np.array([0.5, -1.0, 2.0]), np.array([0.7, 0.3, -0.4])
    leaf = torch.tensor(hat[None], requires_grad=True)
    net(torch.tensor(last[None]), leaf).sum().backward()
    assert leaf.grad is not None
    kept, moving = np.zeros(3), np.zeros(3)
    for at, step in enumerate(1e-6 * np.eye(3)):
        dot = last * hat / np.linalg.norm(last)
        kept[at] = (transferred(weights, last, hat + step, dot) - transferred(weights, last, hat - step, dot)).sum()
        moving[at] = (transferred(weights, last, hat + step) - transferred(weights, last, hat - step)).sum()
    assert leaf.grad[0].numpy() == pytest.approx(kept / 2e-6, rel=1e-6)
    assert moving / 2e-6 != pytest.approx(kept / 2e-6, rel=1e-2)


def test_parameter_count() -> None:
    net = TransferNet(64, SMLConfig())
    parts = (10 * 3 + 10, 5 * 10 + 5, 320 * 512 + 512, 512 * 64 + 64)
    assert sum(parameter.numel() for parameter in net.parameters()) == sum(parts) == 197_279
    assert sum(p.numel() for p in build({"name": "sml"}, schema=periods(5)).parameters()) == 2 * sum(parts)


def logs(u: np.ndarray, i: np.ndarray, j: np.ndarray) -> float:
    """Minus the logs of s(u.i) and 1 - s(u.j)."""
    positive, negative = 1 / (1 + np.exp(-(u @ i))), 1 / (1 + np.exp(-(u @ j)))
    return float(-np.log(positive) - np.log(1 - negative))


@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_losses(l2: float) -> None:
    model, rows, batch = prepared(l2=l2)
    nets = {name: arrays(model.transfer[name]) for name in ("user", "item")}
    found: dict[str, list[float]] = {"plain": [], "made": [], "plain l2": [], "made l2": []}
    for at in range(12):
        looked = [("user", "user"), ("item", "item"), ("item", "negative_0")]
        plain, last, hat = (
            [rows[f"{table}{copy}.{feature}"][at].detach().numpy() for table, feature in looked]
            for copy in ("", "_last", "_hat")
        )
        made = [transferred(nets[looked[n][0]], last[n], hat[n]) for n in range(3)]
        found["plain l2"].append(sum(v @ v for v in plain))
        found["made l2"].append(sum(v @ v for v in hat))
        if batch.label[at] > 0:
            found["plain"].append(logs(*plain))
            found["made"].append(logs(*made))
    assert 0 < len(found["made"]) < 12
    for kind, losses in (("plain", model.losses(rows, batch)), ("made", model.transferred_losses(rows, batch))):
        assert set(losses) == ({"log_loss", "l2"} if l2 else {"log_loss"})
        assert losses["log_loss"].item() == pytest.approx(np.mean(found[kind]), rel=1e-12)
        if l2:
            assert losses["l2"].item() == pytest.approx(np.mean(found[f"{kind} l2"]), rel=1e-12)
    assert model.stages()[1].update.weights == ({"l2": l2 / 2} if l2 else {})


def named(stages: tuple[Stage, ...]) -> dict[str, Stage]:
    return {stage.name: stage for stage in stages}


def test_what_each_stage_trains_and_reads() -> None:
    model, _, _ = prepared()
    dense = tuple(name for name, _ in model.named_parameters())
    tables = model.tables()
    assert {spec.name: (spec.like, spec.features) for spec in tables} == {
        **{name: (like, ("user",)) for name, like in (("user", ""), ("user_last", "user"), ("user_hat", "user"))},
        **{
            name: (like, ("item", "negative_0"))
            for name, like in (("item", ""), ("item_last", "item"), ("item_hat", "item"))
        },
    }
    lanes(model.stages(), tables, dense)  # every pattern fits something
    names = tuple(spec.name for spec in tables)
    for stage in model.stages():
        trained, copies = set(trained_by(stage, names + dense)), {n for n in names if "_" in n}
        if stage.name == "start":
            assert trained == set(stage.read) == {"user", "item"} and stage.loss == model.losses
        elif stage.name.endswith("fit"):
            assert trained == {"user_hat", "item_hat"} and set(stage.read) == copies
            assert stage.loss == model.transferred_losses
        else:
            assert trained == set(dense) and set(stage.read) == copies and stage.loss == model.transferred_losses
            assert stage.optimizers == {"transfer.*": DenseOptimizer("adam", 1e-3, 1e-4)}


SCHEDULE = {  # stage → what it reads, the passes over it, and what is met before it
    "start": (Slice(period=1, upto=True, negatives=1), 20, None),
    "period-0002-0-fit": (Slice(period=2, negatives=1), 3, 2),
    "period-0002-0-look-ahead": (Slice(period=3, negatives=1, pool="period"), 4, 3),
    "period-0002-1-fit": (Slice(period=2, negatives=1), 3, None),
    "period-0002-1-look-ahead": (Slice(period=3, negatives=1, pool="period"), 4, None),
    "period-0003-0-fit": (Slice(period=3, negatives=1), 3, None),
    "period-0003-0-look-ahead": (Slice(period=4, negatives=1, pool="period"), 4, 4),
    "period-0003-1-fit": (Slice(period=3, negatives=1), 3, None),
    "period-0003-1-look-ahead": (Slice(period=4, negatives=1, pool="period"), 4, None),
    "period-0004-0-fit": (Slice(period=4, negatives=1), 3, None),
}


@pytest.mark.parametrize("tested", [0, 3, 4])
def test_the_schedule(tested: int) -> None:
    stages = prepared(first=2, rounds=2, epochs=3, transfer_epochs=4, tested=tested)[0].stages()
    assert {stage.name: (stage.data, stage.until.epochs) for stage in stages} == {
        name: (data, epochs) for name, (data, epochs, _) in SCHEDULE.items()
    }
    assert [stage.name for stage in stages] == list(SCHEDULE)
    assert {stage.name: stage.pretest for stage in stages if stage.pretest} == {
        name: Slice(period=met) for name, (_, _, met) in SCHEDULE.items() if met and met >= tested
    }
    assert all(stage.until.patience == 0 and stage.lane == "main" for stage in stages)


class Mix(nn.Module):
    """last + factor * hat"""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, last: Tensor, hat: Tensor) -> Tensor:
        return last + self.factor * hat


# (user, user_hat) after every stage of two rounds. A fit adds 1 to hats, a look-ahead 1 to the users' factor, which
# starts as 2; the items' is 0, so that theirs stay as they began. Users begin as 1.
BY_HAND = {
    "transferred": [
        (1, 0),
        (1 + 2 * 2, 2), (5, 2), (1 + 3 * 6, 6), (1 + 4 * 6, 6),
        (25 + 4 * 26, 26), (129, 26), (25 + 5 * 130, 130), (25 + 6 * 130, 130),
        (805 + 6 * 806, 806),
    ],
    "hat": [
        (1, 0),
        (1 + 2 * 2, 2), (5, 2), (1 + 3 * 3, 3), (1 + 4 * 3, 3),
        (13 + 4 * 14, 14), (69, 14), (13 + 5 * 15, 15), (13 + 6 * 15, 15),
        (103 + 6 * 104, 104),
    ],
}  # fmt: skip


@pytest.mark.parametrize("restart", ["transferred", "hat"])
def test_what_the_operations_make_of_the_tables(restart: str) -> None:
    model, _, _ = prepared(first=2, rounds=2, restart=restart)
    users, items = Mix(2.0), Mix(0.0)
    model.transfer = nn.ModuleDict({"user": users, "item": items})
    tables = PlainTables(model.tables(), TablesConfig())
    for name, value in (("user", 1.0), ("item", 7.0)):
        tables.load_table(name, torch.full((tables.specs[name].rows, 6), value))
    found: list[tuple[float, float]] = []
    for stage in model.stages():
        for operation in stage.before:
            operation(tables)
        for name in ("user_hat", "item_hat") if stage.name.endswith("fit") else ():
            tables.load_table(name, tables.shards(name)[0].tensor + 1)
        users.factor += stage.name.endswith("look-ahead")
        for operation in stage.after:
            operation(tables)
        values = {name: set(tables.shards(name)[0].tensor.flatten().tolist()) for name in tables.specs}
        assert all(len(kinds) == 1 for kinds in values.values()), "all rows are treated alike"
        assert values["item"] == {7.0}
        found.append((values["user"].pop(), values["user_hat"].pop()))
    assert found == BY_HAND[restart]
