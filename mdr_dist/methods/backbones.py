"""What CL4Rec and its baselines put between two tables and a score: a backbone.

A backbone has two tables of width D, the first for who seeks and the second for what is sought, one of each for all
domains. It sees looked-up rows only, so that a method may multiply them by what it likes before.

Equations, of section 1.3 in CL4Rec's reading: `Factors`, <u, i>; `BiInteraction` (Wang et al., "KGAT", KDD 2019, its
aggregator, on users and items alone); `AutoEncoder` (Liang et al., "Variational Autoencoders for Collaborative
Filtering", WWW 2018, the multinomial likelihood, without variation).

Shape letters: B rows, D width, O width of the output, N nodes or items of the catalogue.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mdr_dist.batch import Batch, Extras
from mdr_dist.methods.retrieve import NEGATIVE, RetrieveConfig, all_items, all_users
from mdr_dist.nn import loss
from mdr_dist.nn.dropout import kept
from mdr_dist.nn.graph import BiInteraction
from mdr_dist.nn.mlp import linear
from mdr_dist.schema import Schema
from mdr_dist.stage import Init, Losses, Rows, Slice, TableSpec


class BackboneConfig(RetrieveConfig):
    """Settings of a backbone. "KGAT": the defaults of its public code; "choice" is this project's.

    backbone    `mf`, `graph` (bi-interaction) or `autoencoder`
    layers      of the graph: the width of each. KGAT
    neighbours  of the graph: how many of a user's or an item's are drawn at each step; 0: all are read. Choice
    dropout     rate at which a graph layer's output, or an auto-encoder's encoded user, is dropped out. KGAT
    inner       of the auto-encoder: widths of the hidden layers between its two tables. Choice
    pool        of the auto-encoder: what becomes of the user's items, their `sum` or their `mean`. Choice
    catalogue   of the auto-encoder: the items that its likelihood is over; of more, a sample a step. Choice
    """

    backbone: Literal["mf", "graph", "autoencoder"] = "mf"
    layers: tuple[int, ...] = Field(default=(64, 32, 16), min_length=1)
    neighbours: int = Field(default=16, ge=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    inner: tuple[int, ...] = (64,)
    pool: Literal["sum", "mean"] = "mean"
    catalogue: int = Field(default=16384, ge=1)


class Factors(nn.Module):
    """Matrix factorisation: the rows themselves, trained by BPR with one negative of the row's domain.

    What every backbone says: `extras` of its batches, the `data` it is trained on, whatever the domains, its two
    tables, a user's and an item's vector, which are ranked by their inner product, and its losses.
    """

    extras = Extras()
    data = Slice(negatives=1)

    def __init__(self, config: RetrieveConfig, schema: Schema) -> None:
        super().__init__()
        self.config, self.schema = config, schema

    def tables(self) -> tuple[TableSpec, TableSpec]:
        """`user` and `item`."""
        return all_users(self.schema, self.config), all_items(self.schema, self.config, (self.schema.item, NEGATIVE))

    def vectors(self, rows: Rows, batch: Batch, features: tuple[str, ...]) -> list[Tensor]:
        """[B, O] of each feature, the user's or one of items: what is ranked and trained."""
        return self.own(rows, batch, features)

    def own(self, rows: Rows, batch: Batch, features: tuple[str, ...]) -> list[Tensor]:  # noqa: ARG002
        """[B, D] of each feature: the row's own embedding."""
        return [rows[f"{'user' if name == self.schema.user else 'item'}.{name}"] for name in features]

    def user_vector(self, rows: Rows, batch: Batch) -> Tensor:
        """[B, O] the user."""
        return self.vectors(rows, batch, (self.schema.user,))[0]

    def item_vector(self, rows: Rows, batch: Batch) -> Tensor:
        """[B, O] the item."""
        return self.vectors(rows, batch, (self.schema.item,))[0]

    def losses(self, rows: Rows, batch: Batch) -> Losses:
        """`bpr` and, where it has a weight, `l2` of the embeddings of the row's user, item and negative."""
        features = (self.schema.user, self.schema.item, NEGATIVE)
        user_BO, item_BO, negative_BO = self.vectors(rows, batch, features)
        losses = {"bpr": loss.bpr((user_BO * (item_BO - negative_BO)).sum(1), batch)}
        if self.config.l2:
            losses["l2"] = loss.l2(self.own(rows, batch, features), batch)
        return losses


