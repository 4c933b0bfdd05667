"""One step against the same graph without a cut, differentiated by torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mdr_dist.batch import Batch
from mdr_dist.config import DenseConfig, TablesConfig
from mdr_dist.rule import Sum
from mdr_dist.stage import Losses, Rows, Stage, TableSpec
from mdr_dist.tables import PlainTables
from mdr_dist.train.dense import DenseOptimizers
from mdr_dist.train.step import train_step
from support.tables import CPU, ROWS, batch_of

SPECS = (
    TableSpec(name="user", rows=ROWS, dim=4, features=("user",)),
    TableSpec(name="item", rows=ROWS, dim=4, features=("item",)),
    TableSpec(name="unread", rows=ROWS, dim=4, features=("user",)),  # looked up, but no loss reaches it
)
LR = 0.125


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.weight = nn.Parameter(torch.randn(4))

    def losses(self, rows: Rows, batch: Batch) -> Losses:
        score = ((rows["user.user"] + self.weight) * rows["item.item"]).sum(1)
        return {"fit": score.square().mean(), "size": rows["user.user"].square().sum(1).mean()}


def step(tables: PlainTables, model: Model, train: tuple[str, ...] = ("*",)) -> Losses:
    stage = Stage(name="joint", loss=model.losses, train=train, update=Sum({"size": 0.5}))
    tables.start_stage(stage)
    dense = DenseOptimizers(model, stage, DenseConfig(optimizer="sgd", lr=LR))
    return train_step(tables, stage, batch=batch_of(0, 0, 1), dense=dense)


def make_tables() -> PlainTables:
    stage = Stage(name="joint", loss=lambda rows, batch: {})
    return PlainTables.build(SPECS, (stage,), config=TablesConfig(optimizer="sgd", lr=LR), device=CPU, seed=0)


def weight(tables: PlainTables, name: str) -> Tensor:
    return tables.shards(name)[0].tensor.detach()


@pytest.mark.parametrize("train", [("*",), ("item", "weight"), ("user",), ("weight",)])
def test_a_step_is_the_gradient_of_the_whole_graph(train: tuple[str, ...]) -> None:
    tables, model, untouched, twin = make_tables(), Model(), make_tables(), Model()
    losses = step(tables, model, train)
    leaves = {name: weight(untouched, name).clone().requires_grad_() for name in ("user", "item")}
    batch = batch_of(0, 0, 1)
    expected = twin.losses({f"{n}.{n}": leaf[batch.ids[n]] for n, leaf in leaves.items()}, batch)
    (expected["fit"] + 0.5 * expected["size"]).backward()
    for name, leaf in {**leaves, "weight": twin.weight}.items():
        got = model.weight.detach() if name == "weight" else weight(tables, name)
        trained = train == ("*",) or name in train
        torch.testing.assert_close(got, leaf.detach() - LR * leaf.grad * trained, rtol=0, atol=1e-6)
        assert torch.equal(got, leaf.detach()) != trained
    assert torch.equal(weight(tables, "unread"), weight(untouched, "unread"))
    for name, loss in losses.items():
        assert not loss.requires_grad
        torch.testing.assert_close(loss, expected[name].detach())


def test_a_loss_that_is_not_finite_stops_before_anything_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    tables, model, untouched = make_tables(), Model(), make_tables()
    fit = Model.losses

    def broken(self: Model, rows: Rows, batch: Batch) -> Losses:
        return fit(self, rows, batch) | {"size": self.weight.sum() * float("nan")}

    monkeypatch.setattr(Model, "losses", broken)
    with pytest.raises(FloatingPointError, match="stage 'joint': loss 'size' is nan"):
        step(tables, model)
    assert torch.equal(model.weight, Model().weight)
    assert all(torch.equal(weight(tables, spec.name), weight(untouched, spec.name)) for spec in SPECS)
