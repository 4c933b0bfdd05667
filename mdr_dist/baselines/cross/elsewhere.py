"""What a row's user took in training in other domains than the row's.

Shape letters: B rows, D width, T entries of the rows' histories.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mdr_dist.batch import Batch
from mdr_dist.schema import Schema

HISTORY = "history"


def elsewhere(batch: Batch, schema: Schema) -> tuple[Tensor, Tensor, Tensor]:
    """[T] of every such item: its place in the list `history`, its row and its domain.

    Where domains share items, which then tell no domain, it is all but the row's own, as if of the row's domain.
    """
    taken, starts = batch.lists[HISTORY], schema[schema.item].starts
    item_T, row_T, device = taken.values, taken.row, taken.values.device
    own_T = domain_T = batch.domain[row_T]
    if starts:
        domain_T = torch.bucketize(item_T, torch.tensor(starts, device=device), right=True) - 1
    there_T = domain_T != own_T if starts else item_T != batch.ids[schema.item][row_T]
    place_T = there_T.nonzero().squeeze(1)
    return place_T, row_T[place_T], domain_T[place_T]


def mean_by_row(x_TD: Tensor, row_T: Tensor, rows: int) -> Tensor:
    """[B, D] the mean of each row's entries; 0 where it has none."""
    sums_BD = x_TD.new_zeros(rows, x_TD.shape[1]).index_add(0, row_T, x_TD)
    return sums_BD / torch.bincount(row_T, minlength=rows).clamp(min=1)[:, None]
