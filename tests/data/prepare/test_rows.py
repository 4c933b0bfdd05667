"""Joins, derived columns, filters, domains and deduplication, against pandas."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest


def test_side_tables_join_by_key(bench, frame):
    users = pd.DataFrame({"user": [f"u{n}" for n in range(150)], "age": [str(n % 60) for n in range(150)]})
    items = pd.DataFrame({"id": [f"i{n}" for n in range(300)], "brand": [f"b{n % 7}" for n in range(300)]})
    bench.log(frame)
    bench.log(users, "users.csv")
    bench.log(items, "items.csv")
    bench.recipe["tables"] = {
        "users": {
            "files": ["users.csv"],
            "format": "csv",
            "columns": {"user": "text", "age": "text"},
            "keys": ["user"],
        },
        "items": {
            "files": ["items.csv"],
            "format": "csv",
            "columns": {"id": "text", "brand": "text"},
            "keys": {"item": "id"},
        },
    }
    bench.recipe["features"] += [{"name": "age"}, {"name": "brand", "of": "item"}]
    bench.run()
    want = frame.merge(users, on="user", how="left").merge(items, left_on="item", right_on="id")
    want["age"] = want["age"].fillna("")
    columns = ["user", "item", "time", "age", "brand"]
    got = bench.decoded()[columns].sort_values(columns, ignore_index=True)
    assert len(want) == len(frame) and (want["age"] == "").any()
    pd.testing.assert_frame_equal(got, want[columns].sort_values(columns, ignore_index=True), check_dtype=False)


def side(bench, rows: str, **more) -> None:
    bench.file("log.csv", "user,item,domain,rating,time\na,i,d,5,7\nb,i,d,5,7\n")
    bench.file("users.csv", "user,age\n" + rows)
    columns = {"user": "text", "age": "int"}
    bench.recipe["tables"] = {"users": {"files": ["users.csv"], "format": "csv", "columns": columns, "keys": ["user"]}}
    bench.recipe["tables"]["users"] |= more
    bench.recipe["features"].append({"name": "age"})


def test_a_key_that_stands_twice(bench):
    side(bench, "a,1\nb,2\na,3\n")
    assert "tables.users: key a stands twice" in bench.fails()


def test_a_row_without_its_required_side_table(bench):
    side(bench, "a,1\n", required=True)
    assert "log.csv:3: user: has no row in table users: 'b,i,d,5,7'" in bench.fails()


def test_a_bad_row_of_a_side_table(bench):
    side(bench, "a,1\nb,old\n")
    assert "users.csv:3: age: not a whole number" in bench.fails()


def test_derived_columns_and_filters(bench, frame):
    bench.log(frame)
    bench.recipe["derive"] = {"half": "time // 2", "parity": "'p' || (half % 2)"}
    bench.recipe["where"] = ["rating > 1", "user <> 'u0'"]
    bench.recipe["labels"] = {"label": "rating >= 4", "stars": "rating / 5"}
    bench.recipe["features"].append({"name": "parity"})
    report = bench.run()
    first, second = frame[frame["rating"] <= 1], frame[(frame["rating"] > 1) & (frame["user"] == "u0")]
    want = frame.drop(first.index).drop(second.index)
    dropped = report["rows"]["dropped"]
    assert dropped["where rating > 1"] == len(first) and dropped["where user <> 'u0'"] == len(second) > 0
    got = bench.decoded().sort_values("time")
    want = want.sort_values("time")
    assert got["parity"].tolist() == [f"p{time // 2 % 2}" for time in want["time"]]
    np.testing.assert_allclose(got["stars"], want["rating"] / 5, rtol=1e-6)
    np.testing.assert_array_equal(got["label"], want["rating"] >= 4)


def test_a_row_that_a_filter_drops_may_lack_a_label(bench):
    bench.file("log.csv", "user,item,domain,rating,time\na,i,d,5,7\na,j,d,,7\n")
    bench.recipe["where"] = ["rating IS NOT NULL"]
    assert bench.run()["rows"]["written"] == 1


def test_largest_domains_renamed(bench, frame):
    frame["domain"] = np.random.default_rng(0).choice(["x", "y", "z"], p=[0.2, 0.5, 0.3], size=len(frame))
    bench.log(frame)
    bench.recipe["domain"] = {"column": "domain", "names": {"y": "why/not"}, "largest": 2}
    report = bench.run()
    sizes = frame["domain"].value_counts()
    assert list(report["domains"]) == ["why/not", "z"]
    assert report["domains"]["why/not"]["rows"] == {"train": sizes["y"]}
    assert report["rows"]["dropped"]["other domain"] == sizes["x"]
    assert set(bench.rows()["domain"]) == {"why/not", "z"}


def test_a_domain_that_names_does_not_list_keeps_its_own_name(bench, frame):
    frame["domain"] = np.random.default_rng(0).choice(["x", "y"], p=[0.3, 0.7], size=len(frame))
    bench.log(frame)
    bench.recipe["domain"] = {"column": "domain", "names": {"y": "why"}}
    report = bench.run()
    sizes = frame["domain"].value_counts()
    assert {name: entry["rows"]["train"] for name, entry in report["domains"].items()} == {
        "why": sizes["y"],
        "x": sizes["x"],
    }
    assert report["rows"]["dropped"]["other domain"] == 0


def test_kept_domains_stand_in_the_given_order(bench, frame):
    bench.log(frame)
    bench.recipe["domain"]["keep"] = ["d2", "d0"]
    assert list(bench.run()["domains"]) == ["d2", "d0"]
    assert set(bench.rows()["domain"]) == {"d2", "d0"}


def test_flags_give_a_row_for_each_domain(bench, frame):
    rng = np.random.default_rng(1)
    for flag, values in (("Action", ["0", "1"]), ("War", ["false", "true"]), ("Un/known", ["", "1"])):
        frame[flag] = rng.choice(values, size=len(frame))
    bench.log(frame)
    bench.recipe["log"][0]["columns"] |= {"Action": "text", "War": "text", "Un/known": "text"}
    bench.recipe["domain"] = {"flags": ["Action", "War", "Un/known"]}
    report = bench.run()
    on = {flag: frame[flag].isin(["1", "true"]) for flag in ("Action", "War", "Un/known")}
    got = bench.decoded()
    for flag, rows in on.items():
        assert sorted(got[got["domain"] == flag]["time"]) == sorted(frame[rows]["time"])
    none = ~(on["Action"] | on["War"] | on["Un/known"])
    assert report["rows"]["dropped"]["in no domain"] == none.sum() > 0


def duplicates(seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "user": rng.choice(["a", "b", "c"], size=200),
            "item": rng.choice(["i", "j", "k"], size=200),
            "domain": rng.choice(["d0", "d1"], size=200),
            "rating": rng.integers(1, 6, size=200),
            "time": rng.permutation(200),
        }
    )


@pytest.mark.parametrize("keep", ["last", "first", "max"])
def test_dedupe(bench, keep):
    frame = duplicates(2)
    bench.log(frame)
    bench.recipe["dedupe"] = {"by": ["user", "item", "domain"], "keep": keep}
    bench.recipe["labels"] = {"label": "rating"}
    if keep == "max":
        bench.recipe["dedupe"]["value"] = "rating"
    report = bench.run()
    keys = ["user", "item", "domain"]
    order = {"last": ["time"], "first": ["time"], "max": ["rating", "time"]}[keep]
    ordered = frame.sort_values(order, ascending=keep == "first")
    want = ordered.groupby(keys, as_index=False).first().sort_values(keys, ignore_index=True)
    got = bench.decoded().rename(columns={"label": "rating"}).sort_values(keys, ignore_index=True)
    assert report["rows"]["deduplicated"] == 200 - len(want) == 182
    # ties of the best rating fall to the latest time
    pd.testing.assert_frame_equal(got[[*keys, "rating", "time"]], want[[*keys, "rating", "time"]], check_dtype=False)


def test_dates_become_unix_seconds_and_milliseconds_are_cut(bench):
    bench.file("log.csv", "user,item,domain,rating,time\na,i,d,5,2020-02-29 12:00\nb,i,d,5,1969-12-31 23:59\n")
    bench.recipe["log"][0]["columns"]["time"] = "text"
    bench.recipe["time"]["format"] = "%Y-%m-%d %H:%M"
    bench.run()
    assert sorted(bench.rows()["time"]) == [-60, 1582977600]
    bench.file("log.csv", "user,item,domain,rating,time\na,i,d,5,1582977600999\n")
    bench.recipe["log"][0]["columns"]["time"] = "int"
    bench.recipe["time"]["format"] = "unix_ms"
    bench.run()
    assert bench.rows()["time"].tolist() == [1582977600]


def test_a_date_of_another_format(bench):
    bench.file("log.csv", "user,item,domain,rating,time\na,i,d,5,29.2.2020\n")
    bench.recipe["log"][0]["columns"]["time"] = "text"
    bench.recipe["time"]["format"] = "%Y-%m-%d"
    assert "log.csv:2: time: is not a time of format %Y-%m-%d: 'a,i,d,5,29.2.2020'" in bench.fails()


def test_a_label_out_of_its_bounds(bench):
    bench.file("log.csv", "user,item,domain,rating,time\na,i,d,5,7\nb,i,d,5.5,7\nc,i,d,1,7\na,j,d,0,8\nb,j,d,6,8\n")
    bench.recipe |= {"labels": {"label": "rating >= 4", "stars": "rating"}, "within": {"stars": [1, 5]}}
    assert "log.csv:3: stars: the label is not within [1, 5]: 'b,i,d,5.5,7'" in bench.fails()
    bench.recipe |= {"where": ["rating < 6"], "max_rejected": 1}
    assert "log.csv:5: stars: the label is not within [1, 5]: 'a,j,d,0,8'" in bench.fails()
    bench.recipe["max_rejected"] = 2
    report = bench.run()
    assert report["rows"]["rejected"] == 2 and report["rows"]["dropped"]["where rating < 6"] == 1
    assert sorted(bench.rows()["stars"]) == [1, 5]
    rejected = [json.loads(line) for line in Path(bench.out, "rejected/rejected.jsonl").read_text().splitlines()]
    assert [(row["line"], row["column"], row["reason"]) for row in rejected] == [
        (3, "stars", "the label is not within [1, 5]"),
        (5, "stars", "the label is not within [1, 5]"),
    ]
    bench.recipe["within"] = {"stars": [0, float("inf")], "label": [0, 1]}
    assert bench.run()["rows"]["rejected"] == 0
