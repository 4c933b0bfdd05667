"""What methods share that score one row from its embedded features: fields, cross-entropy, L2 on looked-up rows.

Shape letters: B rows, D width of an embedding, I inputs.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from mdr_dist.batch import Batch
from mdr_dist.methods.base import Method, MethodConfig
from mdr_dist.nn import loss
from mdr_dist.nn.fields import Fields
from mdr_dist.rule import Sum
from mdr_dist.schema import Schema
from mdr_dist.stage import Init, Losses, Rows, Stage, TableSpec


class RankConfig(MethodConfig):
    """Settings common to these methods. "STEM": `LiangcaiSu/STEM`, code by the group behind STEM and Crocodile.

    dim               width of an embedding row. STEM's
    features          which of the data set's; empty: all. Ours
    domain_in_fields  the domain's id is a feature too. Ours: the papers do not say
    init_std          deviation of the normal law that embeddings start from. Ours: no worse than STEM's 1e-4
    l2                weight of the mean over rows of the squared length of their embeddings; 0: none. STEM has 1e-6 on
                      half the squared length of whole tables; a row met once in 4096 feels the same pull at 2e-3
    bce               mean by domain, then their sum (`domains`: Crocodile, equation 7), or mean over `rows`
    dropout           share of hidden units dropped in training, 0 to 1. STEM has none
    """

    dim: int = Field(default=16, ge=1)
    features: tuple[str, ...] = ()
    domain_in_fields: bool = True
    init_std: float = Field(default=0.01, ge=0)
    l2: float = Field(default=1e-6, ge=0)
    bce: loss.Over = "domains"
    dropout: float = Field(default=0.0, ge=0, lt=1)


class RankMethod(Method):
    """A method that scores one row. A subclass gives `score`, and its `Config` extends `RankConfig`."""

    Config = RankConfig

    def __init__(self, config: RankConfig, schema: Schema) -> None:
        super().__init__(config, schema)
        self.config = config
        self.fields = Fields(schema, config.features, dim=config.dim, domain=config.domain_in_fields)
        self.init = Init("normal", config.init_std)

    def tables(self) -> tuple[TableSpec, ...]:
        """One table an id space."""
        return self.fields.tables(init=self.init)

    def losses(self, rows: Rows, batch: Batch) -> Losses:
        """`bce` and, where it has a weight, `l2`."""
        return self.fit(self.score(rows, batch), rows, batch)

    def fit(self, logit_B: Tensor, rows: Rows, batch: Batch) -> Losses:
        """The losses that every one of these methods has, given its logits."""
        losses = {"bce": loss.bce(logit_B, batch, over=self.config.bce)}
        return losses | ({"l2": loss.l2(rows.values(), batch)} if self.config.l2 else {})

    def weights(self) -> dict[str, float]:
        """Loss → its weight, where that is not 1."""
        return {"l2": self.config.l2} if self.config.l2 else {}

    def stages(self) -> tuple[Stage, ...]:
        """One joint stage on the weighted sum of the losses."""
        return (Stage(name="joint", loss=self.losses, update=Sum(self.weights())),)
