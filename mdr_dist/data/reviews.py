"""The reviews of a domain's training rows, and which one stands for another.

Shape letters: R reviews, T words.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mdr_dist.data.interactions import select
from mdr_dist.data.mapped import Arrays, mapped
from mdr_dist.data.negatives import uniforms
from mdr_dist.data.order import Ints, seed_of
from mdr_dist.data.reader import Group, Reader
from mdr_dist.errors import UserError


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
        groups, name = select(reader, (domain,), split="train", period=period, upto=True), text_of(reader)
        found = mapped(
            reader, "reviews", key=(domain, period), build=lambda folder: _build(reader, groups, name, folder)
        )
        user, item, rating, starts = (np.asarray(found[name]) for name in ("user", "item", "rating", "starts"))
        return cls(user, item, rating, found["words"][: starts[-1]], starts)

    def alike(self, common: Ints) -> Ints:
        """[R] for each review one of the same item by another user, who is not among those `common`; -1: there is none.

        It has the same rating or, where there is no such one, the next higher one by 1 or else the next lower by 1.
        Which of several is drawn. CATN, "user auxiliary reviews".
        """
        by_user = np.searchsorted(common, self.user)
        known = np.append(common, -1)[by_user] == self.user
        order = np.lexsort((self.rating, self.item))
        order = order[~known[order]]
        found = np.full(len(self.user), -1, dtype=np.int64)
        levels, level = np.unique(self.rating, return_inverse=True)
        cell = self.item * len(levels) + level
        drawn = uniforms(np.arange(len(self.user)), 1, seed_of("auxiliary"))[0]
        for step in (0.0, 1.0, -1.0):
            open_ = np.flatnonzero(found < 0)
            at = np.searchsorted(levels, self.rating[open_] + np.float32(step)).clip(max=max(len(levels) - 1, 0))
            there = levels[at] == self.rating[open_] + np.float32(step)
            open_, wanted = open_[there], (self.item[open_] * len(levels) + at)[there]
            first, last = (np.searchsorted(cell[order], wanted, side=side) for side in ("left", "right"))
            found[open_] = self._drawn(order, first, last - first, of=open_, by=drawn[open_])
        return found

    def _drawn(self, order: Ints, first: Ints, count: Ints, *, of: Ints, by: NDArray[np.float64]) -> Ints:
        """Of the reviews `order[first : first + count]` one by another user than the review `of`; -1: none."""
        if not len(order):
            return np.full(len(of), -1, dtype=np.int64)
        nth = (by * count).astype(np.int64)
        picked = order[(first + nth).clip(max=len(order) - 1)]
        own = (self.user[picked] == self.user[of]) & (count > 0)
        # a user who wrote the one drawn wrote it alone, as a rule; then the next in turn is another user's
        picked = np.where(own, order[(first + (nth + 1) % np.maximum(count, 1)).clip(max=len(order) - 1)], picked)
        return np.where((count > 0) & (self.user[picked] != self.user[of]), picked, -1)


def text_of(reader: Reader) -> str:
    """The name of the data set's text; a `UserError` if it has none."""
    texts = reader.dataset.schema.of_kind("text")
    if not texts:
        raise UserError(
            f"data set {reader.dataset.path} has no text, which the method reads: its recipe needs a text feature"
        )
    return texts[0].name


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
    starts = np.concatenate([[0], np.cumsum(whole.pop("lengths"))])
    size = os.path.getsize(f"{folder}/words") // 4
    words = np.lib.format.open_memmap(f"{folder}/words.npy", mode="w+", dtype=np.int32, shape=(max(size, 1),))
    if size:
        words[:] = np.memmap(f"{folder}/words", dtype=np.int32, mode="r")
    words.flush()
    os.remove(f"{folder}/words")
    return {**whole, "starts": starts}
