"""Shared Bottom against its equation, written out in numpy row by row, and how it learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from support.groups import in_group
from support.rows import arrays, build, cut, gradients, look_up, make_batch, make_tables

SMALL: dict[str, Any] = {"name": "shared_bottom", "dim": 2, "bottom": (5, 4), "towers": (6, 3)}
FIELDS = ("user.user", "item.item", "item.history", "domain.domain", "tags.tags")


def test_score_is_the_tower_of_the_row_s_domain_on_the_shared_bottom() -> None:
    model, batch = build(SMALL), make_batch(10)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, dtype=parameter.dtype) * 0.3)
    rows = look_up(model, make_tables(model), batch)
    w = arrays(model)
    expected = []
    for k, s in enumerate(batch.domain.tolist()):
        x = np.concatenate([*(rows[f][k].detach().numpy() for f in FIELDS), batch.dense["price"][k].numpy()])
        for i in range(2):
            x = np.maximum(w[f"bottom.layers.{i}.weight"] @ x + w[f"bottom.layers.{i}.bias"], 0)
        for i in range(3):
            x = x @ w[f"towers.layers.{i}.weight"][s] + w[f"towers.layers.{i}.bias"][s]
            x = np.maximum(x, 0) if i < 2 else x
        expected.append(x[0])
    np.testing.assert_allclose(model.score(rows, batch).detach(), expected, rtol=1e-12, atol=1e-12)


def test_tables_are_one_a_vocabulary() -> None:
    model = build({**SMALL, "features": ("user", "history"), "domain_in_fields": False, "init_std": 0.5})
    specs = model.tables()
    assert [(spec.name, spec.rows, spec.dim, spec.features, spec.pool) for spec in specs] == [
        ("user", 7, 2, ("user",), "sum"),
        ("item", 9, 2, ("history",), "mean"),
    ]
    assert {(spec.init.kind, spec.init.scale) for spec in specs} == {("normal", 0.5)}


def test_dropout_acts_in_training_only() -> None:
    model, batch = build({**SMALL, "dropout": 0.5}), make_batch(10)
    rows = look_up(model, make_tables(model), batch)
    trained = [model.score(rows, batch) for _ in range(2)]
    assert not torch.equal(*trained)
    model.eval()
    assert torch.equal(model.score(rows, batch), model.score(rows, batch))


def test_two_processes_are_one() -> None:
    settings, batch = {**SMALL, "l2": 0.1}, make_batch(9)
    alone = gradients(settings, [batch])
    for together in in_group(2, gradients, settings, cut(batch, 2)):
        assert together.keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(together[name], value, rtol=1e-9, atol=1e-9)
