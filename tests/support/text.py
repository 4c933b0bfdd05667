"""A schema with text and batches with documents, made by hand: for tests of methods that read reviews."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from mdr_dist.batch import Batch, Documents, Ragged
from mdr_dist.schema import Feature, Schema
from support.rows import make_batch

WORDS = 30
SCHEMA = Schema(
    name="reviews",
    domains=("source", "target"),
    features=(
        Feature(name="user", kind="id", rows=7),
        Feature(name="item", kind="id", rows=9, scope="domain", starts=(0, 4)),
        Feature(name="domain", kind="id", rows=2),
        Feature(name="review", kind="text", rows=WORDS, width=12, vocabulary="review"),
    ),
    labels=("rating",),
)


def text_batch(
    size: int, *, kinds: tuple[str, ...] = ("user", "other", "auxiliary", "item"), seed: int = 0, count: int = 9
) -> tuple[Batch, list[list[int]]]:
    """A batch whose rows have documents of these kinds, `count` in all, and each one's words' ids; the first is empty.

    The item of a row is of its domain. Ratings are 1 to 5.
    """
    draw = np.random.default_rng(seed)
    batch = make_batch(size, seed=seed, domains=(0, 1), schema=SCHEMA)
    domain = batch.domain
    item = torch.tensor(draw.integers(0, 4, size)) + 4 * domain
    written = [draw.integers(1, WORDS, draw.integers(1, 12)).tolist() for _ in range(count - 1)]
    written = [[], *written]
    ids = sorted({word for words in written for word in words})
    values = [ids.index(word) for words in written for word in words]
    documents = Documents(
        words=Ragged(torch.tensor(values), torch.tensor([len(words) for words in written])),
        at={kind: torch.tensor(draw.integers(0, count, size)) for kind in kinds},
        other=1 - domain,
    )
    lengths = torch.zeros(size, dtype=torch.int64)
    lengths[0] = len(ids)
    batch = replace(
        batch,
        ids={**batch.ids, "item": item},
        lists={"words": Ragged(torch.tensor(ids), lengths)},
        dense={"mean": torch.tensor(draw.uniform(1, 5, (size, 1)))},
        labels={"rating": torch.tensor(draw.integers(1, 6, size).astype(float))},
        documents=documents,
    )
    return batch, written
