"""The KuaiRand recipe on generated files of the published layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from mdr_dist.data.layout import read_schema, read_shards
from mdr_dist.data.prepare import prepare

ROOT = Path(__file__).parents[3]
LOG = [
    "user_id",
    "video_id",
    "date",
    "hourmin",
    "time_ms",
    "is_click",
    "is_like",
    "is_follow",
    "is_comment",
    "is_forward",
    "is_hate",
    "long_view",
    "play_time_ms",
    "duration_ms",
    "profile_stay_time",
    "comment_stay_time",
    "is_profile_enter",
    "is_rand",
    "tab",
]
RANGES = ["follow_user_num", "fans_user_num", "friend_user_num", "register_days"]
USERS = ["user_id", "user_active_degree", "is_lowactive_period", "is_live_streamer", "is_video_author"]
USERS += [column for name in RANGES for column in (name, f"{name}_range")] + [f"onehot_feat{n}" for n in range(18)]
VIDEOS = [
    "video_id",
    "author_id",
    "video_type",
    "upload_dt",
    "upload_type",
    "visible_status",
    "video_duration",
    "server_width",
    "server_height",
    "music_id",
    "music_type",
    "tag",
]


def write(folder: Path, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both logs and the feature files; returns the whole log and the videos."""
    rng = np.random.default_rng(seed)
    log = pd.DataFrame({column: rng.integers(2, size=4000) for column in LOG})
    log["user_id"] = (40 * rng.random(4000) ** 2).astype(int)
    log["video_id"] = (400 * rng.random(4000) ** 3).astype(int)
    log["time_ms"] = 1_649_400_000_000 + rng.permutation(4000) * 7_001
    log["tab"] = rng.choice([0, 1, 2, 3, 4, 6, 9], size=4000)
    log[:1500].to_csv(folder / "log_standard_4_08_to_4_21_1k.csv", index=False)
    log[1500:].to_csv(folder / "log_standard_4_22_to_5_08_1k.csv", index=False)
    users = pd.DataFrame({column: rng.integers(4, size=40) for column in USERS})
    users["user_id"], users["user_active_degree"] = range(40), rng.choice(["full_active", "UNKNOWN"], size=40)
    users.to_csv(folder / "user_features_1k.csv", index=False)
    videos = pd.DataFrame({column: rng.integers(9, size=390) for column in VIDEOS})
    videos["video_id"], videos["upload_type"] = range(390), rng.choice(["ShortImport", "LongImport"], size=390)
    videos["tag"] = [",".join(map(str, rng.integers(9, size=rng.integers(6)))) for _ in range(390)]
    videos["video_duration"] = np.where(rng.random(390) < 0.1, "", (rng.random(390) * 1e5).round(1).astype(str))
    videos.to_csv(folder / "video_features_basic_1k.csv", index=False)
    return log, videos


def test_kuairand(tmp_path):
    log, videos = write(tmp_path)
    out = str(tmp_path / "out")
    report = prepare(str(ROOT / "jobs/kuairand-1k/prepare.yaml"), out, raw=str(tmp_path))
    kept = log[log["tab"].isin([0, 1, 2, 4, 6])].assign(time=lambda rows: rows["time_ms"] // 1000)
    assert report["rows"]["read"] == 4000 and report["rows"]["written"] == len(kept)
    schema = read_schema(out)
    assert schema.domains == ("0", "1", "2", "4", "6")
    rows = pd.concat(
        pq.ParquetFile(f"{out}/{shard.path}").read().to_pandas().assign(tab=int(shard.domain), split=shard.split)
        for shard in read_shards(out)
    ).merge(kept, on=["time", "tab"], validate="1:1")
    assert (rows["label"] == rows["is_click"]).all() and len(rows) == len(kept)
    # fewer than ten exposures in the training split: the default row
    seen = rows[rows["split"] == "train"]["video_id"].value_counts()
    rare = ~rows["video_id"].isin(seen[seen >= 10].index)
    assert ((rows["item"] == 0) == rare).all() and 0.05 < rare.mean() < 0.95
    tags = rows.merge(videos, on="video_id", how="left")["tag"].fillna("")
    assert [len(ids) for ids in rows["tags"]] == [min(len([t for t in tag.split(",") if t]), 4) for tag in tags]
    lengths = [feature.name for feature in schema.features]
    assert lengths[:2] == ["user", "item"] and lengths[-2:] == ["tags", "domain"] and len(lengths) == 37
    # no features for the last ten videos
    without = (rows["video_id"] >= 390).sum()
    assert sum(report["features"]["author_id"]["missing"].values()) == without > 0
