"""CDCF against a factorisation machine over sparse vectors, all pairs of features written out."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

from mdr_dist.batch import Batch
from mdr_dist.schema import Feature, Schema
from support.rows import SCHEMA, build, look_up, make_batch, make_tables

STARTS = (0, 3, 6)
Array = np.ndarray


def batch_of(size: int) -> Batch:
    batch, draw = make_batch(size), np.random.default_rng(1)
    return replace(batch, ids={**batch.ids, "negative_0": torch.tensor(draw.integers(0, 9, size))})


def machine(features: list[tuple[Array, float, float]]) -> float:
    """Of (v, w, x)."""
    linear = sum(w * x for _, w, x in features)
    return linear + sum(float(v @ o) * x * y for (v, _, x), (o, _, y) in combinations(features, 2))


@pytest.mark.parametrize("starts", [(), STARTS])
def test_gaps_are_those_of_the_machine(starts: tuple[int, ...]) -> None:
    feature: dict[str, Any] = {"scope": "domain", "starts": starts} if starts else {}
    item = Feature(name="item", kind="id", rows=9, vocabulary="item", **feature)
    schema = Schema(name="own", domains=SCHEMA.domains, features=(SCHEMA.features[0], item, *SCHEMA.features[2:]))
    batch = batch_of(15)
    model = build({"name": "cdcf", "dim": 4, "init_std": 0.5}, schema=schema)
    rows = {name: row.detach().numpy() for name, row in look_up(model, make_tables(model), batch).items()}
    rows = {n: row + (0.3 * np.arange(len(row))[:, None] if n.startswith("bias") else 0) for n, row in rows.items()}
    history = batch.lists["history"]
    ends = history.lengths.cumsum(0).tolist()
    gaps, alone = [], 0
    for at, k in enumerate(batch.domain.tolist()):
        own = range(ends[at] - int(history.lengths[at]), ends[at])
        value = history.values.tolist()
        mine = range(9)[STARTS[k] : STARTS[k] + 3] if starts else [int(batch.ids["item"][at])]
        elsewhere = [t for t in own if value[t] not in mine]
        alone += not elsewhere
        rest = [(rows["user.user"][at], 0.0, 1.0)]
        rest += [(rows["item.history"][t], 0.0, 1 / len(elsewhere)) for t in elsewhere]
        scores = [
            machine([*rest, (rows[f"item.{f}"][at], float(rows[f"bias.{f}"][at, 0]), 1.0)])
            for f in ("item", "negative_0")
        ]
        if batch.label[at] > 0:
            gaps.append(np.log1p(np.exp(scores[1] - scores[0])))
    assert 0 < alone < 15
    tensors = {name: torch.tensor(row) for name, row in rows.items()}
    assert model.losses(tensors, batch)["bpr"].item() == pytest.approx(np.mean(gaps), rel=1e-12)
