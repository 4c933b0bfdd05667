"""The sample of earlier rows: how large, how uniform, and how it goes on from period to period."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from mdr_dist.config import DataConfig
from mdr_dist.data.layout import Group, Shard
from mdr_dist.data.negatives import uniforms
from mdr_dist.data.order import seed_of
from mdr_dist.data.reader import Reader
from mdr_dist.data.reservoir import Reservoir, _chosen
from mdr_dist.data.source import Source
from mdr_dist.stage import Slice

Make = Callable[..., Any]
SIZES = {("train", d, p): 30 + 11 * p for p in (0, 1, 2, 3) for d in ("books", "films")} | {("val", "books", 0): 20}


def source(data: Any, batch: int = 12, **places: int) -> Source:
    return Source(data.dataset, DataConfig(path=data.path, batch=batch, streams=6), seed=5, **places)


def written(data: Any, *periods: int) -> set[int]:
    """The serial numbers of these periods' training rows."""
    return {
        serial
        for (split, _, period), table in data.tables.items()
        if split == "train" and period in periods
        for serial in table["serial"].to_pylist()
    }


def serials(data: Any, slice_: Slice, **places: int) -> list[int]:
    batches = source(data, **places).batches(slice_, stage="s", epoch=0)
    return [int(s) for b in batches for s, w in zip(b.ids["serial"], b.weight, strict=True) if w]


def sample(data: Any, period: int, size: int) -> list[int]:
    """What a period's stage reads of those before it."""
    found = serials(data, Slice(period=period, reservoir=size))
    return sorted(set(found) - written(data, period))


@pytest.mark.parametrize("size", [1, 17, 70, 245, 246, 500])
def test_so_many_distinct_rows_or_all(tiny: Make, size: int) -> None:
    data = tiny(SIZES)
    groups = data.dataset.select("train", domains=(0, 1), period=2, upto=True)
    earlier = written(data, 0, 1, 2)
    assert len(earlier) == 246
    held = Reservoir.open(Reader(data.dataset), groups, size=size)
    names = [feature.name for feature in Reader(data.dataset).layout.ids]
    found = [int(s) for rows in held.rows.values() for s in rows.ids[:, names.index("serial")]]
    assert len(found) == len(set(found)) == min(size, len(earlier)) and set(found) <= earlier
    assert sum(group.rows for group in held.groups()) == len(found)
    for domain, rows in held.rows.items():
        assert {data.row(int(s))["domain"] for s in rows.ids[:, names.index("serial")]} == {domain}


SPREAD = (5, 16, 1, 18)  # rows of four row groups, two a shard


