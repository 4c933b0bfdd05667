"""Histories against a brute-force walk through each user's rows."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from mdr_dist.data.layout import read_schema, read_shards

HISTORY = {"name": "history", "kind": "ids", "last": 4, "vocabulary": "item"}


def tied(rows: int, seed: int = 0) -> pd.DataFrame:
    """Few users, few moments, some interactions in several domains, a third of the rows not positive."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "user": [f"u{n}" for n in rng.integers(25, size=rows)],
            "item": [f"i{n}" for n in rng.integers(60, size=rows)],
            "domain": [f"d{n}" for n in rng.integers(3, size=rows)],
            "rating": rng.integers(1, 6, size=rows) + 1,
            "time": 1_500_000_000 + rng.integers(80, size=rows) * 3600,
        }
    )
    also = frame.sample(rows // 5, random_state=seed).assign(domain="d3")  # the same event elsewhere
    return pd.concat([frame, also]).drop_duplicates(["user", "item", "time", "domain"], ignore_index=True)


def hashed(row) -> int:
    text = "\x1f".join(map(str, (0, row.user, row.item, row.time)))
    return int.from_bytes(hashlib.md5(text.encode()).digest()[8:], "little")


def walked(frame: pd.DataFrame, last: int) -> dict[tuple[str, str, int], list[str]]:
    """(user, item, time) → the items of the last positive events strictly before it, oldest first."""
    found = {}
    for user, rows in frame.groupby("user"):
        events: dict[tuple[int, int, str], bool] = {}
        for row in rows.itertuples():
            key = (row.time, hashed(row), row.item)
            events[key] = events.get(key, False) or row.rating >= 4
        for key in events:
            before = [other for other in sorted(events) if other < key and events[other]]
            found[user, key[2], key[0]] = [item for _, _, item in before[-last:]]
    return found


@pytest.mark.parametrize("split", [{}, {"random": {"val": 0.3, "test": 0.3}}])
@pytest.mark.parametrize("last", [1, 4, 1000])
def test_histories(bench, split, last):
    frame = tied(1500)
    bench.recipe["features"].append(HISTORY | {"last": last})
    bench.recipe |= {"split": split, "periods": {"count": 3}, "min_count": 0 if not split else 3}
    bench.log(frame)
    report = bench.run()
    want, rows = walked(frame, last), bench.decoded()
    known = set(bench.vocabulary("item")["key"])
    raw = rows.merge(  # items under the count, and those never trained on, are default rows
        frame.assign(number=frame["user"].rank(method="dense").astype(int) - 1, mark=frame["item"].isin(known)),
        left_on=["user_key", "time", "domain"],
        right_on=["number", "time", "domain"],
        suffixes=("", "_raw"),
    )
    raw = raw[np.where(raw["mark"], raw["item"] == raw["item_raw"], raw["item"] == "")]
    raw = raw.groupby(["user_key", "time", "domain", "item"]).filter(lambda part: part["item_raw"].nunique() == 1)
    assert len(raw) > (0.95 if split else 1) * len(frame) - 1
    lengths = []
    for row in raw.itertuples():
        items = [item if item in known else "" for item in want[row.user_raw, row.item_raw, row.time]]
        assert row.history == items
        lengths.append(len(items))
    assert {0, min(last, 20)} <= set(lengths)
    missing = raw[raw["history"].map(len) == 0]["split"].value_counts().to_dict()
    if not split:
        assert report["features"]["history"]["missing"] == {"train": 0, "val": 0, "test": 0} | missing
    schema = read_schema(bench.out)
    assert (schema["history"].kind, schema["history"].width) == ("ids", last)
    assert schema["history"].rows == schema["item"].rows and schema["history"].vocabulary == "item"
    assert set(schema.digests) == {"user", "item", "domain"}


def test_a_user_s_first_row_of_a_period_has_the_history_up_to_it(bench):
    frame = tied(1500).query("domain == 'd0'")
    bench.recipe["features"].append(HISTORY)
    bench.recipe |= {"periods": {"count": 4}, "negatives": {"train": 2}}
    bench.log(frame)
    bench.run()
    items = bench.vocabulary("item")["key"].to_numpy()
    seen: dict[int, list[tuple[int, int, str]]] = {}
    for shard in read_shards(bench.out):
        rows = pq.ParquetFile(f"{bench.out}/{shard.path}").read().to_pandas()
        assert rows["time"].is_monotonic_increasing
        first = rows.drop_duplicates("user_key")
        for row in first.itertuples():
            assert [items[i] for i in row.history] == [item for _, _, item in sorted(seen.get(row.user_key, []))[-4:]]
        users = sorted(frame["user"].unique())
        for row in rows[rows["label"] > 0].itertuples():
            raw = SimpleNamespace(user=users[row.user_key], item=items[row.item], time=row.time)
            seen.setdefault(row.user_key, []).append((row.time, hashed(raw), items[row.item]))
    assert max(map(len, seen.values())) > 10


def test_negatives_have_the_history_of_their_positive(bench):
    frame = tied(800).drop_duplicates(["user", "time"])
    bench.recipe["features"].append(HISTORY)
    bench.recipe["negatives"] = {"train": 3}
    bench.log(frame)
    bench.run()
    rows = bench.rows()
    rows["history"] = rows["history"].map(tuple)
    histories = rows.groupby(["user_key", "time"])["history"].nunique()
    assert len(rows) > 2 * len(frame) and (histories == 1).all()


def test_ids_of_a_domain_s_own_items(bench):
    frame = tied(900)
    bench.recipe["features"] = [
        {"name": "user"},
        {"name": "item", "scope": "domain"},
        {"name": "history", "kind": "ids", "last": 5},
    ]
    bench.log(frame)
    bench.run()
    schema, rows, vocabulary = read_schema(bench.out), bench.rows(), bench.vocabulary("item")
    assert schema["history"].starts == schema["item"].starts and len(schema["item"].starts) == 4
    keys, owners = vocabulary["key"].to_numpy(), vocabulary["domain"].to_numpy()
    positive = frame[frame["rating"] >= 4].sort_values("domain").drop_duplicates(["user", "item", "time"])
    owner = {(row.user, row.item): set() for row in positive.itertuples()}
    for row in positive.itertuples():
        owner[row.user, row.item].add(row.domain)
    want, users = walked(frame, 5), sorted(frame["user"].unique())
    for row in rows.itertuples():
        items = want[users[row.user_key], keys[row.item], row.time]
        assert [keys[i] for i in row.history] == items
        for i in row.history:
            assert owners[i] in owner[users[row.user_key], keys[i]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"column": "item"}, "feature history: 'column' means nothing for a history"),
        ({"of": "item"}, "feature history: 'of' means nothing for a history"),
        ({"min_count": 2}, "feature history: 'min_count' means nothing for a history"),
        ({"kind": "id"}, "feature history: 'last' means nothing for kind id"),
        ({"vocabulary": "user"}, "feature history: a history's vocabulary is the item's, 'item'"),
        ({"last": -1}, "features.2.last: Input should be greater than or equal to 0"),
    ],
)
def test_a_wrong_history_is_one_line(bench, change, message):
    bench.recipe["features"].append(HISTORY | change)
    bench.log(tied(20))
    assert message in bench.fails()


def test_a_history_needs_time(bench):
    bench.recipe["features"].append(HISTORY)
    del bench.recipe["time"]
    bench.log(tied(20))
    assert "feature history: a history needs `time`" in bench.fails()
