"""Who rated what, and how batches bring it, against lists put together in plain Python from the rows written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from mdr_dist.batch import Batch, Extras
from mdr_dist.config import DataConfig
from mdr_dist.data.ratings import Ratings
from mdr_dist.data.reader import Reader
from mdr_dist.data.source import Source
from mdr_dist.stage import Slice
from support.documents import Log, rated

Make = Callable[..., Any]
Entries = list[tuple[int, float]]
SIZES = {
    ("train", "books", -1): 130,
    ("train", "films", -1): 90,
    ("val", "films", -1): 21,
    ("test", "books", -1): 37,
}
DEFAULTS = (0, 30, 60)  # the domains' default items


def lists(key: tuple[str, str, int], table: pa.Table) -> pa.Table:
    """Ratings, and users whose ids are not their keys."""
    table = rated(key, table)
    at = table.column_names.index("user")
    user = table["user"].to_numpy() // 3
    return table.set_column(at, table.schema.field(at), pa.array(user, table.schema.field(at).type))


def source(data: Any, most: int = 100, *, rank: int = 0, world: int = 1, **settings: Any) -> Source:
    config = DataConfig.model_validate({"path": data.path, "batch": 24, "streams": 6, **settings})
    return Source(data.dataset, config, seed=3, rank=rank, world=world, extras=Extras(ratings=most))


def batches_of(reader: Source, split: str) -> Iterator[Batch]:
    slice_ = Slice(split=split)
    return reader.batches(slice_, stage="s", epoch=0) if split == "train" else reader.sweep(slice_)


class Expected:
    """Every list, of at most so many entries."""

    def __init__(self, data: Any, most: int = 10**9, **log: Any) -> None:
        self._rows, self._most = Log(data, **log).rows, most

    def rated(self, domain: int, key: int) -> Entries:
        return self._thinned(domain, [row for row in self._rows[domain] if row["user_key"] == key], "item")

    def raters(self, domain: int, item: int) -> Entries:
        return self._thinned(domain, [row for row in self._rows[domain] if row["item"] == item], "user")

    def _thinned(self, domain: int, rows: list[dict[str, Any]], entry: str) -> Entries:
        rows = [row for row in rows if row["item"] not in DEFAULTS]
        if len(rows) > self._most:
            rows = [rows[len(rows) * nth // self._most] for nth in range(self._most)]
        return [(row[entry], row["click"] - self._mean(domain, row["item"])) for row in rows]

    def _mean(self, domain: int, item: int) -> float:
        return float(np.mean([row["click"] for row in self._rows[domain] if row["item"] == item]))


def found(batch: Batch, name: str) -> list[Entries]:
    """Every row's entries and their ratings."""
    ragged = batch.lists[name]
    entries = iter(zip(ragged.values.tolist(), batch.ratings[name].tolist(), strict=True))
    assert len(ragged.values) == int(ragged.lengths.sum())
    return [[next(entries) for _ in range(length)] for length in ragged.lengths.tolist()]


def same(one: Entries, two: Entries) -> bool:
    return [entry for entry, _ in one] == [entry for entry, _ in two] and [x for _, x in one] == pytest.approx(
        [x for _, x in two], abs=1e-6
    )


@pytest.mark.parametrize("most", [100, 4, 1])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_what_the_rows_users_rated_and_who_rated_their_items(tiny: Make, split: str, most: int) -> None:
    data = tiny(SIZES, change=lists)
    expected, sizes, serials = Expected(data, most), dict[str, set[int]](rated_0=set(), rated_1=set(), raters=set()), []
    for batch in batches_of(source(data, most), split):
        entries = {name: found(batch, name) for name in sizes}
        assert entries.keys() == batch.ratings.keys()
        for at, (key, domain, item) in enumerate(
            zip(batch.user_key.tolist(), batch.domain.tolist(), batch.ids["item"].tolist(), strict=True)
        ):
            if not batch.weight[at]:
                assert not any(of_row[at] for of_row in entries.values())
                continue
            serials.append(int(batch.ids["serial"][at]))
            assert same(entries["rated_0"][at], expected.rated(0, key))
            assert same(entries["rated_1"][at], expected.rated(1, key))
            assert same(entries["raters"][at], expected.raters(domain, item))
            for name, of_row in entries.items():
                sizes[name].add(len(of_row[at]))
    assert sorted(serials) == sorted(data.serials(split))
    assert split != "train" or all(min(own) == 0 and max(own) == min(most, max(own)) > 0 for own in sizes.values())
    assert split != "train" or most == 1 or max(sizes["raters"]) >= 4


