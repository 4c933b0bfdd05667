"""Items that a user has not taken, drawn uniformly from a domain without a single rejection.

Of a domain's n items, numbered in id order, let a user hold p_0 < p_1 < … < p_{m-1}. The r-th item that the user does
not hold is r + j, where j counts the i with p_i - i <= r. So the file keeps p_i - i instead of p_i: a draw is a random
r in [0, n - m) and one binary search, exact however much of the domain a user holds.

Shape letters: B rows, N negatives a row.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mdr_dist.data.interactions import Interactions, count_items
from mdr_dist.data.ragged import Array, Ints
from mdr_dist.data.reader import Reader
from mdr_dist.errors import UserError


class Negatives(Interactions):
    """A domain's interactions as something to draw from."""

    @classmethod
    def of_training(cls, reader: Reader, *, domain: int, period: int | None = None, upto: bool = True) -> Negatives:
        """A domain's negatives by its training split: by one period of it, if one is given, or `upto` that.

        Items are those that occur there, without the default row. Positives are the rows with a label over 0.5. Raises
        `UserError` if the domain has fewer than two items.
        """
        found = cls.open(reader, domain=domain, period=period, upto=upto)
        _refuse_few(reader, domain, len(found.items))
        return found

    def draw(self, user_key: Array, item: Array, uniform: NDArray[np.float64]) -> Ints:
        """[N, B] item ids that the users do not hold, independently drawn.

        `user_key` and `item` [B] int64 are the rows'; `uniform` [N, B] numbers in [0, 1). A user who holds every item
        gets any but the row's own.
        """
        by_user = np.argsort(user_key)  # memory is then read forwards
        drawn = np.empty(uniform.shape, dtype=np.int64)
        drawn[:, by_user] = self._draw(user_key[by_user], item[by_user], uniform[:, by_user])
        return drawn

    def _draw(self, user_key: Array, item: Array, uniform: NDArray[np.float64]) -> Ints:
        size = len(self.items)
        user = np.searchsorted(self.users, user_key)
        known = np.searchsorted(self.users, user_key, side="right") > user
        start = self.starts[user]
        held = np.where(known, self.starts[np.minimum(user + 1, len(self.users))] - start, 0)
        rank = (uniform * (size - held)).astype(np.int64)
        passed = np.searchsorted(self.gaps, (user * size + rank).T, side="right").T - start
        at = rank + np.where(known, passed, 0)
        if (everything := held == size).any():
            own = np.searchsorted(self.items, item)
            other = (uniform * (size - 1)).astype(np.int64)
            at = np.where(everything, other + (other >= own), at)
        return self.items[at]


def check_items(reader: Reader, *, domain: int, period: int | None = None, upto: bool = True) -> None:
    """Raise what `Negatives.of_training` would, at less cost."""
    _refuse_few(reader, domain, count_items(reader, (domain,), period=period, enough=2, upto=upto))


def _refuse_few(reader: Reader, domain: int, items: int) -> None:
    if items < 2:
        name, count = reader.dataset.schema.domains[domain], ("no item", "one item alone")[items]
        raise UserError(
            f"domain {name} has {count} in the train split of data set {reader.dataset.path}; "
            "negatives need two at least: set data.domains to other domains"
        )


def uniforms(place: Ints, draws: int, seed: int) -> NDArray[np.float64]:
    """[draws, B] numbers in [0, 1) that follow from seed, place [B] and draw alone (splitmix64, Steele et al. 2014)."""
    weyl = np.uint64(0x9E3779B97F4A7C15)
    state = _mixed(np.array([seed], dtype=np.uint64) + weyl) ^ place.astype(np.uint64)
    steps = np.arange(1, draws + 1, dtype=np.uint64)[:, None] * weyl
    return (_mixed(_mixed(state) + steps) >> np.uint64(11)) * np.float64(2.0**-53)


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
