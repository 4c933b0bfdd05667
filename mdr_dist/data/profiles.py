"""One row for each user or item of a domain, to compute its vector from: its first row in some row groups.

Whatever features a method looks up are there, as in training; those that vary from row to row are the first row's.

Shape letters: B rows of a batch, N profiles.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from mdr_dist.batch import Batch
from mdr_dist.data.collate import Pick, collate
from mdr_dist.data.columns import Columns
from mdr_dist.data.layout import Group
from mdr_dist.data.mapped import Arrays, mapped
from mdr_dist.data.ragged import Array, Ints, spread, starts_of
from mdr_dist.data.reader import Reader
from mdr_dist.schema import USER_KEY


class Profiles:
    """The first rows, in the order of the keys, as batches. Built once for all workers of a machine."""

    def __init__(self, reader: Reader, groups: tuple[Group, ...], *, by: str, keys: Ints, domain: int) -> None:
        """`by` is `user_key` or the name of an id feature; `keys` [N], sorted, all occur there.

        The profiles are of `domain`, though the groups may be of others too.
        """
        self._layout, self._item = reader.layout, reader.dataset.schema.item
        found = mapped(
            reader,
            "profiles",
            key=(by, tuple(group.number for group in groups), hashlib.sha256(keys.tobytes()).hexdigest()),
            build=lambda _: _first_rows(reader, groups, by=by, keys=keys),
        )
        lists = {f.name: (found[f"values-{f.name}"], found[f"offsets-{f.name}"]) for f in reader.layout.lists}
        self._rows = Columns(found["ids"], found["floats"], found["user_key"], lists, domain)

    def batch(self, rows: Ints, *, size: int, first: int, count: int, also: tuple[str, ...] = ()) -> Batch:
        """Profiles `rows` as a batch of `size`, padded by profile 0 at weight 0.

        They are numbers `first` and following of a global batch of `count`. `also` names further id features to give
        the item's id: those that tables look up for drawn negatives.
        """
        index, position = np.zeros(size, dtype=np.int64), np.full(size, -1, dtype=np.int64)
        index[: len(rows)], position[: len(rows)] = rows, first + np.arange(len(rows))
        batch = collate(self._layout, [Pick(self._rows, index, 0)], position=position, count=count, seed=0)
        return replace(batch, ids={**batch.ids, **dict.fromkeys(also, batch.ids[self._item])})


def _first_rows(reader: Reader, groups: tuple[Group, ...], *, by: str, keys: Ints) -> Arrays:
    """The first row of each key, in the order of the keys; row groups are read until every key has one."""
    column = None if by == USER_KEY else [feature.name for feature in reader.layout.ids].index(by)
    missing = np.ones(len(keys), dtype=bool)
    places: list[Ints] = []
    parts: list[Columns] = []
    for group in groups:
        if not missing.any():
            break
        rows = reader.columns(group, keep=False)
        value = (rows.user_key if column is None else rows.ids[:, column]).astype(np.int64)
        place = np.searchsorted(keys, value).clip(max=len(keys) - 1)
        wanted = np.flatnonzero((keys[place] == value) & missing[place])
        found, first = np.unique(place[wanted], return_index=True)
        missing[found] = False
        places.append(found)
        parts.append(take(rows, wanted[first]))
    whole = take(joined(parts), np.argsort(np.concatenate(places)))
    lists = {f"values-{name}": values for name, (values, _) in whole.lists.items()}
    lists |= {f"offsets-{name}": offsets for name, (_, offsets) in whole.lists.items()}
    return {"ids": whole.ids, "floats": whole.floats, "user_key": whole.user_key, **lists}


def take(rows: Columns, index: Ints) -> Columns:
    """The rows at these places."""
    lists = {name: _take_lists(*ragged, index) for name, ragged in rows.lists.items()}
    return Columns(rows.ids[index], rows.floats[index], rows.user_key[index], lists, rows.domain)


def _take_lists(values: Array, offsets: Array, index: Ints) -> tuple[Array, Array]:
    starts, lengths = offsets[index].astype(np.int64), np.diff(offsets)[index]
    return values[spread(starts, lengths)], starts_of(lengths)


def joined(parts: list[Columns]) -> Columns:
    """The rows of all parts, of which there is one at least, one after the other."""
    lists: dict[str, tuple[Array, Array]] = {}
    for name in parts[0].lists:
        lengths = np.concatenate([np.diff(part.lists[name][1]) for part in parts])
        values = np.concatenate([part.lists[name][0] for part in parts])
        lists[name] = values, starts_of(lengths)
    ids, floats, user_key = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("ids", "floats", "user_key")
    )
    return Columns(ids, floats, user_key, lists, parts[0].domain)
