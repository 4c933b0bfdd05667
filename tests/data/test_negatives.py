"""Negatives against the sets written out, and their distribution against the uniform one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mdr_dist.config import DataConfig
from mdr_dist.data import interactions as module
from mdr_dist.data import source as source_module
from mdr_dist.data.negatives import Negatives, uniforms
from mdr_dist.data.reader import Reader
from mdr_dist.data.source import Source
from mdr_dist.errors import UserError
from mdr_dist.stage import Slice

Make = Callable[..., Any]
SIZES = {("train", "books", -1): 150, ("train", "films", -1): 90, ("val", "books", -1): 30, ("val", "films", -1): 20}


def source(data: Any, batch: int = 24, **places: int) -> Source:
    return Source(data.dataset, DataConfig(path=data.path, batch=batch, streams=6), seed=5, **places)


def positives(data: Any, split: str = "train", *, upto: int = 99) -> dict[tuple[int, int], set[int]]:
    """(domain, user_key) → items of rows with a positive label."""
    taken: dict[tuple[int, int], set[int]] = defaultdict(set)
    for (part, domain, period), table in data.tables.items():
        for row in table.to_pylist() if part == split and period <= upto else ():
            if row["click"] > 0.5:
                taken[data.dataset.schema.domain_index(domain), row["user_key"]].add(row["item"])
    return taken


def items(data: Any, domain: str, *, upto: int = 99) -> set[int]:
    """The items of a domain's training rows, without the default one."""
    start = data.dataset.schema["item"].starts[data.dataset.schema.domain_index(domain)]
    tables = [t for (split, d, period), t in data.tables.items() if (split, d) == ("train", domain) and period <= upto]
    return {item for table in tables for item in table["item"].to_pylist()} - {start}


def set_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    at = table.column_names.index(name)
    return table.set_column(at, table.schema.field(at), pa.array(values, table.schema.types[at]))


@pytest.mark.parametrize("split", ["train", "val"])
def test_no_negative_is_held_foreign_or_default(tiny: Make, split: str) -> None:
    data = tiny(SIZES)
    taken, catalogue = positives(data), [items(data, "books"), items(data, "films")]
    reader, slice = source(data), Slice(split=split, negatives=3)
    seen: dict[int, set[int]] = defaultdict(set)
    batches = reader.sweep(slice) if split == "val" else reader.batches(slice, stage="joint", epoch=0)
    for batch in batches:
        drawn = torch.stack([batch.ids[f"negative_{i}"] for i in range(3)], dim=1)
        assert drawn.dtype == torch.int64
        assert not drawn[batch.weight == 0].any()
        for domain, user, row, weight in zip(batch.domain, batch.user_key, drawn, batch.weight, strict=True):
            if weight:
                k = int(domain)
                assert set(row.tolist()) <= catalogue[k] - taken[k, int(user)]
                seen[k] |= set(row.tolist())
    assert all(len(seen[k]) > 0.8 * len(catalogue[k]) for k in (0, 1))


@pytest.mark.parametrize("mix", ["joint", "alternate"])
def test_negatives_do_not_depend_on_workers_or_start(tiny: Make, mix: Any) -> None:
    data, slice = tiny(SIZES), Slice(negatives=2, mix=mix)

    def by_row(start: int = 0, world: int = 1, epoch: int = 0) -> dict[int, tuple[int, int]]:
        return {
            int(serial): (int(a), int(b))
            for rank in range(world)
            for batch in source(data, rank=rank, world=world).batches(slice, stage="joint", epoch=epoch, start=start)
            for serial, a, b, w in zip(
                batch.ids["serial"], batch.ids["negative_0"], batch.ids["negative_1"], batch.weight, strict=True
            )
            if w
        }

    one = by_row()
    assert len(one) == 240 and by_row(world=2) == one and by_row(world=4) == one
    assert by_row(start=5).items() < one.items()
    again = by_row(epoch=1)
    assert np.mean([again[serial] == one[serial] for serial in one]) < 0.05
    assert np.mean([a == b for a, b in one.values()]) < 0.15  # 1 / 29 by chance
    swept = [
        {
            int(s): int(n)
            for rank in range(world)
            for batch in source(data, rank=rank, world=world).sweep(slice)
            for s, n, w in zip(batch.ids["serial"], batch.ids["negative_0"], batch.weight, strict=True)
            if w
        }
        for world in (1, 3)
    ]
    assert swept[0] == swept[1] and len(swept[0]) == 240


@pytest.mark.parametrize("mix", ["joint", "alternate"])
def test_every_row_of_an_epoch_draws_by_a_number_of_its_own(
    tiny: Make, monkeypatch: pytest.MonkeyPatch, mix: Any
) -> None:
    data, places = tiny(SIZES), list[int]()
    monkeypatch.setattr(
        source_module, "uniforms", lambda place, n, seed: places.extend(place.tolist()) or uniforms(place, n, seed)
    )
    list(source(data).batches(Slice(negatives=1, mix=mix), stage="joint", epoch=0))
    assert sorted(places) == list(range(240))


