"""What methods share that predict a rating: the biases they add to, and the squared error they are trained by.

Shape letters: B rows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from mdr_dist.batch import Batch, Extras
from mdr_dist.errors import UserError
from mdr_dist.methods.base import Method, MethodConfig
from mdr_dist.schema import Schema
from mdr_dist.stage import Init, Losses, Rows, TableSpec, Until


class RateConfig(MethodConfig):
    """Settings common to these methods.

    target    the domain that knowledge goes to; empty: the data set's last. CATN's tables: the second of each pair
    patience  evaluations of the held-out squared error without a gain that end a stage. CATN's code: 4
    damping   as if each item had so many more ratings, of the domain's mean, where its mean is taken; with few ratings
              an item its own mean is mostly noise, which a training row is part of. CATN's code: 0
    """

    target: str = ""
    patience: int = Field(default=4, ge=0)
    damping: float = Field(default=0.0, ge=0)


class RateMethod(Method):
    """A method whose score is a rating. Labels are ratings, of whatever scale.

    A user's bias is one for all domains. An item's starts at the mean of the item's training ratings, which batches
    bring: what the table holds is the distance from it.
    """

    Config = RateConfig
    task: ClassVar[Literal["rank", "retrieve", "rate"]] = "rate"
    extras = Extras(means=True)  # those of a method; each instance adds what its settings say

    def __init__(self, config: RateConfig, schema: Schema) -> None:
        super().__init__(config, schema)
        self.config = config
        self.extras = replace(self.extras, damping=config.damping)
        if len(schema.domains) < 2:
            raise UserError(
                f"data set {schema.name} has one domain, {', '.join(schema.domains)}: nothing to transfer from"
            )
        self.target = schema.domain_index(config.target) if config.target else len(schema.domains) - 1
        self.until = Until(patience=config.patience, monitor="mse")

    def bias_tables(self) -> tuple[TableSpec, ...]:
        """`user_bias` and `item_bias`, a number a row."""
        roles = {"user_bias": self.schema[self.schema.user], "item_bias": self.schema[self.schema.item]}
        return tuple(
            TableSpec(name=name, rows=feature.rows, dim=1, features=(feature.name,), init=Init("constant", 0.0))
            for name, feature in roles.items()
        )

    def biases(self, rows: Rows, batch: Batch) -> Tensor:
        """[B] the rating that the user and the item make usual."""
        user_B1, item_B1 = rows[f"user_bias.{self.schema.user}"], rows[f"item_bias.{self.schema.item}"]
        return (batch.dense["mean"] + user_B1 + item_B1).squeeze(1)

    def losses(self, rows: Rows, batch: Batch) -> Losses:
        """`square`: the mean squared error of the score."""
        return {"square": batch.mean((self.score(rows, batch) - batch.label).square())}
