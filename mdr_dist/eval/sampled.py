"""Ranking each truth against some candidates drawn at random: the protocol of papers with 1 positive and N negatives.

What a user did not take is numbered without the gaps of what is taken, so that every draw is a candidate; draws are
independent, one may come twice. They follow from the user and the truth alone: every run, on any number of processes,
meets the same.

Shape letters: R users, T truths, N draws, D width.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from mdr_dist.data.negatives import uniforms
from mdr_dist.data.ragged import Ints
from mdr_dist.eval.candidates import Asked

TRUTHS = 256  # whose candidates are in memory at once
NEAR = 16  # of them, on a CPU, whose candidates' vectors are in its cache at once


def names_of(asked: Asked, key: Ints, *, items: int) -> Ints:
    """[T] a number for each truth that no other user's or item's has; `key` [R] are the users'."""
    row, place = np.divmod(asked.truths, items)
    return key[row] * items + place


def sampled_standing(
    asked: Asked,
    users_RD: Tensor,
    *,
    items_ND: Tensor,
    items: int,
    name: Ints,
    count: int,
    seed: int,
    scores: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Ints, Ints]:
    """`above` and `tied` [T], as `ties.expected` wants them, of each truth among `count` candidates drawn for it.

    `name` [T] are the truths' `names_of`: draws follow from it and `seed`. Of `items_ND` the first `items` count.
    `scores` gives [T, N] of users' vectors [T, D] and those of each one's items [T, N, D]. A user who took every item
    has none to be drawn; such a truth meets itself `count` times.
    """
    free = _Free(asked, items)
    above, tied = np.zeros((2, len(asked.truths)), dtype=np.int64)
    for start in range(0, len(asked.truths), TRUTHS):
        part = slice(start, start + TRUTHS)
        row, place = np.divmod(asked.truths[part], items)
        drawn_TN = free.draw(row, place, uniforms(name[part], count, seed).T)
        among = torch.from_numpy(np.concatenate([place[:, None], drawn_TN], axis=1)).to(items_ND.device)
        users_TD = users_RD[torch.from_numpy(row).to(users_RD.device)]
        scores_TN = _in_parts(scores, users_TD, among, items_ND=items_ND)
        own, others = scores_TN[:, :1], scores_TN[:, 1:]
        above[part] = (others > own).sum(1).cpu().numpy()
        tied[part] = 1 + (others == own).sum(1).cpu().numpy()
    return above, tied


def _in_parts(
    scores: Callable[[Tensor, Tensor], Tensor], users_TD: Tensor, among_TN: Tensor, *, items_ND: Tensor
) -> Tensor:
    """[T, N] each truth's user's scores of its candidates."""
    size = NEAR if items_ND.device.type == "cpu" else TRUTHS
    parts = zip(users_TD.split(size), among_TN.split(size), strict=True)
    return torch.cat([scores(users, items_ND[among]) for users, among in parts])


class _Free:
    """The items that each user neither took earlier nor in the ranked split."""

    def __init__(self, asked: Asked, items: int) -> None:
        held = np.union1d(asked.taken, asked.truths)
        self._items, row = items, held // items
        self._starts = np.searchsorted(row, np.arange(asked.unrankable.shape[0] + 1))
        # an item's place less the held ones before it: `data/negatives.py` says why
        self._gaps = held - (np.arange(len(held)) - self._starts[row])

    def draw(self, row: Ints, place: Ints, uniform: np.ndarray) -> Ints:
        """[T, N] places of free items, from numbers in [0, 1); `place` itself where a user has none."""
        start = self._starts[row][:, None]
        free = self._items - (self._starts[row + 1] - self._starts[row])[:, None]
        rank = (uniform * free).astype(np.int64)
        passed = np.searchsorted(self._gaps, row[:, None] * self._items + rank, side="right") - start
        return np.where(free > 0, rank + passed, place[:, None])
