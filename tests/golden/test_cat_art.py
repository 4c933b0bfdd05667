"""SMF, CMF and CAT-ART against their equations, written out in numpy one row at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax
from torch import Tensor

from mdr_dist.batch import Batch
from mdr_dist.methods.base import Method
from support.groups import in_group
from support.rows import arrays, build, cut, gradients, look_up, make_batch, make_tables

SMALL: dict[str, Any] = {"name": "cat_art", "dim": 4, "widths": (0, 2), "init_std": 0.5}
Array = np.ndarray


def batch_of(size: int, *, domains: tuple[int, ...] = (0, 1, 2)) -> Batch:
    """With drawn negatives, and users who lack some domains."""
    batch = make_batch(size, domains=domains)
    draw = np.random.default_rng(1)
    negative = torch.tensor(draw.integers(0, 9, size))
    active = torch.tensor(draw.random((size, 3)) < 0.7).double()
    return replace(batch, ids={**batch.ids, "negative_0": negative}, dense={**batch.dense, "active": active})


def prepared(batch: Batch, **settings: Any) -> tuple[Method, dict[str, Tensor], dict[str, Array]]:
    model = build({**SMALL, **settings}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, dtype=parameter.dtype) * 0.3)
    return model, look_up(model, make_tables(model), batch), arrays(model)


def row(rows: dict[str, Tensor], name: str, at: int) -> Array:
    return rows[name][at].detach().numpy()


def network(w: dict[str, Array], prefix: str, x: Array) -> Array:
    """Three linear layers, PReLU between."""
    for layer in range(3):
        x = w[f"{prefix}.{2 * layer}.weight"] @ x + w[f"{prefix}.{2 * layer}.bias"]
        x = np.where(x > 0, x, w[f"{prefix}.{2 * layer + 1}.weight"] * x) if layer < 2 else x
    return x


def blocks(rows: dict[str, Tensor], batch: Batch, w: dict[str, Array], at: int, *, without: int = -1) -> list[Array]:
    active = batch.dense["active"][at]
    there = [bool(active[k]) and k != without for k in range(3)]
    return [row(rows, f"user/{k}.user", at) if there[k] else w["cat.pad"] for k in range(3)]


@pytest.mark.parametrize("name", ["smf", "cmf"])
def test_pairwise_losses(name: str) -> None:
    batch = batch_of(12)
    model = build({"name": name, "dim": 4})
    rows = look_up(model, make_tables(model), batch)
    gaps, lengths = [], []
    for at, k in enumerate(batch.domain.tolist()):
        own = f"/{k}" if name == "smf" else ""
        u, i, j = (
            row(rows, f"{f}{own}.{g}", at) for f, g in (("user", "user"), ("item", "item"), ("item", "negative_0"))
        )
        lengths.append(u @ u + i @ i + j @ j)
        if batch.label[at] > 0:
            gaps.append(np.log1p(np.exp(u @ j - u @ i)))
        assert model.score(rows, batch)[at].item() == pytest.approx(u @ i, rel=1e-12)
    losses = model.losses(rows, batch)
    assert losses["bpr"].item() == pytest.approx(np.mean(gaps), rel=1e-12)
    assert losses["l2"].item() == pytest.approx(np.mean(lengths), rel=1e-12)


def test_the_contrastive_auto_encoder() -> None:
    batch = batch_of(11)
    model, rows, w = prepared(batch)
    masked = np.floor(batch.uniform().numpy() * 3).astype(int)
    assert set(masked) == {0, 1, 2}
    one, two, errors = [], [], {"reconstruct": 0.0, "reconstruct_masked": 0.0}
    for at in range(11):
        x = np.stack([row(rows, f"user/{k}.user", at) for k in range(3)])
        for name, without, found in (("reconstruct", -1, one), ("reconstruct_masked", masked[at], two)):
            found.append(network(w, "cat.encoder", np.concatenate(blocks(rows, batch, w, at, without=without))))
            y = network(w, "cat.decoder", found[-1]).reshape(3, 4)
            errors[name] += (((y - x) ** 2).mean(1) * batch.dense["active"][at].numpy()).sum()
    unit = [np.stack(h) / np.linalg.norm(h, axis=1, keepdims=True) for h in (one, two)]
    s = unit[0] @ unit[1].T / 0.1
    contrast = -(np.diag(s - logsumexp(s, axis=1, keepdims=True)) + np.diag(s - logsumexp(s, axis=0, keepdims=True)))
    losses = model.encode_losses(rows, batch)  # type: ignore[operator]
    for name, total in errors.items():
        assert losses[name].item() == pytest.approx(total / batch.dense["active"].sum().item(), rel=1e-12)
    assert losses["contrast"].item() == pytest.approx(contrast.mean() / 2, rel=1e-12)


@pytest.mark.parametrize("knowledge", ["both", "global", "sources"])
@pytest.mark.parametrize("transfer", ["attention", "concat"])
def test_the_enhanced_user(knowledge: str, transfer: str) -> None:
    batch = batch_of(10)
    model, rows, w = prepared(batch, knowledge=knowledge, transfer=transfer)
    found = model.user_vector(rows, batch).detach().numpy()
    for at, t in enumerate(batch.domain.tolist()):
        every = blocks(rows, batch, w, at)
        sources = [k for k in range(3) if k != t]

        def layer(name: str, x: Array, art: str = f"art.{t}.") -> Array:
            return w[f"{art}{name}.weight"] @ x + w[f"{art}{name}.bias"]

        expected = own = row(rows, f"user/{t}.user", at)
        if knowledge != "sources":
            expected = expected + layer("adapt_global", network(w, "cat.encoder", np.concatenate(every)))
        if knowledge != "global" and transfer == "concat":
            expected = expected + layer("joint", np.concatenate([every[k] for k in sources]))
        elif knowledge != "global":
            adapted = [layer(f"adapt.{n}", every[k]) for n, k in enumerate(sources)]
            weights = softmax([layer("query", own) @ w[f"art.{t}.key.weight"] @ a / np.sqrt(4) for a in adapted])
            drawn = sum(weight * layer("value", a) for weight, a in zip(weights, adapted, strict=True))
            expected = expected + layer("out", drawn)
        np.testing.assert_allclose(found[at], expected, rtol=1e-11, atol=1e-11)


def test_the_last_stage_leaves_the_auto_encoder_and_the_users_alone() -> None:
    model = build(SMALL)
    [stage] = [stage for stage in model.stages() if stage.name == "art-b"]
    assert set(stage.train) == {"item/1", "art.1.*"} and stage.needs == ("cat",)
    batch = batch_of(8, domains=(1,))
    tables = make_tables(model)
    sum(stage.loss(look_up(model, tables, batch), batch).values()).backward()  # type: ignore[union-attr]
    assert all(parameter.grad is None for name, parameter in model.named_parameters() if name.startswith("cat."))
    art = [(name, parameter) for name, parameter in model.named_parameters() if name.startswith("art.")]
    moved = {
        name.split(".")[1] for name, parameter in art if parameter.grad is not None and (parameter.grad != 0).any()
    }
    assert moved == {"1"}


@pytest.mark.parametrize("stage", ["smf-b", "cat", "art-b"])
def test_two_processes_are_one(stage: str) -> None:
    settings = {**SMALL, "dropout": 0.3}
    batch = batch_of(9, domains=(1,))
    alone = gradients(settings, [batch], stage)
    for together in in_group(2, gradients, settings, cut(batch, 2), stage):
        assert together.keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(together[name], value, rtol=1e-9, atol=1e-9)


def test_uniform_numbers_belong_to_rows_of_the_global_batch() -> None:
    batch = make_batch(50_001)
    drawn = batch.uniform()
    assert drawn.min() >= 0 and drawn.max() < 1
    assert abs(drawn.mean().item() - 0.5) < 0.01
    parts = [part.uniform()[part.weight > 0] for part in cut(batch, 4)]
    assert torch.equal(torch.cat(parts), drawn)
    assert not torch.equal(replace(batch, seed=batch.seed + 1).uniform(), drawn)


@pytest.mark.parametrize("domains", [(0,), (1,), (0, 2)])
def test_units_of_other_domains_are_left_out_and_change_no_bit(domains: tuple[int, ...]) -> None:
    batch = batch_of(9, domains=domains)
    model, rows, _ = prepared(batch)
    blocks, there = model._blocks(rows, batch)
    padded = model.cat.padded(blocks, there)
    inputs = {"global_BD": model.cat.encode(padded), "batch": batch}
    every = torch.stack([unit(model.own_user(rows, batch), padded, **inputs) for unit in model.art])
    used: list[int] = []
    for k, unit in enumerate(model.art):
        unit.register_forward_hook(lambda *_, k=k: used.append(k))
    assert torch.equal(model.user_vector(rows, batch), every[batch.domain, torch.arange(9)])
    assert used == sorted(set(batch.domain.tolist())) == list(domains)
