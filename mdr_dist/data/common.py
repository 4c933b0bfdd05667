"""The rows of users that domains have in common: those that cross-domain methods learn a transfer from.

Shape letters: R rows of a row group.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from mdr_dist.data.columns import Columns
from mdr_dist.data.layout import Group
from mdr_dist.data.mapped import Arrays, mapped
from mdr_dist.data.profiles import take
from mdr_dist.data.ragged import Ints
from mdr_dist.data.reader import Reader
from mdr_dist.data.users import Users
from mdr_dist.schema import USER_KEY


@dataclass(frozen=True)
class Common:
    """Which rows they are, by row group. What is left of group g stands in its place, with the number -1 - g."""

    reader: Reader
    rows: dict[int, Ints]

    @classmethod
    def open(cls, reader: Reader, groups: tuple[Group, ...], *, users: Users, period: int | None = None) -> Common:
        """Of these row groups the rows of users active in two domains or more; `users` are those up to `period`.

        Built once for all workers of a machine.
        """
        numbers = tuple(group.number for group in groups)
        key = (numbers, users.domains, period)
        found = mapped(reader, "common", key=key, build=lambda _: _build(reader, groups, users))
        parts = pairwise(found["starts"].tolist())
        return cls(reader, {n: found["rows"][slice(*part)] for n, part in zip(numbers, parts, strict=True)})

    def groups(self, groups: tuple[Group, ...]) -> tuple[Group, ...]:
        """What is left of row groups, of those that have any such row."""
        left = (replace(group, number=-1 - group.number, rows=len(self.rows[group.number])) for group in groups)
        return tuple(group for group in left if group.rows)

    def columns(self, number: int, *, keep: bool) -> Columns:
        """The rows left of a group, by its new number."""
        group = self.reader.dataset.groups[-1 - number]
        return take(self.reader.columns(group, keep=keep), self.rows[group.number])


def _build(reader: Reader, groups: tuple[Group, ...], users: Users) -> Arrays:
    parts = [np.zeros(0, dtype=np.int64)]
    for group in groups:
        [keys] = reader.arrays(group, [USER_KEY])
        parts.append(np.flatnonzero(users.active_of(keys).sum(1) > 1))
    # one file whatever the number of row groups: each that is mapped stays open
    return {"rows": np.concatenate(parts), "starts": np.cumsum([len(part) for part in parts])}
