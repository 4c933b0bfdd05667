"""The rows of users that domains have in common: which they are, however they are read."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa
import pytest

from mdr_dist.batch import Batch
from mdr_dist.config import DataConfig
from mdr_dist.data.source import Source
from mdr_dist.errors import UserError
from mdr_dist.stage import Slice
from support.documents import Log

Make = Callable[..., Any]
SIZES = {
    ("train", "books", -1): 90,
    ("train", "films", -1): 40,
    ("train", "music", -1): 25,
    ("val", "books", -1): 30,
    ("val", "films", -1): 35,
}
COMMON = Slice(users="common")


def source(data: Any, batch: int = 12, **options: Any) -> Source:
    places = {name: options.pop(name) for name in ("rank", "world") if name in options}
    return Source(data.dataset, DataConfig(path=data.path, batch=batch, **options), seed=5, **places)


def serials(batches: Iterable[Batch]) -> list[list[int]]:
    return [batch.ids["serial"][batch.weight > 0].tolist() for batch in batches]


def flat(batches: Iterable[Batch]) -> list[int]:
    return list(itertools.chain.from_iterable(serials(batches)))


def of_common(data: Any, split: str, *domains: str, among: tuple[int, ...] = (0, 1, 2)) -> list[int]:
    """The serial numbers of a split's rows by users in common, in on-disk order."""
    common = Log(data, domains=among).common
    return [serial for serial in data.serials(split, *domains) if data.row(serial)["user_key"] in common]


@pytest.mark.parametrize("mix", ["joint", "alternate"])
def test_an_epoch_has_every_such_row_once(tiny: Make, mix: Any) -> None:
    data, slice_ = tiny(SIZES), Slice(users="common", mix=mix)
    expected = of_common(data, "train")
    assert 0 < len(expected) < 155
    orders = []
    for epoch in (0, 1):
        batches = list(source(data).batches(slice_, stage="s", epoch=epoch))
        assert len(batches) == source(data).steps(slice_) and {len(batch) for batch in batches} == {12}
        assert Counter(flat(batches)) == Counter(expected)
        assert sum(batch.count for batch in batches) == source(data).rows(slice_) == len(expected)
        orders.append(flat(batches))
    assert orders[0] != orders[1]
    for batch in batches:
        for at in (batch.weight > 0).nonzero().squeeze(1).tolist():
            row = data.row(int(batch.ids["serial"][at]))
            assert (int(batch.user_key[at]), int(batch.domain[at])) == (row["user_key"], row["domain"])
            assert float(batch.label[at]) == row["click"] and batch.dense["vector"][at].tolist() == row["vector"]
            texts = batch.lists["words"].values.split(batch.lists["words"].lengths.tolist())
            assert texts[at].tolist() == row["words"]


def test_users_in_common_are_those_of_the_jobs_domains(tiny: Make) -> None:
    data = tiny(SIZES)
    two = source(data, domains=("books", "music"))
    expected = of_common(data, "train", "books", "music", among=(0, 2))
    assert sorted(flat(two.batches(COMMON, stage="s", epoch=0))) == sorted(expected)
    assert set(expected) < set(of_common(data, "train", "books", "music"))  # fewer than with films
    alone = Slice(users="common", domains=(0,))  # rows of one domain, by users of several
    assert sorted(flat(two.batches(alone, stage="s", epoch=0))) == [s for s in expected if data.row(s)["domain"] == 0]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_a_sweep_has_them_in_order(tiny: Make, world: int) -> None:
    data, slice_ = tiny(SIZES), Slice(split="val", users="common")
    parts = [list(source(data, streams=6, rank=rank, world=world).sweep(slice_)) for rank in range(world)]
    assert list(itertools.chain.from_iterable(flat(part) for part in parts)) == of_common(data, "val")


