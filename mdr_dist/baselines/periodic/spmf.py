"""SPMF: every period the model is trained on its data and a reservoir of the past, badly ranked rows the more.

Paper: Wang et al., "Streaming Ranking Based Recommender Systems", SIGIR 2018, a baseline of SML. The reservoir is a
uniform sample of all earlier rows (`Slice.reservoir`). A row is drawn in proportion to exp(rank / N), rank 1 the
highest score by the current model (`weights_of`), and its loss is SML's equation 1.

What differs: rows come in the usual order, and the loss weighs them by what they would have been drawn by: the same in
expectation. Ranks are those within a batch, of which N is the size, instead of within reservoir and period, whose
scores would have to be computed anew before every step.

Shape letters: B rows, N rows of the global batch, D width.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from mdr_dist.batch import Batch
from mdr_dist.methods.periodic import PeriodicConfig, PeriodicMethod
from mdr_dist.stage import Losses, Rows, Slice, Stage


class SPMFConfig(PeriodicConfig):
    """Settings.

    epochs     passes over a period and the reservoir. Choice
    reservoir  rows kept of the past. Code: 7,000 in its example
    """

    epochs: int = Field(default=5, ge=1)
    reservoir: int = Field(default=7000, ge=1)


class SPMF(PeriodicMethod):
    """A stage a period."""

    Config = SPMFConfig
    config: SPMFConfig

    def learn(self, period: int) -> tuple[Stage, ...]:
        """This period and a sample of those before it."""
        data = Slice(period=period, reservoir=self.config.reservoir, negatives=1)
        return (replace(self.at_once(period, data)[0], loss=self.weighted_losses),)

    def weighted_losses(self, rows: Rows, batch: Batch) -> Losses:
        """`losses` with the rows weighted."""
        user, item, _ = self.looked_up
        score_B = (rows[".".join(user)] * rows[".".join(item)]).sum(1).detach()
        return self.losses(rows, replace(batch, weight=batch.weight * weights_of(score_B, batch)))


def weights_of(score_B: Tensor, batch: Batch) -> Tensor:
    """[B] exp(rank / N) over its mean; the N rows of the global batch are ranked by score, the highest 1."""
    score_N = batch.whole(score_B)
    order_N = score_N.argsort(descending=True, stable=True)
    rank_N = torch.empty_like(score_N).scatter_(0, order_N, torch.arange(1, len(score_N) + 1).to(score_N))
    weight_N = (rank_N / len(score_N)).exp()
    return (weight_N / weight_N.mean())[batch.position.clamp(min=0)]
