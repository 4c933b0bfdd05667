"""A bench for `prepare`: writes raw files and a recipe, runs it, and reads the data set back with raw keys."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from mdr_dist.data.layout import read_schema, read_shards
from mdr_dist.data.prepare import prepare
from mdr_dist.errors import UserError

BASE: dict[str, Any] = {
    "log": [
        {
            "files": ["log.csv"],
            "format": "csv",
            "columns": {"user": "text", "item": "text", "domain": "text", "rating": "float", "time": "int"},
        }
    ],
    "labels": {"label": "rating >= 4"},
    "domain": {"column": "domain"},
    "time": {"column": "time"},
    "features": [{"name": "user"}, {"name": "item", "of": "item"}],
}


class Bench:
    """Files under `folder/raw`, the recipe `folder/jobs/<name>/prepare.yaml`, the data set `folder/out<n>`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.raw = folder, folder / "raw"
        self.raw.mkdir()
        self.recipe = copy.deepcopy(BASE)
        self.out = ""

    def file(self, name: str, content: str | bytes) -> Path:
        path = self.raw / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def log(self, frame: pd.DataFrame, name: str = "log.csv") -> Path:
        return self.file(name, frame.to_csv(index=False))

    def run(self, workers: int = 0, out: str = "", grow: str = "") -> dict[str, Any]:
        recipe = self.folder / "jobs" / "tiny" / "prepare.yaml"
        recipe.parent.mkdir(parents=True, exist_ok=True)
        recipe.write_text(yaml.safe_dump(self.recipe, sort_keys=False))
        taken = len([path for path in self.folder.iterdir() if path.name.startswith("out")])
        self.out = out or str(self.folder / f"out{taken}")
        return prepare(str(recipe), self.out, raw=str(self.raw), workers=workers, grow=grow)

    def fails(self, grow: str = "") -> str:
        """The one line of the error, after a check that nothing is left behind."""
        before = {path.name for path in self.folder.iterdir()} | {"raw", "jobs"}
        with pytest.raises(UserError) as caught:
            self.run(grow=grow)
        assert {path.name for path in self.folder.iterdir()} <= before
        message = str(caught.value)
        assert "\n" not in message
        return message

    def vocabulary(self, space: str) -> pd.DataFrame:
        return pq.read_table(f"{self.out}/vocabulary/{space}.parquet").to_pandas()

    def rows(self) -> pd.DataFrame:
        """All rows in on-disk order, with `domain`, `split` and `period` from the shards' index."""
        parts = []
        for shard in read_shards(self.out):
            # the folder names would be read as columns
            part = pq.ParquetFile(f"{self.out}/{shard.path}").read().to_pandas()
            parts.append(part.assign(domain=shard.domain, split=shard.split, period=shard.period))
        return pd.concat(parts, ignore_index=True)

    def decoded(self) -> pd.DataFrame:
        """`rows` with the id features' raw keys in place of ids ("" for a default row)."""
        rows = self.rows()
        for feature in read_schema(self.out).of_kind("id", "ids"):
            if feature.name == "domain":
                continue
            keys = self.vocabulary(feature.vocabulary)["key"].to_numpy()
            column = rows[feature.name]
            if feature.kind == "ids":
                rows[feature.name] = [list(keys[np.asarray(ids, dtype=int)]) for ids in column]
            else:
                rows[feature.name] = keys[column.to_numpy()]
        return rows


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def interactions(rows: int = 3000, seed: int = 0, domains: int = 3) -> pd.DataFrame:
    """Random interactions with Zipf-like users and items, without duplicate (user, item, domain)."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "user": [f"u{n}" for n in (200 * rng.random(rows) ** 2).astype(int)],
            "item": [f"i{n}" for n in (300 * rng.random(rows) ** 2).astype(int)],
            "domain": [f"d{n}" for n in rng.integers(domains, size=rows)],
            "rating": rng.integers(1, 6, size=rows),
            "time": 1_500_000_000 + rng.permutation(rows) * 60,
        }
    )
    return frame.drop_duplicates(["user", "item", "domain"], ignore_index=True)


@pytest.fixture
def frame() -> pd.DataFrame:
    return interactions()
