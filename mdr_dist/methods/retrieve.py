"""What methods share that rank a domain's catalogue by inner product: tables a domain, pairwise training by BPR.

A user's negatives are drawn from the row's domain. Rows whose label is not positive train nothing.

Shape letters: B rows, D width, K domains.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from mdr_dist.batch import Batch
from mdr_dist.errors import UserError
from mdr_dist.methods.base import Method, MethodConfig
from mdr_dist.nn import loss
from mdr_dist.rule import Sum
from mdr_dist.schema import Schema
from mdr_dist.stage import Init, Losses, Rows, Slice, Stage, TableSpec, Until

NEGATIVE = "negative_0"


class RetrieveConfig(MethodConfig):
    """Settings common to these methods. "Code": `Chain123/CAT-ART`, by the authors of CAT-ART.

    dim       width of an embedding. Code
    init_std  deviation of the normal law that embeddings start from. Code has torch's 1, with Adam and tables of
              1,000,000 users; 0.1 needs fewer steps and reaches no less here
    l2        weight of half the mean squared length of the user's, the item's and the negative's embeddings. Code
    patience  evaluations of the held-out loss without a gain that end a stage. Code: 3 for BPR
    """

    dim: int = Field(default=64, ge=1)
    init_std: float = Field(default=0.1, ge=0)
    l2: float = Field(default=1e-4, ge=0)
    patience: int = Field(default=3, ge=0)


class RetrieveMethod(Method):
    """A method with a user and an item table a domain. A subclass says which user vector it ranks by."""

    Config = RetrieveConfig
    task: ClassVar[Literal["rank", "retrieve", "rate"]] = "retrieve"

    def __init__(self, config: RetrieveConfig, schema: Schema) -> None:
        super().__init__(config, schema)
        self.config = config
        self.domains = range(len(schema.domains))
        self.until = Until(patience=config.patience, monitor="loss")

    def tables(self) -> tuple[TableSpec, ...]:
        """A user and an item table a domain."""
        return tuple(table(self.schema, self.config, k) for table in (user_table, item_table) for k in self.domains)

    def score(self, rows: Rows, batch: Batch) -> Tensor:
        """[B] the inner product of the row's user and item."""
        return (self.user_vector(rows, batch) * self.item_vector(rows, batch)).sum(1)

    def user_vector(self, rows: Rows, batch: Batch) -> Tensor:
        """[B, D] the user in the row's domain."""
        return self.own_user(rows, batch)

    def item_vector(self, rows: Rows, batch: Batch) -> Tensor:
        """[B, D] the item in the row's domain."""
        return self.own_item(rows, batch, self.schema.item)

    def own_user(self, rows: Rows, batch: Batch) -> Tensor:
        """[B, D] the user's row of the domain's own table."""
        return own_domain([rows.get(f"user/{k}.{self.schema.user}") for k in self.domains], batch)

    def own_item(self, rows: Rows, batch: Batch, feature: str) -> Tensor:
        """[B, D] the row of an item feature, of the domain's own table."""
        return own_domain([rows.get(f"item/{k}.{feature}") for k in self.domains], batch)

    def bpr(self, user_BD: Tensor, rows: Rows, batch: Batch) -> Tensor:
        """The BPR loss of these user vectors."""
        gap_BD = self.own_item(rows, batch, self.schema.item) - self.own_item(rows, batch, NEGATIVE)
        return loss.bpr((user_BD * gap_BD).sum(1), batch)

    def losses(self, rows: Rows, batch: Batch) -> Losses:
        """`bpr` of the domain's own embeddings and, where it has a weight, `l2`."""
        user_BD = self.own_user(rows, batch)
        losses = {"bpr": self.bpr(user_BD, rows, batch)}
        if self.config.l2:
            items = [self.own_item(rows, batch, feature) for feature in (self.schema.item, NEGATIVE)]
            losses["l2"] = loss.l2([user_BD, *items], batch)
        return losses

    def weights(self) -> dict[str, float]:
        """The regularizer's weight, where it has one."""
        return {"l2": self.config.l2 / 2} if self.config.l2 else {}

    def single(self, domain: int) -> Stage:
        """One domain's training by itself, in a lane of its own."""
        name, tables = f"smf-{self.schema.domains[domain]}", (f"user/{domain}", f"item/{domain}")
        return Stage(
            name=name,
            lane=name,
            loss=self.losses,
            data=Slice(domains=(domain,), negatives=1),
            train=tables,
            read=tables,
            update=Sum(self.weights()),
            until=self.until,
        )


class Embeddings(Protocol):
    """Settings that say how wide embeddings are, and how far from 0 they start."""

    @property
    def dim(self) -> int: ...
    @property
    def init_std(self) -> float: ...


def user_table(schema: Schema, config: Embeddings, domain: int) -> TableSpec:
    """A domain's own table of all users."""
    feature = schema[schema.user]
    init = Init("normal", config.init_std)
    return TableSpec(name=f"user/{domain}", rows=feature.rows, dim=config.dim, features=(feature.name,), init=init)


def all_users(schema: Schema, config: Embeddings) -> TableSpec:
    """`user`: one table of all users, for all domains."""
    return replace(user_table(schema, config, 0), name="user")


def all_items(schema: Schema, config: Embeddings, features: tuple[str, ...]) -> TableSpec:
    """`item`: one table of all domains' items, which these features look up in."""
    rows = schema[schema.item].rows
    return replace(all_users(schema, config), name="item", rows=rows, features=features)


def item_table(schema: Schema, config: Embeddings, domain: int) -> TableSpec:
    """A domain's table of its own items, or of all where domains share their ids; drawn negatives look up in it too."""
    feature = schema[schema.item]
    start, end = 0, feature.rows
    if feature.starts:
        start, end = (*feature.starts, feature.rows)[domain : domain + 2]
    return TableSpec(
        name=f"item/{domain}",
        rows=end - start,
        dim=config.dim,
        features=(feature.name, NEGATIVE),
        start=start if feature.starts else None,
        init=Init("normal", config.init_std),
    )


def own_domain(by_domain: list[Tensor | None], batch: Batch) -> Tensor:
    """[B, D] of K candidates [B, D] the one of each row's domain; `UserError` if that is not at hand."""
    chosen: Tensor | None = None
    for domain, rows_BD in enumerate(by_domain):
        if rows_BD is not None:
            here = (batch.domain == domain)[:, None]
            chosen = torch.where(here, rows_BD, torch.zeros_like(rows_BD) if chosen is None else chosen)
    if chosen is None:
        raise UserError("none of these rows' domains has its tables here")
    return chosen
