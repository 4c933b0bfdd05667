"""The shipped recipes on real files: counts against the files' own descriptions and against pandas."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import scipy.io
from sklearn.feature_extraction.text import TfidfVectorizer

from mdr_dist.data.inspect import inspect
from mdr_dist.data.layout import read_shards
from mdr_dist.data.prepare import prepare
from support.hashes import roles

pytestmark = pytest.mark.real
ROOT = Path(__file__).parents[2]


def raw(folder: str) -> Path:
    """The folder of raw files; where it is missing the test is skipped, unless MDR_REQUIRE_DATA is 1."""
    found = Path(os.environ.get("MDR_DATA", ROOT / "../shared/data")) / folder
    if not found.is_dir():
        assert os.environ.get("MDR_REQUIRE_DATA") != "1", f"{found} is missing"
        pytest.skip(f"{found} is missing; set MDR_DATA to the folder of raw data")
    return found


def run(tmp_path: Path, job: str, folder: Path, recipe: str = "prepare.yaml") -> tuple[dict[str, Any], pd.DataFrame]:
    """The report, and the rows with domain, split and period."""
    out = str(tmp_path / "data")
    report = prepare(str(ROOT / "jobs" / job / recipe), out, raw=str(folder))
    rows = pd.concat(
        pq.ParquetFile(f"{out}/{shard.path}")
        .read()
        .to_pandas()
        .assign(domain=shard.domain, split=shard.split, period=shard.period)
        for shard in read_shards(out)
    )
    assert inspect(out)["rows"] == len(rows) == report["rows"]["written"]
    return report, rows


def test_ciao(tmp_path):
    folder = raw("ciao")
    report, rows = run(tmp_path, "ciao", folder)
    columns = ["user", "item", "category", "rating", "helpfulness"]
    frame = pd.DataFrame(scipy.io.loadmat(folder / "rating.mat")["rating"], columns=columns)
    assert report["rows"]["read"] == 284_086 and report["rows"]["dropped"]["where rating > 0"] == 34
    assert list(report["domains"]) == ["1", "10", "3", "2", "5", "6"]
    frame = frame[(frame["rating"] > 0) & frame["category"].isin([1, 10, 3, 2, 5, 6])]
    best = frame.groupby(["user", "item", "category"], as_index=False)["rating"].max()
    assert report["rows"]["deduplicated"] == len(frame) - len(best) > 0
    for domain, part in best.groupby("category"):
        told = report["domains"][str(domain)]
        mine = rows[rows["domain"] == str(domain)]
        assert len(mine) == len(part) == sum(told["rows"].values())
        assert mine["label"].sum() == (part["rating"] >= 4).sum()
        assert (told["users"], told["items"]) == (part["user"].nunique(), part["item"].nunique())
    shares = rows["split"].value_counts(normalize=True)
    assert abs(shares["train"] - 0.8) < 0.005 and abs(shares["val"] - 0.1) < 0.005


def test_ml_100k(tmp_path):
    folder = raw("ml-100k")
    report, rows = run(tmp_path, "ml-100k", folder)
    ratings = pd.read_csv(folder / "u.data.gz", sep="\t", names=["user", "item", "rating", "time"])
    genres = [line.split("|")[0] for line in (folder / "u.genre").read_text().split("\n") if line]
    names = ["item", "title", "released", "video", "url", *genres]
    films = pd.read_csv(folder / "u.item.gz", sep="|", names=names, encoding="latin-1")
    both = ratings.merge(films, on="item")
    assert len(both) == report["rows"]["read"] == 100_000 and report["users"] == 943
    assert {genre: report["domains"][genre]["items"] for genre in ("Action", "Fantasy", "Drama", "Comedy")} == {
        "Action": 251,
        "Fantasy": 22,
        "Drama": 725,
        "Comedy": 505,
    }
    assert set(report["domains"]) == set(genres) - {"unknown"}
    for genre in report["domains"]:
        part, mine = both[both[genre] == 1], rows[rows["domain"] == genre]
        assert len(mine) == len(part) and mine["label"].sum() == (part["rating"] >= 4).sum()
        assert sorted(mine["time"]) == sorted(part["time"])
    # a rating is in the same split in each of its genres
    users = {number: str(user) for number, user in enumerate(sorted(map(str, range(1, 944))))}
    rows["user_raw"] = rows["user_key"].map(users)
    assert rows["user_raw"].value_counts().to_dict() == {
        str(user): n for user, n in both[list(report["domains"])].sum(axis=1).groupby(both["user"]).sum().items() if n
    }
    items = rows[rows["item"] > 0]
    assert (items.groupby(["user_key", "item"])["split"].nunique() == 1).all()
    assert report["features"]["occupation"]["rows"] == 22 and report["features"]["gender"]["rows"] == 3


def test_aliccp_edda(tmp_path):
    folder = raw("aliccp-edda")
    report, rows = run(tmp_path, "aliccp-edda", folder)
    parts = []
    for path in sorted(folder.glob("d*_*.csv*")):
        part = pd.read_csv(path, names=["item", "user", "click"])
        scenario, split = path.name.split(".")[0].split("_")
        parts.append(part.assign(domain=scenario, split=split))
    frame = pd.concat(parts)
    assert report["rows"]["read"] == len(frame) == 348_332
    assert (report["users"], report["items"]) == (45_419, 26_027)
    once = frame.drop_duplicates(["user", "item", "domain", "split"])
    held = pd.MultiIndex.from_frame(once[once["split"] != "train"][["user", "item"]])
    leak = (once["split"] == "train") & pd.MultiIndex.from_frame(once[["user", "item"]]).isin(held)
    assert report["rows"]["deduplicated"] == len(frame) - len(once) and report["rows"]["leaked"] == leak.sum() > 100
    clicks = once[~leak].groupby(["domain", "split"]).size()
    for (domain, split), n in clicks.items():
        mine = rows[(rows["domain"] == domain) & (rows["split"] == split)]["label"]
        assert mine.sum() == n and len(mine) == 5 * n
    users = {user: number for number, user in enumerate(sorted(frame["user"].astype(str).unique()))}
    items = pq.read_table(tmp_path / "data/vocabulary/item.parquet").to_pandas()["key"].to_numpy()
    seen = set(zip(once["user"].astype(str).map(users), once["item"].astype(str), once["domain"], strict=True))
    negatives = rows[(rows["label"] == 0) & (rows["item"] > 0)]
    drawn = set(zip(negatives["user_key"], items[negatives["item"]], negatives["domain"], strict=True))
    assert len(negatives) > 1_000_000 and not drawn & seen


def test_xmarket(tmp_path):
    folder = raw("xmarket-electronics")
    report, rows = run(tmp_path, "xmarket", folder)
    frame = pd.concat(
        pd.read_csv(path, sep=" ").assign(market=path.name[:2]) for path in sorted(folder.glob("*_5core.txt.gz"))
    )
    assert report["rows"]["read"] == len(frame) == 134_845
    assert (report["users"], report["items"]) == (14_311, 8_304)
    once = frame.drop_duplicates(["userId", "itemId", "market"])
    assert report["rows"]["deduplicated"] == len(frame) - len(once)
    assert {market: report["domains"][market]["users"] for market in ("ca", "in")} == {"ca": 4_668, "in": 239}
    assert report["user_overlap"]["ca"]["uk"] + report["user_overlap"]["uk"]["de"] == 2
    last = frame.sort_values("date").groupby(["userId", "itemId", "market"])["date"].last()
    seconds = pd.to_datetime(last).to_numpy().astype("datetime64[s]").astype(np.int64)
    assert np.array_equal(np.sort(rows["time"]), np.sort(seconds))


def test_ali_ccp_samples(tmp_path):
    folder = raw("swr-smoke-samples")
    report, rows = run(tmp_path, "ali-ccp", folder)
    for split in ("train", "val", "test"):
        frame = pd.read_csv(folder / f"ali_ccp_{split}_sample.csv")
        mine = rows[rows["split"] == split]
        assert mine["domain"].value_counts().to_dict() == frame["301"].astype(str).value_counts().to_dict()
        assert mine["label"].sum() == frame["click"].sum()
        for column in ("D508", "D853"):
            np.testing.assert_allclose(np.sort(mine[column]), np.sort(frame[column].astype(np.float32)))
    train = pd.read_csv(folder / "ali_ccp_train_sample.csv")
    counts = train["508"].value_counts()
    assert report["features"]["508"]["rows"] == 1 + (counts >= 10).sum()
    assert report["features"]["508"]["rare"]["train"] == counts[counts < 10].sum()


def check_periods(report: dict[str, Any], rows: pd.DataFrame) -> None:
    """The report's periods against pandas."""
    firsts = {key: rows.groupby(key)["period"].min().value_counts() for key in ("user_key", "item")}
    for told in report["periods"]:
        part = rows[rows["period"] == told["period"]]
        assert told["rows"] == len(part) and told["users"] == part["user_key"].nunique()
        assert told["items"] == part["item"].nunique()
        assert told["new_users"] == firsts["user_key"].get(told["period"], 0)
        assert told["new_items"] == firsts["item"].get(told["period"], 0)
    assert report["first_seen"] == {"users": told["new_users"], "items": told["new_items"]}


