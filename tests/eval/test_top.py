"""Best scores of a stream of blocks against sorting the whole."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mdr_dist.eval import top as module
from mdr_dist.eval.top import TopScores

CPU = torch.device("cpu")


def streamed(scores: Tensor, k: int, block: int) -> tuple[Tensor, Tensor]:
    best = TopScores(len(scores), k, device=CPU)
    for part in scores.split(block, dim=1):
        best.add(part.contiguous())
    return best.result()


def check(scores: Tensor, k: int, block: int) -> None:
    """The best sorted; where the K-th is finite, the ties with it over the whole row."""
    found, ties = streamed(scores, k, block)
    expected = np.full((len(scores), k), -math.inf, dtype=np.float32)
    ranked = -np.sort(-scores.numpy(), axis=1)[:, :k]
    expected[:, : ranked.shape[1]] = ranked
    np.testing.assert_array_equal(found.numpy(), expected)
    last = expected[:, -1:]
    known = np.isfinite(last[:, 0])
    np.testing.assert_array_equal(ties.numpy()[known], (scores.numpy() == last).sum(1)[known])


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 6), st.sampled_from([0, 1, 2, 5]), st.data())
def test_any_blocks(seed: int, k: int, blocks: int, levels: int, data: st.DataObject) -> None:
    width = data.draw(st.sampled_from([4, 8, 12]))
    rng = np.random.default_rng(seed)
    shape = (3, blocks * width)
    scores = rng.integers(0, levels, shape) if levels else rng.normal(size=shape)
    scores = np.where(rng.random(shape) < data.draw(st.sampled_from([0.0, 0.3, 0.9])), -math.inf, scores)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", 4)
        check(torch.tensor(scores, dtype=torch.float32), k, width)


@pytest.mark.parametrize("order", ["rising", "falling", "constant", "alternating"])
def test_adverse_orders(order: str) -> None:
    column = torch.arange(4096.0)
    row = {"rising": column, "falling": -column, "constant": 0 * column, "alternating": column % 2}[order]
    check(row.repeat(5, 1) + torch.arange(5.0)[:, None], 20, 256)


def test_neighbouring_floats_are_told_apart() -> None:
    """Scores one step of float32 apart around the floor of the first block."""
    one = torch.ones(2, 1024)
    one[:, ::3] = torch.nextafter(one[:, ::3], torch.zeros(()))
    one[1, 5] = torch.nextafter(torch.ones(()), torch.tensor(2.0))
    check(one, 10, 256)
    check(one, 800, 256)
