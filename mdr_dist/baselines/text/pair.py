"""What methods share that factorise the ratings of two domains apart, and then carry users over to the target.

Shape letters: B rows, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor, nn

from mdr_dist.baselines.text.factors import FactorConfig, FactorMethod
from mdr_dist.batch import Batch, Extras
from mdr_dist.errors import UserError
from mdr_dist.methods.retrieve import own_domain, user_table
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
    while their domain is trained, keep their own embeddings. A subclass may have other vectors in their place (`users`,
    `items`), of its own tables and dense parameters.
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
        return (*self._user_tables(), *self.item_tables(), *self.bias_tables())

    def bias_tables(self) -> tuple[TableSpec, ...]:
        """`user_bias/<k>` and `item_bias/<k>`, a number a row."""
        return tuple(_bias(spec) for spec in (*self._user_tables(), *self.item_tables()))

    def score(self, rows: Rows, batch: Batch) -> Tensor:
        """[B] in the target of users carried over, where the source's tables are at hand."""
        by_domain = self.by_domain(rows, lambda k: self.users(rows, batch, domain=k))
        user_BD, bias_B1 = own_domain(by_domain, batch), self.own(rows, batch, "user_bias")
        source_BD = by_domain[self.source]
        if source_BD is not None and by_domain[self.target] is not None:
            moved_B1 = ((batch.domain == self.target) & (batch.dense["active"][:, self.source] > 0))[:, None]
            user_BD = torch.where(moved_B1, self.carried(source_BD), user_BD)
            bias_B1 = torch.where(moved_B1, rows[f"user_bias/{self.source}.{self.schema.user}"], bias_B1)
        item_BD = own_domain(self.by_domain(rows, lambda k: self.items(rows, batch, domain=k)), batch)
        return self.product(rows, batch, user_BD=user_BD, item_BD=item_BD, bias_B1=bias_B1)

    def carried(self, user_BD: Tensor) -> Tensor:
        """[B, D] where users with these embeddings in the source stand in the target."""
        return self.mapping(user_BD)

    def losses(self, rows: Rows, batch: Batch) -> Losses:
        """`square` of the domain's own factorisation and, where it has a weight, `l2`."""
        found = {name: self.own(rows, batch, name) for name in ("user", "item", "user_bias", "item_bias")}
        vectors = {"user_BD": found["user"], "item_BD": found["item"]}
        score_B = self.product(rows, batch, **vectors, bias_B1=found["user_bias"])
        return self.with_l2({"square": batch.mean((score_B - batch.label).square())}, found.values(), batch)

    def users(self, rows: Rows, batch: Batch, *, domain: int) -> Tensor:  # noqa: ARG002 for overrides
        """[B, D] where the rows' users stand in a domain, whatever the rows' own."""
        return rows[f"user/{domain}.{self.schema.user}"]

    def items(self, rows: Rows, batch: Batch, *, domain: int) -> Tensor:  # noqa: ARG002 for overrides
        """[B, D] where the items of the rows of a domain stand there."""
        return rows[f"item/{domain}.{self.schema.item}"]

    def by_domain(self, rows: Rows, found: Callable[[int], Tensor]) -> list[Tensor | None]:
        """What is found of each domain whose tables are at hand."""
        there = [f"user_bias/{k}.{self.schema.user}" in rows for k in self.domains]
        return [found(k) if there[k] else None for k in self.domains]

    def map_losses(self, rows: Rows, batch: Batch) -> Losses:
        """`distance`: the mean square of what the mapping misses."""
        source_BD, target_BD = (self.users(rows, batch, domain=k) for k in (self.source, self.target))
        gap_BD = self.mapping(source_BD) - target_BD
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
            train=(f"*/{domain}", *self.dense(domain)),
            read=(f"*/{domain}",),
            update=Sum(self.weights()),
            until=Until(epochs=self.config.factor_epochs, patience=0, monitor="mse"),
        )

    def dense(self, domain: int) -> tuple[str, ...]:  # noqa: ARG002 for overrides
        """Patterns of the dense parameters that a domain's factorisation trains."""
        return ()

    def product(self, rows: Rows, batch: Batch, *, user_BD: Tensor, item_BD: Tensor, bias_B1: Tensor) -> Tensor:
        """[B] the ratings of users by vectors and biases."""
        usual_B1 = batch.dense["mean"] + bias_B1 + self.own(rows, batch, "item_bias")
        return (user_BD * item_BD).sum(1) + usual_B1.squeeze(1)

    def _user_tables(self) -> tuple[TableSpec, ...]:
        return tuple(user_table(self.schema, self.config, k) for k in self.domains)


def _bias(spec: TableSpec) -> TableSpec:
    """A number a row of this table's, in a table of their own."""
    kind, _, domain = spec.name.partition("/")
    return replace(spec, name=f"{kind}_bias/{domain}", dim=1, init=Init("constant", 0.0))
