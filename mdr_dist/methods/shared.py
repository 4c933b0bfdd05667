"""A method that shares its tables between domains, and is a backbone trained on all of them together.

Shape letters: B rows, O width of a vector.
"""

from __future__ import annotations

from torch import Tensor

from mdr_dist.batch import Batch
from mdr_dist.methods.backbones import Backbone
from mdr_dist.methods.retrieve import RetrieveConfig, RetrieveMethod
from mdr_dist.rule import Sum
from mdr_dist.schema import Schema
from mdr_dist.stage import Losses, Rows, Stage, TableSpec


class BackboneMethod(RetrieveMethod):
    """Tables, vectors and losses are the backbone's."""

    def __init__(self, config: RetrieveConfig, schema: Schema, backbone: Backbone) -> None:
        super().__init__(config, schema)
        self.backbone, self.extras = backbone, backbone.extras

    def tables(self) -> tuple[TableSpec, ...]:
        """One of users and one of items, or the auto-encoder's."""
        return self.backbone.tables()

    def user_vector(self, rows: Rows, batch: Batch) -> Tensor:
        """[B, O] the user, the same in all domains."""
        return self.backbone.user_vector(rows, batch)

    def item_vector(self, rows: Rows, batch: Batch) -> Tensor:
        """[B, O] the item."""
        return self.backbone.item_vector(rows, batch)

    def losses(self, rows: Rows, batch: Batch) -> Losses:
        """The loss of the backbone's kind and, where it has a weight, `l2`."""
        return self.backbone.losses(rows, batch)

    def stages(self) -> tuple[Stage, ...]:
        """All domains together."""
        update = Sum(self.weights())
        return (Stage(name="joint", loss=self.losses, data=self.backbone.data, update=update, until=self.until),)
