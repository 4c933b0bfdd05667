"""ANR against its equations written out, document by document and word by word."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from support.rows import build, look_up, make_tables
from support.text import SCHEMA, text_batch

SIZE, ASPECTS, WIDTH = 15, 3, 4
SETTINGS = {"name": "anr", "word_dim": 6, "aspects": ASPECTS, "dim": WIDTH, "importance": 5, "word_std": 1.0, "l2": 0.5}


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum()


def read(state: dict[str, np.ndarray], words: list[int]) -> np.ndarray:
    """[A, H]"""
    found = np.zeros((ASPECTS, WIDTH))
    for aspect in range(ASPECTS if words else 0):
        project = state["project"].reshape(ASPECTS, WIDTH, -1)[aspect]
        own = [project @ state["words"][word] for word in words]
        padded = [np.zeros(WIDTH), *own, np.zeros(WIDTH)]
        window = [np.concatenate(padded[at : at + 3]) for at in range(len(words))]
        beta = softmax(np.array([w @ state["attend"][aspect].ravel() for w in window]))
        found[aspect] = sum(b * x for b, x in zip(beta, own, strict=True))
    return found


def rated(state: dict[str, np.ndarray], user: np.ndarray, item: np.ndarray) -> float:
    fit = np.maximum(user @ state["fit"] @ item.T, 0)
    x, y = user @ state["user_space"], item @ state["item_space"]
    beta_u = softmax(np.maximum(x + fit @ y, 0) @ state["user_weigh"])
    beta_i = softmax(np.maximum(y + fit.T @ x, 0) @ state["item_weigh"])
    return sum(beta_u[a] * beta_i[a] * float(user[a] @ item[a]) for a in range(ASPECTS))


def test_scores_and_losses() -> None:
    batch, written = text_batch(SIZE)
    model: Any = build(SETTINGS, schema=SCHEMA).eval()
    for name in ("attend", "user_weigh", "item_weigh"):
        model.get_parameter(name).data *= 10
    rows = look_up(model, make_tables(model), batch)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    want = []
    for at in range(SIZE):
        documents = {kind: written[int(place[at])] for kind, place in batch.documents.at.items()}
        bias = sum(float(x[at].detach()) for x in (batch.dense["mean"], rows["user_bias.user"], rows["item_bias.item"]))
        want.append(rated(state, read(state, documents["other"]), read(state, documents["item"])) + bias)
    np.testing.assert_allclose(model.score(rows, batch).detach(), want, rtol=1e-11)
    losses = model.losses(rows, batch)
    assert losses["square"].item() == pytest.approx(np.mean((np.array(want) - batch.label.numpy()) ** 2), rel=1e-12)
    named = [p.detach() for n, p in model.named_parameters() if n != "words"]
    assert losses["l2"].item() == pytest.approx(sum(float((p**2).sum()) / 2 for p in named), rel=1e-12)
    (stage,) = model.stages()
    assert stage.data.domains == (1,) and stage.update.weights == {"l2": 0.5}