def test_ml_100k_in_periods(tmp_path):
    folder = raw("ml-100k")
    report, rows = run(tmp_path, "ml-100k", folder, "prepare-periods.yaml")
    ratings = pd.read_csv(folder / "u.data.gz", sep="\t", names=["user", "item", "rating", "time"])
    assert len(rows) == 100_000 and set(rows["domain"]) == {"films"} and set(rows["split"]) == {"train"}
    assert sorted(rows["time"]) == sorted(ratings["time"])
    check_periods(report, rows)
    assert len(report["periods"]) == 12
    # equal times stay together: the largest group of them is what a period may be off by
    assert abs(rows["period"].value_counts() - 100_000 / 12).max() < 2 * ratings["time"].value_counts().max()
    # within a second the order is random; before it, the history is the user's latest films
    for _, mine in rows.groupby("user_key"):
        times = dict(zip(mine["item"], mine["time"], strict=True))
        assert sorted(map(len, mine["history"])) == np.minimum(np.arange(len(mine)), 20).tolist()
        for moment, item, history in zip(mine["time"], mine["item"], mine["history"], strict=True):
            past = [times[film] for film in history]
            assert past == sorted(past) and len(set(history)) == len(history) and item not in history
            if past:
                assert past[-1] <= moment
                between = {film for film, time in times.items() if past[0] < time < moment}
                assert between <= set(history)


