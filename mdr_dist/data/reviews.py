"""The reviews of a domain's training rows, and which one stands for another.

Shape letters: R reviews, T words.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mdr_dist.data.interactions import select
from mdr_dist.data.layout import Group
from mdr_dist.data.mapped import Arrays, mapped
from mdr_dist.data.negatives import uniforms
from mdr_dist.data.order import seed_of
from mdr_dist.data.ragged import Ints, find, starts_of
from mdr_dist.data.reader import Reader


@dataclass(frozen=True)
class Reviews:
    """Who wrote what: user [R] keys, item [R] ids, rating [R] the first label; words [T] ids, starts [R+1]."""

    user: Ints
    item: Ints
    rating: NDArray[np.float32]
    words: NDArray[np.int32]
    starts: Ints

    @classmethod
    def open(cls, reader: Reader, *, domain: int, period: int | None = None) -> Reviews:
        """Those of the training split, up to a period if one is given. Built once for all workers of a machine."""
        groups = select(reader, (domain,), split="train", period=period, upto=True)
        text = reader.dataset.schema.text.name
        found = mapped(
            reader, "reviews", key=(domain, period), build=lambda folder: _build(reader, groups, text, folder)
        )
        user, item, rating, starts = (np.asarray(found[name]) for name in ("user", "item", "rating", "starts"))
        return cls(user, item, rating, found["words"][: starts[-1]], starts)

    def alike(self, common: Ints) -> Ints:
        """[R] for each review one of the same item by another user, who is not among those `common`; -1: there is none.

        It has the same rating or, where there is no such one, the next higher one by 1 or else the next lower by 1.
        Any such review is as likely drawn as another, and the same at each call. CATN, "user auxiliary reviews".
        """
        levels, level = np.unique(self.rating, return_inverse=True)
        cells, cell = np.unique(self.item * len(levels) + level, return_inverse=True)
        users, user = np.unique(self.user, return_inverse=True)
        key = cell * len(users) + user  # who wrote what stands together among the reviews of one item and rating
        order = np.argsort(key, kind="stable")
        order = order[~np.isin(self.user, common)[order]]
        drawn = uniforms(np.arange(len(self.user)), 1, seed_of("auxiliary"))[0]
        found = np.full(len(self.user), -1, dtype=np.int64)
        for step in np.array([0, 1, -1], dtype=np.float32):
            of, wanted = _beside(np.flatnonzero(found < 0), levels, level, step=step)
            number, there = find(self.item[of] * len(levels) + wanted, cells)
            of, number = of[there], number[there]
            own = number * len(users) + user[of]
            bounds = [number * len(users), own, own + 1, (number + 1) * len(users)]
            first, before, after, last = np.searchsorted(key[order], bounds)
            count = last - first - (after - before)
            of, first, before, after, count = (part[count > 0] for part in (of, first, before, after, count))
            place = first + (drawn[of] * count).astype(np.int64)
            found[of] = order[np.where(place < before, place, place + after - before)]
        return found


def _beside(of: Ints, levels: NDArray[np.float32], level: Ints, *, step: np.float32) -> tuple[Ints, Ints]:
    """Those of the reviews `of` [N] for which there is a rating higher by `step`, and its number in `levels`."""
    wanted = levels[level[of]] + step
    at, there = find(wanted, levels)
    return of[there], at[there]


def _build(reader: Reader, groups: tuple[Group, ...], text: str, folder: str) -> Arrays:
    """The arrays; words are collected in a file, not on the heap."""
    schema, layout = reader.dataset.schema, reader.layout
    item = [feature.name for feature in layout.ids].index(schema.item)
    parts: dict[str, list[np.ndarray]] = {"user": [], "item": [], "rating": [], "lengths": []}
    with open(f"{folder}/words", "wb") as file:
        for group in groups:
            rows = reader.columns(group, keep=False)
            values, starts = rows.lists[text]
            file.write(np.ascontiguousarray(values[starts[0] : starts[-1]], dtype=np.int32).tobytes())
            parts["user"].append(rows.user_key)
            parts["item"].append(rows.ids[:, item].astype(np.int64))
            parts["rating"].append(rows.floats[:, layout.floats[schema.labels[0]].start])
            parts["lengths"].append(np.diff(starts).astype(np.int64))
    whole = {name: np.concatenate(arrays or [np.zeros(0, np.int64)]) for name, arrays in parts.items()}
    starts = starts_of(whole.pop("lengths"))
    size = os.path.getsize(f"{folder}/words") // 4
    words = np.lib.format.open_memmap(f"{folder}/words.npy", mode="w+", dtype=np.int32, shape=(max(size, 1),))
    if size:
        words[:] = np.memmap(f"{folder}/words", dtype=np.int32, mode="r")
    words.flush()
    os.remove(f"{folder}/words")
    return {**whole, "starts": starts}
