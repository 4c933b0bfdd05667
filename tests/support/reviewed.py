"""A small data set of ratings with reviews, in two domains, some users of which start cold in the second."""

from __future__ import annotations

from mdr_dist.data.synthetic import ReviewConfig, synthesize

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


def write_reviews(path: str) -> str:
    """Some 700 ratings of planted tastes, with documents of twenty words at most; the path."""
    synthesize(path, CONFIG)
    return path
