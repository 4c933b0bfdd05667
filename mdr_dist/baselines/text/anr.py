"""ANR: a rating is the sum over aspects of how user's and item's documents agree, weighed by what matters to both.

Paper: Chin et al., "ANR: Aspect-based Neural Recommender", CIKM 2018, a baseline of CATN. Every word has a vector in
each aspect's space; attention over windows of words makes an aspect's vector of a document (`read`). How the aspects
of user and item fit tells how much each counts (`importance`). With P of the user and Q of the item, [A, H] each:

    S = relu(P W_s Q^T),   beta_u = softmax(relu(P W_x + S Q W_y) v_x),   beta_i = softmax(relu(Q W_y + S^T P W_x) v_y)
    r = sum_a beta_u,a beta_i,a <P_a, Q_a> + b_user + b_item                                                 (Equation)

`almightyGOSU/ANR` is the authors' code.

What differs: the user's document is what she wrote in the other domain, so that users who are new to the target can be
read too, and training is on the target's ratings of users that both domains have; how CATN's comparison adapted it is
not told. The rating's common level is the item's mean rating. Beyond a document's ends everything is 0.

Shape letters: B rows, N documents, T words in all of them, W words of the batch, A aspects, H width of an aspect, C
words of a window.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from mdr_dist.batch import Batch, Extras
from mdr_dist.methods.text import TextConfig, TextMethod, documents_of
from mdr_dist.nn.dropout import kept
from mdr_dist.nn.mlp import start
from mdr_dist.nn.text import attention, windowed
from mdr_dist.schema import Schema
from mdr_dist.stage import Rows, Slice, Stage


class ANRConfig(TextConfig):
    """Settings.

    aspects     A. Code: 5
    dim         H, width of an aspect. Code: 10
    window      C, words that attention sees; odd. Code: 3
    importance  width of the space in which importance is told. Code: 50
    dropout     rate at which entries of aspects are dropped in training. Code: 0.5
    """

    aspects: int = Field(default=5, ge=1)
    dim: int = Field(default=10, ge=1)
    window: int = Field(default=3, ge=1)
    importance: int = Field(default=50, ge=1)
    dropout: float = Field(default=0.5, ge=0, lt=1)


class ANR(TextMethod):
    """One lane over the target's rows."""

    Config = ANRConfig
    config: ANRConfig
    extras = Extras(means=True, documents=("other", "item"))

    def __init__(self, config: ANRConfig, schema: Schema) -> None:
        super().__init__(config, schema)
        aspects, dim = config.aspects, config.dim
        self.project = nn.Parameter(torch.empty(aspects * dim, config.word_dim))
        self.attend = nn.Parameter(torch.empty(aspects, config.window, dim))
        self.fit = nn.Parameter(torch.empty(dim, dim))
        self.user_space, self.item_space = (nn.Parameter(torch.empty(dim, config.importance)) for _ in range(2))
        for weight in (self.project, self.fit, self.user_space, self.item_space):
            start(weight, None)
        self.user_weigh, self.item_weigh = (nn.Parameter(torch.empty(config.importance)) for _ in range(2))
        for weight in (self.attend, self.user_weigh, self.item_weigh):
            nn.init.normal_(weight, std=0.1)

    def read(self, rows: Rows, batch: Batch) -> Tensor:
        """[N, A, H] the aspects of all documents; 0 of one without words."""
        words = documents_of(batch).words
        own_WAH = (self.word_vectors(rows, batch) @ self.project.T).unflatten(1, self.attend.shape[::2])
        tap_WCA = torch.einsum("wah,ach->wca", own_WAH, self.attend)
        return attention(windowed(tap_WCA, words), own_WAH[words.values], words)

    def importance(self, user_BAH: Tensor, item_BAH: Tensor) -> Tensor:
        """[B, A] by how much each aspect counts: the product of its share with the user and with the item."""
        fit_BAA = torch.relu(user_BAH @ self.fit @ item_BAH.mT)
        user_BAI, item_BAI = user_BAH @ self.user_space, item_BAH @ self.item_space
        user_BA = torch.relu(user_BAI + fit_BAA @ item_BAI) @ self.user_weigh
        item_BA = torch.relu(item_BAI + fit_BAA.mT @ user_BAI) @ self.item_weigh
        return user_BA.softmax(1) * item_BA.softmax(1)

    def score(self, rows: Rows, batch: Batch) -> Tensor:
        """[B] the rating."""
        read_NAH, at = self.read(rows, batch), documents_of(batch).at
        kept_B2AH = kept(batch, 2, *self.attend.shape[::2], rate=self.config.dropout, training=self.training)
        user_BAH, item_BAH = read_NAH[at["other"]] * kept_B2AH[:, 0], read_NAH[at["item"]] * kept_B2AH[:, 1]
        agree_BA = (user_BAH * item_BAH).sum(2)
        return (self.importance(user_BAH, item_BAH) * agree_BA).sum(1) + self.biases(rows, batch)

    def stages(self) -> tuple[Stage, ...]:
        """The target's ratings by users in common."""
        data = Slice(domains=(self.target,), users="common")
        return (Stage(name="target", loss=self.losses, data=data, update=self.rule(), until=self.until),)
