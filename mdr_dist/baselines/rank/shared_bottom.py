"""Shared Bottom: one network for all domains, a tower for each.

Paper: Caruana, "Multitask Learning", Machine Learning 28, 1997. What all domains need is learnt once, in the shared
layers; each domain's tower turns it into that domain's score. The only equation, y_s = s(tower_s(bottom(x))), is in
`score`.

What differs: the paper's tasks share their samples; here a row belongs to one domain and trains only its tower. Sizes
are those of the public code `LiangcaiSu/STEM`. Trained on one domain, this is the single-domain baseline.

Shape letters: B rows, I inputs, H width of the bottom, K domains.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from mdr_dist.batch import Batch
from mdr_dist.methods.rank import RankConfig, RankMethod
from mdr_dist.nn.domain import DomainGroups, DomainMLP
from mdr_dist.nn.mlp import MLP
from mdr_dist.schema import Schema
from mdr_dist.stage import Rows


class SharedBottomConfig(RankConfig):
    """Settings.

    bottom  widths of the shared layers. STEM's
    towers  hidden widths of a domain's tower. STEM's
    """

    bottom: tuple[int, ...] = Field(default=(512, 512, 512), min_length=1)
    towers: tuple[int, ...] = (128, 128)


class SharedBottom(RankMethod):
    """Embeddings, a shared network, a tower a domain."""

    Config = SharedBottomConfig
    config: SharedBottomConfig

    def __init__(self, config: SharedBottomConfig, schema: Schema) -> None:
        super().__init__(config, schema)
        self.bottom = MLP((self.fields.width, *config.bottom), dropout=config.dropout)
        widths = (config.bottom[-1], *config.towers, 1)
        self.towers = DomainMLP(len(schema.domains), widths, dropout=config.dropout)

    def score(self, rows: Rows, batch: Batch) -> Tensor:
        """[B] the logit of the row's own domain."""
        h_BH = self.bottom(self.fields.vector(rows, batch))
        return self.towers(h_BH, DomainGroups(batch.domain, len(self.schema.domains))).squeeze(1)
