"""A small data set of ratings with reviews, in two domains, some users of which start cold in the second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mdr_dist.data.layout import read_shards
from mdr_dist.data.synthetic import ReviewConfig, synthesize

Array = np.ndarray[Any, np.dtype[Any]]

CONFIG = ReviewConfig(
    name="reviews",
    users=44,
    items=(30, 30),
    interactions=(380, 320),
    overlap=0.8,
    user_zipf=0,
    aspects=2,
    length=6,
    document=20,
    fillers=10,
    words=3,
)


SMALL: dict[str, Any] = {"domains": ("a", "b"), "users": 200, "items": (100, 80), "interactions": (1600, 1200)}


def config(**settings: Any) -> ReviewConfig:
    """Some 2800 ratings in two domains, settings laid over."""
    return ReviewConfig(**{**SMALL, **settings})


def make(folder: Path, **settings: Any) -> tuple[str, dict[str, Any]]:
    """The data set of `config(…)`: its path and what was made."""
    out = str(folder / "made")
    return out, synthesize(out, config(**settings))


def write_reviews(path: str) -> str:
    """Some 700 ratings of planted tastes, with documents of twenty words at most; the path."""
    synthesize(path, CONFIG)
    return path


def read(out: str, domain: str, split: str) -> pa.Table:
    """A domain's rows of a split, in order."""
    tables = [pq.read_table(f"{out}/{s.path}") for s in read_shards(out) if (s.domain, s.split) == (domain, split)]
    return pa.concat_tables(tables).combine_chunks()


def column(table: pa.Table, name: str) -> Array:
    return table[name].to_numpy()
