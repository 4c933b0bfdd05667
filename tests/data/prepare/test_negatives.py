"""Sampled negatives: as many as asked for, never a positive of the user, of the same domain, evenly spread."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest


def run(bench, frame: pd.DataFrame, **rule) -> tuple[pd.DataFrame, dict]:
    """The rows with raw item names (by a vocabulary that knows them all) and which are negatives."""
    bench.log(frame)
    bench.recipe["split"] = {"random": {"val": 0.2, "test": 0.2}}
    bench.recipe["labels"] = {"label": "1"}
    bench.recipe["negatives"] = rule
    report = bench.run()
    return bench.decoded(), report


@pytest.mark.parametrize("sampling", ["uniform", "popularity"])
def test_negatives_are_of_the_domain_and_never_positives(bench, frame, sampling):
    rows, report = run(bench, frame, train=3, val=1, test=2, sampling=sampling)
    positives, negatives = rows[rows["label"] == 1], rows[rows["label"] == 0]
    assert len(positives) == len(frame)
    per_split = {"train": 3, "val": 1, "test": 2}
    want = sum(per_split[split] * n for split, n in positives["split"].value_counts().items())
    assert len(negatives) == report["rows"]["negatives"] == want and report["rows"]["negatives_given_up"] == 0
    for split, factor in per_split.items():
        of = lambda rows, split=split: rows[rows["split"] == split].groupby(["domain", "user_key", "time"]).size()  # noqa: E731
        pd.testing.assert_series_equal(of(negatives), of(positives) * factor)
    # user_key and item tell the raw user and item but for items never trained on, which read ""
    numbers = {user: number for number, user in enumerate(sorted(frame["user"].unique()))}
    seen = {(numbers[r.user], r.item, r.domain) for r in frame.itertuples()}
    for row in negatives.itertuples():
        assert (row.user_key, row.item, row.domain) not in seen
    in_domain = {domain: set(part["item"]) | {""} for domain, part in frame.groupby("domain")}
    assert all(row.item in in_domain[row.domain] for row in negatives.itertuples())


def spread(bench, sampling: str) -> tuple[pd.Series, pd.DataFrame]:
    """How often each item was drawn where no draw is refused (the drawing users have one item of their own)."""
    crowd = pd.DataFrame({"item": np.repeat([f"i{n}" for n in range(20)], np.arange(1, 21) * 3)})
    frame = crowd.assign(user=[f"u{n}" for n in range(len(crowd))], domain="d", rating=5, time=range(len(crowd)))
    bench.log(frame)
    bench.recipe["labels"] = {"label": "1"}
    bench.recipe["negatives"] = {"train": 40, "sampling": sampling}
    bench.run()
    rows = bench.decoded()
    return rows[rows["label"] == 0]["item"].value_counts(), frame


def expected(frame: pd.DataFrame, weights: pd.Series) -> pd.Series:
    """Mean draws of each item: every row draws 40 times by the weights of the other items."""
    total = pd.Series(0.0, index=weights.index)
    for item, rows in frame["item"].value_counts().items():
        others = weights.drop(item)
        total[others.index] += 40 * rows * others / others.sum()
    return total


@pytest.mark.parametrize("sampling", ["uniform", "popularity"])
def test_items_are_drawn_by_their_weight(bench, sampling):
    drawn, frame = spread(bench, sampling)
    counts = frame["item"].value_counts()
    want = expected(frame, counts if sampling == "popularity" else counts * 0 + 1)
    assert drawn.sum() == 40 * len(frame)
    chi_square = ((drawn.reindex(want.index).fillna(0) - want) ** 2 / want).sum()
    assert chi_square < 43.8  # 99.9 % of chi-square with 19 degrees of freedom


def test_item_features_follow_the_item_and_others_stay(bench, frame):
    frame["brand"] = "b" + (frame["item"].str[1:].astype(int) % 5).astype(str)
    frame["place"] = "p" + (frame["time"] % 11).astype(str)
    bench.recipe["log"][0]["columns"] |= {"brand": "text", "place": "text"}
    bench.recipe["features"] += [{"name": "brand", "of": "item"}, {"name": "place"}]
    rows, _ = run(bench, frame, train=2, val=2, test=2)
    negatives = rows[(rows["label"] == 0) & (rows["item"] != "")]
    assert (negatives["brand"] == "b" + (negatives["item"].str[1:].astype(int) % 5).astype(str)).all()
    assert (negatives["place"] == "p" + (negatives["time"] % 11).astype(str)).all()


def test_counts_are_of_logged_rows_only(bench, frame):
    rows, report = run(bench, frame, train=4)
    train = rows[(rows["split"] == "train") & (rows["label"] == 1)]
    vocabulary = bench.vocabulary("item").set_index("key")["count"]
    assert vocabulary.drop("").to_dict() == train["item"].value_counts().to_dict()
    assert report["domains"]["d0"]["users"] == frame[frame["domain"] == "d0"]["user"].nunique()


def test_a_user_with_every_item_gets_none(bench):
    bench.file("log.csv", "user,item,domain,rating,time\na,i,d,5,1\na,j,d,5,2\nb,i,d,5,3\n")
    bench.recipe["negatives"] = {"train": 2}
    report = bench.run()
    assert report["rows"]["negatives"] == 2 and report["rows"]["negatives_given_up"] == 4
    rows = bench.decoded()
    assert rows[rows["label"] == 0][["user", "item"]].to_numpy().tolist() == [["b", "j"]] * 2


def test_only_positive_rows_get_negatives(bench, frame):
    bench.log(frame)
    bench.recipe["negatives"] = {"train": 1}
    report = bench.run()
    assert report["rows"]["negatives"] == (frame["rating"] >= 4).sum()


def test_draws_depend_on_no_order(bench, frame):
    first, _ = run(bench, frame, train=2)
    second, _ = run(bench, frame.sample(frac=1, random_state=4), train=2)
    pd.testing.assert_frame_equal(first, second)
    bench.recipe["seed"] = 9
    third, _ = run(bench, frame, train=2)
    assert len(third) != len(first) or (third["item"] != first["item"]).any()
