"""CoNet: a network a domain scores user and item, and reads by cross units what the user took in other domains.

Paper: Hu et al., "CoNet: Collaborative Cross Networks for Cross-Domain Recommendation", CIKM 2018, a baseline of ADC.
Its equation, for the layer l of domain k with the activations a (a^0 is the user's and the item's embedding) and those
s of the other domain,

    a^{l+1} = ReLU(W^l_k a^l + b^l_k + H^l s^l)        without the last term beyond the first `cross_layers`

where H is the same in both directions, and sparse, by its L1 norm, in ScoNet (`sparsity`). The last layer's logit is
trained by cross-entropy with drawn negatives (`losses`).

What differs: the paper pairs two domains, and its public code a row of one with any row of the other, whoever's they
are; and it leaves the term with H out when it ranks. Here rows of all domains are mixed and s^l is the mean over the
items that the row's user took in training in the other domains, each activating its own domain's network with this
user, without a term of H itself (where domains share items: over all but the row's own, in the row's network). So it
follows from the user and the domain alone, and counts in ranking too. One logit stands for the softmax of two classes,
which is the sigmoid of their difference. Weight matrices start by Glorot's law.

Shape letters: B rows, R users, N items, D width, F width of the first layer, C widths of all layers with H, T items
that rows' users took elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise, zip_longest

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from mdr_dist.baselines.cross.elsewhere import HISTORY, elsewhere, mean_by_row
from mdr_dist.batch import Batch, Extras
from mdr_dist.errors import UserError
from mdr_dist.methods.retrieve import RetrieveConfig, RetrieveMethod, all_items, all_users
from mdr_dist.nn import loss
from mdr_dist.nn.domain import DomainGroups, DomainMLP
from mdr_dist.nn.experts import StackedLinear
from mdr_dist.nn.mlp import linear
from mdr_dist.rule import Sum
from mdr_dist.schema import Schema
from mdr_dist.stage import Losses, Rows, Slice, Stage, TableSpec

BLOCK = 1 << 20  # of the first layer's activations at a time, 4 MiB: on a CPU more is slower
Layer = Callable[[nn.Module, Tensor], Tensor]  # (a layer of every domain, what goes in) → what comes out


class CoNetConfig(RetrieveConfig):
    """Settings. "Code": `njuhugn/CoNet`, by the paper's authors.

    dim           width of a user's and of an item's embedding. Code
    layers        widths of the hidden layers, each at least 1; the first reads 2 `dim`. Code
    cross_layers  how many of them, from the first, units of other domains reach. Code
    sparsity      weight of the L1 norm of all H together: ScoNet's; 0 is CoNet. Code: 0.01, 0.1 and 0.5 tried
    negatives     items drawn a row. Code
    init_std      deviation of the normal law that embeddings start from. Code
    """

    dim: int = Field(default=32, ge=1)
    layers: tuple[PositiveInt, ...] = Field(default=(32, 16, 8), min_length=1)
    cross_layers: int = Field(default=2, ge=1)
    sparsity: float = Field(default=0.1, ge=0)
    negatives: int = Field(default=1, ge=1)
    init_std: float = Field(default=0.01, ge=0)


class CoNet(RetrieveMethod):
    """One lane over all domains. Ranks by `pair_scores`: vectors are what goes into the first layer's ReLU."""

    Config = CoNetConfig
    config: CoNetConfig
    extras = Extras(history=True)

    def __init__(self, config: CoNetConfig, schema: Schema) -> None:
        super().__init__(config, schema)
        if config.cross_layers > len(config.layers):
            raise UserError(
                f"method.cross_layers: {config.cross_layers} of the {len(config.layers)} of method.layers; ask for at "
                f"most {len(config.layers)}"
            )
        count, dim, layers = len(self.domains), config.dim, config.layers
        self.negatives = tuple(f"negative_{number}" for number in range(config.negatives))
        self.user_part = DomainMLP(count, (dim, layers[0]))
        self.item_part = DomainMLP(count, (dim, layers[0]), bias=False)
        self.deep = nn.ModuleList(DomainMLP(count, widths) for widths in pairwise(layers))
        self.head = DomainMLP(count, (layers[-1], 1))
        inputs = (2 * dim, *layers)
        self.cross = nn.ModuleList(linear(*inputs[at : at + 2], bias=False) for at in range(config.cross_layers))

    def tables(self) -> tuple[TableSpec, ...]:
        """`user`, and `item`, in which all domains' items and histories look up."""
        names = (self.schema.item, *self.negatives, HISTORY)
        items = replace(all_items(self.schema, self.config, names), pool="none")
        return all_users(self.schema, self.config), items

    def own_item(self, rows: Rows, batch: Batch, feature: str) -> Tensor:  # noqa: ARG002 its id tells the domain
        """[B, D] an item's row."""
        return rows[f"item.{feature}"]

    def user_vector(self, rows: Rows, batch: Batch) -> Tensor:
        """[B, C] what the user, and by H its other items, bring to each layer of the domain's network."""
        groups = DomainGroups(batch.domain, len(self.domains))
        own_BF = self.user_part(rows[f"user.{self.schema.user}"], groups)
        first_BF, *deeper = (cross(s) for cross, s in zip(self.cross, self.sources(rows, batch), strict=True))
        return torch.cat([own_BF + first_BF, *deeper], dim=1)

    def item_vector(self, rows: Rows, batch: Batch) -> Tensor:
        """[B, F] what the item brings to the first layer of the domain's network."""
        return self.item_part(rows[f"item.{self.schema.item}"], DomainGroups(batch.domain, len(self.domains)))

    def sources(self, rows: Rows, batch: Batch) -> list[Tensor]:
        """Of each layer with H, s: [B, 2 D], and [B, width] for those after it."""
        place_T, row_T, domain_T = elsewhere(batch, self.schema)
        groups = DomainGroups(domain_T, len(self.domains))
        user_TD = rows[f"user.{self.schema.user}"].index_select(0, row_T)
        item_TD = rows[f"item.{HISTORY}"].index_select(0, place_T)
        activations = [torch.cat([user_TD, item_TD], dim=1)]
        if len(self.cross) > 1:
            activations.append(torch.relu(self.user_part(user_TD, groups) + self.item_part(item_TD, groups)))
        for layer in self.deep[: max(len(self.cross) - 2, 0)]:
            activations.append(torch.relu(layer(activations[-1], groups)))
        return [mean_by_row(x, row_T, len(batch)) for x in activations]

    def logits(self, terms: tuple[Tensor, ...], item: Tensor, *, through: Layer) -> Tensor:
        """The logits, of any dimensions, by what users and H bring to each layer and items to the first."""
        x = torch.relu(terms[0] + item)
        for layer, term in zip_longest(self.deep, terms[1:]):
            x = through(layer, x)
            x = torch.relu(x if term is None else x + term)
        return through(self.head, x).squeeze(-1)

    def score(self, rows: Rows, batch: Batch) -> Tensor:
        """[B] the logit of the row's user and item."""
        return self._row_logits(self.user_vector(rows, batch), rows, batch, features=(self.schema.item,))[0]

    def pair_scores(self, user_RD: Tensor, item_ND: Tensor, *, domain: int) -> Tensor:
        """[…, R, N] the logits, some users' at a time."""
        through = partial(_of_domain, domain=domain)
        some = max(1, BLOCK // max(1, item_ND.numel()))
        parts = (self._terms(part.unsqueeze(-2)) for part in user_RD.split(some, dim=-2))
        return torch.cat([self.logits(terms, item_ND.unsqueeze(-3), through=through) for terms in parts], dim=-2)

    def losses(self, rows: Rows, batch: Batch) -> Losses:
        """`log_loss` of rows and their negatives; where they have a weight, `l2` of embeddings and `sparse`, H's L1.

        The latter in training alone: beside it the held-out loss of rows would not count, and shrinking H be all gain.
        """
        features = (self.schema.item, *self.negatives)
        positive_B, *drawn = self._row_logits(self.user_vector(rows, batch), rows, batch, features=features)
        loss_B = functional.softplus(-positive_B) + functional.softplus(torch.stack(drawn)).sum(0)
        losses = {"log_loss": loss.positives(loss_B, batch)}
        if self.config.l2:
            items = [rows[f"item.{feature}"] for feature in features]
            losses["l2"] = loss.l2([rows[f"user.{self.schema.user}"], *items], batch)
        if self.config.sparsity and self.training:
            losses["sparse"] = torch.stack([weight.abs().sum() for weight in self.cross.parameters()]).sum()
        return losses

    def weights(self) -> dict[str, float]:
        """Of `l2` and `sparse`, where they have one."""
        return super().weights() | ({"sparse": self.config.sparsity} if self.config.sparsity else {})

    def stages(self) -> tuple[Stage, ...]:
        """All domains together."""
        data, update = Slice(negatives=self.config.negatives), Sum(self.weights())
        return (Stage(name="joint", loss=self.losses, data=data, update=update, until=self.until),)

    def _row_logits(self, user_BC: Tensor, rows: Rows, batch: Batch, *, features: tuple[str, ...]) -> list[Tensor]:
        """[B] of each item feature: its logit for the row's user."""
        groups, terms = DomainGroups(batch.domain, len(self.domains)), self._terms(user_BC)
        items = (self.item_part(rows[f"item.{feature}"], groups) for feature in features)
        return [self.logits(terms, item_BF, through=lambda layer, x: layer(x, groups)) for item_BF in items]

    def _terms(self, user: Tensor) -> tuple[Tensor, ...]:
        """A user vector's parts, one for each layer with H."""
        return user.split(list(self.config.layers[: self.config.cross_layers]), dim=-1)


def _of_domain(layers: nn.Module, x: Tensor, *, domain: int) -> Tensor:
    """One domain's layer alone, on any dimensions."""
    assert isinstance(layers, DomainMLP)
    (layer,) = layers.layers
    assert isinstance(layer, StackedLinear) and layer.bias is not None
    return x @ layer.weight[domain] + layer.bias[domain]
