"""Vocabularies, ids and dense features, against pandas and numpy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mdr_dist.data.layout import read_schema


def ranked(values: pd.Series, least: int = 1) -> list[str]:
    """Keys by descending count, then by key; those seen too rarely are left out."""
    counts = values.value_counts()
    return sorted(counts[counts >= least].index, key=lambda key: (-counts[key], key))


def matched(bench, frame: pd.DataFrame) -> pd.DataFrame:
    """The data set's rows beside the raw ones (suffix _raw), matched by their unique time."""
    return bench.rows().merge(frame, on=["time", "domain"], suffixes=("", "_raw"), validate="1:1")


@pytest.mark.parametrize("least", [0, 1, 5, 10])
def test_shared_ids_count_the_training_split(bench, frame, least):
    bench.log(frame)
    bench.recipe |= {"split": {"random": {"val": 0.2, "test": 0.2}}, "min_count": least}
    report = bench.run()
    rows = matched(bench, frame)
    train = rows[rows["split"] == "train"]
    keys = ranked(train["item_raw"], max(least, 1))
    vocabulary = bench.vocabulary("item")
    assert vocabulary["id"].tolist() == list(range(1 + len(keys)))
    assert vocabulary["key"].tolist() == ["", *keys]
    counts = train["item_raw"].value_counts()
    assert vocabulary["count"].tolist() == [counts.drop(keys).sum(), *counts[keys]]
    numbers = {key: number + 1 for number, key in enumerate(keys)}
    assert rows["item"].tolist() == [numbers.get(key, 0) for key in rows["item_raw"]]
    feature = read_schema(bench.out)["item"]
    assert feature.rows == 1 + len(keys) and feature.scope == "shared" and feature.starts == ()
    told = report["features"]["item"]
    for split, part in rows.groupby("split"):
        seen = part["item_raw"].map(counts).fillna(0)
        assert told["unseen"][split] == (seen == 0).sum()
        assert told["rare"][split] == ((seen > 0) & (seen < least)).sum()
    assert told["unseen"]["test"] > 0 and told["unseen"]["train"] == 0


def test_ids_per_domain_stand_in_blocks(bench, frame):
    bench.log(frame)
    bench.recipe["features"][1] |= {"scope": "domain", "min_count": 3}
    bench.recipe["split"] = {"random": {}}
    bench.run()
    rows = matched(bench, frame)
    schema = read_schema(bench.out)
    vocabulary = bench.vocabulary("item")
    start = 0
    for domain, first in zip(schema.domains, schema["item"].starts, strict=True):
        part = rows[rows["domain"] == domain]
        train = part[part["split"] == "train"]["item_raw"]
        keys = ranked(train, 3)
        assert first == start
        block = vocabulary[vocabulary["domain"] == domain]
        assert block["id"].tolist() == list(range(start, start + 1 + len(keys)))
        assert block["key"].tolist() == ["", *keys]
        assert block["count"].iloc[0] == (~train.isin(keys)).sum()
        numbers = {key: start + 1 + number for number, key in enumerate(keys)}
        assert part["item"].tolist() == [numbers.get(key, start) for key in part["item_raw"]]
        start += 1 + len(keys)
    assert schema["item"].rows == start == len(vocabulary)


def test_features_that_share_a_vocabulary(bench, frame):
    frame["last"] = frame["item"].shift(1).fillna("")
    bench.log(frame)
    bench.recipe["log"][0]["columns"]["last"] = "text"
    bench.recipe["features"][1]["vocabulary"] = "things"
    bench.recipe["features"].append({"name": "last", "vocabulary": "things"})
    report = bench.run()
    both = pd.concat([frame["item"], frame["last"]])
    keys = ranked(both[both != ""])
    assert bench.vocabulary("things")["key"].tolist() == ["", *keys]
    assert bench.vocabulary("things")["count"].iloc[0] == 1
    rows = matched(bench, frame)
    numbers = {key: number + 1 for number, key in enumerate(keys)} | {"": 0}
    assert rows["last"].tolist() == rows["last_raw"].map(numbers).tolist()
    assert rows["item"].tolist() == rows["item_raw"].map(numbers).tolist()
    assert report["features"]["last"]["missing"] == {"train": 1, "val": 0, "test": 0}


def test_lists_from_text(bench, frame):
    rng = np.random.default_rng(0)
    frame["tags"] = ["|".join(f"t{n}" for n in rng.integers(12, size=rng.integers(5))) for _ in range(len(frame))]
    bench.log(frame)
    bench.recipe["log"][0]["columns"]["tags"] = "text"
    bench.recipe["features"].append({"name": "tags", "kind": "ids", "separator": "|", "width": 3, "min_count": 340})
    bench.recipe["split"] = {"random": {}}
    bench.run()
    rows = matched(bench, frame)
    lists = [[tag for tag in tags.split("|") if tag][:3] for tags in rows["tags_raw"]]
    train = pd.Series(
        [tag for tags, split in zip(lists, rows["split"], strict=True) for tag in tags if split == "train"]
    )
    keys = ranked(train, 340)
    assert 0 < len(keys) < 12
    numbers = {key: number + 1 for number, key in enumerate(keys)}
    assert [ids.tolist() for ids in rows["tags"]] == [[numbers.get(tag, 0) for tag in tags] for tags in lists]
    feature = read_schema(bench.out)["tags"]
    assert (feature.kind, feature.width, feature.rows) == ("ids", 3, 1 + len(keys))


