"""GRU4Rec and Caser against their equations in numpy, one row at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mdr_dist.batch import Batch, Ragged
from mdr_dist.errors import UserError
from mdr_dist.methods.base import Method
from mdr_dist.schema import Feature, Schema
from support.groups import in_group
from support.rows import arrays, build, cut, gradients_of_each, look_up, make_batch, make_tables

SCHEMA = Schema(
    name="tiny",
    domains=("a", "b", "c"),
    features=(
        Feature(name="user", kind="id", rows=7),
        Feature(name="item", kind="id", rows=9),
        Feature(name="domain", kind="id", rows=3),
        Feature(name="history", kind="ids", rows=9, vocabulary="item"),
        Feature(name="tags", kind="ids", rows=9, vocabulary="tag"),
    ),
    periods=3,
)
GRU: dict[str, Any] = {"name": "gru4rec", "dim": 3, "length": 4}
CASER: dict[str, Any] = {"name": "caser", "dim": 3, "length": 4, "horizontal": 2, "vertical": 2}
Array = np.ndarray


def batch_of(size: int = 14) -> Batch:
    """Histories of 0 to 7 items, drawn negatives, and a label of 0 here and there."""
    batch, draw = make_batch(size, schema=SCHEMA), np.random.default_rng(3)
    lengths = torch.tensor([0, 1, 4, 7, *draw.integers(0, 8, size - 4)])
    history = Ragged(torch.tensor(draw.integers(0, 9, int(lengths.sum()))), lengths)
    negatives = {f"negative_{number}": torch.tensor(draw.integers(0, 9, size)) for number in range(3)}
    return replace(batch, ids={**batch.ids, **negatives}, lists={**batch.lists, "history": history})


def prepared(settings: dict[str, Any], batch: Batch) -> tuple[Method, dict[str, Tensor], dict[str, Array]]:
    model = build(settings, schema=SCHEMA).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, dtype=parameter.dtype) * 0.3)
    tables = make_tables(model)
    w = arrays(model) | {f"tables/{name}": table.detach().numpy() for name, table in tables.items()}
    return model, look_up(model, tables, batch), w


def taken(batch: Batch, at: int, last: int) -> list[int]:
    """The last items of a row's history."""
    lists = batch.lists["history"]
    return lists.values.split(lists.lengths.tolist())[at].tolist()[-last:]


