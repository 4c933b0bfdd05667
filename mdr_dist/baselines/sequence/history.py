"""What methods share that make a user's vector of the items in the user's history, trained again every period.

A history is a list feature that the recipe makes: the items of the user's rows before a row, oldest first. So every row
is a sequence and what followed it, and every period all of them are learnt, as by Full-retrain. An item is scored by
the inner product with what the user seeks, plus the item's bias: all that ranks where there is no history.

Shape letters: B rows, L length, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from mdr_dist.baselines.periodic.full_retrain import FullRetrain, FullRetrainConfig
from mdr_dist.batch import Batch
from mdr_dist.errors import UserError
from mdr_dist.nn import loss
from mdr_dist.nn.sequence import Zeros, last_entries
from mdr_dist.schema import Schema
from mdr_dist.stage import Init, Losses, Rows, Slice, Stage, TableSpec


class HistoryConfig(FullRetrainConfig):
    """Settings common to these methods.

    history    the list feature that holds a user's earlier items
    length     how many of these are read, the last ones
    negatives  items drawn a row
    """

    history: str = "history"
    length: int = Field(default=20, ge=1)
    negatives: int = Field(default=1, ge=1)


class HistoryMethod(FullRetrain):
    """Full-retrain of all its tables and dense parameters; a subclass says what a user seeks, and by which loss."""

    Config = HistoryConfig

    def __init__(self, config: HistoryConfig, schema: Schema) -> None:
        super().__init__(config, schema)
        self.config = config
        item, found = schema[schema.item], {feature.name: feature for feature in schema.of_kind("ids")}
        space, history = item.vocabulary or item.name, found.get(config.history)
        if history is None or (history.vocabulary, history.rows) != (space, item.rows):
            raise UserError(
                f"method.history: data set {schema.name} has no list of items named {config.history!r}; add "
                f"`- {{name: {config.history}, kind: ids, last: {config.length}, vocabulary: {space}}}` to the "
                "features of its recipe"
            )
        self.negatives = tuple(f"negative_{number}" for number in range(config.negatives))

    def items(self, name: str, *, dim: int, features: tuple[str, ...]) -> TableSpec:
        """A table of all items."""
        rows, init = self.schema[self.schema.item].rows, Init("normal", self.config.init_std)
        pool = "none" if self.config.history in features else "sum"
        return TableSpec(name=name, rows=rows, dim=dim, features=features, pool=pool, init=init)

    def scored(self, dim: int, *, also: tuple[str, ...] = ()) -> tuple[TableSpec, TableSpec]:
        """`item`, in which the features `also` look up too, and `bias`: they hold the items' vectors."""
        features = (self.schema.item, *self.negatives)
        bias = replace(self.items("bias", dim=1, features=features), init=Init("constant", 0.0))
        return self.items("item", dim=dim, features=(*features, *also)), bias

    def taken(self, rows: Rows, batch: Batch, *, table: str, zeros: Zeros) -> Tensor:
        """[B, L, D] a table's rows of the last items taken, oldest first; zeros where there were fewer."""
        name = self.config.history
        return last_entries(rows[f"{table}.{name}"], batch.lists[name].lengths, length=self.config.length, zeros=zeros)

    def item_vector(self, rows: Rows, batch: Batch) -> Tensor:
        """[B, D + 1] the item and its bias."""
        return self.own_item(rows, batch, self.schema.item)

    def own_item(self, rows: Rows, batch: Batch, feature: str) -> Tensor:  # noqa: ARG002 its id tells the domain
        """[B, D + 1] an item's row and its bias."""
        return torch.cat([rows[f"item.{feature}"], rows[f"bias.{feature}"]], dim=1)

    def user_vector(self, rows: Rows, batch: Batch) -> Tensor:
        """[B, D + 1] what the user seeks, and 1 for the bias."""
        sought_BD = self.sought(rows, batch)
        return torch.cat([sought_BD, sought_BD.new_ones(len(sought_BD), 1)], dim=1)

    def sought(self, rows: Rows, batch: Batch) -> Tensor:
        """[B, D] what the user seeks after that history."""
        raise NotImplementedError

    def l2(self, vectors: Sequence[Tensor], batch: Batch) -> Losses:
        """`l2` of looked-up rows, each a [B, …], where it has a weight."""
        return {"l2": loss.l2([x.flatten(1) for x in vectors], batch)} if self.config.l2 else {}

    def stage(self, name: str, data: Slice, *, epochs: int) -> Stage:
        """A stretch of so many epochs that trains everything."""
        data = replace(data, negatives=self.config.negatives)
        return replace(super().stage(name, data, epochs=epochs), train=("*",), read=("*",))
