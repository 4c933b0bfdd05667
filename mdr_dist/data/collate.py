"""Rows picked from decoded row groups become one worker's batch: a few copies a row group, no Python a row.

Shape letters: B rows of this process, T list entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mdr_dist.batch import Batch, Ragged
from mdr_dist.data.columns import Columns, Layout
from mdr_dist.data.ragged import Array, spread, starts_of
from mdr_dist.schema import DOMAIN


@dataclass(frozen=True)
class Pick:
    """Rows `index` [n] of a row group go to rows `[at, at + n)` of the batch."""

    columns: Columns
    index: Array
    at: int

    @property
    def slot(self) -> slice:
        """Their rows of the batch."""
        return slice(self.at, self.at + len(self.index))


def collate(layout: Layout, picks: list[Pick], *, position: Array, count: int, seed: int) -> Batch:
    """The batch; `position` [B] is -1 in the rows that no pick fills, and these are padding."""
    size = len(position)
    floats = np.zeros((size, layout.num_floats), dtype=np.float32)
    domain, user_key = np.zeros(size, dtype=np.int64), np.full(size, -1, dtype=np.int64)
    for pick in picks:
        # mode="clip" lets take write into place; the indices are ours and in range
        columns, slot = pick.columns, pick.slot
        columns.floats.take(pick.index, axis=0, out=floats[slot], mode="clip")
        columns.user_key.take(pick.index, out=user_key[slot], mode="clip")
        domain[slot] = columns.domain
    dense = {f.name: _tensor(floats[:, layout.floats[f.name]]) for f in layout.dense}
    labels = {name: _tensor(floats[:, layout.floats[name].start]) for name in layout.schema.labels}
    return Batch(
        ids=_ids(layout, picks, domain),
        lists={feature.name: _ragged(feature.name, picks, size) for feature in layout.lists},
        dense=dense,
        labels=labels,
        domain=_tensor(domain),
        user_key=_tensor(user_key),
        weight=_tensor((position >= 0).astype(np.float32)),
        position=_tensor(position),
        count=count,
        domains=len(layout.schema.domains),
        seed=seed,
    )


def _ids(layout: Layout, picks: list[Pick], domain: Array) -> dict[str, Tensor]:
    by_row = np.zeros((len(domain), len(layout.ids)), dtype=layout.id_type)
    for pick in picks:
        pick.columns.ids.take(pick.index, axis=0, out=by_row[pick.slot], mode="clip")
    by_feature = torch.from_numpy(by_row.T.astype(np.int64, order="C"))
    ids = {feature.name: by_feature[at] for at, feature in enumerate(layout.ids)}
    return {f.name: _tensor(domain) if f.name == DOMAIN else ids[f.name] for f in layout.schema.of_kind("id")}


def _ragged(name: str, picks: list[Pick], size: int) -> Ragged:
    starts, lengths = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
    for pick in picks:
        offsets = pick.columns.lists[name][1]
        starts[pick.slot] = offsets[pick.index]
        lengths[pick.slot] = offsets[pick.index + 1] - starts[pick.slot]
    ends, source = starts_of(lengths), spread(starts, lengths)
    values = np.zeros(ends[-1], dtype=np.int64)
    for pick in picks:
        part = slice(ends[pick.slot.start], ends[pick.slot.stop])
        values[part] = pick.columns.lists[name][0][source[part]]
    return Ragged(torch.from_numpy(values), torch.from_numpy(lengths))


def _tensor(array: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
