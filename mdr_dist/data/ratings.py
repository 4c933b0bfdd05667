"""A domain's training ratings, by user or by item.

Shape letters: B rows, n owners, M ratings, T ratings of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mdr_dist.data.columns import check_ids
from mdr_dist.data.interactions import default_item, select
from mdr_dist.data.layout import Group
from mdr_dist.data.mapped import Arrays, check_free, mapped
from mdr_dist.data.means import Means
from mdr_dist.data.ragged import Ints, located, nth
from mdr_dist.data.reader import Reader
from mdr_dist.schema import USER_KEY

By = Literal["user", "item"]
BY: tuple[By, ...] = get_args(By)
Found = tuple[Ints, Ints, NDArray[np.float32]]


@dataclass(frozen=True)
class Ratings:
    """The ratings that each owner gave, or got, in the order in which the data set holds them; all but default items'.

    owners [n] in order, keys of users or ids of items; starts [n+1]; entries [M] what they rated, ids of items, or who
    rated them, ids of users; rating [M] less the mean of the item's.
    """

    owners: Ints
    starts: Ints
    entries: Ints
    rating: NDArray[np.float32]

    @classmethod
    def open(cls, reader: Reader, *, by: By, domain: int, period: int | None = None) -> Ratings:
        """Those of the training split, up to a period if one is given. Built once for all workers of a machine."""
        groups = select(reader, (domain,), split="train", period=period, upto=True)
        means = Means.open(reader, domain=domain, period=period)
        build = partial(_build, reader, groups, by, means)
        found = mapped(reader, "ratings", key=(by, domain, period), build=build)
        return cls(*(np.asarray(found[name]) for name in ("owners", "starts", "entries", "rating")))

    def of(self, owner: Ints, *, most: int) -> Found:
        """[T] each of the ratings of owners [B]: the owner's row in `owner`, the entry and the rating; sorted by row.

        Of an owner who has more than `most` every so manieth.
        """
        number, count = located(owner, self.owners, starts=self.starts)
        kept = np.minimum(count, most)
        row = np.repeat(np.arange(len(owner)), kept)
        place = self.starts[number[row]] + nth(kept) * count[row] // kept[row]
        return row, self.entries[place], self.rating[place]


def _build(reader: Reader, groups: tuple[Group, ...], by: By, means: Means, folder: str) -> Arrays:
    schema = reader.dataset.schema
    check_free(folder, 12 * sum(group.rows for group in groups), what="a data set's ratings")
    names = [USER_KEY, schema.user, schema.item, schema.labels[0]]
    parts: list[Found] = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))]
    for group in groups:
        key, user, item, label = reader.arrays(group, names)
        check_ids(item, schema[schema.item], reader.where(group))
        kept = item != default_item(schema, group.domain)
        key, user, item, label = key[kept], user[kept], item[kept], label[kept]
        owner, entry = (key, item) if by == "user" else (item, user)
        parts.append((owner.astype(np.int64), entry.astype(np.int64), (label - means.of(item)).astype(np.float32)))
    owner, entries, rating = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.argsort(owner, kind="stable")
    owners, first = np.unique(owner[order], return_index=True)
    return {
        "owners": owners,
        "starts": np.append(first, len(owner)),
        "entries": entries[order],
        "rating": rating[order],
    }
