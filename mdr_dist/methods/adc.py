"""ADC: one network makes a user's vector in every domain, and how much each domain's loss counts is learnt.

Paper: Rafailidis and Weiss, "Adaptive Deep Learning of Cross-Domain Loss in Collaborative Filtering", arXiv 1907.01645.
Factorisation in each domain gives a user's latent vector u of every domain (`factor_losses`). Side by side they go
through a network, whose last matrix W has a block of columns a domain and so makes z of every domain. The score of an
item is its product with z of its domain (`user_vector`). A domain's loss L_k, equation 2, is pairwise ranking and a
term that draws a user's latent vectors together (`cross_losses`); the losses of equation 3 are balanced by the norms of
their gradients by W, equations 4 and 5 (`GradNorm`). The network is trained with one hidden layer first, which then
starts all of them (`stages`).

What differs, and why: equation 2 scores with u, figure 1 with z; with u nothing would train the network. The weights'
mean stays 1, and the network of one hidden layer is trained with equal weights: the paper says nothing of either.
L_k(0), in the paper the same number for all domains, cancels. Of a user who is not active in a domain u is the mean of
the user's others, at every step anew; the paper sets it once.

Shape letters: B rows, N negatives, K domains, D width.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from mdr_dist.batch import Batch, Extras
from mdr_dist.errors import UserError
from mdr_dist.methods.retrieve import NEGATIVE, RetrieveConfig, RetrieveMethod
from mdr_dist.nn.mlp import linear
from mdr_dist.rule import GradNorm, Sum
from mdr_dist.schema import Schema
from mdr_dist.stage import DenseOptimizer, Losses, Rows, Slice, Stage, TableOperations, TableSpec


class ADCConfig(RetrieveConfig):
    """Settings.

    dim          width of a latent vector. Paper
    negatives    items drawn a row. Paper
    rating       the label that is factorised, by squared error over the rows; empty: the row's label, and 0 for its
                 negatives. Paper: the rating
    hidden       hidden layers of the network, each as wide as all latent vectors together. Paper: 2 to 4 by domain
    align        weight of the squared distance between a user's latent vectors. Choice; paper: lambda, not told
    balance      whether the losses' weights are trained. False: they are 1 (ablation)
    asymmetry    gamma: how much more a loss counts that falls slowly. Paper: 0.5 to 2.5 by domain
    weight_lr    learning rate of the weights, by Adam. GradNorm; paper: not told
    renormalise  whether the weights' mean stays 1. GradNorm
    floor        the least weight. Choice
    """

    dim: int = Field(default=100, ge=1)
    negatives: int = Field(default=5, ge=1)
    rating: str = ""
    hidden: int = Field(default=3, ge=1)
    align: float = Field(default=1e-2, ge=0)
    balance: bool = True
    asymmetry: float = Field(default=2.0, ge=0)
    weight_lr: float = Field(default=0.025, gt=0)
    renormalise: bool = True
    floor: float = Field(default=1e-4, ge=0)


class ADC(RetrieveMethod):
    """A lane of factorisation a domain, and one that trains the network, shallow and deep."""

    Config = ADCConfig
    config: ADCConfig
    extras = Extras(active=True)

    def __init__(self, config: ADCConfig, schema: Schema) -> None:
        super().__init__(config, schema)
        count, width = len(self.domains), len(self.domains) * config.dim
        if config.rating and config.rating not in schema.labels:
            raise UserError(
                f"method.rating: no label {config.rating!r} in data set {schema.name}; there are: "
                f"{', '.join(schema.labels)}"
            )
        self.negatives = tuple(f"negative_{number}" for number in range(config.negatives))
        self.hidden = nn.ModuleList(linear(width, width) for _ in range(config.hidden))
        self.last = linear(width, width, bias=False)
        self.loss_weight = nn.Parameter(torch.ones(count))
        self.balanced = tuple(f"cross/{name}" for name in schema.domains)
        self.grown: Tensor
        self.register_buffer("grown", torch.zeros(()))  # 1 once all hidden layers count

    def tables(self) -> tuple[TableSpec, ...]:
        """A user and an item table a domain; all negatives look up in the item's."""
        items = (self.schema.item, *self.negatives)
        return tuple(replace(spec, features=items) if NEGATIVE in spec.features else spec for spec in super().tables())

    def latent(self, rows: Rows, batch: Batch) -> Tensor:
        """[B, K, D] u of every domain; where the user is not active, the mean over the domains where it is."""
        blocks_BKD = torch.stack([rows[f"user/{k}.{self.schema.user}"] for k in self.domains], dim=1)
        there_BK1 = batch.dense["active"][:, :, None]
        mean_BD = (blocks_BKD * there_BK1).sum(1) / there_BK1.sum(1).clamp(min=1)
        return torch.where(there_BK1 > 0, blocks_BKD, mean_BD[:, None])

    def shared_vector(self, latent_BKD: Tensor, batch: Batch, *, depth: int) -> Tensor:
        """[B, D] z of the row's domain."""
        x = latent_BKD.flatten(1)
        for layer in self.hidden[:depth]:
            x = torch.relu(layer(x))
        return of_domain(self.last(x).view_as(latent_BKD), batch)

    def user_vector(self, rows: Rows, batch: Batch) -> Tensor:
        """[B, D] z of the row's domain."""
        return self.shared_vector(self.latent(rows, batch), batch, depth=len(self.hidden) if self.grown else 1)

    def drawn(self, rows: Rows, batch: Batch) -> Tensor:
        """[B, N, D] the row's negatives."""
        return torch.stack([self.own_item(rows, batch, name) for name in self.negatives], dim=1)

    def factor_losses(self, rows: Rows, batch: Batch) -> Losses:
        """`square`: by how much the latent vectors miss the rating; `l2`, where it has a weight."""
        losses = super().losses(rows, batch)
        del losses["bpr"]
        user_BD, item_BD = self.own_user(rows, batch), self.own_item(rows, batch, self.schema.item)
        score_B = (user_BD * item_BD).sum(1)
        if self.config.rating:
            square_B = (score_B - batch.labels[self.config.rating]).square()
        else:
            drawn_BN = (self.drawn(rows, batch) * user_BD[:, None]).sum(2)
            square_B = (score_B - batch.label).square() + drawn_BN.square().mean(1)
        return {"square": batch.mean(square_B), **losses}

    def cross_losses(self, rows: Rows, batch: Batch, *, depth: int) -> Losses:
        """`cross/<domain>`: L_k of every domain, the mean over its positive rows; 0 where it has none."""
        latent_BKD = self.latent(rows, batch)
        user_BD, item_BD = self.shared_vector(latent_BKD, batch, depth=depth), self.item_vector(rows, batch)
        gap_BN = ((item_BD[:, None] - self.drawn(rows, batch)) * user_BD[:, None]).sum(2)
        apart_B = (latent_BKD - of_domain(latent_BKD, batch)[:, None]).square().sum((1, 2))
        loss_B = functional.softplus(-gap_BN).mean(1) + self.config.align * apart_B
        positive = replace(batch, weight=batch.weight * (batch.label > 0.5))
        return dict(zip(self.balanced, positive.domain_mean(loss_B).unbind(), strict=True))

    def stages(self) -> tuple[Stage, ...]:
        """Factorisation, one hidden layer, all hidden layers."""
        first = tuple(self._factor(k) for k in self.domains)
        tables = ("user/*", "item/*")
        shallow = Stage(
            name="shallow",
            needs=tuple(stage.lane for stage in first),
            loss=partial(self.cross_losses, depth=1),
            data=Slice(negatives=self.config.negatives),
            train=(*tables, "hidden.0.*", "last.*"),
            read=tables,
            until=self.until,
        )
        deep = replace(
            shallow,
            name="deep",
            loss=partial(self.cross_losses, depth=len(self.hidden)),
            before=(self._grow,),
            train=(*tables, "hidden.*", "last.*", *(("loss_weight",) if self.config.balance else ())),
            update=self._rule(),
            optimizers={"loss_weight": DenseOptimizer("adam", self.config.weight_lr)},
        )
        return (*first, shallow, deep)

    def _factor(self, domain: int) -> Stage:
        name = f"factor-{self.schema.domains[domain]}"
        data = Slice(domains=(domain,), negatives=self.config.negatives)
        return replace(self.single(domain), name=name, lane=name, loss=self.factor_losses, data=data)

    def _rule(self) -> Sum | GradNorm:
        if not self.config.balance:
            return Sum()
        return GradNorm(
            balanced=self.balanced,
            shared=lambda: self.last.weight,
            trained=lambda: self.loss_weight,
            asymmetry=self.config.asymmetry,
            renormalise=self.config.renormalise,
            floor=self.config.floor,
        )

    @torch.no_grad()
    def _grow(self, _: TableOperations) -> None:
        """Let all hidden layers start from the first."""
        for layer in self.hidden[1:]:
            layer.load_state_dict(self.hidden[0].state_dict())
        self.grown.fill_(1)


def of_domain(of_BKD: Tensor, batch: Batch) -> Tensor:
    """[B, D] of K vectors a row that of the row's domain."""
    return of_BKD[torch.arange(len(of_BKD), device=of_BKD.device), batch.domain]
