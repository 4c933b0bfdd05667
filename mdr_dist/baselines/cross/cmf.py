"""CMF: one embedding a user for all domains, one an item of each.

Paper: Singh and Gordon, "Relational Learning via Collective Matrix Factorization", KDD 2008, in the form that CAT-ART
compares with: all domains' interactions as one matrix, trained by BPR. The only equation is that of SMF, in
`RetrieveMethod.losses`.

What differs: the public code draws a negative from all domains' items together; here it is an item of the row's own
domain, which is also what it is ranked against.

Shape letters: B rows, D width.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from mdr_dist.batch import Batch
from mdr_dist.methods.retrieve import NEGATIVE, RetrieveConfig, RetrieveMethod, user_table
from mdr_dist.stage import Init, Rows, Slice, Stage, Sum, TableSpec


class CMFConfig(RetrieveConfig):
    """Settings: those of every such method."""


class CMF(RetrieveMethod):
    """One lane over all domains."""

    Config = CMFConfig

    def tables(self) -> tuple[TableSpec, ...]:
        """One table of users, one of the items of all domains."""
        feature, config = self.schema[self.schema.item], self.config
        items = TableSpec(
            name="item",
            rows=feature.rows,
            dim=config.dim,
            features=(feature.name, NEGATIVE),
            init=Init("normal", config.init_std),
        )
        return (replace(user_table(self.schema, config, 0), name="user"), items)

    def own_user(self, rows: Rows, batch: Batch) -> Tensor:  # noqa: ARG002 the same in all domains
        """[B, D] the user."""
        return rows[f"user.{self.schema.user}"]

    def own_item(self, rows: Rows, batch: Batch, feature: str) -> Tensor:  # noqa: ARG002 its id tells the domain
        """[B, D] the row of an item feature."""
        return rows[f"item.{feature}"]

    def stages(self) -> tuple[Stage, ...]:
        """All domains together."""
        data = Slice(negatives=1)
        return (Stage(name="joint", loss=self.losses, data=data, update=Sum(self.weights()), until=self.until),)
