"""Items that a user has not taken, drawn uniformly from a domain without a single rejection.

Of a domain's n items, numbered in id order, let a user hold p_0 < p_1 < … < p_{m-1}. The r-th item that the user does
not hold is r + j, where j counts the i with p_i - i <= r. So the file keeps p_i - i instead of p_i: a draw is a random
r in [0, n - m) and one binary search, exact however much of the domain a user holds.

The file lies in the temporary folder ($TMPDIR), is mapped by every worker of a machine, and serves later runs too.

Shape letters: B rows, N negatives a row, U users, M positives.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from mdr_dist.data.columns import Array, check_ids, check_users, plain
from mdr_dist.data.order import Ints
from mdr_dist.data.reader import Group, Reader
from mdr_dist.data.scratch import made_once
from mdr_dist.errors import UserError
from mdr_dist.schema import USER_KEY

_CHUNK = 1 << 22  # positives worked on at a time


@dataclass(frozen=True)
class Negatives:
    """A domain's items and what each user holds of them.

    items [n] ids in order; users [U] their keys in order; starts [U+1] where each user's positives begin;
    gaps [M] u * n + p_i - i for the i-th positive of user number u: sorted as a whole.
    """

    items: Ints
    users: Ints
    starts: Ints
    gaps: Ints

    @classmethod
    def open(cls, reader: Reader, *, domain: int, period: int | None = None) -> Negatives:
        """A domain's negatives by its training split, up to a period if one is given.

        Items are those that occur there, without the default row. Positives are the rows with a label over 0.5. Raises
        `UserError` if the domain has fewer than two items.
        """
        groups = _training(reader, domain, period)
        parts = made_once(
            reader.dataset,
            ("negatives", domain, period),
            names=("items", "users", "starts", "gaps"),
            build=partial(_build, reader, groups),
        )
        if len(parts[0]) < 2:
            name = reader.dataset.schema.domains[domain]
            raise UserError(
                f"domain {name} has {len(parts[0])} items in the train split of data set {reader.dataset.path}; "
                "negatives need two at least: leave the domain out of data.domains"
            )
        items, users, starts, gaps = (np.asarray(part) for part in parts)
        return cls(items, users, starts, gaps[: starts[-1]])

    def draw(self, user_key: Array, item: Array, uniform: NDArray[np.float64]) -> Ints:
        """[N, B] item ids that the users do not hold, independently drawn.

        `user_key` and `item` [B] int64 are the rows'; `uniform` [N, B] numbers in [0, 1). A user who holds every item
        gets any but the row's own.
        """
        by_user = np.argsort(user_key)  # memory is then read forwards
        drawn = np.empty(uniform.shape, dtype=np.int64)
        drawn[:, by_user] = self._draw(user_key[by_user], item[by_user], uniform[:, by_user])
        return drawn

    def _draw(self, user_key: Array, item: Array, uniform: NDArray[np.float64]) -> Ints:
        size = len(self.items)
        user = np.searchsorted(self.users, user_key)
        known = np.searchsorted(self.users, user_key, side="right") > user
        start = self.starts[user]
        held = np.where(known, self.starts[np.minimum(user + 1, len(self.users))] - start, 0)
        rank = (uniform * (size - held)).astype(np.int64)
        passed = np.searchsorted(self.gaps, (user * size + rank).T, side="right").T - start
        at = rank + np.where(known, passed, 0)
        if (everything := held == size).any():
            own = np.searchsorted(self.items, item)
            other = (uniform * (size - 1)).astype(np.int64)
            at = np.where(everything, other + (other >= own), at)
        return self.items[at]


def uniforms(place: Ints, draws: int, seed: int) -> NDArray[np.float64]:
    """[draws, B] numbers in [0, 1) that follow from seed, place [B] and draw alone (splitmix64, Steele et al. 2014)."""
    weyl = np.uint64(0x9E3779B97F4A7C15)
    state = _mixed(np.array([seed], dtype=np.uint64) + weyl) ^ place.astype(np.uint64)
    steps = np.arange(1, draws + 1, dtype=np.uint64)[:, None] * weyl
    return (_mixed(_mixed(state) + steps) >> np.uint64(11)) * np.float64(2.0**-53)


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _training(reader: Reader, domain: int, period: int | None) -> tuple[Group, ...]:
    groups = reader.dataset.select("train", domains=(domain,), period=None)
    return tuple(group for group in groups if period is None or group.shard.period <= period)


def _build(reader: Reader, groups: tuple[Group, ...], folder: str) -> None:
    """Write the four arrays; positives are collected and sorted in mapped files, not on the heap."""
    count = sum(group.rows for group in groups)
    needed = 2 * count * np.dtype(np.int64).itemsize
    if shutil.disk_usage(folder).free < needed:
        raise UserError(f"{folder}: negatives need {needed >> 20} MiB there; set TMPDIR to a larger disk")
    pairs = np.lib.format.open_memmap(f"{folder}/pairs.npy", mode="w+", dtype=np.int64, shape=(count,))
    items, taken = _collect(reader, groups, pairs)
    pairs[:taken].sort()
    gaps = np.lib.format.open_memmap(f"{folder}/gaps.npy", mode="w+", dtype=np.int64, shape=(taken,))
    users, starts = _fill_gaps(gaps, pairs[:taken], items, reader.dataset.schema[reader.dataset.schema.item].rows)
    gaps.flush()
    for name, array in (("items", items), ("users", users), ("starts", starts)):
        np.save(f"{folder}/{name}.npy", array)
    os.remove(f"{folder}/pairs.npy")


def _collect(reader: Reader, groups: tuple[Group, ...], pairs: Ints) -> tuple[Ints, int]:
    """The items that occur, and how many `user_key * rows + item` of positives were put into `pairs`."""
    schema, types = reader.dataset.schema, reader.layout.types
    item, taken = schema[schema.item], 0
    seen = np.zeros(item.rows, dtype=bool)
    names = [USER_KEY, schema.item, *schema.labels[:1]]
    for group in groups:
        table, where = reader.table(group, names), reader.where(group)
        user_key, item_id, *label = (plain(table, name, expected=types[name], where=where).to_numpy() for name in names)
        check_ids(item_id, item, where)
        check_users(user_key, where, limit=np.iinfo(np.int64).max // item.rows)
        default = item.starts[group.domain] if item.starts else 0
        seen[item_id[item_id != default]] = True
        chosen = (item_id != default) & (label[0] > 0.5 if label else True)
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
