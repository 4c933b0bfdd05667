"""CLFM against its equation, written out in numpy one row at a time, and against the paper's own way to fit it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mdr_dist.errors import UserError
from mdr_dist.launch.process import group_of_one
from support.jobs import small_job
from support.jobs import train as train_run
from support.retrieval import DOMAINS, USERS, Row, write_log
from support.rows import arrays, build, look_up, make_batch, make_tables


@pytest.mark.parametrize("shared", [0, 1])
def test_scores_and_losses(shared: int) -> None:
    batch, draw = make_batch(14), np.random.default_rng(1)
    batch = replace(batch, ids={**batch.ids, "negative_0": torch.tensor(draw.integers(0, 9, 14))})
    model = build({"name": "clfm", "dim": 4, "shared": shared, "init_std": 0.5})
    rows, w = look_up(model, make_tables(model), batch), arrays(model)
    losses, lengths = [], []
    for at, k in enumerate(batch.domain.tolist()):
        u, i, j = (rows[name][at].detach().numpy() for name in ("user.user", f"item/{k}.item", f"item/{k}.negative_0"))
        vector = np.concatenate([w["shared.weight"] @ u, u @ w["own.layers.0.weight"][k]])
        assert len(vector) == 4 and w["shared.weight"].shape[0] == (shared or 2)
        assert model.score(rows, batch)[at].item() == pytest.approx(vector @ i, rel=1e-12)
        lengths.append(u @ u + i @ i + j @ j)
        if batch.label[at] > 0:
            losses.append(np.log1p(np.exp(-vector @ i)) + np.log1p(np.exp(vector @ j)))
    found = model.losses(rows, batch)
    assert found["log_loss"].item() == pytest.approx(np.mean(losses), rel=1e-12)
    assert found["l2"].item() == pytest.approx(np.mean(lengths), rel=1e-12)


def test_domains_need_columns_of_their_own() -> None:
    with pytest.raises(UserError, match=r"method\.shared: 4 of method\.dim 4 columns"):
        build({"name": "clfm", "dim": 4, "shared": 4})


# the paper's own fitting, on data small enough for it

GROUPS, COUNT = 3, 36  # of users and items; items a domain


def planted() -> tuple[np.ndarray, np.ndarray]:
    """[2, users, items] who took what, in blocks of users and items alike, and which of these are held out."""
    draw = np.random.default_rng(0)
    of_user, of_item = np.arange(USERS - 1) % GROUPS, np.arange(COUNT) % GROUPS
    own = np.stack([of_user[:, None] == of_item, (of_user[:, None] + 1) % GROUPS == of_item])  # turned in the second
    taken = draw.random(own.shape) < np.where(own, 0.8, 0.05)
    return taken, taken & (draw.random(own.shape) < 0.3)


def multiplicative(train: np.ndarray, *, rank: int, shared: int, rounds: int) -> np.ndarray:
    """[2, users, items] U_k [S_0, S_k] V_k^T by updates that keep every entry positive and lower the squared error."""
    draw = np.random.default_rng(1)
    first = draw.uniform(0.1, 1, (rank, shared))
    own = [draw.uniform(0.1, 1, (rank, rank - shared)) for _ in train]
    users, items = ([draw.uniform(0.1, 1, (n, rank)) for _ in train] for n in train.shape[1:])

    def ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
        return np.sqrt(top / np.maximum(bottom, 1e-12))

    for _ in range(rounds):
        tops, bottoms = np.zeros_like(first), np.zeros_like(first)
        for k, r in enumerate(train.astype(float)):
            s = np.hstack([first, own[k]])
            users[k] *= ratio(r @ items[k] @ s.T, users[k] @ (s @ items[k].T @ items[k] @ s.T))
            items[k] *= ratio(r.T @ users[k] @ s, items[k] @ (s.T @ users[k].T @ users[k] @ s))
            top, bottom = users[k].T @ r @ items[k], users[k].T @ users[k] @ s @ items[k].T @ items[k]
            own[k] *= ratio(top[:, shared:], bottom[:, shared:])
            tops, bottoms = tops + top[:, :shared], bottoms + bottom[:, :shared]
        first *= ratio(tops, bottoms)
    return np.stack([users[k] @ np.hstack([first, own[k]]) @ items[k].T for k in range(len(train))])


def ndcg(score: np.ndarray, train: np.ndarray, held: np.ndarray, *, most: int = 10) -> float:
    """The mean over users who have something to find, what they took in training left out."""
    gain, found = 1 / np.log2(np.arange(most) + 2), []
    for own, seen, truth in zip(score, train, held, strict=True):
        if truth.any():
            first = np.argsort(-np.where(seen, -np.inf, own))[:most]
            found.append(float(gain @ truth[first] / gain[: truth.sum()].sum()))
    return float(np.mean(found))


def test_it_ranks_about_as_the_papers_multiplicative_updates_do(tmp_path: Path) -> None:
    taken, held = planted()
    train = taken & ~held
    rows = [
        Row("test" if held[k, user, item] else "train", DOMAINS[k], int(user) + 1, int(item) + 1)
        for k, user, item in np.argwhere(taken)
    ]
    path = write_log(str(tmp_path / "log"), rows).path
    job = small_job("clfm", path, method={"dim": 8, "l2": 0.01, "patience": 0}, train={"epochs": 40})
    with group_of_one():
        run = train_run(job, str(tmp_path / "runs"))
    test = json.loads((Path(run) / "metrics.json").read_text())["test"]
    factors = multiplicative(train, rank=4, shared=2, rounds=200)
    for k, name in enumerate(DOMAINS):
        papers = ndcg(factors[k], train[k], held[k])
        assert papers > 2 * test[name]["random/ndcg@10"]
        assert test[name]["ndcg@10"] > papers - 0.05
