"""A uniform sample of the rows of earlier periods: what SPMF keeps of the past.

Every row has a random number that follows from its place in the data set, and the sample are the rows that have the
smallest. That is what a reservoir sampler (Vitter 1985) holds: as periods pass a row may leave the sample, but not
come back.

Shape letters: M rows considered.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mdr_dist.data.columns import Columns
from mdr_dist.data.layout import Group
from mdr_dist.data.mapped import Arrays, mapped
from mdr_dist.data.negatives import uniforms
from mdr_dist.data.order import seed_of
from mdr_dist.data.profiles import joined, take
from mdr_dist.data.ragged import Ints
from mdr_dist.data.reader import NOWHERE, Reader


@dataclass(frozen=True)
class Reservoir:
    """The sample, by domain. It stands beside row groups as one of each domain, numbered from -1 downwards."""

    rows: dict[int, Columns]

    @classmethod
    def open(cls, reader: Reader, groups: tuple[Group, ...], *, size: int) -> Reservoir:
        """`size` rows of these row groups, or all where they have no more. Built once for all workers of a machine."""
        key = (size, tuple((group.shard.path, group.index) for group in groups))
        found = mapped(reader, "reservoir", key=key, build=lambda _: _build(reader, groups, size))
        names = [feature.name for feature in reader.layout.lists]
        rows: dict[int, Columns] = {}
        for domain in found["domains"].tolist():
            ids, floats, user_key = (np.asarray(found[f"{part}-{domain}"]) for part in ("ids", "floats", "user_key"))
            lists = {name: (found[f"values-{name}-{domain}"], found[f"offsets-{name}-{domain}"]) for name in names}
            rows[domain] = Columns(ids, floats, user_key, lists, domain)
        return cls(rows)

    def groups(self) -> tuple[Group, ...]:
        """The sample as row groups."""
        return tuple(Group(-1 - k, NOWHERE, k, len(rows), k) for k, rows in self.rows.items())

    def columns(self, number: int) -> Columns:
        """The rows of a group by its number."""
        return self.rows[-1 - number]


def _build(reader: Reader, groups: tuple[Group, ...], size: int) -> Arrays:
    by_domain: dict[int, list[Columns]] = {}
    place, row = _chosen(groups, size)
    for at in np.unique(place).tolist():
        found = take(reader.columns(groups[at], keep=False), np.sort(row[place == at]))
        by_domain.setdefault(found.domain, []).append(found)
    arrays: Arrays = {"domains": np.array(sorted(by_domain), dtype=np.int64)}
    for domain, parts in by_domain.items():
        whole = joined(parts)
        arrays |= {f"ids-{domain}": whole.ids, f"floats-{domain}": whole.floats, f"user_key-{domain}": whole.user_key}
        for name, (values, offsets) in whole.lists.items():
            arrays |= {f"values-{name}-{domain}": values, f"offsets-{name}-{domain}": offsets}
    return arrays


def _chosen(groups: tuple[Group, ...], size: int) -> tuple[Ints, Ints]:
    """The place in `groups` and the row there of each row of the sample."""
    best = np.zeros((3, 0))  # the row's random number, its group's place, the row: exact as float64
    for place, group in enumerate(groups):
        row = np.arange(group.rows)
        drawn = uniforms(row, 1, seed_of("reservoir", group.shard.path, group.index))[0]
        best = np.concatenate([best, np.stack([drawn, np.full(len(row), place), row])], axis=1)
        if best.shape[1] > size:
            best = best[:, np.argpartition(best[0], size - 1)[:size]]
    return best[1].astype(np.int64), best[2].astype(np.int64)
