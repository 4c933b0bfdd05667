"""What a worker reads: every row once, the same batches for any number of workers, and what goes wrong on disk."""

from __future__ import annotations

import gc
import itertools
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

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
ROWS = 330


def source(data: Any, batch: int = 12, **options: Any) -> Source:
    places = {name: options.pop(name) for name in ("rank", "world") if name in options}
    seed = options.pop("seed", 5)
    return Source(data.dataset, DataConfig(path=data.path, batch=batch, **options), seed=seed, **places)


def serials(batches: Iterable[Batch]) -> list[list[int]]:
    """The real rows of each batch."""
    return [batch.ids["serial"][batch.weight > 0].tolist() for batch in batches]


def flat(batches: Iterable[Batch]) -> list[int]:
    return list(itertools.chain.from_iterable(serials(batches)))


def together(parts: list[list[Batch]]) -> list[list[int]]:
    """The global batches of several workers: their real rows by position."""
    merged: list[list[int]] = []
    for shares in zip(*parts, strict=True):
        at = {
            int(p): int(s)
            for share in shares
            for p, s in zip(share.position, share.ids["serial"], strict=True)
            if p >= 0
        }
        assert sorted(at) == list(range(shares[0].count))
        merged.append([at[p] for p in sorted(at)])
    return merged


@pytest.mark.parametrize(("batch", "streams"), [(12, 0), (12, 3), (7, 1), (330, 0), (11, 11), (64, 32)])
def test_every_row_comes_once_an_epoch(tiny: Make, batch: int, streams: int) -> None:
    data = tiny(SIZES)
    batches = list(source(data, batch, streams=streams).batches(Slice(), stage="joint", epoch=0))
    assert Counter(flat(batches)) == Counter(data.serials("train"))
    assert len(batches) == source(data, batch, streams=streams).steps(Slice())
    assert {len(b) for b in batches} == {batch}
    assert sum(b.count for b in batches) == ROWS == source(data, batch).rows(Slice())


