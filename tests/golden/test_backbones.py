"""The backbones against numpy programs of their own: whole matrices for the graph, loops for the auto-encoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from mdr_dist.batch import Batch, Ragged
from mdr_dist.config import DataConfig, EvalConfig
from mdr_dist.data.source import Dataset, Source
from mdr_dist.eval.candidates import Candidates
from mdr_dist.launch.process import group_of_one
from mdr_dist.methods.base import Method
from mdr_dist.nn.graph import node_dropout
from mdr_dist.stage import Slice
from support.jobs import small_job, train, weights
from support.retrieval import ITEMS, KEY, USERS
from support.rows import arrays, build, look_up, make_batch, make_tables
from support.taken import NEW, taken, taken_rows, write_taken

Array = NDArray[np.float64]
ROWS = taken_rows()


def prepared(path: Path, slice_: Slice, **settings: Any) -> tuple[Method, dict[str, Tensor], Batch]:
    """A method, its whole tables and a batch of the log."""
    dataset = write_taken(str(path / "log"), ROWS)
    model = build({"name": "tado", "dim": 6, **settings}, schema=dataset.schema)
    source = Source(dataset, DataConfig(path=dataset.path, batch=64), seed=3, extras=model.extras)
    batch = list(source.batches(slice_, stage="s", epoch=0))[-1]
    return model, make_tables(model), replace(batch, weight=batch.weight.double())


def leaky(x: Array) -> Array:
    return np.where(x > 0, x, 0.2 * x)


def propagated(tables: dict[str, Tensor], w: dict[str, Array], *, layers: int) -> Array:
    """[USERS + ITEMS, O] every node's output, by the whole matrix A = D^-1 A; user ids are keys by KEY."""
    adjacency = np.zeros((USERS + ITEMS, USERS + ITEMS))
    for key, items in taken(ROWS, "train").items():
        for item in items:
            adjacency[key // KEY, USERS + item] = adjacency[USERS + item, key // KEY] = 1
    adjacency /= np.maximum(adjacency.sum(1, keepdims=True), 1)
    e = np.concatenate([tables["user"].detach().numpy(), tables["item"].detach().numpy()])
    out = [e]
    for layer in range(layers):
        near = adjacency @ e
        one, two = (f"backbone.layers.{part}.{layer}" for part in ("sums", "products"))
        e = leaky((e + near) @ w[f"{one}.weight"].T + w[f"{one}.bias"]) + leaky(
            (e * near) @ w[f"{two}.weight"].T + w[f"{two}.bias"]
        )
        out.append(e / np.linalg.norm(e, axis=1, keepdims=True))
    return np.concatenate(out, axis=1)


def shaken(model: Method) -> dict[str, Array]:
    """The dense parameters, moved away from where they start, so that biases count."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.1)
    return arrays(model)


@pytest.mark.parametrize("layers", [[5], [5, 4], [5, 4, 3]])
def test_bi_interaction_is_propagation_by_the_whole_matrix(layers: list[int], tmp_path: Path) -> None:
    settings = {"backbone": "graph", "layers": layers, "neighbours": 0, "dropout": 0.0}
    model, tables, batch = prepared(tmp_path, Slice(negatives=1), **settings)
    w, rows = shaken(model), look_up(model, tables, batch)
    every = propagated(tables, w, layers=len(layers))
    user = every[batch.ids["user"]]
    item, negative = (every[USERS + batch.ids[name].numpy()] for name in ("item", "negative_0"))
    assert model.user_vector(rows, batch).detach().numpy() == pytest.approx(user, rel=1e-9, abs=1e-12)
    assert model.item_vector(rows, batch).detach().numpy() == pytest.approx(item, rel=1e-9, abs=1e-12)
    positive = (batch.label.numpy() > 0.5) & (batch.weight.numpy() > 0)
    gap = (user * (item - negative)).sum(1)[positive]
    losses = model.losses(rows, batch)
    assert losses["bpr"].item() == pytest.approx(np.log1p(np.exp(-gap)).mean(), rel=1e-9)
    own = [tables[name].detach().numpy() for name in ("user", "item", "item")]
    ids = [batch.ids[name].numpy() for name in ("user", "item", "negative_0")]
    length = sum((table[each] ** 2).sum(1) for table, each in zip(own, ids, strict=True))
    assert losses["l2"].item() == pytest.approx(length[batch.weight.numpy() > 0].mean(), rel=1e-9)


def test_dropout_is_a_nodes_own() -> None:
    codes, x = torch.arange(3000) * 977, torch.ones(3000, 8)
    found = node_dropout(x, codes, rate=0.25, seed=5)
    assert found.unique().tolist() == pytest.approx([0, 4 / 3])
    kept = found > 0
    assert abs(kept.double().mean() - 0.75) < 4.5 * (0.25 * 0.75 / 24_000) ** 0.5
    correlation = np.corrcoef(kept.double().numpy().T)  # of columns
    assert np.abs(correlation - np.eye(8)).max() < 4.5 / 3000**0.5
    other = torch.randperm(3000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(node_dropout(x, codes[other], rate=0.25, seed=5), found[other])  # wherever it stands
    again = node_dropout(x, codes, rate=0.25, seed=6) > 0
    assert abs((again == kept).double().mean() - 0.625) < 4.5 * (0.25 / 24_000) ** 0.5


@pytest.mark.parametrize("pool", ["sum", "mean"])
@pytest.mark.parametrize("inner", [[], [5], [5, 4]])
def test_the_auto_encoder(inner: list[int], pool: str, tmp_path: Path) -> None:
    settings = {"backbone": "autoencoder", "inner": inner, "pool": pool, "dropout": 0.0}
    model, tables, batch = prepared(tmp_path, Slice(unit="user"), **settings)
    w, rows = shaken(model), look_up(model, tables, batch)
    encoder, decoder = (tables[name].detach().numpy() for name in ("encoder", "decoder"))
    history, catalogue = taken(ROWS, "train"), sorted({r.item for r in ROWS if r.split == "train"} - {0})
    missed, lengths = [], []
    for at, key in enumerate(batch.user_key.tolist()):
        own = sorted(history.get(key, ()))
        pooled = encoder[own].sum(0) / (len(own) if pool == "mean" and own else 1)
        h = np.tanh(pooled)
        for layer in range(len(inner) + 1):
            h = w[f"backbone.layers.{layer}.weight"] @ (np.tanh(h) if layer else h) + w[f"backbone.layers.{layer}.bias"]
        assert model.user_vector(rows, batch)[at].detach().numpy() == pytest.approx(h, rel=1e-9, abs=1e-12)
        if key >= 0:
            scores = decoder[catalogue] @ h
            chance = np.exp(scores) / np.exp(scores).sum()
            missed.append(-sum(np.log(chance[catalogue.index(item)]) for item in own))
            lengths.append(pooled @ pooled)
    losses = model.losses(rows, batch)
    assert losses["cross_entropy"].item() == pytest.approx(np.mean(missed), rel=1e-9)
    length = np.mean(lengths) + (decoder[catalogue] ** 2).sum(1).mean()
    assert losses["l2"].item() == pytest.approx(length, rel=1e-9)
    assert torch.equal(model.item_vector(rows, batch), tables["decoder"][batch.ids["item"]])


def test_a_likelihood_over_a_sample_leaves_out_what_it_lacks() -> None:
    model = build({"name": "tado", "dim": 4, "backbone": "autoencoder", "dropout": 0.0})
    batch = make_batch(3)
    lists = {
        "history": Ragged(torch.tensor([1, 2, 8, 3]), torch.tensor([3, 0, 1])),
        "taken": Ragged(torch.tensor([1, 2, 8, 3]), torch.tensor([3, 0, 1])),
        "catalogue": Ragged(torch.tensor([2, 5, 7]), torch.tensor([3, 0, 0])),
    }
    batch = replace(batch, lists=lists)
    rows = look_up(model, make_tables(model), batch)
    scores = (model.user_vector(rows, batch) @ rows["decoder.catalogue"].T).detach().numpy()
    expected = (np.log(np.exp(scores[0]).sum()) - scores[0][0]) / 3  # item 2 of row 0; three rows
    assert model.losses(rows, batch)["cross_entropy"].item() == pytest.approx(expected, rel=1e-12)


def test_the_auto_encoders_dropout_is_a_rows_own() -> None:
    model = build({"name": "tado", "dim": 64, "backbone": "autoencoder", "inner": [], "dropout": 0.5})
    with torch.no_grad():
        model.backbone.layers[0].weight.copy_(torch.eye(64))
    batch = make_batch(40)
    batch = replace(batch, lists={**batch.lists, "catalogue": Ragged(torch.arange(9), torch.tensor([9] + [0] * 39))})
    rows = look_up(model, make_tables(model), batch)
    kept = model.user_vector(rows, batch)
    model.eval()
    whole = model.user_vector(rows, batch)
    assert (((kept - 2 * whole).abs() < 1e-12) | (kept == 0)).all()
    assert 0.4 < (kept[whole != 0] != 0).double().mean() < 0.6


@pytest.mark.parametrize("backbone", ["graph", "autoencoder"])
def test_a_user_without_a_history_is_ranked(backbone: str, tmp_path: Path) -> None:
    settings = {"backbone": backbone, "layers": [4], "inner": [], "neighbours": 0}
    model, tables, _ = prepared(tmp_path, Slice(unit="user"), **settings)
    model.eval()
    w, dataset = shaken(model), Dataset.open(str(tmp_path / "log"))
    source = Source(dataset, DataConfig(path=dataset.path, batch=64), seed=3, extras=model.extras)
    candidates = Candidates(source, Slice(split="test"), domain=1, config=EvalConfig(ks=(5,), candidates="all"))
    at = int(np.searchsorted(candidates.user_key, KEY * NEW))
    batch = candidates.profiles()[0].batch(np.array([at]), size=3, first=0, count=1, also=("negative_0",))
    batch = candidates.completed(batch)
    assert batch.user_key.tolist() == [KEY * NEW, *[candidates.user_key[0]] * 2]  # padded by profile 0
    found = model.user_vector(look_up(model, tables, batch), batch)[0].detach().numpy()
    expected = w["backbone.layers.0.bias"] if backbone == "autoencoder" else propagated(tables, w, layers=1)[NEW]
    assert found == pytest.approx(expected, rel=1e-9)


def test_tado_by_matrix_factorisation_is_cmf(dataset: str, tmp_path: Path) -> None:
    found = []
    for name in ("cmf", "tado"):
        job = small_job(name, dataset)
        with group_of_one():
            found.append(weights(train(job, str(tmp_path)), job))
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])
