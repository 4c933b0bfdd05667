"""Dropout's factors: 0 or so that the mean stays, drawn by row of the global batch."""

from __future__ import annotations

from dataclasses import replace

import torch

from mdr_dist.nn.dropout import kept
from support.text import text_batch


def test_dropout_is_a_row_s_own_and_keeps_the_mean() -> None:
    batch, _ = text_batch(12)
    factors = kept(batch, 200, rate=0.5, training=True)
    assert set(factors.unique().tolist()) == {0.0, 2.0} and 0.9 < float(factors.mean()) < 1.1
    later = replace(batch, position=batch.position.flip(0))
    assert torch.equal(kept(later, 200, rate=0.5, training=True).flip(0), factors)
    assert torch.equal(kept(batch, 200, rate=0.5, training=False), torch.ones_like(factors))
    assert torch.equal(kept(batch, 3, 2, rate=0.0, training=True), torch.ones(12, 3, 2))
