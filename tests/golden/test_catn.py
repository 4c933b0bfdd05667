"""CATN against its equations written out, document by document and word by word."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from support.rows import build, look_up, make_tables
from support.text import SCHEMA, text_batch

SIZE, ASPECTS, WIDTH = 15, 2, 4
SETTINGS = {"name": "catn", "word_dim": 6, "aspects": ASPECTS, "filters": 5, "dim": WIDTH, "word_std": 1.0, "l2": 0.5}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def layer(state: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def convolve(state: dict[str, np.ndarray], name: str, x_LD: np.ndarray) -> np.ndarray:
    """By the definition: filter f's tap c multiplies the word c - 1 places further on."""
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    taps = weight.reshape(3, len(bias), -1)
    padded = np.concatenate([np.zeros_like(x_LD[:1]), x_LD, np.zeros_like(x_LD[:1])])
    out = [sum(taps[c] @ padded[at + c] for c in range(3)) + bias for at in range(len(x_LD))]
    return np.maximum(np.array(out), 0)


def read(state: dict[str, np.ndarray], words: list[int], *, reader: int, attend: int, auxiliary: bool) -> np.ndarray:
    """[M, K]"""
    if not words:
        return np.zeros((ASPECTS, WIDTH))
    name = f"readers.{reader}"
    c = convolve(state, f"{name}.words", state["words"][words])
    c = convolve(state, f"{name}.auxiliary", c) if auxiliary else c
    g = layer(state, f"{name}.project", c) * sigmoid(layer(state, f"{name}.gate", c))
    found = []
    for aspect in range(ASPECTS):
        own = g[:, aspect * WIDTH : (aspect + 1) * WIDTH]
        logit = own @ state["aspects"][attend, aspect]
        beta = np.exp(logit) / np.exp(logit).sum()
        found.append(beta @ own)
    return np.array(found)


def rated(
    state: dict[str, Any], batch: Any, written: list[list[int]], rows: dict[str, Any], at: int, mode: str
) -> float:
    k = int(batch.domain[at])
    o = 1 - k
    words = {kind: written[int(batch.documents.at[kind][at])] for kind in batch.documents.at}
    user = read(state, words["other"], reader=k, attend=o, auxiliary=False)
    if mode != "none":
        aux = read(state, words["auxiliary"] if mode == "reviews" else [], reader=k, attend=o, auxiliary=True)
        gate = sigmoid(layer(state, "fuse_gate", np.concatenate([user - aux, user * aux], 1)))
        user = np.tanh(layer(state, "fuse_all", np.concatenate([user, gate * aux], 1)))
    item = read(state, words["item"], reader=k, attend=k, auxiliary=False)
    w = state["similar"].T if k == 1 else state["similar"]
    s = state["aspects"][o] @ w @ state["aspects"][k].T
    s = np.where(s > 0, s, 0.2 * s)
    bias = sum(float(x[at].detach()) for x in (batch.dense["mean"], rows["user_bias.user"], rows["item_bias.item"]))
    return float((s * (user @ w @ item.T)).mean()) + bias


@pytest.mark.parametrize("mode", ["reviews", "empty", "none"])
@pytest.mark.parametrize("table", [False, True])
def test_scores_and_losses(mode: str, table: bool) -> None:
    batch, written = text_batch(SIZE)
    model = build({**SETTINGS, "auxiliary": mode, "dense_words": 0 if table else 100}, schema=SCHEMA).eval()
    model.get_parameter("aspects").data *= 10
    tables = make_tables(model)
    rows = look_up(model, tables, batch)
    found = model.score(rows, batch)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    state |= {"words": tables["words"].detach().numpy()} if table else {}
    want = np.array([rated(state, batch, written, rows, at, mode) for at in range(SIZE)])
    assert (batch.domain == 0).any() and (batch.domain == 1).any() and np.ptp(want) > 1
    np.testing.assert_allclose(found.detach(), want, rtol=1e-12)
    if table:
        return
    losses = model.losses(rows, batch)
    assert losses["square"].item() == pytest.approx(np.mean((want - batch.label.numpy()) ** 2), rel=1e-12)
    named = [p for n, p in model.named_parameters() if n not in ("words", "aspects")]
    assert losses["l2"].item() == pytest.approx(sum(float((p.detach() ** 2).sum()) / 2 for p in named), rel=1e-12)
    assert model.stages()[0].update.weights == {"l2": 0.5}


def test_a_batch_of_one_domain_scores_as_in_a_mixed_one() -> None:
    batch, _ = text_batch(SIZE)
    model = build(SETTINGS, schema=SCHEMA).eval()
    rows = look_up(model, make_tables(model), batch)
    row = (batch.domain == 1).nonzero().squeeze(1)
    at = {kind: places[row] for kind, places in batch.documents.at.items()}
    part = replace(
        batch,
        domain=batch.domain[row],
        dense={"mean": batch.dense["mean"][row]},
        documents=replace(batch.documents, at=at, other=batch.documents.other[row]),
        weight=batch.weight[row],
    )
    own = {name: values[row] if name.endswith(("user", "item")) else values for name, values in rows.items()}
    torch.testing.assert_close(model.score(own, part), model.score(rows, batch)[row], rtol=1e-12, atol=0)
