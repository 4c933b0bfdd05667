"""A process's piece of a table, and operations on aligned pieces."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 4096  # rows mapped at once: little memory, and what a function makes on the way stays in the cache


def stored_dim(dim: int) -> int:
    """Columns in memory for rows of `dim`: fbgemm wants a multiple of 4, so some are stored several times over.

    Zero columns would change row-wise Adagrad's mean over the squared gradient; columns that repeat the row's do not.
    Only a row's first copy is ever read.
    """
    return math.lcm(dim, 4)


@dataclass(frozen=True)
class TableShard:
    """A table's rows from `row_start` and `columns` columns from `col_start`.

    `stored` is the memory itself: `weight` and optimizer state, [n, width] or [n] each; see `stored_dim`.
    """

    stored: Mapping[str, Tensor]
    columns: int
    row_start: int = 0
    col_start: int = 0

    @property
    def tensor(self) -> Tensor:
        """[n, columns] view of the weights."""
        return self.view("weight")

    def view(self, key: str) -> Tensor:
        """[n, columns] or [n] view of `weight` or of optimizer state."""
        tensor = self.stored[key]
        return tensor[:, : self.columns] if tensor.dim() == 2 else tensor


@torch.no_grad()
def map_shards(fn: Callable[..., Tensor], into: list[TableShard], *sources: list[TableShard]) -> None:
    """`into[r] = fn(source[r], …)` over aligned shards, in chunks of rows; `ValueError` if they are not aligned."""
    if {len(shards) for shards in sources} - {len(into)}:
        raise ValueError(NOT_ALIGNED)
    for shards in zip(into, *sources, strict=True):
        if len({(s.row_start, s.col_start, tuple(s.tensor.shape)) for s in shards}) > 1:
            raise ValueError(NOT_ALIGNED)
        for start in range(0, len(shards[0].tensor), CHUNK):
            parts = [shard.tensor[start : start + CHUNK] for shard in shards]
            parts[0].copy_(fn(*parts[1:]))


NOT_ALIGNED = "the tables' shards are not aligned: declare one `like` the other"
