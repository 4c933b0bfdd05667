"""A row group in memory, and the checks that its rows pass once, when it is decoded.

Ids lie row by row, so that picking a row touches one or two cache lines however many features there are.

Shape letters: R rows, C id features, F floats a row, T list entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa

from mdr_dist.data.layout import arrow_schema
from mdr_dist.data.ragged import Array
from mdr_dist.errors import UserError
from mdr_dist.schema import DOMAIN, USER_KEY, Feature, Schema

_BLOCK = 4096  # rows laid out at a time: they stay in the cache while all their columns are written


class Layout:
    """Where each feature lies in `Columns`, and which columns of a shard they come from."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.ids = tuple(feature for feature in schema.of_kind("id") if feature.name != DOMAIN)
        self.lists = schema.of_kind("ids", "text")
        self.dense = schema.of_kind("dense")
        columns = arrow_schema(schema)
        self.types: dict[str, pa.DataType] = dict(zip(columns.names, columns.types, strict=True))
        widths = [feature.width for feature in self.dense] + [1] * len(schema.labels)
        ends = np.cumsum(widths).tolist()
        names = [feature.name for feature in self.dense] + list(schema.labels)
        self.floats = {n: slice(end - width, end) for n, end, width in zip(names, ends, widths, strict=True)}
        self.id_type = np.int32 if all(self.types[f.name] == pa.int32() for f in self.ids) else np.int64
        self.num_floats = sum(widths)


@dataclass(frozen=True)
class Columns:
    """The decoded rows of one row group, all of one domain.

    ids [R, C] int32, or int64 if any id space needs it; floats [R, F] float32, dense features and then labels;
    user_key [R] int64; lists feature → (values [T] integers, offsets [R+1] int32).
    """

    ids: Array
    floats: Array
    user_key: Array
    lists: dict[str, tuple[Array, Array]]
    domain: int

    def __len__(self) -> int:
        return len(self.user_key)

    @property
    def bytes(self) -> int:
        """Memory held."""
        lists = sum(values.nbytes + offsets.nbytes for values, offsets in self.lists.values())
        return self.ids.nbytes + self.floats.nbytes + self.user_key.nbytes + lists


def decode(table: pa.Table, layout: Layout, *, domain: int, where: str) -> Columns:
    """The row group as arrays; a `UserError` that begins with `where` if it holds what the schema does not allow."""
    columns = {name: plain(table, name, expected=expected, where=where) for name, expected in layout.types.items()}
    for feature in layout.ids:
        check_ids(_numpy(columns[feature.name]), feature, where)
    user_key = _numpy(columns[USER_KEY])
    check_users(user_key, where)
    ids = _by_row([_numpy(columns[f.name]) for f in layout.ids], len(user_key), layout.id_type)
    floats = _by_row([_floats(columns[name], name, where) for name in layout.floats], len(user_key), np.float32)
    lists = {feature.name: _list(columns[feature.name], feature, where) for feature in layout.lists}
    return Columns(ids, floats, user_key, lists, domain)


def plain(table: pa.Table, name: str, *, expected: pa.DataType, where: str) -> pa.Array:
    """A column as one array of the expected type without nulls; a `UserError` if it is not that."""
    if name not in table.column_names:
        raise UserError(f"{where}: no column {name}; prepare the data set again")
    column = table.column(name)
    if column.type != expected:
        raise UserError(f"{where}: column {name} is {column.type}, the schema asks for {expected}")
    whole = column.chunk(0) if column.num_chunks == 1 else cast(pa.Array, pa.concat_arrays(column.chunks))
    if whole.null_count:
        raise UserError(f"{where}: column {name} has {whole.null_count} empty values; every row needs one")
    return whole


def check_ids(values: Array, feature: Feature, where: str) -> None:
    """Raise `UserError` unless every id is in [0, rows): torchrec would silently read row 0 for any other."""
    unsigned = values.view(f"u{values.dtype.itemsize}")  # a negative id becomes a huge one
    if len(values) == 0 or unsigned.max() < feature.rows:
        return
    bad = values[unsigned >= feature.rows][0]
    raise UserError(
        f"{where}: column {feature.name}: id {bad} is not in [0, {feature.rows}), "
        f"the ids that schema.json gives the feature; prepare the data set again"
    )


def check_users(user_key: Array, where: str, *, limit: int = np.iinfo(np.int64).max) -> None:
    """Raise `UserError` unless every user's number is in [0, limit)."""
    for bad in (user_key.min(), user_key.max()) if len(user_key) else ():
        if not 0 <= bad < limit:
            raise UserError(f"{where}: column {USER_KEY}: {bad} is not in [0, {limit}); number the users from 0")


def _numpy(array: pa.Array) -> Array:
    return array.to_numpy(zero_copy_only=True)


def _floats(array: pa.Array, name: str, where: str) -> Array:
    """[R] or [R, width]"""
    rows = len(array)
    if isinstance(array, pa.FixedSizeListArray):
        array = array.flatten()
    values = array.to_numpy(zero_copy_only=False)  # a null entry of a list becomes a NaN and is caught below
    finite = np.isfinite(values)
    if not finite.all():
        bad = int(np.argmin(finite))
        raise UserError(
            f"{where}: column {name}: row {bad * rows // len(values)} is {values[bad]}; numbers must be finite"
        )
    return values.reshape(rows, -1) if len(values) != rows else values


def _list(array: pa.Array, feature: Feature, where: str) -> tuple[Array, Array]:
    entries = cast(pa.ListArray, array)
    if entries.values.null_count:
        raise UserError(f"{where}: column {feature.name} has empty values inside lists; leave them out")
    values = _numpy(entries.values)
    check_ids(values, feature, where)
    return values, _numpy(entries.offsets)


def _by_row(columns: list[Array], rows: int, dtype: Any) -> Array:
    """[rows, sum of widths] the columns side by side, each row's values together."""
    widths = [1 if column.ndim == 1 else column.shape[1] for column in columns]
    out = np.empty((rows, sum(widths)), dtype=dtype)
    for start in range(0, rows, _BLOCK):
        at = 0
        for column, width in zip(columns, widths, strict=True):
            part = column[start : start + _BLOCK]
            out[start : start + _BLOCK, at : at + width] = part[:, None] if column.ndim == 1 else part
            at += width
    return out