def test_draws_are_uniform_over_what_a_user_lacks() -> None:
    held = np.array([0, 3, 4, 7])
    items = np.arange(10) * 5 + 2
    gaps = np.concatenate([[0], 10 + held - np.arange(4)])  # user 8 holds item 0; user 9 the four
    drawer = Negatives(items, np.array([8, 9]), np.array([0, 1, 5]), gaps)
    draws = 6000
    uniform = uniforms(np.arange(3), draws, seed=1)
    drawn = drawer.draw(np.array([9, 8, 1]), np.array([2, 2, 2]), uniform)
    for column, lacking in ((0, np.setdiff1d(items, items[held])), (1, items[1:]), (2, items)):
        values, counts = np.unique(drawn[:, column], return_counts=True)
        assert np.array_equal(values, lacking)
        assert stats.chisquare(counts).pvalue > 1e-4


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 11)), max_size=60), st.integers(1, 7))
def test_the_gaps_invert_every_set_of_positives(taken: list[tuple[int, int]], chunk: int) -> None:
    """Each rank of what a user lacks gives the item at that rank, whatever the chunks of the build."""
    items = np.arange(1, 12)
    pairs = np.sort(np.array([user * 20 + item for user, item in taken], dtype=np.int64))
    gaps = np.full(len(pairs), -1, dtype=np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK", chunk)
        users, starts = module._fill_gaps(gaps, pairs, items, 20)
    drawer = Negatives(items, users, starts, gaps[: starts[-1]])
    assert users.tolist() == sorted({user for user, _ in taken})
    for user in range(8):
        lacking = sorted(set(items.tolist()) - {item for u, item in taken if u == user})
        if not lacking:
            continue
        uniform = ((np.arange(len(lacking)) + 0.5) / len(lacking))[:, None]
        assert drawer.draw(np.array([user]), np.array([1]), uniform)[:, 0].tolist() == lacking


def test_a_user_with_every_item_gets_any_but_the_rows_own(tiny: Make) -> None:
    def change(key: tuple[str, str, int], table: pa.Table) -> pa.Table:
        rows = table.num_rows
        table = set_column(table, "item", [1 + i % 3 for i in range(rows)])
        return set_column(set_column(table, "user_key", [7] * rows), "click", [1.0] * rows)

    data = tiny({("train", "books", -1): 48}, change=change)
    pairs = set()
    for batch in source(data).batches(Slice(negatives=2), stage="joint", epoch=0):
        for i in (0, 1):
            pairs |= set(zip(batch.ids["item"].tolist(), batch.ids[f"negative_{i}"].tolist(), strict=True))
    assert pairs == {(a, b) for a in (1, 2, 3) for b in (1, 2, 3) if a != b}


def test_a_domain_of_one_item_is_refused(tiny: Make) -> None:
    data = tiny(
        {("train", "books", -1): 30, ("train", "films", -1): 30},
        change=lambda key, t: set_column(t, "item", [31] * 30) if key[1] == "films" else t,
    )
    with pytest.raises(UserError, match="domain films has one item alone in the train split"):
        source(data).batches(Slice(negatives=1), stage="joint", epoch=0)
    assert len(list(source(data).batches(Slice(negatives=1, domains=(0,)), stage="joint", epoch=0))) == 2


def test_later_periods_are_not_looked_into(tiny: Make) -> None:
    data = tiny({("train", "books", p): 40 for p in (0, 1, 2)})
    drawn: dict[int, set[int]] = defaultdict(set)
    for epoch in range(60):
        for batch in source(data).batches(Slice(negatives=1, period=1), stage="joint", epoch=epoch):
            for user, item, weight in zip(batch.user_key, batch.ids["negative_0"], batch.weight, strict=True):
                if weight:
                    drawn[int(user)].add(int(item))
    before, taken = items(data, "books", upto=1), positives(data, upto=1)
    assert set().union(*drawn.values()) == before
    assert all(not held & taken[0, user] for user, held in drawn.items())
    later = positives(data)
    assert any(drawn[user] & later[0, user] for user in drawn)


@pytest.mark.parametrize("pool", ["past", "period"])
@pytest.mark.parametrize("upto", [False, True])
def test_negatives_of_one_period_alone(tiny: Make, pool: Any, upto: bool) -> None:
    """What a user took in other periods may come, and what only others hold does not."""
    data = tiny({("train", d, p): 40 for d in ("books", "films") for p in (0, 1, 2)})
    slice, least = Slice(negatives=2, period=1, pool=pool, upto=upto), 1 if pool == "period" else 0
    drawn: dict[tuple[int, int], set[int]] = defaultdict(set)
    reader = source(data)
    for epoch in range(80):
        for batch in reader.batches(slice, stage="joint", epoch=epoch):
            for at in batch.weight.nonzero().flatten().tolist():
                pairs = {int(batch.ids[f"negative_{i}"][at]) for i in (0, 1)}
                drawn[int(batch.domain[at]), int(batch.user_key[at])] |= pairs
    seen = [set[int](), set[int]()]
    taken: dict[tuple[int, int], set[int]] = defaultdict(set)
    before: dict[tuple[int, int], set[int]] = defaultdict(set)
    for (_, domain, period), table in data.tables.items():
        k = data.dataset.schema.domain_index(domain)
        for row in table.to_pylist():
            if least <= period <= 1:
                seen[k] |= {row["item"]} - {30 * k}
                taken[k, row["user_key"]] |= {row["item"]} if row["click"] > 0.5 else set()
            elif period == 0 and row["click"] > 0.5:
                before[k, row["user_key"]].add(row["item"])
    assert all(found <= seen[k] - taken[k, user] for (k, user), found in drawn.items())
    assert [set().union(*(found for (j, _), found in drawn.items() if j == k)) for k in (0, 1)] == seen
    if pool == "period":
        assert any(found & before[key] for key, found in drawn.items())


def test_a_period_of_one_item_has_no_negatives(tiny: Make) -> None:
    data = tiny(
        {("train", "books", p): 30 for p in (0, 1)},
        change=lambda key, t: set_column(t, "item", [7] * 30) if key[2] == 1 else t,
    )
    source(data).check(Slice(negatives=1, period=1))
    for refused in (source(data).check, lambda slice: source(data).batches(slice, stage="joint", epoch=0)):
        with pytest.raises(UserError, match="domain books has one item alone in the train split"):
            refused(Slice(negatives=1, period=1, pool="period"))


def test_the_file_is_built_once_and_anew_for_other_data(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny({("train", "books", -1): 40})
    built: list[str] = []
    build = module._build
    monkeypatch.setattr(module, "_build", lambda *a: built.append(a[-1]) or build(*a))
    for _ in range(2):
        Negatives.of_training(Reader(data.dataset), domain=0)
    assert len(built) == 1
    assert sorted(os.listdir(built[0])) == [
        "DONE",
        "data-set",
        "gaps.npy",
        "items.npy",
        "lock",
        "rows.npy",
        "starts.npy",
        "users.npy",
    ]
    schema = os.path.join(data.path, "schema.json")
    os.utime(schema, (1, 1))  # written again: not the same data set
    Negatives.of_training(Reader(data.dataset), domain=0)
    assert len(set(built)) == 2
    os.remove(os.path.join(built[1], "DONE"))  # a worker was killed while it built
    Negatives.of_training(Reader(data.dataset), domain=0)
    assert built[2] == built[1]


def test_workers_that_start_together_build_once(tiny: Make) -> None:
    data = tiny({("train", "books", -1): 40})
    code = (
        "import sys; from mdr_dist.data import interactions as m; from mdr_dist.data.reader import Dataset, Reader\n"
        "build = m._build; m._build = lambda *a: print('built') or build(*a)\n"
        "print(len(m.Interactions.open(Reader(Dataset.open(sys.argv[1])), domain=0).gaps))"
    )
    runs = [
        subprocess.Popen([sys.executable, "-c", code, data.path], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    lines = [run.communicate(timeout=120)[0].split() for run in runs]
    assert sum("built" in line for line in lines) == 1
    assert len({line[-1] for line in lines}) == 1


def test_uniforms_follow_their_key_alone() -> None:
    place = np.array([5, 9, 5, 2**40])
    drawn = uniforms(place, 4, seed=3)
    assert drawn.shape == (4, 4) and np.array_equal(drawn[:, 0], drawn[:, 2])
    assert len(np.unique(drawn)) == 12
    assert np.array_equal(drawn[:2, [1, 3]], uniforms(place[[1, 3]], 2, seed=3))
    assert not np.intersect1d(drawn, uniforms(place, 4, seed=4)).size
    many = uniforms(np.arange(20_000), 3, seed=2**63 - 1)
    assert many.min() >= 0 and many.max() < 1
    assert all(stats.kstest(row, "uniform").pvalue > 1e-4 for row in many)
    assert abs(np.corrcoef(many)[np.triu_indices(3, 1)]).max() < 0.03
    assert abs(np.corrcoef(many[0][1:], many[0][:-1])[0, 1]) < 0.03


def test_users_that_are_not_numbered_are_refused(tiny: Make) -> None:
    huge = 2**62
    data = tiny({("train", "books", -1): 40}, change=lambda _, t: set_column(t, "user_key", [huge] * 40))
    with pytest.raises(UserError, match=rf"part-00000\.parquet: row group 0: column user_key: {huge} is not in \[0, "):
        Negatives.of_training(Reader(data.dataset), domain=0)
