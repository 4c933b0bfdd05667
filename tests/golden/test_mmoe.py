"""MMoE against its equations, written out in numpy one row and one expert at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from support.groups import in_group
from support.rows import arrays, build, cut, gradients, look_up, make_batch, make_tables

SMALL: dict[str, Any] = {"name": "mmoe", "num_experts": 4, "dim": 2, "experts": (5, 3), "towers": (6,)}
FIELDS = ("user.user", "item.item", "item.history", "domain.domain", "tags.tags")


def network(x: np.ndarray, layers: list[tuple[np.ndarray, np.ndarray]], *, last: bool) -> np.ndarray:
    for i, (weight, bias) in enumerate(layers):
        x = x @ weight + bias
        x = np.maximum(x, 0) if last or i < len(layers) - 1 else x
    return x


@pytest.mark.parametrize("gate_hidden", [(), (4, 3)])
def test_score_is_a_mixture_by_domain(gate_hidden: tuple[int, ...]) -> None:
    model, batch = build({**SMALL, "gate_hidden": gate_hidden}), make_batch(10)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, dtype=parameter.dtype) * 0.3)
    rows = look_up(model, make_tables(model), batch)
    w = arrays(model)

    def stack(prefix: str, copy: int, depth: int) -> list[tuple[np.ndarray, np.ndarray]]:
        names = [f"{prefix}.layers.{i}" for i in range(depth)]
        return [(w[f"{name}.weight"][copy], w[f"{name}.bias"][copy]) for name in names]

    expected = []
    for k, s in enumerate(batch.domain.tolist()):
        x = np.concatenate([*(rows[f][k].detach().numpy() for f in FIELDS), batch.dense["price"][k].numpy()])
        powers = np.exp(network(x, stack("gate", s, 1 + len(gate_hidden)), last=False))
        mixed = np.zeros(3)
        for p in range(4):
            mixed += powers[p] / powers.sum() * network(x, stack("mixture", p, 2), last=True)
        expected.append(network(mixed, stack("towers", s, 2), last=False)[0])
    np.testing.assert_allclose(model.score(rows, batch).detach(), expected, rtol=1e-12, atol=1e-12)


def test_two_processes_are_one() -> None:
    settings, batch = {**SMALL, "l2": 0.1}, make_batch(9)
    alone = gradients(settings, [batch])
    for together in in_group(2, gradients, settings, cut(batch, 2)):
        assert together.keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(together[name], value, rtol=1e-9, atol=1e-9)