def test_rows_by_user_bring_what_was_rated_in_both_domains(tiny: Make) -> None:
    data = tiny(SIZES, change=lists)
    expected, keys = Expected(data), []
    for batch in source(data).batches(Slice(unit="user", users="common"), stage="s", epoch=0):
        assert not batch.lists["raters"].lengths.any()  # the item is the default one
        for at in (batch.weight > 0).nonzero().squeeze(1).tolist():
            keys.append(int(batch.user_key[at]))
            for domain in (0, 1):
                assert same(found(batch, f"rated_{domain}")[at], expected.rated(domain, keys[-1]))
    assert set(keys) == Log(data).common and len(set(keys)) == len(keys) > 5


def test_ratings_up_to_a_period(tiny: Make) -> None:
    data = tiny({("train", d, p): 40 + 9 * p for d in ("books", "films") for p in (0, 1)}, change=lists)
    reader = source(data)
    for period in (0, 1):
        expected = Expected(data, upto=period)
        for batch in reader.batches(Slice(period=period), stage="s", epoch=0):
            for at in (batch.weight > 0).nonzero().squeeze(1).tolist():
                key, domain = int(batch.user_key[at]), int(batch.domain[at])
                assert same(found(batch, f"rated_{domain}")[at], expected.rated(domain, key))
                assert same(found(batch, "raters")[at], expected.raters(domain, int(batch.ids["item"][at])))


@pytest.mark.parametrize("split", ["train", "test"])
def test_any_number_of_workers_has_the_same_ratings(tiny: Make, split: str) -> None:
    data = tiny(SIZES, change=lists)

    def entries(*readers: Source) -> dict[int, list[Entries]]:
        return {
            serial: [found(batch, name)[at] for name in batch.ratings]
            for reader in readers
            for batch in batches_of(reader, split)
            for at, serial in enumerate(batch.ids["serial"].tolist())
            if batch.weight[at]
        }

    one = entries(source(data, 3))
    assert entries(*(source(data, 3, rank=rank, world=3) for rank in range(3))) == one
    assert len(one) == len(data.serials(split))


def test_two_domains_of_three(tiny: Make) -> None:
    data = tiny({("train", d, -1): 60 for d in ("books", "films", "music")}, change=lists)
    expected = Expected(data, domains=(0, 2))
    for batch in batches_of(source(data, domains=("music", "books")), "train"):
        assert set(batch.ratings) == {"rated_0", "rated_2", "raters"}
        for at in (batch.weight > 0).nonzero().squeeze(1).tolist():
            key = int(batch.user_key[at])
            assert all(same(found(batch, f"rated_{k}")[at], expected.rated(k, key)) for k in (0, 2))


def test_they_go_where_the_batch_goes(tiny: Make) -> None:
    for batch in batches_of(source(tiny(SIZES, change=lists)), "val"):
        there = batch.to(torch.device("meta"))
        assert {name: rating.shape for name, rating in there.ratings.items()} == {
            name: rating.shape for name, rating in batch.ratings.items()
        }
        assert all(part.is_meta for part in (*there.ratings.values(), there.lists["raters"].values, there.label))


def test_nobody_rated(tiny: Make) -> None:
    data = tiny({("train", "books", -1): 90, ("test", "films", -1): 9}, change=lists)
    none = Ratings.open(Reader(data.dataset), by="user", domain=1)
    assert [len(part) for part in none.of(np.array([7, 14]), most=3)] == [0, 0, 0]
    for batch in batches_of(source(data), "test"):
        assert not batch.lists["rated_1"].lengths.any() and not batch.lists["raters"].lengths.any()
        assert batch.lists["rated_0"].lengths.any()
