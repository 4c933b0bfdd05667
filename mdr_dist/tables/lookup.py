"""From a batch to torchrec's keys and back to rows: what every sharded collection looks up, and how.

Every lookup is a sum over a bag. A single id and an entry of an unpooled list are bags of length 1, whose sum is the
row itself; torchrec's own kernel for unpooled lists has a backward pass many times slower and corrupts memory under a
dense kernel. A *key* is one column of bags: a feature, or, for a table of unpooled lists, all entries of all features
of that table one after the other.

Shape letters: B rows, D width, T list entries, S bags of a key.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor, KeyedTensor, PoolingType

from mdr_dist.batch import Batch, Ragged, world_size
from mdr_dist.errors import UserError
from mdr_dist.stage import TableSpec
from mdr_dist.tables.shard import stored_dim

Block = tuple[int, int] | None  # of a table with `start`: its first id and its rows
Key = tuple[tuple[str, ...], Block]  # the features that a key is made of


def column(batch: Batch, feature: str, spec: TableSpec) -> Tensor | Ragged:
    """A feature's rows of a table, [B] or a list; a `UserError` names a feature that is not there."""
    found = batch.ids.get(feature)
    if found is None:
        found = batch.lists.get(feature)
    if found is None:
        has = ", ".join(sorted({*batch.ids, *batch.lists}))
        raise UserError(f"table {spec.name!r} looks up feature {feature!r}, which batches lack; they have {has}")
    block = _block(spec)
    if block is None:
        return found
    return _within(found, block) if isinstance(found, Tensor) else Ragged(_within(found.values, block), found.lengths)


def _block(spec: TableSpec) -> Block:
    return None if spec.start is None else (spec.start, spec.rows)


def _within(ids: Tensor, block: tuple[int, int]) -> Tensor:
    """The ids' places in a block, 0 for those outside."""
    place = ids - block[0]
    return place.masked_fill_((place < 0) | (place >= block[1]), 0)


