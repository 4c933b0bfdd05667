"""Which rows come when: an epoch's order, its cut into streams, and where a step stands in it.

Nothing here reads data. The order follows from (seed, stage, epoch); streams are stretches of it, so that neither the
order nor a batch depends on the number of workers, and any step is found by arithmetic.

Shape letters: G row groups, V streams.
"""

from __future__ import annotations

import bisect
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from mdr_dist.data.ragged import Ints
from mdr_dist.errors import UserError

MAX_STREAMS = 32  # more mix the epoch better and hold more row groups open


def seed_of(*key: int | str) -> int:
    """A seed in [0, 2**63) that differs wherever any part of the key does."""
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def permutation(size: int, *key: int | str) -> Ints:
    """[size] the numbers below `size`, shuffled by the key."""
    return np.random.default_rng(seed_of(*key)).permutation(size)


def stratified(sizes: Ints, strata: Ints, *key: int | str) -> Ints:
    """[G] row groups in an order in which every stretch has about the strata's shares of rows.

    Each stratum's groups are shuffled and laid along the epoch end to end; a group's place is a random point of the
    stretch it covers, (i + u)/n for the i-th of n equal ones. `sizes` [G] are rows, `strata` [G] the domains.
    """
    places = np.empty(len(sizes))
    for stratum in np.unique(strata):
        rng = np.random.default_rng(seed_of("groups", int(stratum), *key))
        groups = rng.permutation(np.flatnonzero(strata == stratum))
        ends = np.cumsum(sizes[groups])
        places[groups] = (ends - sizes[groups] * rng.random(len(groups))) / ends[-1]
    return np.argsort(places, kind="stable")


def dealt(sizes: Ints, streams: int) -> Ints:
    """[G] row groups of a sequence dealt out to streams in turn, each stream's end to end.

    Groups that follow each other in the sequence are then read at about the same time, so that a batch has the
    sequence's mixture even where a stream has many groups. Changes nothing where it has about one.
    """
    rounds = max(1, round(int(sizes.sum()) / (int(sizes.max()) * streams)))
    turn = (np.cumsum(sizes) - sizes) * (streams * rounds) // int(sizes.sum())
    return np.argsort(turn % streams, kind="stable")


def count_streams(batch: int, streams: int) -> int:
    """How many streams feed a batch: `streams`, or for 0 the largest divisor of `batch` up to MAX_STREAMS."""
    if streams == 0:
        return max(v for v in range(1, min(batch, MAX_STREAMS) + 1) if batch % v == 0)
    if batch % streams:
        raise UserError(f"data.streams: {streams} does not divide data.batch {batch}; choose a divisor, or 0")
    return streams


class Piece(NamedTuple):
    """Consecutive rows of one row group, numbered in the order the epoch reads the group."""

    group: int
    start: int
    stop: int


@dataclass(frozen=True)
class Order:
    """A sequence of row groups, cut into `streams` stretches that advance `share` rows a batch, side by side.

    `groups` [G] are group numbers, `sizes` [G] their rows. Stream v holds rows [v*N//V, (v+1)*N//V) of the sequence;
    batch b takes rows [b*share, (b+1)*share) of every stream. `first` numbers the sequence's first row where several
    orders make one epoch.
    """

    groups: Ints
    sizes: Ints
    streams: int
    share: int
    first: int = 0

    @cached_property
    def rows(self) -> int:
        """N, the rows of the sequence."""
        return int(self.sizes.sum())

    @cached_property
    def bounds(self) -> list[int]:
        """[V+1] where streams begin and the last one ends."""
        return [v * self.rows // self.streams for v in range(self.streams + 1)]

    @cached_property
    def steps(self) -> int:
        """Batches until the longest stream has ended."""
        return math.ceil(max(np.diff(self.bounds).tolist()) / self.share)

    @cached_property
    def _ends(self) -> list[int]:
        return np.cumsum(self.sizes).tolist()

    def counts(self, batch: int) -> Ints:
        """[V] how many real rows each stream gives to a batch; what it lacks is padding."""
        return np.clip(np.diff(self.bounds) - batch * self.share, 0, self.share)

    def start(self, batch: int, stream: int) -> int:
        """Where in the sequence a stream's part of a batch begins."""
        return self.bounds[stream] + batch * self.share

    def pieces(self, batch: int, stream: int) -> Iterator[Piece]:
        """The rows that a stream gives to a batch."""
        start = self.start(batch, stream)
        stop = min(start + self.share, self.bounds[stream + 1])
        at = bisect.bisect_right(self._ends, start)
        while start < stop:
            end = self._ends[at]
            base = self._ends[at - 1] if at else 0
            upto = min(stop, end)
            if upto > start:
                yield Piece(int(self.groups[at]), start - base, upto - base)
            start, at = upto, at + 1


@dataclass(frozen=True)
class Plan:
    """The orders that take turns in an epoch, one batch each; an order that has ended drops out."""

    orders: tuple[Order, ...]

    @cached_property
    def steps(self) -> int:
        """Batches of the epoch."""
        return sum(order.steps for order in self.orders)

    def turn(self, step: int) -> tuple[Order, int]:
        """Whose batch a step is, and which of its batches."""
        low, high = 0, step  # the last round that begins at or before the step
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._before(middle) <= step else (low, middle - 1)
        left = [order for order in self.orders if order.steps > low]
        return left[step - self._before(low)], low

    def _before(self, batch: int) -> int:
        """Steps of the epoch before the first order gives this batch."""
        return sum(min(order.steps, batch) for order in self.orders)
