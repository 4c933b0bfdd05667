"""A process's piece of a table, and operations on aligned pieces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 65_536  # rows mapped at once: bounds the memory that a table operation takes


@dataclass(frozen=True)
class TableShard:
    """`tensor` [n, columns] is a view of rows from `row_start`, columns from `col_start` of a table."""

    tensor: Tensor
    row_start: int
    col_start: int


@torch.no_grad()
def map_shards(fn: Callable[..., Tensor], into: list[TableShard], *sources: list[TableShard]) -> None:
    """`into[r] = fn(source[r], …)` over aligned shards, in chunks of rows; `ValueError` if they are not aligned."""
    for shards in zip(into, *sources, strict=True):
        places = {(s.row_start, s.col_start, tuple(s.tensor.shape)) for s in shards}
        if len(places) > 1:
            raise ValueError("the tables' shards are not aligned: declare one `like` the other")
        for start in range(0, len(shards[0].tensor), CHUNK):
            parts = [shard.tensor[start : start + CHUNK] for shard in shards]
            parts[0].copy_(fn(*parts[1:]))
