"""The highest scores of many rows, of which blocks of columns come one after the other.

Of a block only those chunks are looked into whose highest score reaches the row's floor, the k-th best of an earlier
moment, and what lies above the floor is kept aside. Floors rise when the number of blocks doubles: until the next time
about k scores a row pass, so that selecting the best costs little beside reading each block once.

Shape letters: R rows, N columns of a block, K scores kept, H chunks looked into, M scores found.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

CHUNK = 64  # columns; N is a multiple of it


class TopScores:
    """Each row's K highest scores, and how many equal the lowest of them."""

    def __init__(self, rows: int, k: int, *, device: torch.device) -> None:
        self._top = torch.full((rows, k), -math.inf, device=device)
        self._ties = torch.zeros(rows, dtype=torch.int64, device=device)
        self._floor = self._top[:, -1]
        self._aside: list[tuple[Tensor, Tensor]] = []
        self._blocks = 0

    def add(self, scores: Tensor) -> None:
        """Take a block of scores [R, N], float32. A score of -inf is no candidate; none may be NaN."""
        chunks = scores.view(-1, CHUNK)
        peak = chunks.amax(1).view(len(scores), -1)
        if self._blocks == 0:
            self._floor = _first_floor(peak, self._top.shape[1])
        hit_H = _reaching(peak, self._floor)
        row_H = hit_H // peak.shape[1]
        found = chunks.index_select(0, hit_H)
        place_M = _reaching(found, self._floor[row_H])
        value_M, row_M = found.view(-1)[place_M], row_H[place_M // CHUNK]
        higher = value_M > self._floor[row_M]
        self._ties += torch.bincount(row_M[~higher], minlength=len(scores))
        self._aside.append((value_M[higher], row_M[higher]))
        self._blocks += 1
        doubled = self._blocks & (self._blocks - 1) == 0
        if doubled or sum(len(values) for values, _ in self._aside) > scores.numel():
            self._settle()

    def result(self) -> tuple[Tensor, Tensor]:
        """[R, K] the highest scores, highest first, -inf where there are fewer, and [R] int64.

        The latter counts all the row's scores that equal its K-th best, whether they are among the K or not; it means
        nothing where that is -inf.
        """
        self._settle()
        return self._top, self._ties

    def _settle(self) -> None:
        """Put what was kept aside into the best, and raise the floors."""
        value_M, row_M = (torch.cat(parts) for parts in zip(*self._aside, strict=True))
        self._aside = [(value_M[:0], row_M[:0])]
        if not len(row_M):
            return
        row_M, order_M = row_M.sort()
        rows, owner_M, counts = row_M.unique_consecutive(return_inverse=True, return_counts=True)
        place_M = torch.arange(len(row_M), device=row_M.device) - (counts.cumsum(0) - counts)[owner_M]
        k, most = self._top.shape[1], int(counts.max())
        pool = value_M.new_full((len(rows), k + most), -math.inf)
        pool[:, :k] = self._top[rows]
        pool.view(-1)[owner_M * (k + most) + k + place_M] = value_M[order_M]
        best = pool.topk(k).values
        # a floor that rises has all its equals in the pool; one that stays has others, counted on the way
        last = best[:, -1]
        self._ties[rows] = torch.where(last > self._floor[rows], (pool == last[:, None]).sum(1), self._ties[rows])
        self._top[rows] = best
        self._floor = self._top[:, -1].clone()


def _first_floor(peak: Tensor, k: int) -> Tensor:
    """[R] a bound just below the k-th best of the first block: k chunks reach it."""
    lowest = torch.full_like(peak[:, 0], -math.inf)
    return torch.nextafter(peak.topk(k).values[:, -1], lowest) if peak.shape[1] >= k else lowest


def _reaching(values: Tensor, floor: Tensor) -> Tensor:
    """The places in the flattened `values` [R, N] that reach their row's floor [R]."""
    if values.device.type == "cpu":  # numpy does this two to three times as fast
        return torch.from_numpy(np.flatnonzero(values.numpy() >= floor.numpy()[:, None]))
    return (values >= floor[:, None]).view(-1).nonzero().squeeze(1)
