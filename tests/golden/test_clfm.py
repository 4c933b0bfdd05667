"""CLFM against its equation, written out in numpy one row at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mdr_dist.errors import UserError
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
