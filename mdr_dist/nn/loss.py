"""Losses over a batch's rows. Each is a scalar whose average over processes is its value on the global batch.

Rows of weight 0 count nowhere. Shape letters: B rows, D width, K domains.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from mdr_dist.batch import Batch

Over = Literal["domains", "rows"]


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