class Lookup:
    """The keys of tables that all pool, or all do not.

    Every key is cut into `folds` runs of bags, each a key of torchrec's. Two are not needed for the result but make a
    table's gradient come from more than one torchrec key, and for those fbgemm's CPU row-wise Adagrad takes a path
    that is about three times faster on one thread (tools/bench_tables.py).
    """

    def __init__(self, specs: list[TableSpec], *, folds: int) -> None:
        self._specs, self._folds = specs, folds
        self._flat = specs[0].pool == "none"
        self._of = {spec.name: self._keys_of(spec) for spec in specs}
        self._reader = {key: spec for spec in reversed(specs) for key in self._of[spec.name]}  # its first table
        self._keys = list(dict.fromkeys(key for keys in self._of.values() for key in keys))
        self._names = [name for key in self._keys for name in self._parts(key)]
        self._ones = torch.ones(0, dtype=torch.int64)
        self._places: dict[str, int] = {}

    def collection(self) -> EmbeddingBagCollection:
        """The tables as torchrec declares them, without memory."""
        configs = [
            EmbeddingBagConfig(
                name=spec.name,
                num_embeddings=spec.rows,
                embedding_dim=stored_dim(spec.dim),
                feature_names=[name for key in self._of[spec.name] for name in self._parts(key)],
                # a mean is divided out in _row: row-wise, torchrec's own is off by a few 1e-6
                pooling=PoolingType.SUM,
            )
            for spec in self._specs
        ]
        return EmbeddingBagCollection(tables=configs, device=torch.device("meta"))

    def jagged(self, batch: Batch) -> KeyedJaggedTensor:
        """The batch's ids in our own key order, whatever order the batch has: torchrec freezes the first it sees."""
        columns = [[column(batch, feature, self._reader[key]) for feature in key[0]] for key in self._keys]
        values = [ids if isinstance(ids, Tensor) else ids.values for key in columns for ids in key]
        size = self._size(batch, columns)
        lengths = [part for key in columns for part in self._lengths(key, size, like=batch.domain)]
        return KeyedJaggedTensor(
            keys=self._names, values=torch.cat(values), lengths=torch.cat(lengths), stride=size // self._folds
        )

    def rows(self, found: KeyedTensor, batch: Batch) -> dict[str, Tensor]:
        """Rows by "table.feature": [B, D], or [T, D] for an unpooled list."""
        if not self._places:
            self._places = {name: place for place, name in enumerate(found.keys())}
        parts = found.values().split(found.length_per_key(), dim=1)
        rows: dict[str, Tensor] = {}
        for spec in self._specs:
            for key in self._of[spec.name]:
                bags = self._bags(parts, key, spec)
                sizes = [_entries(column(batch, f, spec)) if self._flat else len(batch) for f in key[0]]
                for feature, row in zip(key[0], _cut(bags, sizes), strict=True):
                    rows[f"{spec.name}.{feature}"] = _mean(row, batch, feature) if spec.pool == "mean" else row
        return rows

    def _bags(self, parts: tuple[Tensor, ...], key: Key, spec: TableSpec) -> Tensor:
        names = self._parts(key)
        shared = sum(key in keys for keys in self._of.values()) > 1
        found = [parts[self._places[f"{name}@{spec.name}" if shared else name]] for name in names]
        bags = found[0] if len(found) == 1 else torch.cat(found)
        return bags if stored_dim(spec.dim) == spec.dim else _FirstCopy.apply(bags, spec.dim)

    def _keys_of(self, spec: TableSpec) -> list[Key]:
        together = [spec.features] if self._flat else [(feature,) for feature in spec.features]
        return [(features, _block(spec)) for features in together]

    def _parts(self, key: Key) -> list[str]:
        features, block = key
        name = "+".join(features) + (f"[{block[0]}:{block[0] + block[1]}]" if block else "")
        return [f"{name}#{fold}" for fold in range(self._folds)]

    def _size(self, batch: Batch, columns: list[list[Tensor | Ragged]]) -> int:
        """S: as many bags for every key in every process, a multiple of the folds; missing ones are empty."""
        size = max(1, *(sum(map(_entries, key)) for key in columns)) if self._flat else len(batch)
        if self._flat and world_size() > 1:
            largest = torch.tensor(size, device=batch.domain.device)
            dist.all_reduce(largest, dist.ReduceOp.MAX)
            size = int(largest)
        return -(-size // self._folds) * self._folds

    def _lengths(self, key: list[Tensor | Ragged], size: int, *, like: Tensor) -> list[Tensor]:
        if self._flat or isinstance(key[0], Tensor):
            full = sum(map(_entries, key))
            lengths = self._cached_ones(size, like)[:full]
        else:
            lengths = key[0].lengths
        missing = size - len(lengths)
        return [lengths, lengths.new_zeros(missing)] if missing else [lengths]

    def _cached_ones(self, size: int, like: Tensor) -> Tensor:
        if len(self._ones) < size:
            self._ones = like.new_ones(size, dtype=torch.int64)
        return self._ones


def _entries(ids: Tensor | Ragged) -> int:
    return len(ids if isinstance(ids, Tensor) else ids.values)


def _cut(bags: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
    """The features' bags of a key, without the empty ones at its end."""
    whole = bags if len(bags) == sum(sizes) else bags[: sum(sizes)]
    return (whole,) if len(sizes) == 1 else whole.split(sizes)


def _mean(sums: Tensor, batch: Batch, feature: str) -> Tensor:
    """Means of lists from their sums; an empty list gives 0, a single id its row."""
    ragged = batch.lists.get(feature)
    return sums if ragged is None or feature in batch.ids else sums / ragged.lengths.clamp(min=1)[:, None]


class _FirstCopy(torch.autograd.Function):
    """The first of several copies of each row; back, all get its gradient, so that the mean of its square is right."""

    @staticmethod
    def forward(ctx: Any, stored: Tensor, dim: int) -> Tensor:
        ctx.copies = stored.shape[1] // dim
        return stored[:, :dim].contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grads[0].repeat(1, ctx.copies), None