def test_lists_from_json_per_domain(bench):
    rows = [
        ("a", "d0", '["x", "y"]'),
        ("b", "d0", "[]"),
        ("c", "d1", '["y", 7, "y"]'),
        ("d", "d1", "null"),
    ]
    lines = [
        f'{{"user": "{u}", "item": "i", "domain": "{d}", "rating": 5, "time": {n}, "tags": {tags}}}'
        for n, (u, d, tags) in enumerate(rows)
    ]
    bench.file("log.jsonl", "\n".join(lines))
    bench.recipe["log"][0] |= {"files": ["log.jsonl"], "format": "jsonl"}
    bench.recipe["log"][0]["columns"]["tags"] = "list"
    bench.recipe["features"].append({"name": "tags", "kind": "ids", "width": 9, "scope": "domain"})
    bench.run()
    got = {row.time: row.tags.tolist() for row in bench.rows().itertuples()}
    # block of d0: default 0, x 1, y 2 (equal counts, by key); block of d1: default 3, y 4 (twice), 7 5
    assert got == {0: [1, 2], 1: [], 2: [4, 5, 4], 3: []}


def test_dense_features(bench, frame):
    rng = np.random.default_rng(0)
    frame["price"] = np.where(rng.random(len(frame)) < 0.1, "", (rng.normal(size=len(frame)) * 10).round(3).astype(str))
    bench.log(frame)
    bench.recipe["log"][0]["columns"]["price"] = "float"
    bench.recipe["split"] = {"random": {}}
    bench.recipe["features"] += [
        {"name": "plain", "column": "price", "kind": "dense", "default": -1},
        {"name": "logged", "column": "price", "kind": "dense", "log1p": True},
        {"name": "standard", "column": "price", "kind": "dense", "log1p": True, "standardise": True},
    ]
    report = bench.run()
    rows = matched(bench, frame)
    value = pd.to_numeric(rows["price"]).to_numpy()
    np.testing.assert_allclose(rows["plain"], np.nan_to_num(value, nan=-1.0), rtol=1e-6)
    logged = np.nan_to_num(np.sign(value) * np.log1p(np.abs(value)), nan=0.0)
    np.testing.assert_allclose(rows["logged"], logged, rtol=1e-5, atol=1e-7)
    train = logged[(rows["split"] == "train").to_numpy()]
    np.testing.assert_allclose(rows["standard"], (logged - train.mean()) / train.std(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(report["features"]["standard"]["mean"], train.mean(), rtol=1e-7)
    missing = report["features"]["plain"]["missing"]
    assert missing == {split: int(np.isnan(value[rows["split"] == split]).sum()) for split in ("train", "val", "test")}
    assert rows["plain"].dtype == np.float32


def test_buckets_are_quantile_ranges_of_the_training_split(bench, frame):
    rng = np.random.default_rng(0)
    frame["price"] = np.where(rng.random(len(frame)) < 0.1, "", rng.lognormal(size=len(frame)).round(2).astype(str))
    bench.log(frame)
    bench.recipe["log"][0]["columns"]["price"] = "float"
    bench.recipe["split"] = {"random": {}}
    bench.recipe["features"].append({"name": "price", "buckets": 4})
    report = bench.run()
    rows = matched(bench, frame)
    value = pd.to_numeric(rows["price_raw"]).to_numpy()
    train = np.sort(value[(rows["split"] == "train").to_numpy() & ~np.isnan(value)])
    edges = [train[int(share * len(train))] for share in (0.25, 0.5, 0.75)]
    assert report["features"]["price"]["edges"] == edges
    bounds = ["-inf", *(f"{edge:.9g}" for edge in edges), "inf"]
    names = [f"[{bounds[n]}, {bounds[n + 1]})" for n in range(4)]
    keys = bench.vocabulary("price")["key"].to_numpy()
    want = [names[np.searchsorted(edges, x, side="right")] if not np.isnan(x) else "" for x in value]
    assert keys[rows["price"]].tolist() == want
    assert read_schema(bench.out)["price"].rows == 5


def test_user_key_keeps_rare_users_apart(bench, frame):
    bench.log(frame)
    bench.recipe["min_count"] = 10_000
    bench.run()
    rows = matched(bench, frame)
    assert set(rows["user"]) == {0}
    numbers = {user: number for number, user in enumerate(sorted(frame["user"].unique()))}
    assert rows["user_key"].tolist() == rows["user_raw"].map(numbers).tolist()


def test_the_domain_vocabulary(bench, frame):
    bench.log(frame)
    bench.recipe["split"] = {"random": {}}
    bench.run()
    schema = read_schema(bench.out)
    rows = bench.rows()
    vocabulary = bench.vocabulary("domain")
    assert tuple(vocabulary["key"]) == schema.domains and vocabulary["id"].tolist() == [0, 1, 2]
    train = rows[rows["split"] == "train"]["domain"].value_counts()
    assert vocabulary["count"].tolist() == [train[domain] for domain in schema.domains]
    assert [feature.name for feature in schema.features] == ["user", "item", "domain"]
    assert set(schema.digests) == {"user", "item", "domain"}
