"""CLFM: a user's vector is half of a pattern that all domains share and half of one of the domain's own.

Paper: Gao et al., "Cross-Domain Recommendation via Cluster-Level Latent Factor Model", ECML PKDD 2013, a baseline of
ADC. Its equation: ratings of domain k are U [S_0, S_k] V_k^T: S_0 is shared, S_k the domain's. One embedding a user
goes through both (`user_vector`); items have one each.

What differs: the paper's non-negative matrices are fitted by multiplicative updates to ratings. Here they are of any
sign, as later libraries have it, and trained by log loss with a negative a row, so that they scale and rank; and users
that are in several domains have one vector, where the paper knows no common users.

Shape letters: B rows, D width, S shared and P own columns (S + P = D).
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from mdr_dist.batch import Batch
from mdr_dist.errors import UserError
from mdr_dist.methods.retrieve import NEGATIVE, RetrieveConfig, RetrieveMethod, all_users, item_table
from mdr_dist.nn import loss
from mdr_dist.nn.domain import DomainGroups, DomainMLP
from mdr_dist.nn.mlp import linear
from mdr_dist.rule import Sum
from mdr_dist.schema import Schema
from mdr_dist.stage import Losses, Rows, Slice, Stage, TableSpec


class CLFMConfig(RetrieveConfig):
    """Settings.

    shared  columns of the pattern that domains share; 0: half of `dim`. Choice
    """

    shared: int = Field(default=0, ge=0)


class CLFM(RetrieveMethod):
    """One lane over all domains."""

    Config = CLFMConfig

    def __init__(self, config: CLFMConfig, schema: Schema) -> None:
        super().__init__(config, schema)
        shared = config.shared or config.dim // 2
        if not 0 < shared < config.dim:
            raise UserError(
                f"method.shared: {shared} of method.dim {config.dim} columns; domains need columns of their own"
            )
        self.shared = linear(config.dim, shared, bias=False)
        self.own = DomainMLP(len(self.domains), (config.dim, config.dim - shared), bias=False)

    def tables(self) -> tuple[TableSpec, ...]:
        """`user`, and an item table a domain."""
        return (all_users(self.schema, self.config), *(item_table(self.schema, self.config, k) for k in self.domains))

    def user_vector(self, rows: Rows, batch: Batch) -> Tensor:
        """[B, D] the user through the shared pattern, and through that of the row's domain."""
        user_BD = rows[f"user.{self.schema.user}"]
        own_BP = self.own(user_BD, DomainGroups(batch.domain, len(self.domains)))
        return torch.cat([self.shared(user_BD), own_BP], dim=1)

    def losses(self, rows: Rows, batch: Batch) -> Losses:
        """`log_loss` of the rows and their negatives and, where it has a weight, `l2` of the embeddings."""
        items = [self.own_item(rows, batch, feature) for feature in (self.schema.item, NEGATIVE)]
        vector_BD = self.user_vector(rows, batch)
        positive_B, negative_B = ((vector_BD * item_BD).sum(1) for item_BD in items)
        losses = {"log_loss": loss.pairs(positive_B, negative_B, batch)}
        if self.config.l2:
            losses["l2"] = loss.l2([rows[f"user.{self.schema.user}"], *items], batch)
        return losses

    def stages(self) -> tuple[Stage, ...]:
        """All domains together."""
        update = Sum(self.weights())
        return (Stage(name="joint", loss=self.losses, data=Slice(negatives=1), update=update, until=self.until),)
