"""Bias: the mean rating of the item, and how far the user and the item are usually from it.

Paper: Koren, Bell and Volinsky, "Matrix Factorization Techniques for Recommender Systems", IEEE Computer 2009, whose
first-order estimate this is. Equation (3 there): the rating is mean + b_u + b_i, as in `RateMethod.biases`; squared
error and half of `l2` times the squared biases are minimised. Without `user` it says of every user the same.

What differs: the mean is the item's own, not that of all ratings, as CATN's biases start; one b_u is for all domains.

Shape letters: B rows.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from mdr_dist.batch import Batch
from mdr_dist.methods.rate import RateConfig, RateMethod
from mdr_dist.nn import loss
from mdr_dist.rule import Sum
from mdr_dist.stage import Losses, Rows, Stage, TableSpec


class BiasConfig(RateConfig):
    """Settings.

    user  whether users have a bias. False: an item's rating is the same for all
    l2    weight of half the mean squared biases of a row. Choice
    """

    user: bool = True
    l2: float = Field(default=0.02, ge=0)


class Bias(RateMethod):
    """One lane over all domains."""

    Config = BiasConfig
    config: BiasConfig

    def tables(self) -> tuple[TableSpec, ...]:
        """The biases."""
        return self.bias_tables()[0 if self.config.user else 1 :]

    def score(self, rows: Rows, batch: Batch) -> Tensor:
        """[B]"""
        if self.config.user:
            return self.biases(rows, batch)
        return (batch.dense["mean"] + rows[f"item_bias.{self.schema.item}"]).squeeze(1)

    def losses(self, rows: Rows, batch: Batch) -> Losses:
        """`square` and, where it has a weight, `l2` of the biases."""
        losses = super().losses(rows, batch)
        return {**losses, "l2": loss.l2(rows.values(), batch)} if self.config.l2 else losses

    def stages(self) -> tuple[Stage, ...]:
        """All domains together."""
        update = Sum({"l2": self.config.l2 / 2} if self.config.l2 else {})
        return (Stage(name="joint", loss=self.losses, update=update, until=self.until),)
