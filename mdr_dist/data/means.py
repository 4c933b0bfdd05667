"""How the items of a domain are rated on average.

Shape letters: B rows, n items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mdr_dist.data.columns import check_ids
from mdr_dist.data.interactions import select
from mdr_dist.data.layout import Group
from mdr_dist.data.mapped import Arrays, mapped
from mdr_dist.data.ragged import Ints, find
from mdr_dist.data.reader import Reader


@dataclass(frozen=True)
class Means:
    """items [n] ids in order; sums and counts [n] of each item's training labels; usual, the mean of all labels."""

    items: Ints
    sums: NDArray[np.float64]
    counts: NDArray[np.float64]
    usual: float

    @classmethod
    def open(cls, reader: Reader, *, domain: int, period: int | None = None) -> Means:
        """The first label's means over the training split, up to a period if one is given."""
        groups = select(reader, (domain,), split="train", period=period, upto=True)
        found = mapped(reader, "means", key=("sums", domain, period), build=lambda _: _build(reader, groups))
        items, sums, counts = (np.asarray(found[name]) for name in ("items", "sums", "counts"))
        return cls(items, sums, counts, float(found["usual"][0]))

    def of(self, item: Ints, *, damping: float = 0.0) -> NDArray[np.float64]:
        """[B] the mean of items [B], as if each had `damping` more rows whose label is usual."""
        if not len(self.items):
            return np.full(len(item), self.usual)
        number, known = find(item, self.items)
        number = np.minimum(number, len(self.items) - 1)
        mean = (self.sums[number] + damping * self.usual) / (self.counts[number] + damping)
        return np.where(known, mean, self.usual)


def _build(reader: Reader, groups: tuple[Group, ...]) -> Arrays:
    schema = reader.dataset.schema
    sums, counts = np.zeros((2, schema[schema.item].rows))
    for group in groups:
        item, label = reader.arrays(group, [schema.item, schema.labels[0]])
        check_ids(item, schema[schema.item], reader.where(group))
        counts += np.bincount(item, minlength=len(counts))
        sums += np.bincount(item, weights=label, minlength=len(sums))
    items = np.flatnonzero(counts)
    usual = sums.sum() / max(counts.sum(), 1)
    return {"items": items, "sums": sums[items], "counts": counts[items], "usual": np.array([usual])}