def drawn(number: int, size: int) -> tuple[set[int], tuple[Group, ...]]:
    """Which of 40 rows are the sample of a data set of this number."""
    shards = [Shard(f"{number}/{at}", "d", "train", 0, 0, (), 0) for at in (0, 1)]
    groups = tuple(Group(at, shards[at // 2], at % 2, rows, 0) for at, rows in enumerate(SPREAD))
    place, row = _chosen(groups, size)
    assert len(place) == size
    return set((np.array([0, 5, 21, 22])[place] + row).tolist()), groups


def test_every_row_is_as_likely_as_any_other() -> None:
    """Over many data sets, of other paths; and every two rows are as likely together."""
    chosen, draws, size = np.zeros((3000, 40)), 3000, 13
    for number in range(draws):
        chosen[number, list(drawn(number, size)[0])] = 1
    together = chosen.T @ chosen
    share = size / 40
    # without replacement counts vary by 1 - share, and sum to the same
    statistic = ((np.diag(together) - draws * share) ** 2 / (draws * share * (1 - share))).sum() * 39 / 40
    assert 1e-4 < stats.chi2(39).sf(statistic) < 1 - 1e-4
    share = size * 12 / (40 * 39)
    pairs = together[np.triu_indices(40, 1)]
    assert abs((pairs - draws * share) / np.sqrt(draws * share * (1 - share))).max() < 5


def test_the_sample_are_the_rows_of_the_smallest_numbers() -> None:
    for number, size in ((0, 13), (1, 39), (2, 40), (3, 1)):
        found, groups = drawn(number, size)
        numbers = [uniforms(np.arange(g.rows), 1, seed_of("reservoir", g.shard.path, g.index))[0] for g in groups]
        assert found == set(np.argsort(np.concatenate(numbers))[:size].tolist())


def test_rows_leave_the_sample_but_do_not_come_back(tiny: Make) -> None:
    data, size = tiny(SIZES), 40
    samples = {period: set(sample(data, period, size)) for period in (1, 2, 3)}
    assert all(len(found) == size for found in samples.values())
    for before, after in ((1, 2), (2, 3)):
        seen = written(data, *range(before))
        kept = samples[after] & seen
        assert kept <= samples[before] and 0 < len(kept) < size
        assert samples[after] & written(data, before)


def test_a_stage_reads_its_period_and_the_sample_once_each(tiny: Make) -> None:
    data, slice_ = tiny(SIZES), Slice(period=2, reservoir=25, negatives=1)
    reader = source(data)
    batches = list(reader.batches(slice_, stage="s", epoch=0))
    found = Counter(int(s) for b in batches for s, w in zip(b.ids["serial"], b.weight, strict=True) if w)
    own, earlier = written(data, 2), set(found) - written(data, 2)
    assert set(found.values()) == {1} and own <= set(found)
    assert len(earlier) == 25 and earlier <= written(data, 0, 1)
    assert reader.rows(slice_) == len(own) + 25 and reader.steps(slice_) == len(batches)
    assert {data.row(s)["domain"] for s in earlier} == {0, 1}
    assert sorted(serials(data, slice_)) == sorted(found)  # another reader of the same arrays
    two = [serials(data, slice_, rank=rank, world=2) for rank in (0, 1)]
    assert sorted(two[0] + two[1]) == sorted(found) and all(two)
    swept = [int(s) for b in reader.sweep(slice_) for s, w in zip(b.ids["serial"], b.weight, strict=True) if w]
    assert sorted(swept) == sorted(found)


def test_rows_come_whole(tiny: Make) -> None:
    data = tiny(SIZES)
    earlier = written(data, 0, 1, 2)
    for batch in source(data).batches(Slice(period=3, reservoir=60), stage="s", epoch=0):
        lists = {name: batch.lists[name].values.split(batch.lists[name].lengths.tolist()) for name in batch.lists}
        for at in batch.weight.nonzero().flatten().tolist():
            row = data.row(int(batch.ids["serial"][at]))
            earlier -= {row["serial"]}
            assert {name: int(batch.ids[name][at]) for name in ("user", "item")} == {
                n: row[n] for n in ("user", "item")
            }
            assert {name: lists[name][at].tolist() for name in lists} == {n: row[n] for n in ("history", "words")}
            assert batch.dense["vector"][at].tolist() == row["vector"]
            assert batch.dense["price"][at].tolist() == [row["price"]]
            assert [float(batch.labels[name][at]) for name in ("click", "buy")] == [row["click"], row["buy"]]
            assert (int(batch.user_key[at]), int(batch.domain[at])) == (row["user_key"], row["domain"])
    assert len(earlier) == len(written(data, 0, 1, 2)) - 60


def test_domains_that_take_turns_have_their_part_of_the_sample(tiny: Make) -> None:
    data, slice_ = tiny(SIZES), Slice(period=1, reservoir=30, mix="alternate")
    found = list(source(data).batches(slice_, stage="s", epoch=0))
    assert all(len(set(batch.domain[batch.weight > 0].tolist())) == 1 for batch in found)
    assert sorted(serials(data, slice_)) == sorted(serials(data, Slice(period=1, reservoir=30)))
    assert sample(data, 0, 30) == []  # there is no past


def test_one_domain_draws_from_itself(tiny: Make) -> None:
    data = tiny(SIZES)
    found = serials(data, Slice(period=2, reservoir=25, domains=(1,)))
    assert {data.row(s)["domain"] for s in found} == {1}
    assert len(found) == len(set(found)) == 52 + 25


def test_common_users_have_no_reservoir() -> None:
    with pytest.raises(ValueError, match=r"Slice: a reservoir keeps rows of all users, users='common' asks for some"):
        Slice(period=1, reservoir=10, users="common")
