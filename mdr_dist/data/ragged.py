"""Arithmetic on lists that lie one after the other, and on sorted arrays.

Shape letters: B values, N lists, T entries of all lists.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Ints = NDArray[np.int64]


def starts_of(lengths: Array) -> Ints:
    """[N+1] where lists of these lengths [N] begin, and where the last one ends."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])


def spread(start: Array, lengths: Array) -> Ints:
    """[T] for each list the numbers `start, start + 1, …`, as many as it is long."""
    starts = starts_of(lengths)
    return np.arange(starts[-1]) + np.repeat(start - starts[:-1], lengths)


def nth(lengths: Array) -> Ints:
    """[T] the place of each entry in its own list."""
    return spread(np.zeros(len(lengths), dtype=np.int64), lengths)


def find(values: Array, among: Array) -> tuple[Ints, NDArray[np.bool_]]:
    """(number, there) of each value [B]: its place among sorted ones, and whether it is there at all."""
    number = np.searchsorted(among, values)
    if not len(among):
        return number, np.zeros(len(number), dtype=bool)
    return number, among[np.minimum(number, len(among) - 1)] == values


def located(values: Array, among: Array, *, starts: Ints) -> tuple[Ints, Ints]:
    """(number, count) of each value [B]: its place among sorted ones, and how many entries begin there; absent: 0."""
    number, there = find(values, among)
    return number, np.where(there, starts[np.minimum(number + 1, len(among))] - starts[number], 0)
