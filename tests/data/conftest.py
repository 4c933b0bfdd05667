"""A small data set, every kind of feature in it, written as `prepare` writes one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import settings

from mdr_dist.data import layout
from mdr_dist.data.reader import Dataset
from mdr_dist.schema import Feature, Schema

settings.register_profile("no deadline", deadline=None)  # a busy machine is no defect
settings.load_profile("no deadline")

USERS, ITEMS, SERIALS, WORDS = 40, 30, 100_000, 50  # ITEMS a domain
WIDTH = 4  # of a document
GROUP = 16  # rows a row group while the fixture is in use
Key = tuple[str, str, int]  # split, domain, period (-1: none)


@dataclass(frozen=True)
class Tiny:
    """A data set and its rows in on-disk order; `serial` is the number of a row, different for each."""

    path: str
    dataset: Dataset
    tables: dict[Key, pa.Table]

    def row(self, serial: int) -> dict[str, Any]:
        """The row with that serial number, as written, with its `domain`."""
        return self._by_serial[serial]

    def write(self, schema: Schema, tables: Mapping[Key, pa.Table]) -> Tiny:
        """Another data set beside this one."""
        return write_tiny(self.path + "-again", schema, tables)

    @property
    def _by_serial(self) -> dict[int, dict[str, Any]]:
        if not hasattr(self, "_rows"):
            rows = {
                row["serial"]: {**row, "domain": self.dataset.schema.domain_index(domain)}
                for (_, domain, _), table in self.tables.items()
                for row in table.to_pylist()
            }
            object.__setattr__(self, "_rows", rows)
        return self._rows  # type: ignore[attr-defined]

    def serials(self, split: str, *domains: str) -> list[int]:
        """The serial numbers of a split's rows in on-disk order."""
        keys = sorted(key for key in self.tables if key[0] == split and (not domains or key[1] in domains))
        keys.sort(key=lambda key: (key[1], key[2]))
        return [serial for key in keys for serial in self.tables[key]["serial"].to_pylist()]


def tiny_schema(domains: tuple[str, ...], *, item_rows: int = ITEMS) -> Schema:
    """Every kind of feature, shared and per domain."""
    k = len(domains)
    return Schema(
        name="tiny",
        domains=domains,
        features=(
            Feature(name="user", kind="id", rows=USERS),
            Feature(
                name="item",
                kind="id",
                rows=item_rows * k,
                scope="domain",
                starts=tuple(item_rows * i for i in range(k)),
            ),
            Feature(name="domain", kind="id", rows=k),
            Feature(name="serial", kind="id", rows=SERIALS),
            Feature(name="history", kind="ids", rows=item_rows * k, vocabulary="item"),
            Feature(name="words", kind="text", rows=WORDS, width=WIDTH),
            Feature(name="price", kind="dense"),
            Feature(name="vector", kind="dense", width=3),
        ),
        labels=("click", "buy"),
    )


def tiny_table(schema: Schema, rows: int, *, domain: int, first: int) -> pa.Table:
    """Random rows of a domain, their serial numbers from `first` on."""
    rng = np.random.default_rng(first)
    item = schema["item"]
    size = item.rows // len(schema.domains)
    users = rng.integers(1, USERS, rows)
    data = {
        "user": users,
        "item": item.starts[domain] + rng.integers(0, size, rows),
        "serial": np.arange(first, first + rows),
        "history": [rng.integers(0, item.rows, rng.integers(0, 5)).tolist() for _ in range(rows)],
        "words": [rng.integers(0, WORDS, rng.integers(0, 3)).tolist() for _ in range(rows)],
        "price": rng.normal(size=rows).astype(np.float32),
        "vector": rng.normal(size=(rows, 3)).astype(np.float32).tolist(),
        "click": (rng.random(rows) < 0.5).astype(np.float32),
        "buy": (rng.random(rows) < 0.1).astype(np.float32),
        "user_key": users * 7,
    }
    columns = layout.arrow_schema(schema)
    return pa.table([pa.array(data[field.name], field.type) for field in columns], schema=columns)


def write_tiny(path: str, schema: Schema, tables: Mapping[Key, pa.Table]) -> Tiny:
    """Write the tables as a data set and open it."""
    rows: dict[str, dict[str, int]] = {}
    with layout.NewDataset(path) as new:
        shards: list[layout.Shard] = []
        for (split, domain, period), table in tables.items():
            writer = layout.ShardWriter(new.root, table.schema, domain=domain, split=split, period=period)
            writer.write(table)
            shards += writer.close()
            rows.setdefault(split, {}).setdefault(domain, 0)
            rows[split][domain] += table.num_rows
        new.commit(schema.model_copy(update={"rows": rows}), shards, {})
    return Tiny(path, Dataset.open(path), dict(tables))


@pytest.fixture
def tiny(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Tiny]:
    """`tiny({("train", "books", -1): 100, …})` writes a data set with that many rows of each."""
    monkeypatch.setattr(layout, "ROW_GROUP", GROUP)
    monkeypatch.setattr(layout, "FILE_ROWS", 4 * GROUP)
    monkeypatch.setenv("TMPDIR", str(tmp_path_factory.mktemp("tmpdir")))
    monkeypatch.setattr("tempfile.tempdir", None)

    def make(sizes: Mapping[Key, int], *, change: Callable[[Key, pa.Table], pa.Table] | None = None) -> Tiny:
        domains = tuple(dict.fromkeys(domain for _, domain, _ in sizes))
        schema, tables, first = tiny_schema(domains), {}, 0
        for key, rows in sizes.items():
            table = tiny_table(schema, rows, domain=domains.index(key[1]), first=first)
            tables[key] = change(key, table) if change else table
            first += rows
        return write_tiny(str(tmp_path_factory.mktemp("tiny") / "set"), schema, tables)

    return make
