"""The recipes for periodic retraining on generated files of the published layouts."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from mdr_dist.data.layout import read_schema, read_shards
from mdr_dist.data.prepare import prepare

ROOT = Path(__file__).parents[3]


def run(folder: Path, job: str) -> tuple[dict, pd.DataFrame]:
    """The report, and the rows with raw keys, users as their `user_key` stands for."""
    out = str(folder / "data")
    report = prepare(str(ROOT / "jobs" / job), out, raw=str(folder / "raw"))
    keys = pq.read_table(f"{out}/vocabulary/item.parquet")["key"].to_numpy()
    users = pq.read_table(f"{out}/users.parquet")["key"].to_numpy()
    rows = pd.concat(
        pq.ParquetFile(f"{out}/{shard.path}").read().to_pandas().assign(domain=shard.domain, period=shard.period)
        for shard in read_shards(out)
    )
    schema = read_schema(out)
    assert set(schema.rows) == {"train"} and schema.periods == len(report["periods"])
    history = [keys[ids].tolist() for ids in rows["history"]]
    return report, rows.assign(user=users[rows["user_key"]], item=keys[rows["item"]], history=history)


def check(rows: pd.DataFrame, frame: pd.DataFrame, periods: int) -> None:
    """Rows are those of `frame` (user, item, time without ties), each with its history, cut into equal parts."""
    frame = frame.sort_values("time", ignore_index=True)
    assert frame["time"].is_unique
    rows = rows.sort_values("time", ignore_index=True)
    for column in ("user", "item", "time"):
        assert rows[column].tolist() == frame[column].tolist()
    edges = [len(frame) * part // periods for part in range(1, periods)]
    assert rows["period"].tolist() == np.searchsorted(edges, range(len(frame)), side="right").tolist()
    seen: dict[str, list[str]] = {}
    for row in rows.itertuples():
        assert row.history == seen.get(row.user, [])[-20:]
        seen.setdefault(row.user, []).append(row.item)
    assert max(map(len, seen.values())) > 20 and set(rows["label"]) == {1}


@pytest.mark.parametrize("dated", ["%Y-%m-%d %H:%M:%S", "%Y-%m-%d"])
def test_yelp(tmp_path, dated):
    (tmp_path / "raw").mkdir()
    rng = np.random.default_rng(1)
    start, events = datetime(2005, 2, 16, tzinfo=UTC), []
    with gzip.open(tmp_path / "raw" / "yelp_academic_dataset_review.json.gz", "wt") as file:
        for number in rng.permutation(1000):
            moment = start + timedelta(days=int(number), seconds=0 if dated == "%Y-%m-%d" else int(number) * 7)
            review = {
                "review_id": f"r{number}",
                "user_id": f"user-{rng.integers(30)}",
                "business_id": f"_b{rng.integers(90)}",
                "stars": float(rng.integers(1, 6)),
                "useful": 0,
                "funny": 1,
                "cool": 0,
                "text": 'They said "no", {and} left.\nTwice, caf\u00e9.',
                "date": moment.strftime(dated),
            }
            events.append((review["user_id"], review["business_id"], int(moment.timestamp())))
            file.write(json.dumps(review) + "\n")
    report, rows = run(tmp_path, "yelp/prepare.yaml")
    check(rows, pd.DataFrame(events, columns=["user", "item", "time"]), periods=40)
    assert {period["rows"] for period in report["periods"]} == {25} and set(rows["domain"]) == {"businesses"}


def test_adressa(tmp_path):
    folder = tmp_path / "raw" / "one_week"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(2)
    events, front = [], 0
    for day in range(7):
        with open(folder / f"2017010{day + 1}", "w") as file:
            for step in range(400):
                article = rng.integers(120)
                event = {
                    "eventId": 400 * day + step,
                    "userId": f"cx:{rng.integers(20)}:x",
                    "time": 1_483_225_200 + day * 86_400 + step * 200,
                    "url": "http://adressa.no/",
                    "sessionStart": False,
                    "sessionStop": step == 0,
                    "city": "trondheim",
                    "activeTime": 13,
                }
                if rng.random() < 0.7:
                    event["id"] = f"{article:040x}"
                    event["url"] = f"http://adressa.no/nyheter/{article}.ece"
                    event["title"], event["category1"] = 'Ein "sak", {ny}', "nyheter|trondheim"
                    events.append((event["userId"], event["id"], event["time"]))
                else:
                    front += 1
                file.write(json.dumps(event) + "\n")
    frame = pd.DataFrame(events, columns=["user", "item", "time"])
    once = frame.drop_duplicates(["user", "item"])
    report, rows = run(tmp_path, "adressa/prepare.yaml")
    check(rows, once, periods=63)
    assert report["rows"]["dropped"]["where id IS NOT NULL"] == front > 500
    assert report["rows"]["deduplicated"] == len(frame) - len(once) > 50
