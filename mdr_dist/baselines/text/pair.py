"""What methods share that factorise the ratings of two domains apart, and then carry users over to the target.

Shape letters: B rows, D width.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor, nn

from mdr_dist.baselines.text.factors import FactorConfig, FactorMethod
from mdr_dist.batch import Batch, Extras
from mdr_dist.errors import UserError
from mdr_dist.methods.retrieve import user_table
from mdr_dist.rule import Sum
from mdr_dist.schema import Schema
from mdr_dist.stage import Init, Losses, Rows, Slice, Stage, TableSpec, Until


class PairConfig(FactorConfig):
    """Settings common to these methods.

    factor_epochs  epochs of each domain's factorisation. A number, and no patience: held-out users that have no rows in
                   the target say nothing of how it goes there, and the source has none. Choice
    """

    factor_epochs: int = Field(default=30, ge=1)


class PairMethod(FactorMethod):
    """Two lanes, `factor-<domain>`, and one that trains the subclass's `mapping`.

    Each domain has all its own: `user/<k>`, `item/<k>`, `user_bias/<k>`, `item_bias/<k>`. A user who has rows in the
    source is carried over, whether or not she has some in the target, and so is her bias, as it is. Others, and all
    while their domain is trained, keep their own embeddings.
    """

    extras = Extras(means=True, active=True)
    mapping: nn.Module  # [B, D] → [B, D], from the source to the target

    def __init__(self, config: PairConfig, schema: Schema) -> None:
        super().__init__(config, schema)
        self.config = config
        if len(schema.domains) > 2:
            raise UserError(
                f"data set {schema.name} has {len(schema.domains)} domains, {', '.join(schema.domains)}; this method "
                "maps from one to one other: prepare a data set of two"
            )
        self.source = 1 - self.target

    def tables(self) -> tuple[TableSpec, ...]:
        """Users, items and their biases, a table each a domain."""
        users = tuple(user_table(self.schema, self.config, k) for k in self.domains)
        items = self.item_tables()
        biases = (_bias(spec) for spec in (*users, *items))
        return (*users, *items, *biases)

    def score(self, rows: Rows, batch: Batch) -> Tensor:
        """[B] in the target of users carried over, where the source's tables are at hand."""
        user_BD, bias_B1 = self.own(rows, batch, "user"), self.own(rows, batch, "user_bias")
        if all(f"user/{k}.{self.schema.user}" in rows for k in self.domains):
            moved_B1 = ((batch.domain == self.target) & (batch.dense["active"][:, self.source] > 0))[:, None]
            user_BD = torch.where(moved_B1, self.carried(self.users(rows, self.source)), user_BD)
            bias_B1 = torch.where(moved_B1, self.users(rows, self.source, "user_bias"), bias_B1)
        return self._product(rows, batch, user_BD=user_BD, bias_B1=bias_B1)

    def carried(self, user_BD: Tensor) -> Tensor:
        """[B, D] where users with these embeddings in the source stand in the target."""
        return self.mapping(user_BD)

    def losses(self, rows: Rows, batch: Batch) -> Losses:
        """`square` of the domain's own factorisation and, where it has a weight, `l2`."""
        found = {name: self.own(rows, batch, name) for name in ("user", "item", "user_bias", "item_bias")}
        score_B = self._product(rows, batch, user_BD=found["user"], bias_B1=found["user_bias"])
        return self.with_l2({"square": batch.mean((score_B - batch.label).square())}, found.values(), batch)

    def users(self, rows: Rows, domain: int, table: str = "user") -> Tensor:
        """[B, D] the users' rows of a domain's table, whatever the rows' domain."""
        return rows[f"{table}/{domain}.{self.schema.user}"]

    def map_losses(self, rows: Rows, batch: Batch) -> Losses:
        """`distance`: the mean square of what the mapping misses."""
        gap_BD = self.mapping(self.users(rows, self.source)) - self.users(rows, self.target)
        return {"distance": batch.mean(gap_BD.square().mean(1))}

    def stages(self) -> tuple[Stage, ...]:
        """The factorisations side by side, then the mapping, a row a user of both domains."""
        first = tuple(self._factorisation(k) for k in self.domains)
        mapping = Stage(
            name="map",
            lane="map",
            needs=tuple(stage.lane for stage in first),
            loss=self.map_losses,
            data=Slice(unit="user", users="common"),
            train=("mapping.*",),
            until=self.until,
        )
        return (*first, mapping)

    def _factorisation(self, domain: int) -> Stage:
        name = f"factor-{self.schema.domains[domain]}"
        return Stage(
            name=name,
            lane=name,
            loss=self.losses,
            data=Slice(domains=(domain,)),
            train=(f"*/{domain}",),
            read=(f"*/{domain}",),
            update=Sum(self.weights()),
            until=Until(epochs=self.config.factor_epochs, patience=0, monitor="mse"),
        )

    def _product(self, rows: Rows, batch: Batch, *, user_BD: Tensor, bias_B1: Tensor) -> Tensor:
        item_BD, item_bias_B1 = self.own(rows, batch, "item"), self.own(rows, batch, "item_bias")
        return (user_BD * item_BD).sum(1) + (batch.dense["mean"] + bias_B1 + item_bias_B1).squeeze(1)


def _bias(spec: TableSpec) -> TableSpec:
    """A number a row of this table's, in a table of their own."""
    kind, _, domain = spec.name.partition("/")
    return replace(spec, name=f"{kind}_bias/{domain}", dim=1, init=Init("constant", 0.0))
