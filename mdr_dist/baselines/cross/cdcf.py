"""CDCF: a factorisation machine that reads what the user took in the other domains beside the user and the item.

Paper: Loni et al., "Cross-Domain Collaborative Filtering with Factorization Machines", ECIR 2014, a baseline of ADC. A
row's sparse vector holds the user, the item and, each with an equal share of 1, the user's items in the domains other
than the row's. Its equation is the machine's, sum_j w_j x_j + sum_{j<j'} < v_j, v_j' > x_j x_j'; of that only

    w_i + < v_i, v_u + mean over the user's other items c of v_c >

depends on the item, so that no more is made for ranking (`user_vector`, `item_vector`) and for BPR.

What differs: the paper fits ratings of one target domain, its shares being the ratings over their number; here all
domains are targets at once and positive rows count alike, by BPR. Where domains share items, which then tell no domain,
the user's other items are all but the row's own.

Shape letters: B rows, D width.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mdr_dist.baselines.cross.elsewhere import HISTORY, elsewhere, mean_by_row
from mdr_dist.batch import Batch, Extras
from mdr_dist.methods.retrieve import NEGATIVE, RetrieveConfig, RetrieveMethod, all_items, all_users
from mdr_dist.nn import loss
from mdr_dist.rule import Sum
from mdr_dist.stage import Init, Losses, Rows, Slice, Stage, TableSpec


class CDCFConfig(RetrieveConfig):
    """Settings: those of every such method."""


class CDCF(RetrieveMethod):
    """One lane over all domains."""

    Config = CDCFConfig
    extras = Extras(history=True)

    def tables(self) -> tuple[TableSpec, ...]:
        """`user`, `item`, in which histories look up too, and the items' `bias`."""
        asked = (self.schema.item, NEGATIVE)
        items = replace(all_items(self.schema, self.config, (*asked, HISTORY)), pool="none")
        bias = replace(items, name="bias", dim=1, features=asked, pool="sum", init=Init("constant", 0.0))
        return all_users(self.schema, self.config), items, bias

    def user_vector(self, rows: Rows, batch: Batch) -> Tensor:
        """[B, D + 1] the user and the mean of the user's other items, and 1 for the bias."""
        user_BD = rows[f"user.{self.schema.user}"]
        return torch.cat([user_BD + self.context(rows, batch), user_BD.new_ones(len(user_BD), 1)], dim=1)

    def context(self, rows: Rows, batch: Batch) -> Tensor:
        """[B, D] the mean of the user's items in other domains than the row's; 0 where there are none."""
        place_T, row_T, _ = elsewhere(batch, self.schema)
        return mean_by_row(rows[f"item.{HISTORY}"].index_select(0, place_T), row_T, len(batch))

    def item_vector(self, rows: Rows, batch: Batch) -> Tensor:
        """[B, D + 1] the item and its bias."""
        return self.own_item(rows, batch, self.schema.item)

    def own_item(self, rows: Rows, batch: Batch, feature: str) -> Tensor:  # noqa: ARG002 its id tells the domain
        """[B, D + 1] an item's row and its bias."""
        return torch.cat([rows[f"item.{feature}"], rows[f"bias.{feature}"]], dim=1)

    def losses(self, rows: Rows, batch: Batch) -> Losses:
        """`bpr` and, where it has a weight, `l2` of the user's, the item's and the negative's rows."""
        losses = {"bpr": self.bpr(self.user_vector(rows, batch), rows, batch)}
        if self.config.l2:
            items = [self.own_item(rows, batch, feature) for feature in (self.schema.item, NEGATIVE)]
            losses["l2"] = loss.l2([rows[f"user.{self.schema.user}"], *items], batch)
        return losses

    def stages(self) -> tuple[Stage, ...]:
        """All domains together."""
        update = Sum(self.weights())
        return (Stage(name="joint", loss=self.losses, data=Slice(negatives=1), update=update, until=self.until),)
