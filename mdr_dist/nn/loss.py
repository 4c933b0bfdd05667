"""Losses over a batch's rows. Each is a scalar whose average over processes is its value on the global batch.

Rows of weight 0 count nowhere. Shape letters: B rows, N rows of the global batch, D width, K domains.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from mdr_dist.batch import Batch, world_size

Over = Literal["domains", "rows"]
CHUNK = 256  # rows of a batch that are compared with all others at a time


def bce(logit_B: Tensor, batch: Batch, *, over: Over) -> Tensor:
    """Binary cross-entropy of the label.

    `over="domains"`: the sum over domains of each domain's mean, so that a small domain counts as much as a large one
    (Crocodile, equation 7); `over="rows"`: the mean over all rows.
    """
    loss_B = functional.binary_cross_entropy_with_logits(logit_B, batch.label, reduction="none")
    return batch.domain_mean(loss_B).sum() if over == "domains" else batch.mean(loss_B)


def l2(rows: Iterable[Tensor], batch: Batch) -> Tensor:
    """The mean over the batch of the squared length of all a row's embeddings; each of `rows` is [B, D].

    Only what was looked up counts, the more often the more, so a step never touches a whole table. A list counts as
    the one vector it was pooled to.
    """
    return batch.mean(torch.stack([row_BD.square().sum(1) for row_BD in rows]).sum(0))


def bpr(gap_B: Tensor, batch: Batch) -> Tensor:
    """Bayesian personalized ranking: the mean of softplus(-gap) over the rows with a positive label.

    `gap` is the score of the row's item less that of an item drawn as its negative (Rendle et al., UAI 2009).
    """
    return positives(functional.softplus(-gap_B), batch)


def pairs(positive_B: Tensor, negative_B: Tensor, batch: Batch) -> Tensor:
    """The mean over positive rows of softplus(-positive) + softplus(negative): log loss with a negative a row."""
    return positives(functional.softplus(-positive_B) + functional.softplus(negative_B), batch)


def positives(loss_B: Tensor, batch: Batch) -> Tensor:
    """The mean over the rows with a positive label."""
    weight_B = batch.weight * (batch.label > 0.5)
    count = batch.total(weight_B.sum()).clamp(min=1.0)
    return (loss_B * weight_B).sum() * (world_size() / count)


def multinomial(logit_BN: Tensor, batch: Batch) -> Tensor:
    """The mean over rows of the multinomial's -log likelihood: minus the log-softmax of every item that was taken.

    The logits are of the items of the list `catalogue`, of which the list `taken` names each row's.
    """
    catalogue, taken = batch.lists["catalogue"].values, batch.lists["taken"]
    place = torch.searchsorted(catalogue, taken.values).clamp(max=max(len(catalogue) - 1, 0))
    there = catalogue[place] == taken.values  # those that a sample left out are nowhere
    row, place = taken.row[there], place[there]
    found = logit_BN.log_softmax(1)[row, place]
    return -(found * batch.weight[row]).sum() * (world_size() / max(batch.count, 1))


def contrast(one_BD: Tensor, two_BD: Tensor, *, batch: Batch, temperature: float) -> Tensor:
    """Each row's two vectors must find each other among those of all rows of the global batch, by cosine.

    The mean over rows of the cross-entropy of both directions, halved (NT-Xent between two views). Cosines are made
    CHUNK rows at a time, and again for the backward pass: of B x N of them, none need be in memory.
    """
    one_BD, two_BD = functional.normalize(one_BD, dim=1), functional.normalize(two_BD, dim=1)
    own_B, loss_B = batch.position.clamp(min=0), torch.zeros_like(batch.weight)
    for mine_BD, others_BD in ((one_BD, two_BD), (two_BD, one_BD)):
        others_ND = batch.whole(others_BD)
        chunks = zip((mine_BD / temperature).split(CHUNK), own_B.split(CHUNK), strict=True)
        parts = [checkpoint(_found, mine, others_ND, own, use_reentrant=False) for mine, own in chunks]
        loss_B = loss_B + torch.cat(parts) / 2
    return batch.mean(loss_B)


def _found(mine_BD: Tensor, others_ND: Tensor, own_B: Tensor) -> Tensor:
    """[B] the cross-entropy of finding row `own` of the others by inner product."""
    return functional.cross_entropy(mine_BD @ others_ND.T, own_B, reduction="none")
