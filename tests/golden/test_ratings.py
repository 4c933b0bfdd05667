"""The baselines that factorise ratings, against their equations written out in numpy one row at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from mdr_dist.baselines.text.cdlfm import CDLFM
from mdr_dist.baselines.text.pair import PairMethod
from mdr_dist.batch import Batch
from mdr_dist.errors import UserError
from mdr_dist.methods.rate import RateMethod
from mdr_dist.schema import Feature, Schema
from mdr_dist.train.update import weighted_sum
from support.rows import SCHEMA, arrays, build, cut, look_up, make_batch, make_tables

PAIR = Schema(
    name="pair",
    domains=("one", "two"),
    features=(*SCHEMA.features[:2], Feature(name="domain", kind="id", rows=2)),
)
Array = np.ndarray
Rows = dict[str, Tensor]


def batch_of(size: int, *, seed: int = 0, schema: Schema = PAIR) -> Batch:
    """Ratings of 1 to 5, the items' means, and users of whom some have no rows in the source."""
    batch = make_batch(size, seed=seed, schema=schema, domains=tuple(range(len(schema.domains))))
    draw = np.random.default_rng(seed + 1)
    rating = torch.tensor(draw.integers(1, 6, size).astype(float))
    mean = torch.tensor(draw.normal(3, 1, (size, 1)))
    active = torch.tensor(draw.random((size, len(schema.domains))) < 0.6).double()
    return replace(batch, labels={"label": rating}, dense={"mean": mean, "active": active})


def prepared(batch: Batch, *, schema: Schema = PAIR, **settings: Any) -> tuple[RateMethod, Rows, dict[str, Array]]:
    """The method, rows looked up, and the same rows as arrays."""
    model = build({"l2": 0.3, **({} if settings["name"] == "bias" else {"dim": 4}), **settings}, schema=schema)
    assert isinstance(model, RateMethod)
    rows = look_up(model, make_tables(model), batch)
    return model, rows, {name: row.detach().numpy() for name, row in rows.items()}


def usual(batch: Batch, biases: tuple[Array, Array], at: int) -> float:
    return float(batch.dense["mean"][at, 0] + biases[0][at, 0] + biases[1][at, 0])


def close(found: Tensor, expected: object) -> None:
    assert found.tolist() == pytest.approx(expected, rel=1e-10)


def test_biases() -> None:
    batch = batch_of(11)
    model, rows, w = prepared(batch, name="bias")
    both = w["user_bias.user"], w["item_bias.item"]
    scores = [usual(batch, both, at) for at in range(11)]
    close(model.score(rows, batch), scores)
    losses = model.losses(rows, batch)
    close(losses["square"], np.mean((np.array(scores) - batch.label.numpy()) ** 2))
    close(losses["l2"], np.mean((both[0] ** 2 + both[1] ** 2).squeeze(1)))
    assert model.stages()[0].update.weights == {"l2": 0.15}


def test_biases_of_items_alone() -> None:
    batch = batch_of(5)
    model, rows, w = prepared(batch, name="bias", user=False, l2=0.0)
    assert [spec.name for spec in model.tables()] == ["item_bias"]
    close(model.score(rows, batch), batch.dense["mean"][:, 0].numpy() + w["item_bias.item"][:, 0])
    assert list(model.losses(rows, batch)) == ["square"]


def factor_score(w: dict[str, Array], batch: Batch, at: int, *, user: Array, bias: float) -> float:
    """Of a user at some place, in the row's domain."""
    k = int(batch.domain[at])
    return float(user @ w[f"item/{k}.item"][at] + batch.dense["mean"][at, 0] + bias + w[f"item_bias/{k}.item"][at, 0])


@pytest.mark.parametrize("target", ["", "one"])
@pytest.mark.parametrize("schema", [PAIR, SCHEMA], ids=["pair", "three"])
def test_cmf(schema: Schema, target: str) -> None:
    target = target and schema.domains[0]
    batch = batch_of(19, schema=schema)
    model, rows, w = prepared(batch, name="cmf_rating", alpha=0.3, target=target, schema=schema)
    scores, sizes = [], []
    for at, k in enumerate(batch.domain.tolist()):
        embeddings = w["user.user"][at], w[f"item/{k}.item"][at]
        biases = w["user_bias.user"], w["item_bias.item"]
        scores.append(embeddings[0] @ embeddings[1] + usual(batch, biases, at))
        sizes.append(sum((part[at] ** 2).sum() for part in biases) + sum((part**2).sum() for part in embeddings))
    close(model.score(rows, batch), scores)
    square = (np.array(scores) - batch.label.numpy()) ** 2
    means = {name: square[batch.domain.numpy() == k].mean() for k, name in enumerate(schema.domains)}
    into = schema.domains[0 if target else -1]
    others = [value for name, value in means.items() if name != into]
    losses = model.losses(rows, batch)
    total = 0.3 * np.mean(others) + 0.7 * means[into] + 0.15 * np.mean(sizes)
    close(weighted_sum(model.stages()[0].update, losses), total)


