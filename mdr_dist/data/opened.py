"""The row groups that are open while an epoch is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from mdr_dist.data.columns import Columns
from mdr_dist.data.order import permutation
from mdr_dist.data.ragged import Array


class Opened:
    """The row groups that streams stand in, each with the order in which its rows come.

    A row group stays open for `linger` batches after its last use, so that domains that take turns find theirs again.
    `key` shuffles the rows; without one they come as they are stored, and reading them disturbs no cache.
    """

    def __init__(self, columns: Callable[[int], Columns], *, linger: int, key: tuple[str | int, ...] | None) -> None:
        self._columns, self._linger, self._key = columns, linger, key
        self._clock = 0
        self._open: dict[int, tuple[Columns, Array]] = {}
        self._used: dict[int, int] = {}

    def get(self, number: int) -> tuple[Columns, Array]:
        """A row group and the numbers of its rows in order."""
        self._used[number] = self._clock
        if number not in self._open:
            columns = self._columns(number)
            size = len(columns)
            rows = np.arange(size) if self._key is None else permutation(size, "rows", number, *self._key)
            self._open[number] = columns, rows
        return self._open[number]

    def lacks(self, numbers: Iterable[int]) -> Iterator[int]:
        """Those of the row groups that are not open, each once."""
        return (number for number in dict.fromkeys(numbers) if number not in self._open)

    def close_unused(self) -> None:
        """Let go of what the last batches did not use."""
        self._clock += 1
        for number in [n for n, used in self._used.items() if used + self._linger < self._clock]:
            del self._open[number], self._used[number]
