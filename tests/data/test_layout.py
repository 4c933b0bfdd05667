"""A data set on disk: what is written comes back, and nothing half-written is ever seen."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mdr_dist import storage
from mdr_dist.data import layout
from mdr_dist.data.layout import NewDataset, ShardWriter, arrow_schema, read_schema, read_shards
from mdr_dist.errors import UserError
from mdr_dist.schema import Feature, Schema

Make = Callable[..., Any]


def test_columns_have_the_types_of_their_features() -> None:
    schema = Schema(
        name="wide",
        domains=("a",),
        features=(
            Feature(name="user", kind="id", rows=2**31 - 1),
            Feature(name="item", kind="id", rows=2**31),
            Feature(name="domain", kind="id", rows=1),
            Feature(name="tags", kind="ids", rows=9),
            Feature(name="words", kind="text", rows=2**40),
            Feature(name="price", kind="dense"),
            Feature(name="image", kind="dense", width=4),
        ),
    )
    types = {field.name: str(field.type) for field in arrow_schema(schema, time=True)}
    assert types == {
        "user": "int32",
        "item": "int64",
        "tags": "list<item: int32>",
        "words": "list<item: int64>",
        "price": "float",
        "image": "fixed_size_list<item: float>[4]",
        "label": "float",
        "user_key": "int64",
        "time": "int64",
    }
    assert "time" not in arrow_schema(schema).names


@pytest.mark.parametrize("chunks", [[200], [1] * 40, [5, 60, 0, 3], [16, 16, 16], [63, 1, 1]])
def test_shards_hold_the_rows_in_order_in_whole_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunks: list[int]
) -> None:
    monkeypatch.setattr(layout, "ROW_GROUP", 16)
    monkeypatch.setattr(layout, "FILE_ROWS", 64)
    columns = pa.schema([pa.field("user", pa.int32()), pa.field("label", pa.float32())])
    writer = ShardWriter(str(tmp_path), columns, domain="a/b c", split="train", period=3, first=7)
    at = 0
    for rows in chunks:
        writer.write(pa.table({"label": [0.5] * rows, "user": list(range(at, at + rows))}))  # other order, other types
        at += rows
    shards = writer.close()
    assert sum(shard.rows for shard in shards) == at
    rows: list[int] = []
    for number, shard in enumerate(shards):
        assert shard.path == f"domain=a%2Fb%20c/split=train/period-0003-part-{7 + number:05d}.parquet"
        assert (shard.domain, shard.split, shard.period) == ("a/b c", "train", 3)
        file = pq.ParquetFile(tmp_path / shard.path)
        groups = tuple(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))
        assert groups == shard.row_groups and sum(groups) == shard.rows <= 64
        last = number == len(shards) - 1
        assert all(group == 16 for group in (groups[:-1] if last else groups))
        assert shard.bytes == os.path.getsize(tmp_path / shard.path)
        assert file.schema_arrow.equals(columns)
        rows += file.read()["user"].to_pylist()
    assert rows == list(range(at))


def test_nothing_written_is_no_shard(tmp_path: Path) -> None:
    columns = pa.schema([pa.field("user", pa.int32())])
    assert ShardWriter(str(tmp_path), columns, domain="a", split="train").close() == []
    assert os.listdir(tmp_path) == []


def test_a_data_set_comes_back_as_it_was_committed(tiny: Make) -> None:
    data = tiny({("train", "books", -1): 100, ("val", "books", -1): 3, ("train", "films", 0): 20})
    assert read_schema(data.path) == data.dataset.schema
    assert data.dataset.schema.rows == {"train": {"books": 100, "films": 20}, "val": {"books": 3}}
    shards = read_shards(data.path)
    assert [shard.path for shard in shards] == sorted(shard.path for shard in shards)
    assert [(s.domain, s.split, s.period, s.rows) for s in shards] == [
        ("books", "train", -1, 64),
        ("books", "train", -1, 36),
        ("books", "val", -1, 3),
        ("films", "train", 0, 20),
    ]
    assert shards[1].row_groups == (16, 16, 4)
    tables = [pq.read_table(storage.join(data.path, shard.path), partitioning=None) for shard in shards[:2]]
    assert pa.concat_tables(tables).equals(data.tables["train", "books", -1])


def test_a_failed_data_set_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "set"
    with pytest.raises(RuntimeError, match="half way"), NewDataset(str(out)) as new:
        storage.write_bytes(storage.join(new.root, "shard"), b"x")
        assert os.listdir(tmp_path) == [os.path.basename(new.root)] and not out.exists()
        raise RuntimeError("half way")
    assert os.listdir(tmp_path) == []


def test_an_empty_folder_is_filled_and_a_full_one_refused(tiny: Make, tmp_path: Path) -> None:
    data = tiny({("train", "books", -1): 10})
    empty = tmp_path / "empty"
    empty.mkdir()
    with NewDataset(str(empty)) as new:
        new.commit(data.dataset.schema, [], {"kept": 0})
    assert sorted(os.listdir(empty)) == ["files.json", "report.json", "schema.json"]
    with pytest.raises(UserError, match=r"set: the folder is not empty"):
        NewDataset(data.path)


def vocabulary(keys: list[str], **columns: list[Any]) -> pa.Table:
    return pa.table({"id": list(range(len(keys))), "key": keys, "count": [1] * len(keys), **columns})


def test_a_digest_tells_vocabularies_apart(tmp_path: Path) -> None:
    tables = [
        vocabulary(["", "a", "b"]),
        vocabulary(["", "b", "a"]),
        vocabulary(["", "ab", ""]),
        vocabulary(["", "a", "b"], domain=["x", "x", "y"]),
        vocabulary(["", "a", "b"], domain=["x", "y", "y"]),
    ]
    with NewDataset(str(tmp_path / "set")) as new:
        digests = [new.write_vocabulary(f"space {i}", table) for i, table in enumerate(tables)]
        counted = tables[0].set_column(2, "count", pa.array([5, 6, 7]))
        assert new.write_vocabulary("again", counted) == digests[0]  # how often a key occurs gives it no meaning
        chunked = pa.concat_tables([tables[0].slice(0, 1), tables[0].slice(1)])
        assert new.write_vocabulary("chunked", chunked) == digests[0]
        written = pq.read_table(storage.join(new.root, "vocabulary", "space%200.parquet"))
    assert written.equals(tables[0])
    assert len(set(digests)) == 5


def test_what_is_no_data_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a data set \(no schema\.json\)"):
        read_schema(str(tmp_path))
    (tmp_path / "schema.json").write_text('{"name": 3}')
    with pytest.raises(UserError, match=r"schema\.json: not a schema of this version"):
        read_schema(str(tmp_path))
    with pytest.raises(UserError, match=r"files\.json: no such file"):
        read_shards(str(tmp_path))
