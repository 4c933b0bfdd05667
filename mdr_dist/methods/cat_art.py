"""CAT-ART: user embeddings of every domain, learnt apart, joined by an auto-encoder and transferred by attention.

Paper: Li et al., "One for All, All for One: Learning and Transferring User Embeddings for Cross-Domain Recommendation",
WSDM 2023. Each domain first learns its users and items alone (BPR). A contrastive auto-encoder (CAT) then reads a
user's embeddings of all domains and makes one that hardly changes when a domain is masked. Last, in each domain, an
attention unit (ART) adds that and what it draws from the other domains to the domain's own embedding.

The paper's equations are not at hand: these follow Algorithm 1 and its authors' public code. Stage 1 is
`RetrieveMethod.losses`, the auto-encoder's losses are in `encode_losses`, the attention unit in `Transfer`.

What differs, and why: the paper's users are active in all domains. Here a user's block of a domain that the user is not
active in is the learned pad vector, which the mask is too, and such a block is not reconstructed. Widths of the
auto-encoder follow the number of domains. As in the paper all user tables stay fixed in the last stage; the public code
trains some of them in half of its runs.

Shape letters: B rows, N rows of the global batch, K domains, S the other domains, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from mdr_dist.batch import Batch, Extras, world_size
from mdr_dist.methods.retrieve import RetrieveConfig, RetrieveMethod
from mdr_dist.nn import loss
from mdr_dist.nn.autoencoder import BlockAutoEncoder
from mdr_dist.nn.dropout import kept
from mdr_dist.nn.mlp import linear
from mdr_dist.rule import Sum
from mdr_dist.schema import Schema
from mdr_dist.stage import Losses, Rows, Slice, Stage, Until


class CatArtConfig(RetrieveConfig):
    """Settings. "Code": `Chain123/CAT-ART`.

    widths          hidden widths of the encoder as multiples of `dim`; 0 as the first: the number of domains. The
                    decoder mirrors them. Code, for 5 domains: 5 and 3
    temperature     of the contrastive softmax. Code
    contrastive     weight of the contrastive loss; 0: an auto-encoder without masks (ablation). Code
    reconstruct     weight of each of the two reconstruction losses. Code
    cat_patience    evaluations without a gain that end the auto-encoder's training. Code
    knowledge       what the last stage adds to a domain's own embedding: the encoder's (`global`, ablation), that of
                    the other domains (`sources`, ablation) or `both` (the paper)
    transfer        how the other domains' are drawn: by `attention` (the paper), or all side by side through one matrix
                    (`concat`, ablation)
    dropout         share of attention weights dropped in training. Code
    fix_users       Algorithm 1: true. False: the last stage also trains the target domain's own user table, as half of
                    the public code's runs do
    """

    widths: tuple[int, ...] = (0, 3)
    temperature: float = Field(default=0.1, gt=0)
    contrastive: float = Field(default=0.2, ge=0)
    reconstruct: float = Field(default=0.4, ge=0)
    cat_patience: int = Field(default=2, ge=0)
    knowledge: Literal["both", "global", "sources"] = "both"
    transfer: Literal["attention", "concat"] = "attention"
    dropout: float = Field(default=0.1, ge=0, lt=1)
    fix_users: bool = True


class Transfer(nn.Module):
    """ART: one target domain's own embedding of a user, plus the encoder's and what it draws from other domains."""

    def __init__(self, target: int, domains: int, config: CatArtConfig) -> None:
        super().__init__()
        self.sources = [k for k in range(domains) if k != target]
        self.config, dim = config, config.dim
        if config.knowledge != "sources":
            self.adapt_global = linear(dim, dim)
        if config.knowledge != "global" and config.transfer == "concat":
            self.joint = linear(len(self.sources) * dim, dim)
        elif config.knowledge != "global":
            self.adapt = nn.ModuleList(linear(dim, dim) for _ in self.sources)
            self.query, self.value, self.out = (linear(dim, dim) for _ in range(3))
            # no bias: it would add the same to all of a user's scores, which the softmax ignores
            self.key = linear(dim, dim, bias=False)

    def forward(self, own_BD: Tensor, blocks_BKD: Tensor, *, global_BD: Tensor, batch: Batch) -> Tensor:
        """[B, D]"""
        user_BD = own_BD
        if self.config.knowledge != "global":
            user_BD = user_BD + self._draw(own_BD, blocks_BKD[:, self.sources], batch=batch)
        if self.config.knowledge != "sources":
            user_BD = user_BD + self.adapt_global(global_BD)
        return user_BD

    def _draw(self, own_BD: Tensor, blocks_BSD: Tensor, *, batch: Batch) -> Tensor:
        if self.config.transfer == "concat":
            return self.joint(blocks_BSD.flatten(1))
        adapted = [adapt(block) for adapt, block in zip(self.adapt, blocks_BSD.unbind(1), strict=True)]
        adapted_BSD = torch.stack(adapted, dim=1)
        scale = self.config.dim**-0.5
        weight_BS = (self.key(adapted_BSD) @ self.query(own_BD)[:, :, None]).squeeze(2).mul(scale).softmax(dim=1)
        weight_BS = weight_BS * kept(batch, len(self.sources), rate=self.config.dropout, training=self.training)
        return self.out((weight_BS[:, None] @ self.value(adapted_BSD)).squeeze(1))


class CatArt(RetrieveMethod):
    """K lanes of one domain each, one over all users, K lanes again."""

    Config = CatArtConfig
    config: CatArtConfig
    extras = Extras(active=True)

    def __init__(self, config: CatArtConfig, schema: Schema) -> None:
        super().__init__(config, schema)
        count = len(self.domains)
        hidden = [config.dim * (width or count) for width in config.widths]
        self.cat = BlockAutoEncoder(count, config.dim, hidden=hidden, pad_std=config.init_std)
        self.art = nn.ModuleList(Transfer(k, count, config) for k in self.domains)

    def user_vector(self, rows: Rows, batch: Batch) -> Tensor:
        """[B, D] the user as ART enhances it for the row's domain."""
        blocks_BKD, there_BK = self._blocks(rows, batch)
        with torch.no_grad():  # the auto-encoder is fixed by then
            padded_BKD = self.cat.padded(blocks_BKD, there_BK)
            global_BD = self.cat.encode(padded_BKD)
        own_BD, out_BD = self.own_user(rows, batch), torch.zeros_like(global_BD)
        for k in self._units(rows, batch):
            here = (batch.domain == k)[:, None]
            out_BD = torch.where(here, self.art[k](own_BD, padded_BKD, global_BD=global_BD, batch=batch), out_BD)
        return out_BD

    def _units(self, rows: Rows, batch: Batch) -> list[int]:
        """The attention units to use: of the domains at hand; of several, as in evaluation, those that rows are of."""
        at_hand = [k for k in self.domains if f"item/{k}.{self.schema.item}" in rows]
        if len(at_hand) == 1:  # as in a stage: nothing need be read back from the device
            return at_hand
        return sorted(set(batch.domain.unique().tolist()).intersection(at_hand))

    def encode_losses(self, rows: Rows, batch: Batch) -> Losses:
        """`reconstruct`, and `reconstruct_masked` and `contrast` of users with a random domain masked."""
        blocks_BKD, there_BK = self._blocks(rows, batch)
        x_BKD = self.cat.padded(blocks_BKD, there_BK)
        h_BD = self.cat.encode(x_BKD)
        losses = {"reconstruct": self._distance(self.cat.decode(h_BD), blocks_BKD, there_BK, batch)}
        if self.config.contrastive:
            masked = functional.one_hot((batch.uniform() * len(self.domains)).long(), len(self.domains))
            hm_BD = self.cat.encode(self.cat.padded(blocks_BKD, there_BK * (1 - masked)))
            decoded = self.cat.decode(hm_BD)
            losses["reconstruct_masked"] = self._distance(decoded, blocks_BKD, there_BK, batch)
            losses["contrast"] = loss.contrast(h_BD, hm_BD, batch=batch, temperature=self.config.temperature)
        return losses

    def transfer_losses(self, rows: Rows, batch: Batch) -> Losses:
        """`bpr` of the enhanced users."""
        return {"bpr": self.bpr(self.user_vector(rows, batch), rows, batch)}

    def stages(self) -> tuple[Stage, ...]:
        """Algorithm 1."""
        first = tuple(self.single(k) for k in self.domains)
        if self.config.knowledge == "sources":  # which needs no auto-encoder
            return first + tuple(self._last(k, needs=tuple(stage.lane for stage in first)) for k in self.domains)
        weights = {"reconstruct": self.config.reconstruct}
        if self.config.contrastive:
            weights |= {"reconstruct_masked": self.config.reconstruct, "contrast": self.config.contrastive}
        cat = Stage(
            name="cat",
            lane="cat",
            needs=tuple(stage.lane for stage in first),
            loss=self.encode_losses,
            data=Slice(unit="user"),
            train=("cat.*",),
            read=("user/*",),
            update=Sum(weights),
            until=Until(patience=self.config.cat_patience, monitor="loss"),
        )
        return (*first, cat, *(self._last(k, needs=("cat",)) for k in self.domains))

    def _last(self, domain: int, *, needs: tuple[str, ...]) -> Stage:
        name = f"art-{self.schema.domains[domain]}"
        return Stage(
            name=name,
            lane=name,
            needs=needs,
            loss=self.transfer_losses,
            data=Slice(domains=(domain,), negatives=1),
            train=(f"item/{domain}", f"art.{domain}.*", *(() if self.config.fix_users else (f"user/{domain}",))),
            read=(f"item/{domain}", "user/*"),
            until=self.until,
        )

    def _blocks(self, rows: Rows, batch: Batch) -> tuple[Tensor, Tensor]:
        """[B, K, D] a user's embedding of every domain, and [B, K] 1 where the user is active."""
        blocks = [rows[f"user/{k}.{self.schema.user}"] for k in self.domains]
        return torch.stack(blocks, dim=1), batch.dense["active"]

    def _distance(self, y_BKD: Tensor, x_BKD: Tensor, there_BK: Tensor, batch: Batch) -> Tensor:
        """The mean square of what reconstruction misses, over the blocks that there are."""
        sums_B = ((y_BKD - x_BKD).square().mean(2) * there_BK).sum(1)
        blocks = batch.total((there_BK.sum(1) * batch.weight).sum()).clamp(min=1.0)
        return (sums_B * batch.weight).sum() * (world_size() / blocks)
