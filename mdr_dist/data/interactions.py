"""Who took what: a domain's positives of a split, by user, and the items that occur there.

Of n items, numbered in id order, a user's positives p_0 < p_1 < … are kept as p_i - i: `negatives.py` says why.
The arrays are mapped from a file that all workers of a machine share.

Shape letters: B rows, U users, M positives.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np

from mdr_dist.data.columns import check_ids, check_users
from mdr_dist.data.layout import Group
from mdr_dist.data.mapped import Arrays, check_free, mapped
from mdr_dist.data.ragged import Ints, located, nth
from mdr_dist.data.reader import Reader
from mdr_dist.schema import USER_KEY, Schema

_CHUNK = 1 << 22  # positives worked on at a time


@dataclass(frozen=True)
class Interactions:
    """A domain's items, or those of several, and what each user took of them, every pair once.

    items [n] ids in order; users [U] their keys in order; starts [U+1] where each user's positives begin;
    gaps [M] u * n + p_i - i for the i-th positive of user number u: sorted as a whole. `rows` counts the positive rows
    that these pairs come from.
    """

    items: Ints
    users: Ints
    starts: Ints
    gaps: Ints
    rows: int = 0

    @classmethod
    def open(
        cls,
        reader: Reader,
        *,
        domain: int,
        split: str = "train",
        period: int | None = None,
        upto: bool = False,
        default: bool = False,
    ) -> Self:
        """A domain's interactions in a split; in one period of it, or `upto` that period.

        Items are those that occur there, whatever the label. Positives are the rows with a label over 0.5, or all rows
        where there is no label. The default row is an item only if `default` says so.
        """
        return cls.together(reader, (domain,), split=split, period=period, upto=upto, default=default)

    @classmethod
    def together(
        cls,
        reader: Reader,
        domains: tuple[int, ...],
        *,
        split: str = "train",
        period: int | None = None,
        upto: bool = False,
        default: bool = False,
    ) -> Self:
        """What `open` gives of one domain, of several as if they were one."""
        groups = select(reader, domains, split=split, period=period, upto=upto)
        found = mapped(
            reader,
            "interactions",
            key=(domains, split, period, upto and period is not None, default),
            build=partial(_build, reader, groups, default),
        )
        items, users, starts, gaps = (np.asarray(found[name]) for name in ("items", "users", "starts", "gaps"))
        return cls(items, users, starts, gaps[: starts[-1]], int(found["rows"][0]))

    def positives(self, user_key: Ints) -> tuple[Ints, Ints]:
        """(row, place) of each positive of the users [B]: the user's row in `user_key`, the item's place in `items`.

        Sorted by both. A key that is not among `users` has none.
        """
        user, count = located(user_key, self.users, starts=self.starts)
        row = np.repeat(np.arange(len(user_key)), count)
        return row, self.places(user[row], nth(count))

    def places(self, user: Ints, nth: Ints) -> Ints:
        """The place in `items` of users' n-th positives; users by number."""
        return self.gaps[self.starts[user] + nth] - user * len(self.items) + nth


def select(
    reader: Reader, domains: tuple[int, ...], *, split: str, period: int | None, upto: bool
) -> tuple[Group, ...]:
    """The row groups of these domains' split, of one period or `upto` it."""
    return reader.dataset.select(split, domains=domains, period=period, upto=upto)


def count_items(reader: Reader, domains: tuple[int, ...], *, period: int | None, enough: int, upto: bool = True) -> int:
    """How many items the domains have in the training split: in a period, if one is given, or up to it.

    As `Interactions.items` counts, but it reads no further once there are `enough`.
    """
    schema = reader.dataset.schema
    found = np.zeros(0, dtype=np.int64)
    for group in select(reader, domains, split="train", period=period, upto=upto):
        if len(found) >= enough:
            break
        [item] = reader.arrays(group, [schema.item])
        found = np.union1d(found, item[item != default_item(schema, group.domain)])
    return len(found)


def default_item(schema: Schema, domain: int) -> int:
    """The id of a domain's default item."""
    starts = schema[schema.item].starts
    return starts[domain] if starts else 0


def _build(reader: Reader, groups: tuple[Group, ...], default: bool, folder: str) -> Arrays:
    """The arrays; positives are collected and sorted in mapped files, not on the heap."""
    count = sum(group.rows for group in groups)
    check_free(folder, 2 * count * np.dtype(np.int64).itemsize, what="a data set's interactions")
    pairs = np.lib.format.open_memmap(f"{folder}/pairs.npy", mode="w+", dtype=np.int64, shape=(count,))
    items, taken = _collect(reader, groups, pairs, default=default)
    pairs[:taken].sort()
    gaps = np.lib.format.open_memmap(f"{folder}/gaps.npy", mode="w+", dtype=np.int64, shape=(taken,))
    users, starts = _fill_gaps(gaps, pairs[:taken], items, reader.dataset.schema[reader.dataset.schema.item].rows)
    gaps.flush()
    os.remove(f"{folder}/pairs.npy")
    return {"items": items, "users": users, "starts": starts, "rows": np.array([taken])}


def _collect(reader: Reader, groups: tuple[Group, ...], pairs: Ints, *, default: bool) -> tuple[Ints, int]:
    """The items that occur, and how many `user_key * rows + item` of positives were put into `pairs`."""
    schema = reader.dataset.schema
    item, taken = schema[schema.item], 0
    seen = np.zeros(item.rows, dtype=bool)
    names = [USER_KEY, schema.item, *schema.labels[:1]]
    for group in groups:
        user_key, item_id, *label = reader.arrays(group, names)
        where = reader.where(group)
        check_ids(item_id, item, where)
        check_users(user_key, where, limit=np.iinfo(np.int64).max // item.rows)
        left_out = -1 if default else default_item(schema, group.domain)
        seen[item_id[item_id != left_out]] = True
        chosen = (item_id != left_out) & (label[0] > 0.5 if label else True)
        found = user_key[chosen] * item.rows + item_id[chosen]
        pairs[taken : taken + len(found)] = found
        taken += len(found)
    return np.flatnonzero(seen), taken


def _fill_gaps(gaps: Ints, pairs: Ints, items: Ints, rows: int) -> tuple[Ints, Ints]:
    """Fill `gaps` from the sorted pairs, some of which repeat, and return the users and where each one begins."""
    users, starts = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    written, num_users, last_pair, last_user, begin = 0, 0, -1, -1, 0
    for at in range(0, len(pairs), _CHUNK):
        chunk = pairs[at : at + _CHUNK]
        user, item = np.divmod(chunk[np.diff(chunk, prepend=last_pair) != 0], rows)
        first = np.flatnonzero(np.diff(user, prepend=last_user))
        begins = np.concatenate([[begin], written + first])  # of the user that the last chunk ended in, and of new ones
        step = np.searchsorted(first, np.arange(len(user)), side="right")
        place = np.arange(written, written + len(user)) - begins[step]
        gaps[written : written + len(user)] = (num_users - 1 + step) * len(items) + np.searchsorted(items, item) - place
        users.append(user[first])
        starts.append(written + first)
        written, num_users, begin = written + len(user), num_users + len(first), int(begins[-1])
        last_pair, last_user = int(chunk[-1]), int(chunk[-1] // rows)
    return np.concatenate(users), np.concatenate([*starts, [written]])
