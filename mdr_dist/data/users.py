"""The users of a split and the domains they are active in: for stages that go over users, and users who lack a domain.

Shape letters: U users, B rows, K domains.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mdr_dist.data.columns import Columns, Layout
from mdr_dist.data.interactions import select
from mdr_dist.data.layout import ROW_GROUP, Group
from mdr_dist.data.mapped import Arrays, mapped
from mdr_dist.data.ragged import Array, Ints
from mdr_dist.data.reader import NOWHERE, Reader
from mdr_dist.schema import USER_KEY

_WAITING = 1 << 20  # rows that wait at most, or as many as there are users, before these are sorted again


@dataclass(frozen=True)
class Users:
    """The users with positive rows in a split, by key.

    keys [U] their `user_key` in order; ids [U] their id as a feature; active [U, K] 1 where a user has such a row, of
    `domains`; 0 in all others.
    """

    keys: Ints
    ids: Ints
    active: NDArray[np.float32]
    domains: tuple[int, ...]

    @classmethod
    def open(
        cls, reader: Reader, *, split: str, period: int | None = None, domains: tuple[int, ...] | None = None
    ) -> Users:
        """The users of a split, up to a period if one is given, as if there were these domains alone (`None`: all)."""
        every = domains or tuple(range(len(reader.dataset.schema.domains)))
        found = mapped(
            reader, "users", key=(split, period, every), build=lambda _: _build(reader, split, period, every)
        )
        return cls(found["keys"], found["ids"], found["active"], every)

    @property
    def common(self) -> Users:
        """Those that are active in two domains or more."""
        return self.among(self)

    def among(self, others: Users) -> Users:
        """Those of these users who are active in two domains or more by what `others` say."""
        several = others.active_of(self.keys).sum(1) > 1
        return Users(self.keys[several], self.ids[several], self.active[several], self.domains)

    @property
    def in_common(self) -> Ints:
        """[K] how many users of each domain are active in another one too."""
        return self.common.active.sum(0).astype(np.int64)

    def active_of(self, user_key: Array) -> NDArray[np.float32]:
        """[B, K] the domains that users [B] are active in; a user who is not among these is active in none."""
        if not len(self.keys):
            return np.zeros((len(user_key), self.active.shape[1]), dtype=np.float32)
        at = np.minimum(np.searchsorted(self.keys, user_key), len(self.keys) - 1)
        return np.where((self.keys[at] == user_key)[:, None], self.active[at], np.float32(0))

    def groups(self) -> tuple[Group, ...]:
        """The users in portions, as if each were a row group of domain 0."""
        starts = range(0, len(self.keys), ROW_GROUP)
        return tuple(
            Group(number, NOWHERE, number, min(ROW_GROUP, len(self.keys) - start), 0)
            for number, start in enumerate(starts)
        )

    def columns(self, layout: Layout, number: int) -> Columns:
        """A portion as rows: the user, and the default row of every other feature of domain 0; labels are 1."""
        part = slice(number * ROW_GROUP, (number + 1) * ROW_GROUP)
        size = len(self.keys[part])
        ids = np.zeros((size, len(layout.ids)), dtype=layout.id_type)
        for at, feature in enumerate(layout.ids):
            ids[:, at] = self.ids[part] if feature.name == layout.schema.user else (feature.starts or (0,))[0]
        floats = np.zeros((size, layout.num_floats), dtype=np.float32)
        for label in layout.schema.labels:
            floats[:, layout.floats[label]] = 1
        empty = (np.zeros(0, dtype=np.int64), np.zeros(size + 1, dtype=np.int64))
        return Columns(ids, floats, np.asarray(self.keys[part]), {f.name: empty for f in layout.lists}, 0)


def _build(reader: Reader, split: str, period: int | None, domains: tuple[int, ...]) -> Arrays:
    by_domain = {domain: _of_domain(reader, split, domain=domain, period=period) for domain in domains}
    keys, first = np.unique(np.concatenate([own for own, _ in by_domain.values()]), return_index=True)
    active = np.zeros((len(keys), len(reader.dataset.schema.domains)), dtype=np.float32)
    for domain, (own, _) in by_domain.items():
        active[np.searchsorted(keys, own), domain] = 1
    return {"keys": keys, "ids": np.concatenate([ids for _, ids in by_domain.values()])[first], "active": active}


def _of_domain(reader: Reader, split: str, *, domain: int, period: int | None) -> tuple[Ints, Ints]:
    """The users of a domain and their ids; a portion of the rows at a time, so that memory holds users, not rows."""
    schema = reader.dataset.schema
    names = [USER_KEY, schema.user, *schema.labels[:1]]
    parts, waiting = [(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))], 0
    for group in select(reader, (domain,), split=split, period=period, upto=True):
        key, user, *label = reader.arrays(group, names)
        positive = label[0] > 0.5 if label else slice(None)
        parts.append((key[positive], user[positive].astype(np.int64)))
        waiting += group.rows
        if waiting > max(len(parts[0][0]), _WAITING):
            parts, waiting = [_distinct(parts)], 0
    return _distinct(parts)


def _distinct(parts: list[tuple[Ints, Ints]]) -> tuple[Ints, Ints]:
    """The users of all parts in order, each with the id that comes first."""
    keys, ids = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    keys, first = np.unique(keys, return_index=True)
    return keys, ids[first]
