"""GRU4Rec: a recurrent network reads the items that a user took, and its last state seeks the next one.

Paper: Hidasi and Karatzoglou, "Recurrent Neural Networks with Top-k Gains for Session-based Recommendations", CIKM
2018, after "Session-based Recommendations with Recurrent Neural Networks", ICLR 2016; a baseline of SML. A row's item
is compared with the items of the other rows of the batch and with drawn ones: by the equation of BPR-max (`bpr_max`),
or by the cross-entropy of finding it among them (`cross_entropy`).

What differs: a row is learnt from the user's last `length` items, read from a zero state, and not from the state that
the row before left. Compared are only items of the row's domain, never the row's own item drawn for, or taken by,
another row; drawn ones are uniform, the public code's by popularity. Scores pass through no ELU. How SML's authors made
sessions is not known: here a user's rows are one.

Shape letters: B rows, N rows of the global batch, M items compared with, L length, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from mdr_dist.baselines.sequence.history import HistoryConfig, HistoryMethod
from mdr_dist.batch import Batch
from mdr_dist.nn import loss
from mdr_dist.nn.mlp import start
from mdr_dist.schema import Schema
from mdr_dist.stage import Losses, Rows, TableSpec

LOW = -1e30  # the score of what a row is not compared with


class GRU4RecConfig(HistoryConfig):
    """Settings. "Code": `hidasib/GRU4Rec_PyTorch_Official`, by the authors; its state has 100 numbers, here `dim`.

    length     items read. Choice
    negatives  items drawn a row; all rows of a batch are compared with all of them. Choice; code: 2,048 a batch
    loss       what compares. Code: `cross_entropy`
    score_reg  weight of the squared scores in `bpr_max`. Code
    shared     whether items are read and scored by the same embeddings. Code
    l2         as in other periodic methods. Code: none
    """

    loss: Literal["cross_entropy", "bpr_max"] = "cross_entropy"
    score_reg: float = Field(default=1.0, ge=0)
    shared: bool = True
    l2: float = Field(default=0.0, ge=0)


class GRU4Rec(HistoryMethod):
    """One layer of gated recurrent units."""

    Config = GRU4RecConfig
    config: GRU4RecConfig

    def __init__(self, config: GRU4RecConfig, schema: Schema) -> None:
        super().__init__(config, schema)
        self.gru = nn.GRU(config.dim, config.dim, batch_first=True)
        for weight, bias in zip(self.gru.all_weights[0][:2], self.gru.all_weights[0][2:], strict=True):
            for gate in weight.chunk(3):
                start(gate, None)
            nn.init.zeros_(bias)
        self.read = "item" if config.shared else "taken"

    def tables(self) -> tuple[TableSpec, ...]:
        """`item` and `bias`; unless embeddings are shared `taken`, the items as they are read."""
        history = (self.config.history,)
        if self.config.shared:
            return self.scored(self.config.dim, also=history)
        return (*self.scored(self.config.dim), self.items("taken", dim=self.config.dim, features=history))

    def sought(self, rows: Rows, batch: Batch) -> Tensor:
        """[B, D] the state after the last item; zeros before the first."""
        read_B = batch.lists[self.config.history].lengths.clamp(max=self.config.length)
        # zeros come after, so that they cannot change the state that counts
        state_BLD, _ = self.gru(self.taken(rows, batch, table=self.read, zeros="after"))
        last_BD = state_BLD[torch.arange(len(read_B), device=read_B.device), read_B.clamp(min=1) - 1]
        return torch.where(read_B[:, None] > 0, last_BD, torch.zeros_like(last_BD))

    def losses(self, rows: Rows, batch: Batch) -> Losses:
        """`cross_entropy` or `bpr_max` of positive rows, CHUNK at a time, and `l2`, where it has a weight."""
        user_BD, item_BD = self.user_vector(rows, batch), self.own_item(rows, batch, self.schema.item)
        drawn = [self.own_item(rows, batch, name) for name in self.negatives]
        others_MD = torch.cat([batch.whole(x_BD) for x_BD in (item_BD, *drawn)])
        parts = zip(*(x.split(loss.CHUNK) for x in (user_BD, item_BD, self._compared(batch))), strict=True)
        # made again for the backward pass: of B x M scores none need be in memory
        loss_B = torch.cat([checkpoint(self._loss, *part, others_MD, use_reentrant=False) for part in parts])
        read = self.taken(rows, batch, table=self.read, zeros="after")
        return {self.config.loss: loss.positives(loss_B, batch), **self.l2([item_BD, *drawn, read], batch)}

    def _compared(self, batch: Batch) -> Tensor:
        """[B, M] whether a row is compared with the items of the batch's rows and with those drawn for these."""
        names = (self.schema.item, *self.negatives)
        facts = [*(batch.ids[name] for name in names), batch.domain, (batch.label > 0.5).long()]
        *ids, domain_N, positive_N = batch.whole(torch.stack(facts, dim=1)).unbind(1)
        item_M, domain_M, positive_M = torch.cat(ids), domain_N.repeat(len(names)), positive_N.repeat(len(names))
        same_BM = (domain_M == batch.domain[:, None]) & (item_M != batch.ids[self.schema.item][:, None])
        return same_BM & (positive_M > 0)

    def _loss(self, user_BD: Tensor, item_BD: Tensor, there_BM: Tensor, others_MD: Tensor) -> Tensor:
        own_B1, score_BM = (user_BD * item_BD).sum(1, keepdim=True), user_BD @ others_MD.T
        low_BM = score_BM.masked_fill(~there_BM, LOW)
        if self.config.loss == "cross_entropy":
            return torch.cat([own_B1, low_BM], dim=1).logsumexp(1) - own_B1.squeeze(1)
        log_p_BM = low_BM.log_softmax(1)
        squared_B = (log_p_BM.exp() * score_BM.square()).sum(1)
        return self.config.score_reg * squared_B - (log_p_BM + functional.logsigmoid(own_B1 - score_BM)).logsumexp(1)
