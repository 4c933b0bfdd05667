"""Splits and periods, against programs of their own, and stable whatever the order of the rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from support.hashes import uniform

KEY = ["user", "item", "domain", "time"]


def by_share(u: float, val: float, test: float) -> str:
    return "train" if u < 1 - val - test else "val" if u < 1 - test else "test"


def splits(bench, frame: pd.DataFrame) -> pd.DataFrame:
    """Run, and return the frame with the split that each row got."""
    bench.log(frame)
    bench.run()
    # a key that training lacks reads "", so rows are matched by their unique time
    got = bench.rows()[["time", "domain", "split", "period"]]
    return frame.merge(got, on=["time", "domain"], how="left", validate="1:1")


def test_random_goes_by_the_documented_hash(bench, frame):
    bench.recipe |= {"split": {"random": {"val": 0.2, "test": 0.1}}, "seed": 5}
    found = splits(bench, frame)
    want = [by_share(uniform(5, row.user, row.item, row.time), 0.2, 0.1) for row in frame.itertuples()]
    assert found["split"].tolist() == want
    shares = found["split"].value_counts(normalize=True)
    assert abs(shares["val"] - 0.2) < 0.03 and abs(shares["test"] - 0.1) < 0.03


@pytest.mark.parametrize(
    "rule",
    [
        {"random": {}},
        {"user": {"val": 0.2, "test": 0.2}},
        {"last": {"per": "user_domain"}},
        {"time": {"val": 0.1, "test": 0.2}},
    ],
)
def test_nothing_depends_on_the_order_of_rows_or_files(bench, frame, rule):
    bench.recipe["split"] = rule
    bench.recipe["periods"] = {"count": 3}
    bench.log(frame)
    bench.run()
    first, first_vocabulary = bench.rows(), bench.vocabulary("item")
    shuffled = frame.sample(frac=1, random_state=1)
    (bench.raw / "log.csv").unlink()
    bench.log(shuffled[:1000], "b.csv")
    bench.log(shuffled[1000:], "a.csv")
    bench.recipe["log"][0]["files"] = ["b.csv", "a.csv"]
    bench.run()
    pd.testing.assert_frame_equal(first, bench.rows())
    pd.testing.assert_frame_equal(first_vocabulary, bench.vocabulary("item"))


def test_another_seed_gives_another_split(bench, frame):
    bench.recipe["split"] = {"random": {}}
    first = splits(bench, frame)["split"]
    bench.recipe["seed"] = 1
    assert (splits(bench, frame)["split"] != first).mean() > 0.2


def test_by_user_keeps_users_whole(bench, frame):
    bench.recipe["split"] = {"user": {"val": 0.2, "test": 0.3}}
    found = splits(bench, frame)
    want = [by_share(uniform(0, "user", user), 0.2, 0.3) for user in frame["user"]]
    assert found["split"].tolist() == want
    assert (found.groupby("user")["split"].nunique() == 1).all()


@pytest.mark.parametrize("per", ["user", "user_domain"])
def test_last_out(bench, frame, per):
    bench.recipe["split"] = {"last": {"per": per}}
    found = splits(bench, frame)
    sizes = []
    for _, rows in found.groupby(["user", "domain"] if per == "user_domain" else "user"):
        got = rows.sort_values("time")["split"].tolist()
        n = len(got)
        assert got == ["train"] * (n - (n > 1) - (n > 2)) + ["val"] * (n > 2) + ["test"] * (n > 1)
        sizes.append(n)
    assert {1, 4} <= set(sizes) and (per == "user" or {2, 3} <= set(sizes))


def test_by_shares_of_time(bench, frame):
    bench.recipe["split"] = {"time": {"val": 0.1, "test": 0.2}}
    found = splits(bench, frame).sort_values("time")["split"].tolist()
    val, test = int(0.7 * len(frame)), int(0.8 * len(frame))
    assert found == ["train"] * val + ["val"] * (test - val) + ["test"] * (len(frame) - test)


def test_equal_times_stay_together(bench, frame):
    frame["time"] = np.arange(len(frame)) * 3 // len(frame)
    bench.recipe["split"] = {"time": {"test": 0.2}}
    bench.log(frame)
    bench.run()
    got = bench.rows().groupby("split")["time"].unique()
    assert sorted(got["train"]) == [0, 1] and sorted(got["test"]) == [2]


def test_by_dates_and_periods_by_dates(bench, frame):
    day = 86_400
    frame["time"] = np.arange(len(frame)) * day // 8
    bench.recipe["split"] = {"time": {"val_from": "1970-11-01", "test_from": "1970-12-01T12:00:00+00:00"}}
    bench.recipe["periods"] = {"starts": ["1970-02-01", "1970-06-01"]}
    found = splits(bench, frame)
    times = pd.to_datetime(found["time"], unit="s")
    assert ((found["split"] == "test") == (times >= "1970-12-01 12:00")).all()
    assert ((found["split"] == "val") == (times >= "1970-11-01") & (times < "1970-12-01 12:00")).all()
    assert ((found["period"] == 0) == (times < "1970-02-01")).all()
    assert ((found["period"] == 2) == (times >= "1970-06-01")).all()


def test_periods_hold_equal_shares(bench, frame):
    bench.recipe["periods"] = {"count": 5}
    found = splits(bench, frame).sort_values("time")
    n = len(found)
    assert (
        found["period"].tolist()
        == np.searchsorted([n * part // 5 for part in range(1, 5)], range(n), side="right").tolist()
    )
    assert found["period"].is_monotonic_increasing


def test_periods_that_would_be_empty(bench, frame):
    frame["time"] = 7
    bench.log(frame)
    bench.recipe["periods"] = {"count": 3}
    assert "two periods would begin at the same time" in bench.fails()


def test_a_shipped_split(bench, frame):
    frame["fold"] = np.random.default_rng(3).choice(["a", "b", "c"], size=len(frame))
    bench.recipe["log"][0]["columns"]["fold"] = "text"
    bench.recipe["split"] = {"column": {"column": "fold", "names": {"a": "train", "b": "val", "c": "test"}}}
    found = splits(bench, frame)
    assert (found["split"] == found["fold"].map({"a": "train", "b": "val", "c": "test"})).all()
    del bench.recipe["split"]["column"]["names"]["c"]
    row = frame.index[frame["fold"] == "c"][0] + 2
    (bench.raw / "log.csv").write_text(frame.to_csv(index=False))
    assert f"log.csv:{row}: fold: is not a split; they are a, b: " in expect_failure(bench)


def expect_failure(bench) -> str:
    from mdr_dist.errors import UserError

    with pytest.raises(UserError) as caught:
        bench.run()
    return str(caught.value)


def test_leaks_leave_the_training_split(bench, frame):
    repeats = frame.sample(400, random_state=0).assign(domain="d0", time=lambda f: f["time"] + 7)
    frame = pd.concat([frame, repeats], ignore_index=True)
    bench.recipe["split"] = {"random": {"val": 0.2, "test": 0.2}, "drop_leaks": True}
    bench.log(frame)
    report = bench.run()
    split = pd.Series([by_share(uniform(0, r.user, r.item, r.time), 0.2, 0.2) for r in frame.itertuples()])
    held = set(map(tuple, frame[split != "train"][["user", "item"]].to_numpy()))
    leaks = [s == "train" and (r.user, r.item) in held for s, r in zip(split, frame.itertuples(), strict=True)]
    assert report["rows"]["leaked"] == sum(leaks) > 100
    got = bench.rows()
    assert sorted(got["time"]) == sorted(frame[~np.array(leaks)]["time"])


def test_a_domain_without_rows_in_a_split(bench, frame):
    small = pd.DataFrame({"user": ["u1"], "item": ["i1"], "domain": ["tiny"], "rating": [5], "time": [1]})
    bench.log(pd.concat([frame, small]))
    bench.recipe["split"] = {"random": {}}
    assert "domain 'tiny' has no rows in split " in bench.fails()


def test_a_share_of_a_shipped_training_split_becomes_val(bench, frame):
    frame["shipped"] = ["test" if n % 5 == 0 else "train" for n in range(len(frame))]
    bench.recipe["log"][0]["columns"]["shipped"] = "text"
    bench.recipe |= {"split": {"column": {"column": "shipped", "val": 0.2}}, "seed": 5}
    found = splits(bench, frame)
    rows = list(frame.itertuples())
    shares = [by_share(uniform(5, row.user, row.item, row.time), 0.2, 0.0) for row in rows]
    want = ["test" if row.shipped == "test" else share for row, share in zip(rows, shares, strict=True)]
    assert found["split"].tolist() == want and want.count("val") > 50


def test_what_is_not_relevant_leaves_the_held_out_splits(bench, frame):
    bench.recipe["derive"] = {"usual": 'avg(rating) OVER (PARTITION BY "user")'}
    bench.recipe["split"] = {"random": {"val": 0.2, "test": 0.3}, "relevant": "rating > usual"}
    bench.log(frame)
    report = bench.run()
    split = pd.Series([by_share(uniform(0, r.user, r.item, r.time), 0.2, 0.3) for r in frame.itertuples()])
    usual = frame.groupby("user")["rating"].transform("mean")
    stays = (split == "train") | (frame["rating"] > usual)
    assert report["rows"]["irrelevant"] == (~stays).sum() > 100
    assert sorted(bench.rows()["time"]) == sorted(frame[stays]["time"])


def test_a_relevance_that_is_no_expression(bench, frame):
    bench.log(frame)
    bench.recipe["split"] = {"random": {}, "relevant": "rating > nothing"}
    assert "split.relevant: 'rating > nothing'" in bench.fails()
