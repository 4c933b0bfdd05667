"""What a worker reads: every row once, and the same batches for any number of workers."""

from __future__ import annotations

import gc
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow.parquet as pq
import pytest

from mdr_dist import storage
from mdr_dist.batch import Batch
from mdr_dist.config import DataConfig
from mdr_dist.data.source import Source
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
        upto = flat(reader.batches(Slice(domains=(1,), period=period, upto=True), stage="joint", epoch=0))
        earlier = [data.tables["train", "films", p]["serial"].to_pylist() for p in range(period + 1)]
        assert sorted(upto) == sorted(itertools.chain(*earlier))
        assert reader.rows(Slice(period=period, upto=True)) == 2 * len(upto)
    assert reader.rows(Slice(domains=(1,))) == 90 and reader.rows(Slice()) == reader.rows(Slice(upto=True)) == 180
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
    with pytest.raises(UserError, match=r"data\.streams: 4 streams cannot feed 5 workers"):
        source(data, batch=4, rank=0, world=5)


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
