"""A log in which two domains share items and some users lack a history, and who took what of it as sets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from mdr_dist.data.reader import Dataset
from support.retrieval import DOMAINS, KEY, Row, write_log

USERS, ITEMS = 30, 25
NEW, FADED = 31, 32  # a user who is in no training row, and one whose training rows are not positive


def taken_rows(seed: int = 0, *, train: int = 150) -> list[Row]:
    """Rows of both domains; item 0 is the default row, and item 1 in every user's reach of both domains."""
    rng = np.random.default_rng(seed)
    rows = [
        Row(split, domain, user, item, label)
        for split, count in (("train", train), ("val", 30), ("test", 30))
        for domain in DOMAINS
        for user, item, label in zip(
            rng.integers(1, USERS, count).tolist(),
            np.minimum(rng.zipf(1.3, count) - 1, ITEMS - 1).tolist(),
            (rng.random(count) < 0.8).astype(float).tolist(),
            strict=True,
        )
    ]
    rows += [Row("train", domain, 2, 1) for domain in DOMAINS]
    rows += [Row("train", DOMAINS[0], FADED, 3, 0.0), Row("val", DOMAINS[0], FADED, 3), Row("test", DOMAINS[1], NEW, 4)]
    return rows


def write_taken(path: str, rows: list[Row]) -> Dataset:
    """The rows as a data set whose domains share item ids."""
    return write_log(path, rows, shared=True)


def taken(rows: Iterable[Row], split: str, domains: Iterable[str] = DOMAINS) -> dict[int, set[int]]:
    """User key → the items of its positive rows but the default."""
    found: dict[int, set[int]] = defaultdict(set)
    for row in rows:
        if row.split == split and row.domain in domains and row.label > 0.5 and row.item:
            found[KEY * row.user].add(row.item)
    return found