@pytest.mark.parametrize("streams", [4, 12])
@pytest.mark.parametrize("mix", ["joint", "alternate"])
def test_any_number_of_workers_share_the_same_batches(tiny: Make, streams: int, mix: Any) -> None:
    data, slice = tiny(SIZES), Slice(mix=mix)
    one = serials(source(data, streams=streams).batches(slice, stage="joint", epoch=1))
    seeds = [b.seed for b in source(data, streams=streams).batches(slice, stage="joint", epoch=1)]
    for world in (2, 3, 4):
        parts = [
            list(source(data, streams=streams, rank=rank, world=world).batches(slice, stage="joint", epoch=1))
            for rank in range(world)
        ]
        assert together(parts) == one
        size = -(-streams // world) * (12 // streams)
        assert {len(b) for part in parts for b in part} == {size}
        assert [b.seed for b in parts[-1]] == seeds


@pytest.mark.parametrize("mix", ["joint", "alternate"])
def test_a_later_start_skips_what_comes_before(tiny: Make, mix: Any) -> None:
    reader = source(tiny(SIZES), streams=3)
    whole = list(reader.batches(Slice(mix=mix), stage="joint", epoch=2))
    for start in (1, 7, len(whole) - 1, len(whole)):
        rest = list(reader.batches(Slice(mix=mix), stage="joint", epoch=2, start=start))
        assert serials(rest) == serials(whole[start:])
        assert [b.seed for b in rest] == [b.seed for b in whole[start:]]


def test_a_later_start_reads_nothing_before_it(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny(SIZES)
    opened: list[str] = []
    reader = source(data, streams=1, prefetch=0)
    table = reader.reader.table
    monkeypatch.setattr(
        reader.reader, "table", lambda g, names: opened.append(reader.reader.where(g)) or table(g, names)
    )
    last = reader.steps(Slice()) - 1
    assert len(list(reader.batches(Slice(), stage="joint", epoch=0, start=last))) == 1
    assert len(opened) == 1


def test_the_order_follows_seed_stage_and_epoch(tiny: Make) -> None:
    data = tiny(SIZES)

    def order(seed: int, stage: str, epoch: int) -> tuple[int, ...]:
        return tuple(flat(source(data, seed=seed).batches(Slice(), stage=stage, epoch=epoch)))

    keys = [(5, "joint", 0), (6, "joint", 0), (5, "last", 0), (5, "joint", 1)]
    assert len({order(*key) for key in keys * 2}) == 4


def test_one_stream_reads_whole_row_groups_shuffled(tiny: Make) -> None:
    data = tiny(SIZES)
    shards = [pq.ParquetFile(storage.join(data.path, s.path)) for s in data.dataset.shards if s.split == "train"]
    groups = [
        shard.read_row_group(i, ["serial"])["serial"].to_pylist()
        for shard in shards
        for i in range(shard.num_row_groups)
    ]
    assert max(map(len, groups)) == 16 and len(groups) == 13 + 6 + 3
    rows = flat(source(data, batch=10, streams=1).batches(Slice(), stage="joint", epoch=0))
    found = []
    while rows:
        group = next(g for g in groups if rows[0] in g)
        assert sorted(rows[: len(group)]) == group
        found.append((group, rows[: len(group)]))
        rows = rows[len(group) :]
    assert [g for g, _ in found] != groups
    assert sum(read == group for group, read in found) <= 1  # a group of few rows may stay as it was


def test_row_groups_come_in_another_order_each_epoch(tiny: Make) -> None:
    data = tiny({("train", "books", -1): 16 * 20})
    orders = {
        tuple(
            serial // 16 for serial in flat(source(data, streams=1).batches(Slice(), stage="joint", epoch=epoch))[::16]
        )
        for epoch in range(3)
    }
    assert len(orders) == 3 and all(sorted(order) == list(range(20)) for order in orders)


def test_rows_arrive_as_they_were_written(tiny: Make) -> None:
    data = tiny(SIZES)
    for batch in source(data, batch=32).batches(Slice(), stage="joint", epoch=0):
        words, history = (
            torch.split(r.values, r.lengths.tolist()) for r in (batch.lists["words"], batch.lists["history"])
        )
        for i in range(len(batch)):
            if batch.weight[i] == 0:
                continue
            row = data.row(int(batch.ids["serial"][i]))
            assert {n: int(batch.ids[n][i]) for n in ("user", "item", "domain")} == {
                n: row[n] for n in ("user", "item", "domain")
            }
            assert batch.domain[i] == row["domain"] and batch.user_key[i] == row["user_key"]
            assert words[i].tolist() == row["words"] and history[i].tolist() == row["history"]
            assert batch.dense["vector"][i].tolist() == row["vector"] and batch.dense["price"][i].tolist() == [
                row["price"]
            ]
            assert [batch.labels[n][i].item() for n in ("click", "buy")] == [row["click"], row["buy"]]
            assert batch.label is batch.labels["click"]


def test_shapes_dtypes_and_padding(tiny: Make) -> None:
    data = tiny(SIZES)
    last = list(source(data, batch=32, streams=4).batches(Slice(), stage="joint", epoch=0))[-1]
    # 330 rows in four streams: 82, 83, 82, 83, eight a batch: the eleventh holds 2, 3, 2, 3
    real = torch.tensor([1] * 2 + [0] * 6 + [1] * 3 + [0] * 5 + [1] * 2 + [0] * 6 + [1] * 3 + [0] * 5)
    assert last.count == 10 and torch.equal(last.weight, real.float())
    assert last.position[last.weight > 0].tolist() == list(range(10))
    pad = last.weight == 0
    assert set(last.position[pad].tolist()) == {-1} == set(last.user_key[pad].tolist())
    zeros = [*last.ids.values(), *last.labels.values(), *last.dense.values(), last.domain]
    assert all(not column[pad].any() for column in zeros)
    assert all(not r.lengths[pad].any() and int(r.lengths.sum()) == len(r.values) for r in last.lists.values())
    assert set(last.ids) == {"user", "item", "domain", "serial"}
    assert last.dense["price"].shape == (32, 1) and last.dense["vector"].shape == (32, 3)
    whole = [*last.ids.values(), last.domain, last.user_key, last.position, *(r.lengths for r in last.lists.values())]
    assert {t.dtype for t in whole} | {r.values.dtype for r in last.lists.values()} == {torch.int64}
    assert {t.dtype for t in (*last.labels.values(), *last.dense.values(), last.weight)} == {torch.float32}
    assert last.domains == 3


def test_wide_ids_survive(tiny: Make) -> None:
    big = 2**40
    data = tiny({("train", "books", -1): 40})
    schema = data.dataset.schema
    features = tuple(f.model_copy(update={"rows": big + 50}) if f.name == "words" else f for f in schema.features)
    features = tuple(f.model_copy(update={"rows": big + 50}) if f.name == "user" else f for f in features)
    wide = schema.model_copy(update={"features": features})
    wide = type(wide).model_validate(wide.model_dump())
    table = data.tables["train", "books", -1]
    users = pa.array(table["user"].to_numpy().astype(np.int64) + big, pa.int64())
    words = pa.array([[w + big for w in row] for row in table["words"].to_pylist()], pa.list_(pa.int64()))
    table = table.set_column(0, "user", users).set_column(table.column_names.index("words"), "words", words)
    again = data.write(wide, {("train", "books", -1): table})
    batch = next(source(again, batch=40).batches(Slice(), stage="joint", epoch=0))
    serial = batch.ids["serial"].numpy()
    assert np.array_equal(batch.ids["user"].numpy(), users.to_numpy()[serial])
    assert batch.lists["words"].values.tolist() == [w for s in serial for w in words[int(s)].as_py()]


def test_domains_keep_about_their_shares_in_every_batch(tiny: Make) -> None:
    data = tiny({("train", "books", -1): 16 * 48, ("train", "films", -1): 16 * 16})
    for seed in range(5):
        shares = [
            float((batch.domain == 1).float().mean())
            for batch in source(data, batch=64, streams=32, seed=seed).batches(Slice(), stage="joint", epoch=0)
        ]
        assert shares == [0.25] * 16  # a random batch would be off by 0.08


def test_alternating_domains_take_turns_until_each_has_ended(tiny: Make) -> None:
    data = tiny(SIZES)
    batches = list(source(data, batch=12, streams=2).batches(Slice(mix="alternate"), stage="joint", epoch=0))
    domains = [sorted(set(b.domain[b.weight > 0].tolist())) for b in batches]
    # 203, 90 and 37 rows in two streams of six a batch: 17, 8 and 4 batches
    assert domains == [[0], [1], [2]] * 4 + [[0], [1]] * 4 + [[0]] * 9
    assert Counter(flat(batches)) == Counter(data.serials("train"))


def test_a_slice_reads_its_split_domains_and_period(tiny: Make) -> None:
    sizes = {("train", d, p): 20 + 10 * p for d in ("books", "films") for p in (0, 1, 2)} | {("test", "films", 2): 9}
    data = tiny(sizes)
    reader = source(data)
    for period in (0, 1, 2):
        found = flat(reader.batches(Slice(domains=(1,), period=period), stage="joint", epoch=0))
        assert sorted(found) == data.tables["train", "films", period]["serial"].to_pylist()
    assert reader.rows(Slice(domains=(1,))) == 90 and reader.rows(Slice()) == 180
    assert sorted(flat(reader.sweep(Slice(split="test")))) == data.serials("test")
    books = source(data, domains=("books",))
    assert sorted(flat(books.batches(Slice(), stage="joint", epoch=0))) == data.serials("train", "books")
    assert books.rows(Slice(domains=(0, 1))) == 180  # the slice's own domains come before the job's


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_a_sweep_reads_each_row_once_in_order(tiny: Make, world: int) -> None:
    data, slice = tiny(SIZES), Slice(split="val")
    parts = [list(source(data, batch=30, streams=10, rank=r, world=world).sweep(slice)) for r in range(world)]
    assert list(itertools.chain.from_iterable(flat(part) for part in parts)) == data.serials("val")
    together(parts)  # as many batches in each, and positions without gaps
    assert {len(b) for part in parts for b in part} == {3 * -(-10 // world)}


def test_a_sweep_may_be_smaller_than_a_batch_or_than_the_workers(tiny: Make) -> None:
    data = tiny({("train", "books", -1): 40, ("val", "books", -1): 2})
    parts = [list(source(data, batch=32, rank=r, world=3).sweep(Slice(split="val"))) for r in range(3)]
    assert [len(part) for part in parts] == [1, 1, 1]
    assert together(parts) == [data.serials("val")]


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


# what is wrong with the question


def test_wrong_slices_are_refused(tiny: Make) -> None:
    data = tiny({("train", "books", -1): 50, ("train", "films", -1): 20, ("val", "books", -1): 5})
    with pytest.raises(UserError, match=rf"domain films has no rows in split val of data set {data.path}"):
        source(data).rows(Slice(split="val", domains=(0, 1)))
    with pytest.raises(UserError, match="domain films has no rows in split val"):
        source(data).steps(Slice(split="val"))
    assert sorted(flat(source(data).sweep(Slice(split="val")))) == data.serials("val")
    with pytest.raises(UserError, match="domain books has no rows in split test"):
        source(data).sweep(Slice(split="test"))
    with pytest.raises(UserError, match=r"domain books has no rows in split train .*period 3"):
        source(data).rows(Slice(period=3))
    with pytest.raises(UserError, match="no domain number 2"):
        source(data).rows(Slice(domains=(2,)))
    with pytest.raises(UserError, match="domain 'games' is not in data set"):
        source(data, domains=("games",)).rows(Slice())
    with pytest.raises(UserError, match=r"has 70 rows .* one batch of 128: lower data.batch to at most 70"):
        source(data, batch=128).batches(Slice(), stage="joint", epoch=0)
    with pytest.raises(UserError, match=r"data\.streams: 4 streams cannot feed 5 workers"):
        source(data, batch=4, rank=0, world=5)


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


# threads


def prefetching() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_no_thread_outlives_its_iterator(tiny: Make) -> None:
    reader = source(tiny(SIZES))
    batches = reader.batches(Slice(), stage="joint", epoch=0)
    assert prefetching() == []
    next(batches)
    assert len(prefetching()) == 1
    batches.close()  # type: ignore[attr-defined]
    assert prefetching() == []
    left = reader.batches(Slice(), stage="joint", epoch=0)
    next(left)
    del left
    gc.collect()
    assert prefetching() == []
    list(reader.sweep(Slice()))
    assert prefetching() == []


def test_prefetching_changes_no_batch(tiny: Make) -> None:
    data = tiny(SIZES)
    runs = [serials(source(data, prefetch=n).batches(Slice(), stage="joint", epoch=0)) for n in (0, 1, 9)]
    assert runs[0] == runs[1] == runs[2]


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
