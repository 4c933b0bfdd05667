"""Row groups from disk: what is kept in memory, other file systems, and what a broken shard leads to."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa
import pytest

from mdr_dist import storage
from mdr_dist.batch import Batch
from mdr_dist.config import DataConfig
from mdr_dist.data.source import Dataset, Source
from mdr_dist.errors import UserError
from mdr_dist.stage import Slice

Make = Callable[..., Any]
SIZES = {
    ("train", "books", -1): 203,
    ("train", "films", -1): 90,
    ("train", "music", -1): 37,
    ("val", "books", -1): 45,
    ("val", "films", -1): 70,
}


def source(data: Any, batch: int = 12, **options: Any) -> Source:
    return Source(data.dataset, DataConfig(path=data.path, batch=batch, **options), seed=5)


def serials(batches: Iterable[Batch]) -> list[list[int]]:
    """The real rows of each batch."""
    return [batch.ids["serial"][batch.weight > 0].tolist() for batch in batches]


def flat(batches: Iterable[Batch]) -> list[int]:
    return list(itertools.chain.from_iterable(serials(batches)))


def test_a_small_cache_changes_nothing(tiny: Make) -> None:
    data = tiny({("train", "books", -1): 400, ("train", "films", -1): 300})
    for mix in ("joint", "alternate"):
        slice = Slice(mix=mix)  # type: ignore[arg-type]
        large, small = source(data, batch=20, streams=4), source(data, batch=20, streams=4)
        small.reader._max_bytes = 1
        expected = serials(large.batches(slice, stage="joint", epoch=0))
        assert serials(small.batches(slice, stage="joint", epoch=0)) == expected


def test_a_row_group_in_use_is_decoded_once_a_stream(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no cache at all, a stream still reads each of its row groups once, also when domains take turns."""
    data = tiny({("train", "books", -1): 320, ("train", "films", -1): 160})
    for mix in ("joint", "alternate"):
        reader = source(data, batch=4, streams=2, prefetch=0)
        reader.reader._max_bytes = 0
        decoded: Counter[int] = Counter()
        table = reader.reader.table
        monkeypatch.setattr(reader.reader, "table", lambda g, n, d=decoded, t=table: d.update([g.number]) or t(g, n))
        list(reader.batches(Slice(mix=mix), stage="joint", epoch=0))  # type: ignore[arg-type]
        assert len(decoded) == 30
        assert sum(decoded.values()) <= 30 + 2  # one more where two streams meet inside a row group


