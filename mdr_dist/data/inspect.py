"""A summary of a data set, after a check that its files are what its index says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mdr_dist import storage
from mdr_dist.data.layout import REPORT, Shard, arrow_schema, read_schema, read_shards
from mdr_dist.errors import UserError
from mdr_dist.schema import Schema


def inspect(path: str) -> dict[str, Any]:
    """What the data set holds: domains with rows and label mean by split, features, size, shards and fingerprint.

    Every shard is checked against the index: size, columns, rows and row groups; the sums of rows against the schema.
    Label means are read from the shards, one column at a time. `UserError` naming the first file that is wrong.
    """
    schema, shards = read_schema(path), read_shards(path)
    means, sizes = _Means(schema), storage.files(path)
    for shard in shards:
        means.add(shard, _checked(path, schema, shard, size=sizes.get(shard.path)))
    if _positive(means.rows) != _positive(schema.rows):
        raise UserError(f"{path}: the shards' rows do not add up to those in schema.json; prepare the data set again")
    return {
        "name": schema.name,
        "fingerprint": schema.fingerprint,
        "labels": list(schema.labels),
        "periods": schema.periods,
        "domains": means.summary(),
        "features": [
            {
                "name": feature.name,
                "kind": feature.kind,
                "rows": feature.rows,
                "width": feature.width,
                "scope": feature.scope,
                "vocabulary": feature.vocabulary,
            }
            for feature in schema.features
        ],
        "user": schema.user,
        "item": schema.item,
        "rows": sum(shard.rows for shard in shards),
        "shards": len(shards),
        "bytes": sum(shard.bytes for shard in shards),
        "report": REPORT in sizes,
    }


def _positive(rows: dict[str, dict[str, int]]) -> dict[tuple[str, str], int]:
    return {(split, domain): n for split, by_domain in rows.items() for domain, n in by_domain.items() if n}


def _checked(path: str, schema: Schema, shard: Shard, *, size: int | None) -> pa.Table:
    """The label columns of a shard that is as the index says."""
    url = storage.join(path, shard.path)
    schema.domain_index(shard.domain)
    fs, place = storage.filesystem(url)
    if size is None:
        raise UserError(f"{url}: this shard is missing; copy it again or prepare the data set again")
    if size != shard.bytes:
        raise UserError(f"{url}: {size} bytes, but files.json says {shard.bytes}; the shard is damaged or cut short")
    try:
        with fs.open(place, "rb", cache_type="none") as file:
            parquet = pq.ParquetFile(file, pre_buffer=True)
            _compare(url, schema, shard, parquet)
            return parquet.read(columns=list(schema.labels))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{url}: not a readable Parquet file: {str(error).splitlines()[0]}") from error


def _compare(url: str, schema: Schema, shard: Shard, parquet: pq.ParquetFile) -> None:
    footer = parquet.metadata
    groups = tuple(footer.row_group(number).num_rows for number in range(footer.num_row_groups))
    if groups != shard.row_groups or footer.num_rows != shard.rows:
        raise UserError(f"{url}: row groups of {groups} rows, but files.json says {shard.row_groups}")
    columns = parquet.schema_arrow
    expected = arrow_schema(schema, time="time" in columns.names)
    if columns.names != expected.names or columns.types != expected.types:
        raise UserError(f"{url}: columns {', '.join(columns.names)} are not those of schema.json")


class _Means:
    """Rows and label sums by domain and split."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._sums: dict[tuple[str, str], list[float]] = {}
        self.rows = {split: dict.fromkeys(schema.domains, 0) for split in schema.rows}

    def add(self, shard: Shard, labels: pa.Table) -> None:
        by_domain = self.rows.setdefault(shard.split, dict.fromkeys(self._schema.domains, 0))
        by_domain[shard.domain] += shard.rows
        sums = self._sums.setdefault((shard.domain, shard.split), [0.0] * len(self._schema.labels))
        for place, label in enumerate(self._schema.labels):
            sums[place] += float(labels[label].to_numpy().sum(dtype=np.float64))

    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = {domain: {"rows": {}, "label_mean": {}} for domain in self._schema.domains}
        order = list(self.rows)
        for (domain, split), sums in sorted(self._sums.items(), key=lambda entry: order.index(entry[0][1])):
            rows = self.rows[split][domain]
            found[domain]["rows"][split] = rows
            found[domain]["label_mean"][split] = {
                label: total / rows for label, total in zip(self._schema.labels, sums, strict=True)
            }
        return found
