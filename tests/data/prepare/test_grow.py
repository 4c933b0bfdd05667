"""A data set that grows from an earlier one: what was numbered stays."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from mdr_dist.data.layout import read_schema
from support.command import mdr

DAY = 86_400
STARTS = ["1970-01-21", "1970-02-10", "1970-03-02"]


def log() -> pd.DataFrame:
    """80 days; users, items, tags and a domain of their own keep coming."""
    rng = np.random.default_rng(4)
    day = np.sort(rng.integers(80, size=2400))
    frame = pd.DataFrame(
        {
            "user": [f"u{n}" for n in (rng.random(2400) * (40 + 2 * day)).astype(int)],
            "item": [f"i{n}" for n in (rng.random(2400) ** 2 * (60 + day)).astype(int)],
            "domain": [f"d{n}" for n in rng.integers(2, size=2400)],
            "rating": rng.integers(1, 6, size=2400),
            "time": day * DAY + rng.integers(DAY, size=2400),
        }
    )
    frame.loc[(day >= 60) & (rng.random(2400) < 0.6), "domain"] = "a"  # the largest of the last days
    frame["price"] = (frame["item"].str[1:].astype(int) % 17) * 1.5 + day
    frame["tags"] = [" ".join(f"t{n}" for n in rng.integers(1 + d, size=2)) for d in day]
    return frame.drop_duplicates("time", ignore_index=True)


def recipe(bench, starts: list[str]) -> None:
    columns = bench.recipe["log"][0]["columns"]
    columns |= {"price": "float", "tags": "text"}
    bench.recipe |= {"periods": {"starts": starts}}
    bench.recipe["features"] = [
        {"name": "user"},
        {"name": "item", "of": "item"},
        {"name": "range", "column": "price", "buckets": 5},
        {"name": "price", "kind": "dense", "standardise": True},
        {"name": "tags", "kind": "ids", "separator": " ", "width": 3},
        {"name": "history", "kind": "ids", "last": 5},
    ]


@pytest.fixture
def grown(bench) -> tuple[str, str]:
    """Three periods, and then the same with a fourth."""
    frame = log()
    recipe(bench, STARTS[:2])
    bench.log(frame[frame["time"] < 60 * DAY])
    bench.run()
    old = bench.out
    recipe(bench, STARTS)
    bench.log(frame)
    bench.run(grow=old)
    return old, bench.out


def digest(table: pd.DataFrame) -> str:
    """As schema.json has it, worked anew."""
    found = hashlib.sha256()
    for name in ("id", "key"):
        for value in table[name]:
            found.update(str(value).encode() + b"\x1e")
        found.update(b"\x1d")
    return found.hexdigest()


def rows_of(bench, out: str, periods: set[int]) -> pd.DataFrame:
    bench.out = out
    rows = bench.rows()
    return rows[rows["period"].isin(periods)].reset_index(drop=True)


def test_old_ids_keep_their_keys(bench, grown):
    old, new = grown
    before, after = read_schema(old), read_schema(new)
    assert (before.periods, after.periods) == (3, 4)
    assert set(before.domains) == {"d0", "d1"} and after.domains == (*before.domains, "a")
    assert before.grown_from == () and after.grown_from == (before.fingerprint,)
    for space, told in before.digests.items():
        bench.out = old
        size = len(bench.vocabulary(space))
        bench.out = new
        table = bench.vocabulary(space)
        assert digest(table[:size]) == told and digest(table) == after.digests[space]
        if space == "range":
            assert len(table) == size and after.digests[space] == told
            continue
        assert len(table) > size, space
        if space != "domain":
            tail = table[size:]
            assert (tail["count"] > 0).all() and tail["key"].is_unique
            order = list(zip(-tail["count"], tail["key"], strict=True))
            assert order == sorted(order)
    users = [pq.read_table(f"{out}/users.parquet").to_pandas() for out in grown]
    pd.testing.assert_frame_equal(users[1][: len(users[0])], users[0])
    assert users[1]["user_key"].tolist() == list(range(len(users[1])))
    assert sorted(users[1]["key"]) == sorted(log()["user"].unique())


def test_rows_of_old_periods_are_encoded_alike(bench, grown):
    old, new = grown
    first = rows_of(bench, old, {0, 1, 2})
    pd.testing.assert_frame_equal(first, rows_of(bench, new, {0, 1, 2}))
    last = rows_of(bench, new, {3})
    assert len(first) + len(last) == len(log()) and last["user"].max() > first["user"].max()
    bench.out = new
    keys = bench.vocabulary("item")["key"].to_numpy()
    raw = last.merge(log(), on="time", suffixes=("", "_raw"), validate="1:1")
    assert keys[raw["item"]].tolist() == raw["item_raw"].tolist()


def test_growing_twice_tells_both(bench, grown):
    _, new = grown
    frame = log()
    recipe(bench, [*STARTS, "1970-03-25"])
    more = frame.tail(200).assign(time=lambda f: f["time"] + 10 * DAY, user=lambda f: "late" + f["user"])
    bench.log(pd.concat([frame, more]))
    bench.run(grow=new)
    schema, middle = read_schema(bench.out), read_schema(new)
    assert schema.grown_from == (*middle.grown_from, middle.fingerprint) and len(schema.grown_from) == 2
    first = rows_of(bench, new, {0, 1, 2, 3})
    second = rows_of(bench, bench.folder / "out2", {0, 1, 2, 3})
    pd.testing.assert_frame_equal(first, second)


def test_a_data_set_that_grew_from_none_does_not_say_so(bench, frame):
    bench.log(frame)
    bench.run()
    assert "grown_from" not in json.loads(Path(bench.out, "schema.json").read_text())


def test_what_grows_keeps_its_fingerprint(grown):
    schema = read_schema(grown[1])
    assert schema.fingerprint == schema.model_copy(update={"grown_from": ()}).fingerprint


def test_keys_that_come_to_be_frequent_are_appended(bench):
    frame = log()
    bench.recipe["min_count"] = 8
    bench.log(frame[:900])
    bench.run()
    old, before = bench.out, bench.vocabulary("item")
    bench.log(frame)
    report = bench.run(grow=old)
    after = bench.vocabulary("item")
    assert after["key"][: len(before)].tolist() == before["key"].tolist()
    counts = frame["item"].value_counts()
    assert set(after["key"][1:]) == set(counts[counts >= 8].index) > set(before["key"][1:])
    assert after["count"][0] == counts[counts < 8].sum() == report["features"]["item"]["rare"]["train"]
    assert after["count"][1:].tolist() == counts[after["key"][1:]].tolist()


def made(bench) -> str:
    frame = log()
    recipe(bench, STARTS[:2])
    bench.log(frame[frame["time"] < 60 * DAY])
    bench.run()
    recipe(bench, STARTS)
    bench.log(frame)
    return bench.out


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("features", {2: {"buckets": 6}}, "features: 'range': buckets is 6, in {old} it is 5"),
        ("features", {3: {"standardise": False}}, "features: 'price': standardise is False, in {old} it is True"),
        ("features", {5: {"last": 6}}, "features: 'history': last is 6, in {old} it is 5"),
        ("features", {5: {"name": "past"}}, "features: 'past': {old} has no such feature"),
        ("features", {1: {"min_count": 3}}, "features: 'item': min_count is 3, in {old} it is None"),
        ("labels", {"label": "rating > 1"}, "labels: {'label': 'rating > 1'}, but {old} was made with"),
        ("seed", 3, "seed: 3, but {old} was made with 0"),
        ("split", {"random": {}}, "split: "),
        ("domain", {"column": "domain", "keep": ["a", "d1"]}, "domain 'd0' of {old} is not kept"),
        ("periods", {"count": 4}, "anew; give the dates at which periods begin in `starts`, first its own: 1970-01-21"),
        ("periods", None, "periods: here no periods cut time and the recipe of {old} does"),
        ("periods", {"starts": STARTS[:1]}, "periods: 2, but {old} has 3; keep them all"),
        (
            "periods",
            {"starts": [STARTS[0], "1970-02-11", STARTS[2]]},
            "periods.starts.1: 1970-02-11T00:00:00, but period 2 of {old} starts at 1970-02-10T00:00:00",
        ),
        (
            "periods",
            {"starts": [*STARTS[:2], "1970-02-20"]},
            "periods.starts.2: 1970-02-20T00:00:00 is not after the last row of {old}, 1970-03-01T",
        ),
    ],
)
def test_what_cannot_grow_is_told(bench, key, value, message):
    old = made(bench)
    if key == "features":
        for place, change in value.items():
            bench.recipe["features"][place] |= change
    else:
        bench.recipe[key] = value
    assert message.replace("{old}", old) in bench.fails(grow=old)


def test_a_feature_that_is_gone(bench):
    old = made(bench)
    del bench.recipe["features"][4]
    assert f"features: 'tags': {old} has it" in bench.fails(grow=old)


def test_blocks_of_domains_cannot_grow(bench, frame):
    bench.recipe["features"][1]["scope"] = "domain"
    bench.log(frame)
    bench.run()
    assert "features: 'item': with scope `domain` every domain has a block of ids" in bench.fails(grow=bench.out)


def test_only_what_a_recipe_made_can_grow(bench, frame, tmp_path):
    from mdr_dist.data.synthetic import configure, synthesize

    bench.log(frame)
    synthesize(str(tmp_path / "made"), configure("tiny"))
    assert "was not made by `mdr prepare`" in bench.fails(grow=str(tmp_path / "made"))
    assert "not a data set (no schema.json)" in bench.fails(grow=str(tmp_path / "nothing"))
    (tmp_path / "made").rename(tmp_path / "gone")
    bench.run()
    Path(bench.out, "users.parquet").unlink()
    assert "users.parquet: no such file; prepare the data set again" in bench.fails(grow=bench.out)


def test_the_command(bench, monkeypatch):
    old = made(bench)
    recipe_path = bench.folder / "jobs" / "tiny" / "prepare.yaml"
    recipe_path.write_text(yaml.safe_dump(bench.recipe, sort_keys=False))
    out = bench.folder / "out1"
    assert mdr(monkeypatch, "prepare", recipe_path, out, "--raw", bench.raw, "--grow", old) == 0
    assert read_schema(str(out)).grown_from == (read_schema(old).fingerprint,)