def test_xmarket_in_periods(tmp_path):
    folder = raw("xmarket-electronics")
    report, rows = run(tmp_path, "xmarket", folder, "prepare-periods.yaml")
    frame = pd.concat(
        pd.read_csv(path, sep=" ").assign(market=path.name[:2]) for path in sorted(folder.glob("*_5core.txt.gz"))
    )
    once = frame.sort_values("date").drop_duplicates(["userId", "itemId", "market"])
    starts = ["2016-01-01", "2016-07-01", "2017-01-01", "2017-07-01", "2018-01-01"]
    starts += ["2018-07-01", "2019-01-01", "2019-07-01", "2020-01-01"]
    period = np.searchsorted(starts, once["date"].tolist(), side="right")
    assert len(rows) == len(once)
    want = once.groupby(["market", period]).size()
    assert rows.groupby(["domain", "period"]).size().to_dict() == want.to_dict() and len(want) == 70
    assert {(entry["period"], market): n for entry in report["periods"] for market, n in entry["domains"].items()} == {
        (number, market): n for (market, number), n in want.items()
    }
    check_periods(report, rows)
    lengths = rows.groupby("user_key")["history"].apply(lambda lists: sorted(map(len, lists)))
    for mine in lengths:  # two users rate in two markets, one item in both on one day it may be
        assert mine == np.minimum(np.arange(len(mine)), 20).tolist()


def test_musical_instruments(tmp_path):
    folder = raw("amazon-musical-reviews-text")
    report, rows = run(tmp_path, "amazon-musical-reviews", folder)
    with zipfile.ZipFile(folder / "Musical_Instruments.zip") as archive:
        frame = pd.read_json(io.BytesIO(archive.read("Musical_Instruments.json")), lines=True)
    frame = frame.rename(columns={"reviewerID": "user", "asin": "item", "unixReviewTime": "time"})
    assert report["rows"]["read"] == report["rows"]["written"] == len(frame) == 10_261
    assert (report["users"], report["items"]) == (1_429, 900)
    half = [hashlib.md5(item.encode()).digest()[8] % 2 for item in frame["item"]]
    frame["domain"] = np.array(["one", "two"])[half]
    kinds = frame["user"].map(roles(frame, {}, domain="two"))
    frame["split"] = kinds.where((frame["domain"] == "two") & kinds.isin(["val", "test"]), "train")
    assert rows.groupby(["domain", "split"]).size().to_dict() == frame.groupby(["domain", "split"]).size().to_dict()
    counted = kinds.groupby(frame["user"]).first().value_counts()
    assert abs(counted["common"] / (counted.sum() - counted["other"]) - 0.5) < 0.05 and "uncommon" not in counted
    train = [review for review in frame[frame["split"] == "train"]["reviewText"] if review]
    vectoriser = TfidfVectorizer(max_df=0.5, max_features=20_000).fit(train)
    words = pq.read_table(tmp_path / "data/vocabulary/review.parquet")["key"].to_numpy()
    assert set(words[1:]) == set(vectoriser.vocabulary_)
    users = pq.read_table(tmp_path / "data/users.parquet")["key"].to_numpy()
    items = pq.read_table(tmp_path / "data/vocabulary/item.parquet")["key"].to_numpy()
    analyzer = vectoriser.build_analyzer()
    texts = {
        pair: [word for word in analyzer(text) if word in vectoriser.vocabulary_][:500]
        for pair, text in zip(zip(frame["user"], frame["item"], strict=True), frame["reviewText"], strict=True)
    }
    known = rows[items[rows["item"]] != ""]
    for user, item, review in zip(users[known["user_key"]], items[known["item"]], known["review"], strict=True):
        assert words[review].tolist() == texts[user, item]
    lengths = {split: part["review"].map(len) for split, part in rows.groupby("split")}
    told = report["features"]["review"]
    for split, part in frame.groupby("split"):
        assert told["missing"][split] == (part["reviewText"] == "").sum()
        assert told["missing"][split] + told["empty"][split] == (lengths[split] == 0).sum()
    assert len(known) > 10_000 and told["rows"] == len(words) > 15_000
