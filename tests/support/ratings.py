"""A data set of ratings in two domains, some of whose users are to be met in the second one for the first time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from support.retrieval import DOMAINS, USERS, Row, write_log

ITEMS, EACH, WIDTH = 60, 14, 3  # items a domain that are rated, ratings a user and domain
# users that rate in both domains; in the second one held out as val, or test; in the first alone; the rest, the second
COMMON, VAL, TEST, SOURCE = range(1, 31), range(31, 38), range(38, 45), range(45, 52)


def write_ratings(path: str) -> str:
    """Ratings of 1 to 5 by tastes that turn from domain to domain, alike for all users; the path."""
    write_log(path, _rows())
    return path


def _rows() -> Iterator[Row]:
    draw = np.random.default_rng(0)
    turn = np.linalg.qr(draw.normal(size=(WIDTH, WIDTH)))[0]
    items = draw.normal(size=(2, ITEMS + 1, WIDTH))
    for user in range(1, USERS):
        taste, strict = draw.normal(size=WIDTH), draw.normal(scale=0.4)
        for k, split in enumerate(_splits(user)):
            rated = draw.choice(np.arange(1, ITEMS + 1), EACH, replace=False)
            scores = 3.3 + strict + items[k, rated] @ (turn @ taste if k else taste) * 0.6
            ratings = np.clip(np.round(scores + draw.normal(scale=0.3, size=EACH)), 1, 5)
            for item, rating in zip(rated.tolist(), ratings.tolist(), strict=True):
                if split:
                    yield Row(split, DOMAINS[k], user, item, rating)


def _splits(user: int) -> tuple[str, str]:
    """Where a user's ratings of each domain go; nowhere: there are none."""
    if user in COMMON:
        return "train", "train"
    if user in SOURCE:
        return "train", ""
    return ("train", "val") if user in VAL else ("train", "test") if user in TEST else ("", "train")