def s(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def gru(w: dict[str, Array], items: list[int], table: str) -> Array:
    """The last state, gates in the order reset, update, new."""
    h = np.zeros(3)
    w_x, w_h, b_x, b_h = (w[f"gru.{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    for item in items:
        x, g = w_x @ w[f"tables/{table}"][item] + b_x, w_h @ h + b_h
        r, z = s(x[:3] + g[:3]), s(x[3:6] + g[3:6])
        h = (1 - z) * np.tanh(x[6:] + r * g[6:]) + z * h
    return h


def caser(w: dict[str, Array], items: list[int], user: int) -> Array:
    """[z; p_u]"""
    e = np.zeros((4, 3))
    for place, item in enumerate(items, start=4 - len(items)):
        e[place] = w["tables/taken"][item]
    found = []
    for height in range(1, 5):
        filters, bias = w[f"across.{height - 1}.weight"], w[f"across.{height - 1}.bias"]
        for number in range(2):
            places = range(4 - height + 1)
            values = [(filters[number].T * e[i : i + height]).sum() + bias[number] for i in places]
            found.append(max(max(value, 0.0) for value in values))
    for column in range(3):
        found += [w["down.weight"][v] @ e[:, column] + w["down.bias"][v] for v in range(2)]
    z = np.maximum(w["join.weight"] @ np.array(found) + w["join.bias"], 0)
    return np.concatenate([z, w["tables/user"][user]])


def expected_users(w: dict[str, Array], batch: Batch, name: str, table: str = "item") -> list[Array]:
    if name == "caser":
        return [caser(w, taken(batch, at, 4), int(batch.ids["user"][at])) for at in range(batch.count)]
    return [gru(w, taken(batch, at, 4), table) for at in range(batch.count)]


def score(w: dict[str, Array], user: Array, item: int) -> float:
    return float(w["tables/item"][item] @ user + w["tables/bias"][item, 0])


@pytest.mark.parametrize("settings", [GRU, {**GRU, "shared": False}, CASER], ids=str)
def test_scores_after_empty_short_and_long_histories(settings: dict[str, Any]) -> None:
    batch = batch_of()
    model, rows, w = prepared(settings, batch)
    users = expected_users(w, batch, settings["name"], "item" if settings.get("shared", True) else "taken")
    found = model.score(rows, batch).detach().numpy()
    wanted = [score(w, user, int(batch.ids["item"][at])) for at, user in enumerate(users)]
    np.testing.assert_allclose(found, wanted, rtol=1e-11)
    if settings["name"] == "gru4rec":
        assert found[0] == w["tables/bias"][int(batch.ids["item"][0]), 0]  # no history: the bias alone


@pytest.mark.parametrize("compared", ["cross_entropy", "bpr_max"])
@pytest.mark.parametrize("padding", [0, 3])
def test_gru4rec_compares_with_the_batch_and_the_drawn(compared: str, padding: int) -> None:
    settings = {**GRU, "loss": compared, "negatives": 2, "score_reg": 0.7, "l2": 0.1}
    batch = batch_of()
    model, _, w = prepared(settings, batch)
    users, parts, squares = expected_users(w, batch, "gru4rec"), [], []
    ids, labels, domains = ({n: v.numpy() for n, v in batch.ids.items()}, batch.label.numpy(), batch.domain.numpy())
    pool = [(ids[name][at], at) for name in ("item", "negative_0", "negative_1") for at in range(14) if labels[at]]
    for at in range(14):
        own = ids["item"][at]
        scored = (own, ids["negative_0"][at], ids["negative_1"][at])
        vectors = [np.append(w["tables/item"][i], w["tables/bias"][i]) for i in scored]
        squares.append(sum((x**2).sum() for x in vectors) + (w["tables/item"][taken(batch, at, 4)] ** 2).sum())
        others = [i for i, of in pool if domains[of] == domains[at] and i != own]
        r, r_j = score(w, users[at], own), np.array([score(w, users[at], i) for i in others])
        if not labels[at]:
            continue
        assert len(others) > 1
        if compared == "cross_entropy":
            parts.append(-np.log(np.exp(r) / (np.exp(r) + np.exp(r_j).sum())))
        else:
            p = np.exp(r_j) / np.exp(r_j).sum()
            parts.append(-np.log((p * s(r - r_j)).sum()) + 0.7 * (p * r_j**2).sum())
    (padded,) = cut(batch, 1, padding=padding)
    losses = model.losses(look_up(model, make_tables(model), padded), padded)
    assert losses[compared].item() == pytest.approx(np.mean(parts), rel=1e-11)
    assert losses["l2"].item() == pytest.approx(np.mean(squares), rel=1e-11)


@pytest.mark.parametrize("padding", [0, 3])
def test_the_loss_of_caser(padding: int) -> None:
    batch = batch_of()
    model, _, w = prepared(CASER, batch)
    users, positive, negative, squares = expected_users(w, batch, "caser"), [], [], []
    for at, user in enumerate(users):
        items = [int(batch.ids[name][at]) for name in ("item", "negative_0", "negative_1", "negative_2")]
        history = w["tables/taken"][taken(batch, at, 4)]
        rows = [*w["tables/item"][items], *w["tables/bias"][items], *history, w["tables/user"][batch.ids["user"][at]]]
        squares.append(sum((row**2).sum() for row in rows))
        if batch.label[at]:
            positive.append(-np.log(s(score(w, user, items[0]))))
            negative += [-np.log(1 - s(score(w, user, item))) for item in items[1:]]
    (padded,) = cut(batch, 1, padding=padding)
    losses = model.losses(look_up(model, make_tables(model), padded), padded)
    assert losses["log_loss"].item() == pytest.approx(np.mean(positive) + np.mean(negative), rel=1e-11)
    assert losses["l2"].item() == pytest.approx(np.mean(squares), rel=1e-11)


def test_dropout_keeps_the_mean() -> None:
    """Half of what the filters found is dropped, the rest doubled; here z is the first three numbers of that."""
    model, rows, _ = prepared({**CASER, "dropout": 0.5}, batch := batch_of())
    with torch.no_grad():
        model.join.weight.zero_().fill_diagonal_(1)  # type: ignore[union-attr, operator]
        model.join.bias.zero_()  # type: ignore[union-attr, operator]
    whole = model.sought(rows, batch)[:, :3]  # type: ignore[operator]
    model.train()
    assert 0 < (whole > 0).sum() < whole.numel()
    draws = [model.sought(rows, replace(batch, seed=seed))[:, :3] for seed in range(400)]  # type: ignore[operator]
    for drawn in draws[:5]:
        assert bool(((drawn == 0) | torch.isclose(drawn, 2 * whole)).all())
    torch.testing.assert_close(torch.stack(draws).mean(0), whole, rtol=0.25, atol=1e-9)


def test_two_processes_are_one() -> None:
    settings = [{**GRU, "loss": "bpr_max", "negatives": 2, "l2": 0.1}, {**GRU, "shared": False}, CASER]
    shares = [batch_of(9)]
    alone = gradients_of_each(settings, shares, SCHEMA)
    for together in in_group(2, gradients_of_each, settings, cut(shares[0], 2), SCHEMA):
        for ours, theirs in zip(alone, together, strict=True):
            assert ours.keys() == theirs.keys()
            for name, value in ours.items():
                torch.testing.assert_close(theirs[name], value, rtol=1e-9, atol=1e-9, msg=name)


def test_rows_without_anything_to_compare_with_train_nothing() -> None:
    """All labels 0: a loss of 0, and gradients of 0 that are numbers."""
    batch = batch_of()
    for compared in ("cross_entropy", "bpr_max"):
        model = build({**GRU, "loss": compared}, schema=SCHEMA)
        tables = make_tables(model)
        nothing = replace(batch, labels={"label": torch.zeros(14, dtype=torch.float64)})
        value = model.losses(look_up(model, tables, nothing), nothing)[compared]
        value.backward()
        assert value.item() == 0 and all(bool((table.grad == 0).all()) for table in tables.values())


@pytest.mark.parametrize("history", ["clicks", "tags"])
@pytest.mark.parametrize("name", ["gru4rec", "caser"])
def test_a_data_set_without_the_history(name: str, history: str) -> None:
    wanted = rf"data set tiny has no list of items named '{history}'; add `- \{{name: {history}, kind: ids, last: 5, "
    with pytest.raises(UserError, match=wanted):
        build({"name": name, "history": history, "length": 5}, schema=SCHEMA)


def test_every_period_learns_all_there_is() -> None:
    model = build({**CASER, "first": 1, "epochs": 4, "first_epochs": 6}, schema=SCHEMA)
    start, *rest = model.stages()
    assert [(stage.name, stage.data.period, stage.until.epochs) for stage in rest] == [
        ("period-0001", 1, 4),
        ("period-0002", 2, 4),
    ]
    assert (start.data.period, start.until.epochs, start.pretest) == (0, 6, None)
    for stage in (start, *rest):
        assert stage.data.upto and stage.data.negatives == 3 and stage.train == stage.read == ("*",)
    assert [stage.pretest and stage.pretest.period for stage in rest] == [1, 2]
