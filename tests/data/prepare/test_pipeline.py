"""The whole job: the report against pandas, the shards on disk, all or nothing, remote output, Ray."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from mdr_dist.data import layout
from mdr_dist.data.inspect import inspect
from mdr_dist.data.layout import read_schema, read_shards
from mdr_dist.errors import UserError


def test_the_report(bench, frame):
    bench.log(frame)
    bench.recipe |= {"where": ["rating > 1"], "split": {"random": {}}}
    report = bench.run()
    assert json.loads(Path(bench.out, "report.json").read_text()) == report
    kept = frame[frame["rating"] > 1]
    assert report["rows"] == {
        "files": {f"{bench.raw}/log.csv": len(frame)},
        "read": len(frame),
        "rejected": 0,
        "dropped": {"where rating > 1": len(frame) - len(kept), "other domain": 0},
        "deduplicated": 0,
        "rare": 0,
        "uncommon": 0,
        "leaked": 0,
        "irrelevant": 0,
        "kept": len(kept),
        "negatives": 0,
        "negatives_given_up": 0,
        "written": len(kept),
    }
    rows = bench.rows()
    for domain, part in rows.groupby("domain"):
        told = report["domains"][domain]
        assert told["rows"] == part["split"].value_counts().to_dict()
        for split, label in part.groupby("split")["label"].mean().items():
            assert told["label_mean"][split]["label"] == pytest.approx(label, rel=1e-5)
    users = {domain: set(part["user"]) for domain, part in kept.groupby("domain")}
    items = {domain: set(part["item"]) for domain, part in kept.groupby("domain")}
    for a in users:
        assert report["domains"][a]["users"] == len(users[a]) and report["domains"][a]["items"] == len(items[a])
        for b in users:
            assert report["user_overlap"][a][b] == len(users[a] & users[b])
            assert report["item_overlap"][a][b] == len(items[a] & items[b])
    assert report["users"] == kept["user"].nunique() and report["items"] == kept["item"].nunique()


def test_skew(bench, frame):
    bench.log(frame)
    report = bench.run()
    for word in ("user", "item"):
        n = np.sort(frame[word].value_counts().to_numpy())
        top = n[-int(np.ceil(0.01 * len(n))) :].sum() / n.sum()
        gini = np.abs(n[:, None] - n[None, :]).mean() / (2 * n.mean())
        assert report["skew"][word]["top_1_percent"] == pytest.approx(top, rel=1e-5)
        assert report["skew"][word]["gini"] == pytest.approx(gini, rel=1e-4)


def test_rows_lie_in_hash_order_and_no_other(bench, frame):
    bench.log(frame)
    bench.recipe["split"] = {"random": {}}
    bench.run()
    for shard in read_shards(bench.out):
        rows = pq.ParquetFile(f"{bench.out}/{shard.path}").read().to_pandas()
        raw = rows.merge(frame, on="time", suffixes=("", "_raw"), how="left", validate="1:1")
        keys = [
            int.from_bytes(
                hashlib.md5(f"0\x1f{r.user_raw}\x1f{r.item_raw}\x1f{r.time}".encode()).digest()[8:], "little"
            )
            for r in raw.itertuples()
        ]
        assert keys == sorted(keys)
        if shard.split == "train":  # some 760 rows: five standard errors
            assert abs(np.corrcoef(rows["time"], range(len(rows)))[0, 1]) < 0.18


def test_shards_are_as_the_layout_says(bench, frame, monkeypatch):
    monkeypatch.setattr(layout, "ROW_GROUP", 100)
    monkeypatch.setattr(layout, "FILE_ROWS", 300)
    bench.log(frame)
    bench.run()
    schema, shards = read_schema(bench.out), read_shards(bench.out)
    assert len(shards) > 5 and sum(shard.rows for shard in shards) == len(frame)
    for shard in shards:
        assert pq.read_schema(f"{bench.out}/{shard.path}").equals(layout.arrow_schema(schema, time=True))
        assert set(shard.row_groups[:-1]) <= {100}
    assert schema.rows == {"train": frame["domain"].value_counts().to_dict()}


def test_no_time_no_time_column(bench, frame):
    bench.log(frame)
    del bench.recipe["time"]
    bench.run()
    assert "time" not in bench.rows()


def test_an_output_that_is_there_is_not_touched(bench, frame, tmp_path):
    bench.log(frame)
    bench.run()
    before = sorted((path, path.stat().st_mtime_ns) for path in Path(bench.out).rglob("*"))
    with pytest.raises(UserError, match="the folder is not empty"):
        bench.run(out=bench.out)
    assert before == sorted((path, path.stat().st_mtime_ns) for path in Path(bench.out).rglob("*"))


def test_a_fault_while_writing_leaves_nothing(bench, frame, monkeypatch):
    bench.log(frame)

    def broken(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(layout.ShardWriter, "_write_group", broken)
    with pytest.raises(OSError, match="no space"):
        bench.run()
    assert sorted(path.name for path in bench.folder.iterdir()) == ["jobs", "raw"]


def test_a_remote_output(bench, frame):
    bench.log(frame)
    bench.recipe["split"] = {"random": {}}
    bench.run()
    here = {str(path.relative_to(bench.out)): path for path in Path(bench.out).rglob("*") if path.is_file()}
    bench.run(out="memory://prepare-out/data")
    memory = fsspec.filesystem("memory")
    there = {name.removeprefix("/prepare-out/data/"): name for name in memory.find("/prepare-out/data")}
    assert set(there) == set(here) and "schema.json" in there
    for name, path in here.items():
        assert memory.cat_file(there[name]) == path.read_bytes(), name
    assert inspect("memory://prepare-out/data")["rows"] == len(frame)
    memory.rm("/prepare-out", recursive=True)


def test_little_memory_is_enough(bench):
    rng = np.random.default_rng(0)
    n = 300_000
    frame = pd.DataFrame(
        {
            "user": rng.integers(100_000, size=n),
            "item": rng.integers(50_000, size=n),
            "domain": rng.integers(3, size=n),
            "rating": rng.integers(1, 6, size=n),
            "time": rng.permutation(n),
        }
    )
    bench.log(frame)
    bench.recipe |= {"memory_gb": 0.125, "split": {"random": {}}, "min_count": 2}
    assert bench.run()["rows"]["written"] == n


def test_too_little_memory_is_told(bench, frame, monkeypatch):
    import duckdb

    from mdr_dist.data.prepare import pipeline

    bench.log(frame)

    def full(*_: object, **__: object) -> None:
        raise duckdb.OutOfMemoryException("Out of Memory Error: failed to pin block\nsecond line")

    monkeypatch.setattr(pipeline, "encode", full)
    assert "memory_gb of the recipe is too small: Out of Memory Error: failed to pin block" in bench.fails()


@pytest.mark.slow
def test_ray_makes_the_same_files(bench, frame):
    for place in range(3):
        bench.log(frame[place::3], f"part-{place}.csv")
    bench.recipe["log"][0]["files"] = ["part-*.csv"]
    bench.recipe |= {"split": {"random": {}}, "negatives": {"train": 1}, "periods": {"count": 2}}
    first = bench.run()
    here = {path.relative_to(bench.out): path.read_bytes() for path in Path(bench.out).rglob("*") if path.is_file()}
    second = bench.run(workers=2)
    there = {path.relative_to(bench.out): path.read_bytes() for path in Path(bench.out).rglob("*") if path.is_file()}
    assert first == second and here == there
    bench.file("part-1.csv", "user,item,domain,rating,time\na,i,d,5,x\n")
    with pytest.raises(UserError, match=r"part-1\.csv:2: time: not a whole number: 'a,i,d,5,x'") as caught:
        bench.run(workers=2)
    assert "\n" not in str(caught.value)
