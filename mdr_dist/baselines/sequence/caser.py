"""Caser: convolutions over the last few items that a user took, beside what the user likes in general.

Paper: Tang and Wang, "Personalized Top-N Sequential Recommendation via Convolutional Sequence Embedding", WSDM 2018; a
baseline of SML. The last L items are an image E of L x D. Horizontal filters of every height slide over the items, and
of each the maximum counts; vertical filters weigh the items; one layer makes z of what both found. The equations are
those of the public code: an item's score is W'_i [z; p_u] + b'_i, and the loss is the log loss of a row's item and of
some drawn ones.

What differs: every row is a target of its own, where the paper learns the T items after a window at once. A history of
fewer than L items has zeros before them, of which nothing is learnt; in the public code that is a row of E.

Shape letters: B rows, L length, D width, F numbers that the filters find, N negatives.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from mdr_dist.baselines.sequence.history import HistoryConfig, HistoryMethod
from mdr_dist.batch import Batch
from mdr_dist.nn import loss
from mdr_dist.nn.dropout import kept
from mdr_dist.nn.mlp import linear, start
from mdr_dist.schema import Schema
from mdr_dist.stage import Losses, Rows, TableSpec


class CaserConfig(HistoryConfig):
    """Settings. "Code": `graytowne/caser_pytorch`, by the authors; its `dim` is 50.

    length      items read, L. Code
    negatives   items drawn a row. Code
    horizontal  filters of each height from 1 to L. Code
    vertical    filters over the whole length. Code
    dropout     share of what the filters found that is dropped in training. Code
    init_std    deviation of the normal law that embeddings start from. Code: 1 / `dim`, half of it for W'
    l2          weight of half the mean squared length of looked-up rows. Code: 1e-6 on everything, as Adam's weight
                decay; at its batch of 512 that is as much on a row that is looked up once
    """

    length: int = Field(default=5, ge=1)
    negatives: int = Field(default=3, ge=1)
    horizontal: int = Field(default=16, ge=1)
    vertical: int = Field(default=4, ge=1)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    init_std: float = Field(default=0.02, ge=0)
    l2: float = Field(default=5e-4, ge=0)


class Caser(HistoryMethod):
    """Convolutions, and one layer that joins them."""

    Config = CaserConfig
    config: CaserConfig

    def __init__(self, config: CaserConfig, schema: Schema) -> None:
        super().__init__(config, schema)
        dim, length = config.dim, config.length
        across = [nn.Conv1d(dim, config.horizontal, height) for height in range(1, length + 1)]
        for filters in across:
            start(filters.weight, filters.bias)
        self.across = nn.ModuleList(across)
        self.down = linear(length, config.vertical)  # a filter over the whole length: a linear map of every column
        self.join = linear(config.horizontal * length + config.vertical * dim, dim)

    def tables(self) -> tuple[TableSpec, ...]:
        """`user`; `item`, which is W', and `bias`, b'; `taken`, which is E."""
        user, _ = super().tables()
        taken = self.items("taken", dim=self.config.dim, features=(self.config.history,))
        return (user, *self.scored(2 * self.config.dim), taken)

    def sought(self, rows: Rows, batch: Batch) -> Tensor:
        """[B, 2 D] z and p_u."""
        x_BDL = self._read(rows, batch).transpose(1, 2)
        found = [torch.relu(filters(x_BDL)).amax(2) for filters in self.across]
        found_BF = torch.cat([*found, self.down(x_BDL).flatten(1)], dim=1)
        found_BF = found_BF * kept(batch, found_BF.shape[1], rate=self.config.dropout, training=self.training)
        return torch.cat([torch.relu(self.join(found_BF)), rows[f"user.{self.schema.user}"]], dim=1)

    def losses(self, rows: Rows, batch: Batch) -> Losses:
        """`log_loss` of positive rows' items and of those drawn, and `l2`, where it has a weight."""
        user_BD, item_BD = self.user_vector(rows, batch), self.own_item(rows, batch, self.schema.item)
        drawn = [self.own_item(rows, batch, name) for name in self.negatives]
        score_BN = torch.stack([(user_BD * negative_BD).sum(1) for negative_BD in drawn], dim=1)
        loss_B = functional.softplus(-(user_BD * item_BD).sum(1)) + functional.softplus(score_BN).mean(1)
        vectors = [rows[f"user.{self.schema.user}"], item_BD, *drawn, self._read(rows, batch)]
        return {"log_loss": loss.positives(loss_B, batch), **self.l2(vectors, batch)}

    def _read(self, rows: Rows, batch: Batch) -> Tensor:
        """[B, L, D] E."""
        return self.taken(rows, batch, table="taken", zeros="before")