@pytest.mark.parametrize("name", ["emcdr", "cdlfm"])
def test_a_domains_factorisation(name: str) -> None:
    batch = batch_of(17)
    model, rows, w = prepared(batch, name=name)
    square, sizes = [], []
    for at, k in enumerate(batch.domain.tolist()):
        parts = [w[f"{table}/{k}.{table[:4]}"][at] for table in ("user", "item", "user_bias", "item_bias")]
        score = factor_score(w, batch, at, user=parts[0], bias=parts[2][0])
        square.append((score - float(batch.label[at])) ** 2)
        sizes.append(sum((part**2).sum() for part in parts))
    losses = model.losses(rows, batch)
    close(losses["square"], np.mean(square))
    close(losses["l2"], np.mean(sizes))


def mapped(model: RateMethod, x: Array) -> Array:
    """f, from its weights."""
    w = arrays(model)
    if "mapping.weight" in w:
        return w["mapping.weight"] @ x
    hidden = np.tanh(w["mapping.0.weight"] @ x + w["mapping.0.bias"])
    return w["mapping.2.weight"] @ hidden + w["mapping.2.bias"]


@pytest.mark.parametrize("mapping", ["linear", "mlp"])
@pytest.mark.parametrize("target", [0, 1])
def test_who_is_mapped(mapping: str, target: int) -> None:
    batch, source = batch_of(23), 1 - target
    model, rows, w = prepared(batch, name="emcdr", mapping=mapping, hidden=6, target=PAIR.domains[target])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, dtype=parameter.dtype) * 0.3)
    expected, plain, moved = [], [], 0
    for at, k in enumerate(batch.domain.tolist()):
        own = w[f"user/{k}.user"][at], float(w[f"user_bias/{k}.user"][at, 0])
        plain.append(factor_score(w, batch, at, user=own[0], bias=own[1]))
        if k == target and batch.dense["active"][at, source]:
            own = mapped(model, w[f"user/{source}.user"][at]), float(w[f"user_bias/{source}.user"][at, 0])
            moved += 1
        expected.append(factor_score(w, batch, at, user=own[0], bias=own[1]))
    assert 0 < moved < (batch.domain == target).sum()
    close(model.score(rows, batch), expected)
    here = batch.domain == target  # while a domain is trained only its own tables are at hand
    alone = {name: row for name, row in rows.items() if f"/{target}." in name}
    close(model.score(alone, batch)[here], np.array(plain)[here.numpy()])


@pytest.mark.parametrize("mapping", ["linear", "mlp"])
def test_the_mapping_s_loss(mapping: str) -> None:
    batch = batch_of(9)
    model, rows, w = prepared(batch, name="emcdr", mapping=mapping)
    assert isinstance(model, PairMethod)
    gaps = [mapped(model, x) - y for x, y in zip(w["user/0.user"], w["user/1.user"], strict=True)]
    close(model.map_losses(rows, batch)["distance"], np.mean(np.square(gaps)))


@pytest.mark.parametrize("name", ["emcdr", "cdlfm"])
def test_the_schedule(name: str) -> None:
    model = prepared(batch_of(4), name=name, factor_epochs=7)[0]
    first, second, mapping, *rest = model.stages()
    assert [(stage.lane, stage.train, stage.read) for stage in (first, second)] == [
        ("factor-one", ("*/0",), ("*/0",)), ("factor-two", ("*/1",), ("*/1",)),
    ]  # fmt: skip
    assert first.until.epochs == 7 and first.until.patience == 0
    assert mapping.train == ("mapping.*",) and mapping.needs == ("factor-one", "factor-two")
    assert (mapping.data.unit, mapping.data.users) == ("user", "common")
    assert [(stage.name, stage.until.epochs) for stage in rest] == ([("link", 1)] if name == "cdlfm" else [])


def cdlfm(batch: Batch, **settings: Any) -> tuple[CDLFM, Rows, dict[str, Array]]:
    model, rows, w = prepared(batch, name="cdlfm", **settings)
    assert isinstance(model, CDLFM)
    return model, rows, w


