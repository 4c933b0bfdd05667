"""Row groups from an object store: which requests bring them, ahead of time or not, and what a changed shard does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mdr_dist import storage
from mdr_dist.batch import Batch
from mdr_dist.config import DataConfig
from mdr_dist.data import remote
from mdr_dist.data.layout import Shard
from mdr_dist.data.reader import Dataset
from mdr_dist.data.source import Source
from mdr_dist.errors import UserError
from mdr_dist.stage import Slice
from support.object_store import counted

Make = Callable[..., Any]
SIZES = {("train", "books", -1): 403, ("train", "films", -1): 170, ("val", "books", -1): 45, ("val", "films", -1): 70}


def source(path: str, *, rank: int = 0, world: int = 1) -> Source:
    data = DataConfig(path=path, batch=16, streams=4, cache_mb=1)
    return Source(Dataset.open(path), data, seed=5, rank=rank, world=world)


def serials(batches: Iterable[Batch]) -> list[list[int]]:
    return [batch.ids["serial"][batch.weight > 0].tolist() for batch in batches]


@pytest.fixture
def data(tiny: Make, s3: str) -> Any:
    """A data set here, and the same on s3."""
    data = tiny(SIZES)
    for name in storage.files(data.path):
        storage.write_bytes(f"{s3}/{name}", storage.read_bytes(f"{data.path}/{name}"))
    return data


@pytest.mark.parametrize("ahead", [0, 2000, remote.AHEAD])
def test_the_same_rows_by_one_request_a_row_group(
    data: Any, s3: str, ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "AHEAD", ahead)
    slices = (Slice(), Slice(mix="alternate"), Slice(split="val"))
    expected = [serials(source(data.path).batches(each, stage="a", epoch=1, start=2)) for each in slices]
    assert [serials(source(s3).batches(each, stage="a", epoch=1, start=2)) for each in slices] == expected
    for rank in (0, 1):
        here, there = (source(path, rank=rank, world=2) for path in (data.path, s3))
        assert serials(there.sweep(Slice())) == serials(here.sweep(Slice()))
    reader = source(s3)
    with counted(monkeypatch) as asked:
        list(reader.batches(Slice(), stage="a", epoch=0))
    shards = [shard for shard in reader.dataset.shards if shard.split == "train"]
    parts = [line for line in asked if line.startswith("get_object ")]
    # a row group that two of the four streams share is brought for both, and two at once may bring the same footer
    heads = sum(line.startswith("head_object ") for line in asked)
    assert len(shards) <= heads < 2 * len(shards)
    assert len(parts) <= sum(len(shard.row_groups) for shard in shards) + 3 + heads


def test_row_groups_are_on_their_way_before_they_are_asked_for(data: Any, s3: str) -> None:
    reader = source(s3).reader
    bring, brought = reader._remote._bring, list[int]()  # type: ignore[union-attr]
    reader._remote._bring = lambda group, names: brought.append(group.number) or bring(group, names)  # type: ignore[union-attr,method-assign]
    groups = reader.dataset.groups[:5]
    reader.begin(groups[:4])
    reader.begin(groups[1:])  # the first is not wanted any more
    assert set(reader._remote._coming) == {1, 2, 3, 4}  # type: ignore[union-attr]
    for group in groups[1:]:
        assert len(reader.columns(group)) == group.rows
    assert not reader._remote._coming and brought.count(4) == 1  # type: ignore[union-attr]
    reader.columns(groups[0])
    before = len(brought)
    reader.begin(groups)  # decoded, so nothing is to be brought
    assert len(brought) == before


def test_few_columns_are_brought_by_themselves(data: Any, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "GAP", 0)
    here, there = source(data.path).reader, source(s3).reader
    for group, other in zip(here.dataset.groups, there.dataset.groups, strict=True):
        for names in (["user_key"], ["user", "words"], ["click", "nothing"]):
            assert there.table(other, names).equals(here.table(group, names))
    footer = there._remote.stored(there.dataset.shards[0]).footer.row_group(0)  # type: ignore[union-attr]
    column = next(footer.column(i) for i in range(footer.num_columns) if footer.column(i).path_in_schema == "user_key")
    ((start, end),) = remote._spans(footer, ["user_key"])
    assert end - start == column.total_compressed_size
    monkeypatch.setattr(remote, "GAP", 1 << 20)
    ((start, end),) = remote._spans(footer, ["user", "user_key"])
    assert end - start > column.total_compressed_size


def test_a_footer_larger_than_expected_is_read_whole(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "TAIL", 1 << 16)
    table, file = pa.table({f"column_{n}": range(90) for n in range(300)}), storage.create(f"{s3}/wide")
    pq.write_table(table, file, row_group_size=30)
    shard = Shard("wide", "a", "train", -1, 90, (30, 30, 30), storage.commit(file))
    footer = remote.Remote(s3, []).stored(shard).footer
    assert footer and footer.serialized_size > 1 << 16
    assert (footer.num_rows, footer.num_row_groups, footer.num_columns) == (90, 3, 300)


def shard_of(path: str) -> str:
    return max((s for s in Dataset.open(path).shards if s.split == "train"), key=lambda s: s.rows).path


def read_all(reader: Source) -> None:
    list(reader.batches(Slice(), stage="a", epoch=0))


def test_a_shard_that_is_cut_short_or_gone_is_named(data: Any, s3: str) -> None:
    name = shard_of(s3)
    whole = storage.read_bytes(f"{s3}/{name}")
    storage.write_bytes(f"{s3}/{name}", whole[: len(whole) // 2])
    with pytest.raises(UserError, match=rf"{name}: row group \d+: the file has \d+ bytes, files.json says "):
        read_all(source(s3))
    storage.remove(f"{s3}/{name}")
    with pytest.raises(UserError, match=rf"{name}: row group \d+: the file is gone"):
        read_all(source(s3))


def test_a_shard_that_is_replaced_while_it_is_read_is_named(data: Any, s3: str) -> None:
    name, reader = shard_of(s3), source(s3)
    batches = reader.batches(Slice(), stage="a", epoch=0)
    next(batches)
    whole = bytearray(storage.read_bytes(f"{s3}/{name}"))
    whole[5] ^= 255  # the same length
    storage.write_bytes(f"{s3}/{name}", bytes(whole))
    reader.reader._decoded.clear()
    with pytest.raises(UserError, match=rf"{name}: it was replaced while it was read; start again$"):
        for group in reader.dataset.groups:
            reader.reader.columns(group)


def test_stretches_are_read_like_the_file(tmp_path: Any) -> None:
    table = pa.table({"a": range(1000), "b": [str(n) for n in range(1000)]})
    pq.write_table(table, tmp_path / "file", row_group_size=300)
    data = (tmp_path / "file").read_bytes()
    parts = {0: data[:100], 100: data[100:]}
    file = remote.Stretches(len(data), parts)
    assert file.seek(40) == 40 and file.read(10) == data[40:50] and file.tell() == 50
    assert file.seek(-20, 2) == len(data) - 20 and file.read() == data[-20:]
    file.seek(90)
    with pytest.raises(OSError, match=r"bytes 90 to 110 lie outside"):
        file.read(20)
    assert pq.ParquetFile(remote.Stretches(len(data), {0: data})).read().equals(table)
