"""CATN: what users want, read from their reviews in one domain, meets what items are, read from reviews in the other.

Paper: Zhao et al., "CATN: Cross-Domain Recommendation for Cold-Start Users via Aspect Transfer Network", SIGIR 2020. A
convolution reads a document; every aspect has a gate of its own, and attention over the words makes the aspect's vector
(`AspectReader`). Documents of like-minded users are read the same way, by one more convolution, and what they tell is
fused into the user's aspects (`fuse`). Aspects of the two domains correlate as the vectors that they attend by do; a
rating is the mean over all pairs of aspects of their correlation times the similarity of user and item (`score`):

    S = leaky(V_user^T W V_item),   r = mean(S * (A_user W A_item^T)) + b_user + b_item                       (Equation)

Two flows take turns, over users that both domains have: each predicts one domain's ratings from what a user wrote in
the other (`stages`). `AkiraZC/CATN` is the authors' code.

What differs, and why: attention is over a document's own words (code: over 500 places, empty ones too), and beyond a
document's ends everything is 0. Like-minded users' reviews are those the paper means (the code takes them of users that
are in one domain only, so that those it trains and tests have none: `auxiliary: empty`). The domains' batches take
turns one by one, until each has ended.

Shape letters: B rows, N documents, T words in all of them, M aspects, F filters, K width of an aspect.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from mdr_dist.batch import Batch, Ragged
from mdr_dist.methods.text import TextConfig, TextMethod, documents_of
from mdr_dist.nn.dropout import kept
from mdr_dist.nn.mlp import linear, start
from mdr_dist.nn.text import Convolution, attention, chosen
from mdr_dist.schema import Schema
from mdr_dist.stage import Rows, Slice, Stage

SLOPE = 0.2  # of the leaky ReLU, TensorFlow's default


class CATNConfig(TextConfig):
    """Settings.

    aspects     M. Code: 5
    filters     F, of either convolution. Code: 50
    window      words that a filter sees; odd. Code: 3
    dim         K. Code: 32
    aspect_std  deviation of the normal law that the aspects' own vectors start from. Near 0 no rating moves, for the
                correlation of aspects multiplies everything; then training takes many epochs to begin. Choice
    dropout     rate at which entries of aspects are dropped in training. Code: 0.2, which is told as 0.8 to keep
    auxiliary   reviews by like-minded users: `reviews` reads them, `empty` has none (the code's defect), `none` leaves
                them and their fusion out (ablation)
    leave_out   whether an item's document lacks the review of the user whose rating is predicted. Code: False
    """

    aspects: int = Field(default=5, ge=1)
    filters: int = Field(default=50, ge=1)
    window: int = Field(default=3, ge=1)
    dim: int = Field(default=32, ge=1)
    aspect_std: float = Field(default=1.0, gt=0)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    auxiliary: Literal["reviews", "empty", "none"] = "reviews"
    leave_out: bool = False


class AspectReader(nn.Module):
    """A domain's convolutions, gates and projections."""

    def __init__(self, config: CATNConfig) -> None:
        super().__init__()
        self.words = Convolution(config.word_dim, config.filters, window=config.window)
        self.auxiliary = Convolution(config.filters, config.filters, window=config.window)
        self.project, self.gate = (linear(config.filters, config.aspects * config.dim) for _ in range(2))

    def forward(self, x_WD: Tensor, words: Ragged, *, aspect_MK: Tensor, auxiliary: bool) -> Tensor:
        """[N, M, K] the aspects of documents; 0 of one without words."""
        c_TF = self.words(x_WD, words)
        if auxiliary:
            places = torch.arange(len(c_TF), device=c_TF.device)
            c_TF = self.auxiliary(c_TF, Ragged(places, words.lengths))
        g_TMK = (self.project(c_TF) * torch.sigmoid(self.gate(c_TF))).view(-1, *aspect_MK.shape)
        logit_TM = g_TMK.flatten(1) @ torch.block_diag(*aspect_MK[:, :, None])  # far faster than an einsum
        return attention(logit_TM, g_TMK, words)


class CATN(TextMethod):
    """One lane: the two flows by turns."""

    Config = CATNConfig
    config: CATNConfig
    unpenalised = ("words", "aspects")

    def __init__(self, config: CATNConfig, schema: Schema) -> None:
        super().__init__(config, schema)
        kinds = ("other", "item", "auxiliary") if config.auxiliary == "reviews" else ("other", "item")
        self.extras = replace(self.extras, documents=kinds, leave_out=config.leave_out)
        self.readers = nn.ModuleList(AspectReader(config) for _ in schema.domains)
        self.aspects = nn.Parameter(torch.empty(len(schema.domains), config.aspects, config.dim))
        self.similar = nn.Parameter(torch.empty(config.dim, config.dim))
        start(self.similar, None)
        nn.init.normal_(self.aspects, std=config.aspect_std)
        if config.auxiliary != "none":
            self.fuse_gate, self.fuse_all = (linear(2 * config.dim, config.dim) for _ in range(2))

    def read(self, kind: str, x_WD: Tensor, batch: Batch) -> Tensor:
        """[B, M, K] the aspects of each row's document of a kind, each document read once; `x` are the words'.

        A user's is read as the domain's whose rating is predicted, but attended to by the aspects of its own.
        """
        documents = documents_of(batch)
        at_B = documents.at[kind]
        attended_B = batch.domain if kind == "item" else documents.other
        found = x_WD.new_zeros(len(batch), self.config.aspects, self.config.dim)
        for domain in batch.domain.unique().tolist():
            row = (batch.domain == domain).nonzero().squeeze(1)
            document, place = at_B[row].unique(return_inverse=True)
            words, own = chosen(documents.words, document), self.aspects[attended_B[row[0]]]
            read = self.readers[domain](x_WD, words, aspect_MK=own, auxiliary=kind == "auxiliary")
            found = found.index_copy(0, row, read[place])
        return found

    def user_aspects(self, x_WD: Tensor, batch: Batch, *, kept_B2MK: Tensor) -> Tensor:
        """[B, M, K] of each row's user, like-minded users' fused in; multiplied by dropout's factors."""
        own_BMK = self.read("other", x_WD, batch) * kept_B2MK[:, 0]
        if self.config.auxiliary == "none":
            return own_BMK
        if self.config.auxiliary == "empty":
            return self.fuse(own_BMK, torch.zeros_like(own_BMK))
        return self.fuse(own_BMK, self.read("auxiliary", x_WD, batch) * kept_B2MK[:, 1])

    def fuse(self, own_BMK: Tensor, others_BMK: Tensor) -> Tensor:
        """[B, M, K] a user's aspects with what like-minded users' tell of them."""
        gate = torch.sigmoid(self.fuse_gate(torch.cat([own_BMK - others_BMK, own_BMK * others_BMK], dim=2)))
        return torch.tanh(self.fuse_all(torch.cat([own_BMK, gate * others_BMK], dim=2)))

    def score(self, rows: Rows, batch: Batch) -> Tensor:
        """[B] the rating."""
        x_WD, shape = self.word_vectors(rows, batch), (3, self.config.aspects, self.config.dim)
        kept_B3MK = kept(batch, *shape, rate=self.config.dropout, training=self.training)
        user_BMK = self.user_aspects(x_WD, batch, kept_B2MK=kept_B3MK[:, :2])
        item_BMK = self.read("item", x_WD, batch) * kept_B3MK[:, 2]
        # the one matrix serves both directions, transposed in the flow to the target
        to_target = (batch.domain == self.target)[:, None, None]
        similar_BKK = torch.where(to_target, self.similar.T, self.similar)
        wanted_BMK, there_BMK = self.aspects[documents_of(batch).other], self.aspects[batch.domain]
        correlated_BMM = functional.leaky_relu(wanted_BMK @ similar_BKK @ there_BMK.mT, SLOPE)
        alike_BMM = user_BMK @ similar_BKK @ item_BMK.mT
        return (correlated_BMM * alike_BMM).mean((1, 2)) + self.biases(rows, batch)

    def stages(self) -> tuple[Stage, ...]:
        """Both flows, by turns."""
        data = Slice(mix="alternate", users="common")
        return (Stage(name="flows", loss=self.losses, data=data, update=self.rule(), until=self.until),)