class Graph(Factors):
    """Bi-interaction of users with the items they took and of items with the users who did; else as `Factors`."""

    config: BackboneConfig

    def __init__(self, config: BackboneConfig, schema: Schema) -> None:
        super().__init__(config, schema)
        self.extras = Extras(hops=len(config.layers), neighbours=config.neighbours)
        self.layers = BiInteraction((config.dim, *config.layers), dropout=config.dropout)

    def tables(self) -> tuple[TableSpec, TableSpec]:
        """`user` and `item`, looked up once for each node."""
        users, items = super().tables()
        none = {"pool": "none"}
        return replace(users, features=("user_nodes",), **none), replace(items, features=("item_nodes",), **none)

    def vectors(self, rows: Rows, batch: Batch, features: tuple[str, ...]) -> list[Tensor]:
        """[B, O] of each feature, after propagation."""
        assert batch.graph
        nodes_NO = self.layers(_nodes(rows, batch), batch.graph, seed=batch.seed)
        return [nodes_NO[batch.graph.at[name]] for name in features]

    def own(self, rows: Rows, batch: Batch, features: tuple[str, ...]) -> list[Tensor]:
        """[B, D] of each feature: its node's embedding."""
        assert batch.graph
        nodes_ND = _nodes(rows, batch)
        return [nodes_ND[batch.graph.at[name]] for name in features]


def _nodes(rows: Rows, batch: Batch) -> Tensor:
    """[N, D] the nodes' embeddings."""
    assert batch.graph
    return torch.cat([rows["user.user_nodes"], rows["item.item_nodes"]])[batch.graph.order]


class AutoEncoder(nn.Module):
    """A user's items, pooled, through an MLP to a vector that must tell these items from the catalogue's others.

    Items have a row in the table `encoder` and another one in `decoder`; users have none.
    """

    data = Slice(unit="user")

    def __init__(self, config: BackboneConfig, schema: Schema) -> None:
        super().__init__()
        self.config, self.schema = config, schema
        self.extras = Extras(history=True, catalogue=config.catalogue)
        self.layers = nn.ModuleList(linear(i, o) for i, o in pairwise((config.dim, *config.inner, config.dim)))

    def tables(self) -> tuple[TableSpec, TableSpec]:
        """`encoder` and `decoder`."""
        rows, dim, init = self.schema[self.schema.item].rows, self.config.dim, Init("normal", self.config.init_std)
        encoder = TableSpec(name="encoder", rows=rows, dim=dim, features=("history",), pool=self.config.pool, init=init)
        return encoder, replace(encoder, name="decoder", features=(self.schema.item, "catalogue"), pool="none")

    def user_vector(self, rows: Rows, batch: Batch) -> Tensor:
        """[B, D] the decoder's input; it depends on the user's history alone."""
        h_BD = torch.tanh(rows["encoder.history"])
        h_BD = h_BD * kept(batch, self.config.dim, rate=self.config.dropout, training=self.training)
        for number, layer in enumerate(self.layers):
            h_BD = layer(torch.tanh(h_BD) if number else h_BD)
        return h_BD

    def item_vector(self, rows: Rows, batch: Batch) -> Tensor:  # noqa: ARG002 its row alone
        """[B, D] the item's row of the decoder."""
        return rows[f"decoder.{self.schema.item}"]

    def losses(self, rows: Rows, batch: Batch) -> Losses:
        """`cross_entropy` of the items taken over the catalogue; `l2`, where it has a weight, of what was looked up.

        The encoder's rows count as what they are pooled to, the decoder's by their mean over the catalogue.
        """
        items_ND = rows["decoder.catalogue"]
        logit_BN = self.user_vector(rows, batch) @ items_ND.T
        losses = {"cross_entropy": loss.multinomial(logit_BN, batch)}
        if self.config.l2:
            losses["l2"] = loss.l2([rows["encoder.history"]], batch) + items_ND.square().sum(1).mean()
        return losses


Backbone = Factors | AutoEncoder
_KINDS: dict[str, type[Graph] | type[AutoEncoder] | type[Factors]] = {
    "mf": Factors,
    "graph": Graph,
    "autoencoder": AutoEncoder,
}


def backbone_of(config: BackboneConfig, schema: Schema) -> Backbone:
    """The backbone that a config names."""
    return _KINDS[config.backbone](config, schema)