@pytest.mark.parametrize("padding", [0, 3])
def test_users_who_rate_alike_are_drawn_together(padding: int) -> None:
    batch = batch_of(29)
    batch = replace(batch, domain=torch.ones_like(batch.domain))
    model, rows, w = cdlfm(batch)
    item, user, rating = (column.tolist() for column in (batch.ids["item"], batch.user_key, batch.label))
    means, alone = [], 0
    for a in range(29):
        terms = []
        for b in range(29):
            if item[a] == item[b] and user[a] != user[b]:
                bias = abs(w["user_bias/1.user"][a, 0] - w["user_bias/1.user"][b, 0])
                apart = w["user/1.user"][a] - w["user/1.user"][b]
                terms.append(np.exp(-abs(rating[a] - rating[b]) - bias) * (apart**2).sum())
        means.append(np.mean(terms) if terms else 0.0)
        alone += not terms
    assert alone < 29
    share = cut(batch, 1, padding=padding)[0]
    rows = look_up(model, make_tables(model), share)
    close(model.losses(rows, share)["alike"], np.mean(means))
    assert model.stages()[0].update.weights == {"l2": 0.15, "alike": 0.05}
    assert "alike" not in cdlfm(batch, alike=0.0)[0].losses(rows, share)


def link(model: CDLFM, batches: list[Batch]) -> tuple[Array, Array]:
    """Let users of batches be kept; those users' embeddings in both domains, in order."""
    stage, tables = model.stages()[-1], make_tables(model)
    for operation in stage.before:
        operation(None)  # type: ignore[arg-type]  # it needs no tables
    found = [look_up(model, tables, batch) for batch in batches]
    for rows, batch in zip(found, batches, strict=True):
        close(stage.loss(rows, batch)["distance"], model.map_losses(rows, batch)["distance"].item())
    both = (torch.cat([rows[f"user/{k}.user"] for rows in found]).detach().numpy() for k in range(2))
    return tuple(both)  # type: ignore[return-value]


def test_linked_users_are_kept_up_to_a_bound() -> None:
    batches = [batch_of(size, seed=size) for size in (5, 4, 6)]
    for bound, kept in ((7, 7), (40, 15)):
        model = cdlfm(batches[0], linked=bound)[0]
        for _ in range(2):  # the second time anew
            source, target = link(model, batches)
            assert int(model.linked.count) == kept
            np.testing.assert_array_equal(model.linked.source[:kept], source[:kept])
            np.testing.assert_array_equal(model.linked.target[:kept], target[:kept])


@pytest.mark.parametrize(("neighbours", "ridge"), [(3, 0.5), (6, 2.0), (30, 0.1)])
def test_a_user_s_own_mapping_is_a_ridge_regression(neighbours: int, ridge: float) -> None:
    model = cdlfm(batch_of(4), neighbours=neighbours, ridge=ridge)[0]
    draw = torch.Generator().manual_seed(0)
    users = torch.randn(8, 4, generator=draw, dtype=torch.float64)
    f = arrays(model)["mapping.weight"]
    close(model.carried(users).flatten(), (users.numpy() @ f.T).ravel().tolist())  # before any are linked
    linked = torch.randn(2, 12, 4, generator=draw, dtype=torch.float64)
    model.linked.add(*linked)
    source, target = linked.numpy()
    expected = []
    for x in users.numpy():
        cosine = [x @ s / np.linalg.norm(x) / np.linalg.norm(s) for s in source]
        near = np.argsort(cosine)[::-1][:neighbours]
        own = Ridge(alpha=ridge, fit_intercept=False).fit(source[near], target[near] - source[near] @ f.T)
        expected.append(f @ x + own.predict(x[None])[0])
    close(model.carried(users).flatten(), np.concatenate(expected).tolist())


def test_more_domains_than_two() -> None:
    batch = batch_of(3, schema=SCHEMA)
    with pytest.raises(UserError, match=r"data set tiny has 3 domains, a, b, c; this method"):
        prepared(batch, name="emcdr", schema=SCHEMA)


def test_domains_that_a_method_of_ratings_cannot_do_with() -> None:
    with pytest.raises(UserError, match=r"domain 'three' is not in data set pair: its domains are one, two"):
        build({"name": "bias", "target": "three"}, schema=PAIR)
    domain = Feature(name="domain", kind="id", rows=1)
    alone = Schema(name="alone", domains=("one",), features=(*SCHEMA.features[:2], domain))
    with pytest.raises(UserError, match=r"data set alone has one domain, one: nothing to transfer from"):
        build({"name": "bias"}, schema=alone)
