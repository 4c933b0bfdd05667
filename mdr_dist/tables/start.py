"""Where rows start: a function of (seed, table, row), so that placement and number of processes change no bit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor

from mdr_dist.stage import TableSpec

CHUNK = 65_536  # rows drawn by one generator


def start_rows(spec: TableSpec, seed: int, *, row_start: int, row_end: int) -> Iterator[tuple[int, Tensor]]:
    """(first row, [n, dim] float32) pieces that cover rows `[row_start, row_end)` of a table."""
    for chunk in range(row_start // CHUNK, -(-row_end // CHUNK)):
        first = chunk * CHUNK
        rows = _draw(spec, seed, chunk, min(CHUNK, spec.rows - first))
        low, high = max(row_start, first), min(row_end, first + CHUNK)
        yield low, rows[low - first : high - first]


def _draw(spec: TableSpec, seed: int, chunk: int, rows: int) -> Tensor:
    # the name that rows start by: a table placed `like` another starts on its own
    digest = hashlib.sha256(f"{seed}/{spec.name}/{chunk}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    empty = torch.empty(rows, spec.dim)
    if spec.init.kind == "normal":
        return empty.normal_(0.0, spec.init.scale, generator=generator)
    if spec.init.kind == "uniform":
        return empty.uniform_(-spec.init.scale, spec.init.scale, generator=generator)
    return empty.fill_(spec.init.scale)
