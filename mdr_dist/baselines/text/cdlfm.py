"""CDLFM: users who rate alike are drawn together, and each user is mapped as those like her in both domains are.

Paper: Wang et al., "Cross-Domain Recommendation for Cold-Start Users via Neighborhood Based Feature Mapping", DASFAA
2018 (arXiv 1803.01617), and "CDLFM", Knowledge and Information Systems 62, 2020; a baseline of CATN. A domain's
factorisation also pays for the distances of users, by how alike they rate. Then a mapping is learnt for each cold-start
user, from the users of both domains that rate most like her in the source.

What differs, and why: the paper's equations are not at hand, only its account of them. Of its three similarities, by
common ratings, by the items that users take no interest in, and by rating biases, the second is left out: it needs an
estimate that is not told. The others are one number, for users a and b who rated one item with r_a and r_b,

    s = exp(-|r_a - r_b|) exp(-|b_a - b_b|)     b the users' biases                              (equation of `alike`)

and pairs are those that meet in a batch. Who is most alike is told by the cosine of embeddings in the source, which
that has drawn together. The paper's mapping is a gradient-boosted tree or a network a user; here it is linear, a ridge
regression in closed form, which leads away from the mapping F of all linked users as far as her n nearest ask for: of
their embeddings X and Y [n, D],

    f(x) = F x + (Y - X F')' (X X' + `ridge` I)^-1 X x                                          (equation of `carried`)

Shape letters: B rows, N rows of the global batch, L linked users, n nearest, D width.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from mdr_dist.baselines.text.pair import PairConfig, PairMethod
from mdr_dist.batch import Batch
from mdr_dist.nn.mlp import linear
from mdr_dist.rule import Sum
from mdr_dist.schema import Schema
from mdr_dist.stage import Losses, Rows, Stage, TableOperations


class CDLFMConfig(PairConfig):
    """Settings.

    alike       weight of half the similar users' distances. Choice
    neighbours  linked users that a mapping is learnt from. Choice
    ridge       penalty of how far a user's mapping leads away from that of all. Choice
    linked      linked users that are kept at most, a uniform sample: memory is 2 x linked x dim floats. Choice
    """

    alike: float = Field(default=0.1, ge=0)
    neighbours: int = Field(default=30, ge=1)
    ridge: float = Field(default=1.0, gt=0)
    linked: int = Field(default=10_000, ge=1)


class Linked(nn.Module):
    """Users of both domains, where they stand in each: `source` and `target` [L, D], of which `count` are filled."""

    source: Tensor
    target: Tensor
    count: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        for name in ("source", "target"):
            self.register_buffer(name, torch.zeros(size, dim))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def add(self, source_ND: Tensor, target_ND: Tensor) -> None:
        """Keep these users, as many as there is room for."""
        start = int(self.count)
        room = len(self.source[start : start + len(source_ND)])
        self.source[start : start + room] = source_ND[:room]
        self.target[start : start + room] = target_ND[:room]
        self.count += room

    def nearest(self, user_BD: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """[B, n, D] each: the users nearest by cosine in the source, there and in the target; n is at most `most`."""
        filled = int(self.count)
        source_LD, target_LD = self.source[:filled], self.target[:filled]
        cosine_BL = functional.normalize(user_BD, dim=1) @ functional.normalize(source_LD, dim=1).T
        found_Bn = cosine_BL.topk(min(most, filled), dim=1).indices
        return source_LD[found_Bn], target_LD[found_Bn]


class CDLFM(PairMethod):
    """Two lanes of factorisation, and one that trains the mapping of all and then keeps the linked users."""

    Config = CDLFMConfig
    config: CDLFMConfig

    def __init__(self, config: CDLFMConfig, schema: Schema) -> None:
        super().__init__(config, schema)
        self.mapping = linear(config.dim, config.dim, bias=False)
        self.linked = Linked(config.linked, config.dim)

    def carried(self, user_BD: Tensor) -> Tensor:
        """[B, D] the users by a mapping of their own; by that of all until linked users are known."""
        source_BnD, target_BnD = self.linked.nearest(user_BD, self.config.neighbours)
        missed_BnD = target_BnD - self.mapping(source_BnD)
        # of n users a square of n suffices, though the mapping is D x D
        square_Bnn = source_BnD @ source_BnD.mT
        square_Bnn = square_Bnn + self.config.ridge * torch.eye(square_Bnn.shape[1]).to(square_Bnn)
        share_Bn1 = torch.linalg.solve(square_Bnn, source_BnD @ user_BD[:, :, None])
        return self.mapping(user_BD) + (missed_BnD.mT @ share_Bn1).squeeze(2)

    def losses(self, rows: Rows, batch: Batch) -> Losses:
        """Those of factorisation and, where it has a weight, `alike`."""
        losses = super().losses(rows, batch)
        return {**losses, "alike": self._alike(rows, batch)} if self.config.alike else losses

    def _alike(self, rows: Rows, batch: Batch) -> Tensor:
        """The mean over rows of s times the squared distance, on average over the others who rated the row's item."""
        mine = (batch.ids[self.schema.item], batch.user_key, batch.label, self.own(rows, batch, "user_bias").detach())
        item_B, user_B, rating_B, bias_B = (column.view(len(batch)) for column in mine)
        item_N, user_N, rating_N, bias_N = (batch.whole(column) for column in (item_B, user_B, rating_B, bias_B))
        pairs_BN = (item_B[:, None] == item_N) & (user_B[:, None] != user_N)
        gap_BN = (rating_B[:, None] - rating_N).abs() + (bias_B[:, None] - bias_N).abs()
        own_BD = self.own(rows, batch, "user")
        distance_BN = _squared(own_BD, batch.whole(own_BD))
        sums_B = (pairs_BN * torch.exp(-gap_BN) * distance_BN).sum(1)
        return batch.mean(sums_B / pairs_BN.sum(1).clamp(min=1))

    def link_losses(self, rows: Rows, batch: Batch) -> Losses:
        """Those of the mapping of all; the batch's users are kept on the way."""
        both = (batch.whole(self.users(rows, batch, domain=domain)) for domain in (self.source, self.target))
        self.linked.add(*both)
        return self.map_losses(rows, batch)

    def weights(self) -> dict[str, float]:
        """The regularizers' weights, where they have one."""
        return {**super().weights(), **({"alike": self.config.alike / 2} if self.config.alike else {})}

    def stages(self) -> tuple[Stage, ...]:
        """The mapping's training has one more epoch, in whose order linked users are kept."""
        *first, mapping = super().stages()
        link = replace(
            mapping,
            name="link",
            loss=self.link_losses,
            until=replace(self.until, epochs=1, patience=0),
            before=(self._forget,),
            update=Sum(),
        )
        return (*first, mapping, link)

    @torch.no_grad()
    def _forget(self, _: TableOperations) -> None:
        self.linked.count.zero_()


def _squared(one_BD: Tensor, two_ND: Tensor) -> Tensor:
    """[B, N] squared distances."""
    lengths = one_BD.square().sum(1)[:, None] + two_ND.square().sum(1)
    return lengths - 2 * one_BD @ two_ND.T
