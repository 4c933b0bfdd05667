"""What a source adds to batches for the methods that ask for it: `batch.Extras`.

Shape letters: B rows, N entries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from mdr_dist.batch import Batch, Extras, Ragged
from mdr_dist.data.documents import Documented
from mdr_dist.data.interactions import Interactions
from mdr_dist.data.means import Means
from mdr_dist.data.neighbours import Neighbours, of_none
from mdr_dist.data.order import seed_of
from mdr_dist.data.ragged import Ints
from mdr_dist.data.ratings import BY, Found, Ratings
from mdr_dist.data.reader import Reader
from mdr_dist.data.users import Users
from mdr_dist.stage import Slice

Adding = Callable[[Batch, int], Batch]  # by a seed, what is drawn
_NOTHING = np.zeros(0, dtype=np.int64)


def adding(
    reader: Reader, extras: Extras, *, slice_: Slice, domains: tuple[int, ...], ranking: bool = False
) -> tuple[Adding, ...]:
    """What is to be done to batches of a slice, in order; all that it needs is opened here.

    `domains` are the job's. `ranking`: the batches are profiles of users and items.
    """
    period, own = slice_.period, slice_.domains or domains
    shown = slice_.context or (domains if ranking else own)
    steps: list[Adding] = []
    if extras.active:
        steps.append(_Active(Users.open(reader, split="train", period=period, domains=domains)))
    if extras.history:
        steps.append(_Taken("history", Interactions.together(reader, shown, period=period, upto=True)))
    if extras.catalogue and ranking:
        steps.append(_no_catalogue)
    elif extras.catalogue:
        split = slice_.split
        taken = Interactions.together(reader, own, split=split, period=period, upto=split == "train")
        steps.append(_Taken("taken", taken))
        steps.append(_Catalogue(Interactions.together(reader, own, period=period, upto=True).items, extras.catalogue))
    if extras.means:
        steps.append(_Means(reader, own, period=period, damping=extras.damping))
    if extras.ratings:
        steps.append(_Rated(reader, domains, most=extras.ratings, period=period))
    if extras.documents:
        steps.append(Documented(reader, extras, domains=domains, period=period))
    if extras.hops:
        neighbours = Neighbours.open(reader, domains=shown, period=period)
        steps.append(lambda batch, seed: neighbours.around(batch, extras, seed=seed))
    return tuple(steps)


class _Active:
    """The dense feature `active`."""

    def __init__(self, users: Users) -> None:
        self._users = users

    def __call__(self, batch: Batch, _: int) -> Batch:
        active = torch.from_numpy(self._users.active_of(batch.user_key.numpy()))
        return replace(batch, dense={**batch.dense, "active": active})


class _Taken:
    """A list feature: what each row's user took."""

    def __init__(self, name: str, taken: Interactions) -> None:
        self._name, self._taken = name, taken

    def __call__(self, batch: Batch, _: int) -> Batch:
        row, place = self._taken.positives(batch.user_key.numpy())
        lengths = torch.from_numpy(np.bincount(row, minlength=len(batch)))
        return _with_list(batch, self._name, Ragged(torch.from_numpy(self._taken.items[place]), lengths))


class _Means:
    """The dense feature `mean`."""

    def __init__(self, reader: Reader, domains: tuple[int, ...], *, period: int | None, damping: float) -> None:
        self._item, self._damping = reader.dataset.schema.item, damping
        self._means = {domain: Means.open(reader, domain=domain, period=period) for domain in domains}

    def __call__(self, batch: Batch, _: int) -> Batch:
        item, domain = batch.ids[self._item].numpy(), batch.domain.numpy()
        mean = np.zeros((len(batch), 1), dtype=np.float32)
        for k, means in self._means.items():
            mean[domain == k, 0] = means.of(item[domain == k], damping=self._damping)
        return replace(batch, dense={**batch.dense, "mean": torch.from_numpy(mean)})


class _Rated:
    """The list features `rated_<k>` and `raters`, and the batch's `ratings`."""

    def __init__(self, reader: Reader, domains: tuple[int, ...], *, most: int, period: int | None) -> None:
        self._item, self._most = reader.dataset.schema.item, most
        self._users, self._items = (
            {k: Ratings.open(reader, by=by, domain=k, period=period) for k in domains} for by in BY
        )

    def __call__(self, batch: Batch, _: int) -> Batch:
        key, item, domain = batch.user_key.numpy(), batch.ids[self._item].numpy(), batch.domain.numpy()
        for k, ratings in self._users.items():
            batch = _with_ratings(batch, f"rated_{k}", [ratings.of(key, most=self._most)])
        parts: list[Found] = []
        for k, ratings in self._items.items():
            rows = np.flatnonzero(domain == k)
            row, entries, rating = ratings.of(item[rows], most=self._most)
            parts.append((rows[row], entries, rating))
        return _with_ratings(batch, "raters", parts)


class _Catalogue:
    """The list feature `catalogue`: all items, or a sample."""

    def __init__(self, items: Ints, most: int) -> None:
        self._items, self._most = items, most

    def __call__(self, batch: Batch, seed: int) -> Batch:
        items = self._items
        if len(items) > self._most:
            draw = np.random.default_rng(seed_of("catalogue", seed))
            items = items[np.sort(draw.choice(len(items), self._most, replace=False, shuffle=False))]
        return _with_list(batch, "catalogue", of_none(np.array(items), len(batch)))


def _no_catalogue(batch: Batch, _: int) -> Batch:
    for name in ("taken", "catalogue"):
        batch = _with_list(batch, name, of_none(_NOTHING, len(batch)))
    return batch


def _with_ratings(batch: Batch, name: str, parts: list[Found]) -> Batch:
    row, entries, rating = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.argsort(row, kind="stable")
    lengths = torch.from_numpy(np.bincount(row, minlength=len(batch)))
    batch = _with_list(batch, name, Ragged(torch.from_numpy(entries[order]), lengths))
    return replace(batch, ratings={**batch.ratings, name: torch.from_numpy(rating[order])})


def _with_list(batch: Batch, name: str, ragged: Ragged) -> Batch:
    return replace(batch, lists={**batch.lists, name: ragged})
