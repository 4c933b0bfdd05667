"""The recipe for Amazon's reviews on generated files of the published layout."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from sklearn.feature_extraction.text import TfidfVectorizer

from mdr_dist.data.layout import read_schema, read_shards
from mdr_dist.data.prepare import prepare
from support.hashes import roles

ROOT = Path(__file__).parents[3]
SHOPS = ("Books", "Movies_and_TV")
ANALYZER = TfidfVectorizer().build_analyzer()


def write(folder: Path) -> pd.DataFrame:
    """Two files of reviews, half of them of users of both shops; returns both as a frame."""
    rng = np.random.default_rng(0)
    words = np.array([f"word{n}" for n in range(200)])
    parts = []
    for place, shop in enumerate(SHOPS):
        n = 6000
        frame = pd.DataFrame({"user": [f"A{k + 80 * place}" for k in rng.integers(160, size=n)], "domain": shop})
        frame["item"] = [f"B{place}{k}" for k in (130 * rng.random(n) ** 1.3).astype(int)]
        frame["rating"] = rng.integers(1, 6, size=n).astype(float)
        frame["time"] = 1_300_000_000 + rng.permutation(n) * 86_400
        frame["review"] = [" ".join(words[(200 * rng.random(k) ** 3).astype(int)]) for k in rng.integers(40, size=n)]
        parts.append(frame.drop_duplicates(["user", "item"]))
        lines = [
            {"reviewerID": row.user, "asin": row.item, "reviewerName": "x", "helpful": [0, 1], "reviewText": row.review,
             "overall": row.rating, "summary": "s", "unixReviewTime": row.time, "reviewTime": "01 1, 2011"}
            for row in parts[-1].itertuples()
        ]  # fmt: skip
        text = "".join(json.dumps(line) + "\n" for line in lines).encode()
        (folder / f"reviews_{shop}_5.json.gz").write_bytes(gzip.compress(text))
    return pd.concat(parts, ignore_index=True)


def core(frame: pd.DataFrame, user: int, item: int) -> pd.DataFrame:
    while True:
        enough = frame.groupby(["domain", "user"])["item"].transform("size") >= user
        enough &= frame.groupby(["domain", "item"])["user"].transform("size") >= item
        if enough.all():
            return frame
        frame = frame[enough]


def test_amazon_reviews(tmp_path):
    frame = write(tmp_path)
    out = str(tmp_path / "out")
    report = prepare(str(ROOT / "jobs/amazon-reviews/prepare.yaml"), out, raw=str(tmp_path))
    left = core(frame, 10, 30)
    assert report["rows"]["written"] == len(left) and 0 < report["rows"]["rare"] == len(frame) - len(left)
    found = left["user"].map(roles(left, {}, domain="Movies_and_TV"))
    left = left.assign(split=found.where((left["domain"] == SHOPS[1]) & found.isin(["val", "test"]), "train"))
    counts = left.groupby(["domain", "split"]).size()
    for shop in SHOPS:
        assert report["domains"][shop]["rows"] == counts[shop].to_dict()
    assert set(counts["Books"].index) == {"train"} and set(counts["Movies_and_TV"].index) == {"train", "val", "test"}
    train = [review for review in left[left["split"] == "train"]["review"] if review]
    theirs = TfidfVectorizer(max_df=0.5, max_features=20_000).fit(train)
    vocabulary = pq.read_table(f"{out}/vocabulary/review.parquet")["key"].to_pylist()
    assert set(vocabulary[1:]) == set(theirs.vocabulary_) < set(ANALYZER(" ".join(train)))
    rows = pd.concat(
        pq.ParquetFile(f"{out}/{shard.path}").read().to_pandas().assign(domain=shard.domain, split=shard.split)
        for shard in read_shards(out)
    )
    users = pq.read_table(f"{out}/users.parquet")["key"].to_numpy()
    rows["user"] = users[rows["user_key"]]
    both = rows.merge(left, on=["domain", "user", "time"], suffixes=("", "_raw"), validate="1:1")
    assert len(both) == len(left) and (both["split"] == both["split_raw"]).all()
    assert (both["rating"] == both["rating_raw"]).all()
    for row in both.itertuples():
        want = [word for word in ANALYZER(row.review_raw) if word in theirs.vocabulary_]
        assert [vocabulary[n] for n in row.review] == want
    schema = read_schema(out)
    assert schema.domains == SHOPS and schema["item"].scope == "domain" and schema.labels == ("rating",)
    assert [feature.name for feature in schema.features] == ["user", "item", "review", "domain"]