def test_the_cache_serves_the_next_epoch_and_keeps_to_its_bound(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny({("train", "books", -1): 320, ("val", "books", -1): 160})
    reader, decoded = source(data), list[int]()
    cache, table = reader.reader, reader.reader.table
    monkeypatch.setattr(cache, "table", lambda g, names: decoded.append(g.number) or table(g, names))
    first = flat(reader.batches(Slice(), stage="joint", epoch=0))
    assert sorted(decoded) == list(range(20))
    assert cache._bytes == sum(columns.bytes for columns in cache._decoded.values()) > 0
    assert sorted(flat(reader.batches(Slice(), stage="joint", epoch=1))) == sorted(first)
    assert len(decoded) == 20

    bound = cache._bytes // 2
    small = source(data)
    small.reader._max_bytes = bound
    for epoch in (0, 1):
        flat(small.batches(Slice(), stage="joint", epoch=epoch))
        assert 0.8 * bound < small.reader._bytes <= bound
        assert small.reader._bytes == sum(columns.bytes for columns in small.reader._decoded.values())
    kept = set(small.reader._decoded)
    flat(small.sweep(Slice(split="val")))  # an evaluation drives no training rows out
    assert kept <= set(small.reader._decoded)


def test_another_file_system_gives_the_same_rows(tiny: Make) -> None:
    data = tiny(SIZES)
    fs, path = storage.filesystem("memory://bucket/tiny")
    fs.put(data.path, path, recursive=True)
    remote = Source(Dataset.open("memory://bucket/tiny"), DataConfig(path="memory://bucket/tiny", batch=12), seed=5)
    expected = serials(source(data).batches(Slice(), stage="joint", epoch=0))
    assert serials(remote.batches(Slice(), stage="joint", epoch=0)) == expected
    gone = next(shard.path for shard in data.dataset.shards if shard.split == "val")
    fs.rm(f"{path}/{gone}")
    with pytest.raises(UserError, match=rf"{gone}: row group \d: the file is gone"):
        list(remote.sweep(Slice(split="val")))
    fs.rm(path, recursive=True)


# what is wrong on disk


def corrupt(data: Any, change: Callable[[str], None]) -> str:
    """Change the largest shard of the train split and return its path inside the data set."""
    shard = max((s for s in data.dataset.shards if s.split == "train"), key=lambda s: s.rows)
    change(os.path.join(data.path, shard.path))
    return shard.path


def read_all(data: Any) -> None:
    list(source(data, batch=20).batches(Slice(), stage="joint", epoch=0))


def test_a_truncated_shard_is_named(tiny: Make) -> None:
    data = tiny(SIZES)
    path = corrupt(data, lambda path: os.truncate(path, os.path.getsize(path) // 2))
    with pytest.raises(UserError, match=rf"{path}: row group \d+: the file has \d+ bytes, files.json says \d+"):
        read_all(data)


def test_a_shard_that_vanishes_while_training_is_named(tiny: Make) -> None:
    data = tiny(SIZES)
    batches = source(data, batch=20, streams=1).batches(Slice(), stage="joint", epoch=0)
    next(batches)
    paths = {shard.path for shard in data.dataset.shards if shard.split == "train"}
    for path in paths:
        os.remove(os.path.join(data.path, path))
    with pytest.raises(UserError, match=r"domain=.*\.parquet: row group \d+: the file is gone"):
        list(batches)


def test_garbage_inside_a_shard_is_named(tiny: Make) -> None:
    def overwrite(path: str) -> None:
        with open(path, "r+b") as file:
            file.seek(4)
            file.write(b"\xff" * 400)

    data = tiny(SIZES)
    path = corrupt(data, overwrite)
    with pytest.raises(UserError, match=rf"{path}: row group 0: "):
        read_all(data)


def test_rows_that_the_index_does_not_know_are_named(tiny: Make) -> None:
    data = tiny(SIZES)
    index = storage.read_json(f"{data.path}/files.json")
    entry = max(index["files"], key=lambda e: e["rows"])
    entry["rows"], entry["row_groups"] = entry["rows"] - 1, [*entry["row_groups"][:-1], entry["row_groups"][-1] - 1]
    storage.write_json(f"{data.path}/files.json", index)
    reader = Source(Dataset.open(data.path), DataConfig(path=data.path, batch=20), seed=0)
    with pytest.raises(UserError, match=rf"{entry['path']}.*holds \d+ rows in 4 row groups, files.json says"):
        list(reader.batches(Slice(), stage="joint", epoch=0))


def with_value(column: str, value: object) -> Callable[..., pa.Table]:
    """Put a value into the last row of the films."""

    def change(key: tuple[str, str, int], table: pa.Table) -> pa.Table:
        if key[:2] != ("train", "films"):
            return table
        at, rows = table.column_names.index(column), table[column].to_pylist()
        return table.set_column(at, table.schema.field(at), pa.array([*rows[:-1], value], table.schema.types[at]))

    return change


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("user", 40, r"column user: id 40 is not in \[0, 40\)"),
        ("item", -3, r"column item: id -3 is not in \[0, 90\)"),
        ("history", [1, 90], r"column history: id 90 is not in \[0, 90\)"),
        ("words", [-1], r"column words: id -1 is not in \[0, 50\)"),
        ("user_key", -1, "column user_key: -1 is not in"),
        ("click", float("nan"), r"column click: row 9 is nan"),
        ("price", float("inf"), r"column price: row 9 is inf"),
        ("vector", [0.0, float("nan"), 0.0], r"column vector: row 9 is nan"),
        ("user", None, "column user has 1 empty values"),
        ("words", [None], "column words has empty values inside lists"),
    ],
)
def test_values_that_the_schema_does_not_allow_are_named(tiny: Make, column: str, value: object, message: str) -> None:
    data = tiny(SIZES, change=with_value(column, value))
    with pytest.raises(UserError, match=rf"domain=films/split=train/part-00001\.parquet: row group 1: {message}"):
        read_all(data)


def test_columns_that_lack_or_differ_are_named(tiny: Make) -> None:
    data = tiny(SIZES, change=lambda _, table: table.drop_columns(["price"]))
    with pytest.raises(UserError, match="no column price"):
        read_all(data)
    data = tiny(SIZES, change=lambda _, t: t.set_column(0, "user", t["user"].cast(pa.int64())))
    with pytest.raises(UserError, match="column user is int64, the schema asks for int32"):
        read_all(data)


def test_what_is_no_index_is_named(tiny: Make) -> None:
    data = tiny(SIZES)
    storage.write_json(f"{data.path}/files.json", {"files": [{"path": "x"}]})
    with pytest.raises(UserError, match=r"files\.json: not an index of shards"):
        Dataset.open(data.path)
