"""ADC against its equations, written out in numpy one row at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mdr_dist.batch import Batch
from mdr_dist.errors import UserError
from mdr_dist.methods.adc import ADC
from mdr_dist.rule import GradNorm, Sum
from support.rows import SCHEMA, arrays, build, look_up, make_batch, make_tables

SMALL: dict[str, Any] = {"name": "adc", "dim": 4, "negatives": 2, "hidden": 3, "align": 0.3, "init_std": 0.5}
Array = np.ndarray


def batch_of(size: int) -> Batch:
    """With drawn negatives, users who lack some domains, and one who lacks all."""
    batch, draw = make_batch(size), np.random.default_rng(1)
    drawn = {f"negative_{n}": torch.tensor(draw.integers(0, 9, size)) for n in range(2)}
    active = torch.tensor(draw.random((size, 3)) < 0.6).double()
    active[0] = 0
    rating = torch.tensor(draw.normal(size=size))
    return replace(
        batch,
        ids={**batch.ids, **drawn},
        dense={**batch.dense, "active": active},
        labels={**batch.labels, "rating": rating},
    )


def prepared(batch: Batch, **settings: Any) -> tuple[ADC, dict[str, Tensor], dict[str, Array]]:
    model = build({**SMALL, **settings})
    assert isinstance(model, ADC)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, dtype=parameter.dtype) * 0.3)
    return model, look_up(model, make_tables(model), batch), arrays(model)


def latent(rows: dict[str, Tensor], batch: Batch, at: int) -> Array:
    """[K, D]"""
    own = np.stack([rows[f"user/{k}.user"][at].detach().numpy() for k in range(3)])
    there = batch.dense["active"][at].numpy() > 0
    mean = own[there].mean(0) if there.any() else np.zeros(4)
    return np.stack([own[k] if there[k] else mean for k in range(3)])


def vector(w: dict[str, Array], u: Array, *, domain: int, depth: int) -> Array:
    """z of the domain."""
    x = u.reshape(-1)
    for layer in range(depth):
        x = np.maximum(w[f"hidden.{layer}.weight"] @ x + w[f"hidden.{layer}.bias"], 0)
    return (w["last.weight"] @ x)[4 * domain : 4 * domain + 4]


def item(rows: dict[str, Tensor], batch: Batch, at: int, feature: str = "item") -> Array:
    return rows[f"item/{int(batch.domain[at])}.{feature}"][at].detach().numpy()


@pytest.mark.parametrize("depth", [1, 3])
def test_a_domains_loss(depth: int) -> None:
    batch = batch_of(17)
    model, rows, w = prepared(batch)
    parts: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for at, k in enumerate(batch.domain.tolist()):
        u = latent(rows, batch, at)
        z = vector(w, u, domain=k, depth=depth)
        gaps = [z @ (item(rows, batch, at) - item(rows, batch, at, f"negative_{n}")) for n in range(2)]
        apart = sum(((u[q] - u[k]) ** 2).sum() for q in range(3) if q != k)
        if batch.label[at] > 0:
            parts[k].append(np.mean(np.log1p(np.exp(-np.array(gaps)))) + 0.3 * apart)
    losses = model.cross_losses(rows, batch, depth=depth)
    assert list(losses) == ["cross/a", "cross/b", "cross/c"]
    assert [v.item() for v in losses.values()] == pytest.approx([np.mean(parts[k]) for k in range(3)], rel=1e-12)


def test_a_domain_without_rows_has_the_loss_0() -> None:
    batch = batch_of(9)
    model, rows, _ = prepared(batch)
    batch = replace(batch, weight=batch.weight * (batch.domain != 1))
    losses = [value.item() for value in model.cross_losses(rows, batch, depth=1).values()]
    assert losses[1] == 0 and losses[0] > 0 and losses[2] > 0


def test_ranking_is_by_one_hidden_layer_until_the_network_has_grown() -> None:
    batch = batch_of(8)
    model, rows, w = prepared(batch)
    for depth in (1, 3):
        expected = [
            vector(w, latent(rows, batch, at), domain=int(k), depth=depth) @ item(rows, batch, at)
            for at, k in enumerate(batch.domain)
        ]
        assert model.score(rows, batch).tolist() == pytest.approx(expected, rel=1e-12)
        for operation in model.stages()[-1].before:
            operation(None)  # type: ignore[arg-type]  # it needs no tables
        for layer in (1, 2):
            for name in ("weight", "bias"):
                w[f"hidden.{layer}.{name}"] = w[f"hidden.0.{name}"]
    assert torch.equal(model.hidden[2].weight, model.hidden[0].weight)  # type: ignore[union-attr]


@pytest.mark.parametrize("rating", ["", "rating"])
def test_factorisation(rating: str, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_of(13)
    model, rows, _ = prepared(batch)
    monkeypatch.setattr(model, "config", model.config.model_copy(update={"rating": rating}))
    squares = []
    for at, k in enumerate(batch.domain.tolist()):
        u = rows[f"user/{k}.user"][at].detach().numpy()
        score = u @ item(rows, batch, at)
        drawn = np.array([u @ item(rows, batch, at, f"negative_{n}") for n in range(2)])
        y = float(batch.labels[rating or "label"][at])
        squares.append((score - y) ** 2 + (0 if rating else (drawn**2).mean()))
    losses = model.factor_losses(rows, batch)
    assert losses["square"].item() == pytest.approx(np.mean(squares), rel=1e-12)
    assert "l2" in losses and "bpr" not in losses


def test_the_schedule() -> None:
    model = prepared(batch_of(4))[0]
    stages = model.stages()
    assert [(stage.name, stage.lane) for stage in stages] == [
        ("factor-a", "factor-a"), ("factor-b", "factor-b"), ("factor-c", "factor-c"),
        ("shallow", "main"), ("deep", "main"),
    ]  # fmt: skip
    shallow, deep = stages[3:]
    assert shallow.needs == ("factor-a", "factor-b", "factor-c")
    assert shallow.update == Sum() and shallow.train == ("user/*", "item/*", "hidden.0.*", "last.*")
    assert isinstance(deep.update, GradNorm) and "loss_weight" in deep.train
    assert deep.update.shared() is model.last.weight and deep.update.trained() is model.loss_weight
    assert deep.optimizers["loss_weight"].lr == 0.025
    equal = prepared(batch_of(4), balance=False)[0].stages()[-1]
    assert equal.update == Sum() and "loss_weight" not in equal.train


def test_an_unknown_rating() -> None:
    with pytest.raises(UserError, match=r"method\.rating: no label 'stars' in data set tiny; there are: label"):
        build({**SMALL, "rating": "stars"})
    assert SCHEMA.labels == ("label",)