def test_any_number_of_workers_share_the_same_batches(tiny: Make) -> None:
    data = tiny(SIZES)
    one = serials(source(data, streams=4).batches(COMMON, stage="s", epoch=0))
    for world in (2, 4):
        parts = [
            list(source(data, streams=4, rank=rank, world=world).batches(COMMON, stage="s", epoch=0))
            for rank in range(world)
        ]
        merged = [
            {int(p): int(s) for b in shares for p, s in zip(b.position, b.ids["serial"], strict=True) if p >= 0}
            for shares in zip(*parts, strict=True)
        ]
        assert [[at[place] for place in sorted(at)] for at in merged] == one


def test_a_later_start_skips_what_comes_before(tiny: Make) -> None:
    reader = source(tiny(SIZES), streams=3)
    whole = list(reader.batches(COMMON, stage="s", epoch=2))
    for start in (1, len(whole) - 1, len(whole)):
        rest = list(reader.batches(COMMON, stage="s", epoch=2, start=start))
        assert serials(rest) == serials(whole[start:]) and [b.seed for b in rest] == [b.seed for b in whole[start:]]


def test_users_in_common_as_rows(tiny: Make) -> None:
    data = tiny(SIZES)
    slice_ = Slice(users="common", unit="user")
    keys = [
        key
        for batch in source(data).batches(slice_, stage="s", epoch=0)
        for key in batch.user_key[batch.weight > 0].tolist()
    ]
    assert sorted(keys) == sorted(Log(data, domains=(0, 1, 2)).common)
    # of one domain's users, or of those held out, the ones that training knows in several
    for split, domains in (("train", (1,)), ("val", None), ("val", (1,))):
        names = [data.dataset.schema.domains[k] for k in domains or ()]
        rows = [data.row(serial) for serial in of_common(data, split, *names)]
        reader = source(data)
        some = Slice(split=split, users="common", unit="user", domains=domains)
        found = [key for batch in reader.sweep(some) for key in batch.user_key[batch.weight > 0].tolist()]
        assert sorted(found) == sorted({row["user_key"] for row in rows if row["click"] > 0.5}) != []
        assert reader.rows(some) == len(found)


def test_users_in_common_up_to_a_period(tiny: Make) -> None:
    sizes = {("train", d, p): 20 for d in ("books", "films") for p in (0, 1, 2)} | {("test", "films", 0): 120}
    data = tiny(sizes)
    reader, counts = source(data), set()
    for period in (0, 1, 2):
        common = Log(data, upto=period).common
        rows = [serial for key in sorted(data.tables) if key[::2] == ("train", period)
                for serial in data.tables[key]["serial"].to_pylist()]  # fmt: skip
        found = flat(reader.sweep(Slice(users="common", period=period)))
        assert found == [serial for serial in rows if data.row(serial)["user_key"] in common]
        # the same rows, of which training tells more and more to be in common
        tested = flat(reader.sweep(Slice(split="test", users="common", period=period, upto=True)))
        assert tested == [s for s in data.serials("test") if data.row(s)["user_key"] in common]
        counts.add(len(tested))
    assert len(counts) == 3


def test_where_no_user_is_in_common(tiny: Make) -> None:
    def apart(key: tuple[str, str, int], table: pa.Table) -> pa.Table:
        at = table.column_names.index("user_key")
        keys = pa.array([1000 * (key[1] == "films") + value for value in table["user_key"].to_pylist()])
        return table.set_column(at, table.schema.field(at), keys)

    data = tiny({("train", "books", -1): 50, ("train", "films", -1): 20, ("train", "music", -1): 30}, change=apart)
    told = rf"domain books has no rows in split train of data set {data.path}, among users in common"
    with pytest.raises(UserError, match=told):
        source(data, domains=("books", "films")).check(COMMON)
    with pytest.raises(UserError, match=r"no user has a positive row in .*, among users in common"):
        source(data, domains=("books", "films")).check(Slice(users="common", unit="user"))
    with pytest.raises(UserError, match=r"domain films has no rows in split train .*, among users in common"):
        source(data).check(COMMON)
    assert set(flat(source(data, domains=("books", "music")).batches(COMMON, stage="s", epoch=0))) == set(
        of_common(data, "train", "books", "music", among=(0, 2))
    )
