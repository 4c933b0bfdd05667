"""The truth behind interactions that drift: which items a user takes in which period.

    u_t(u, i) = log π_it + log(whim + (1 - whim) * s( signal * (taste_t(u, i) - bar) )),      s the logistic function
    taste_t(u, i) = sqrt(1 - drift) * < p_u, q_i > / sqrt(F) + sqrt(drift) * < a_ut, b_it > / sqrt(D)
    p_t(i | u) = exp(u_t(u, i)) / sum over items that have come,           each item once in all periods

p, q stay; a, b follow a stationary AR(1), x_t = memory * x_{t-1} + sqrt(1 - memory²) * e_t. All are standard normal, a
share `grouped` of their variance being that of the user's group or the item's category, which drifts as well. log π_it
is -item_zipf * log(rank) + trend * z_it up to a constant, z an AR(1) too. So users and items have much that is told by
all periods together, as a user has few rows in one, and much that only the latest periods tell. A user draws items by π
and takes one with the chance whim + … until it has as many as it should, which is exact and needs no sum over items.

Every table is drawn by a generator of its own: (USERS, 0) and (ITEMS, 0) the groups, (USERS, 1 + block) a block of
users, (ITEMS, 1 + domain) and (POPULARITY, 1 + domain) the items, (HOMES, domain, block) who is active.

Shape letters: U users of a block, I items of a domain, F stable and D drifting factors, T periods, N rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mdr_dist.data.synthetic.choice import Alias
from mdr_dist.data.synthetic.config import DriftConfig
from mdr_dist.data.synthetic.planted import Floats, Ints, Stream, generator, probability
from mdr_dist.errors import UserError

USERS = 1 << 16  # of a block
PIECE = 1 << 13  # rows chosen at a time, so that what they are chosen from stays near the processor
MET = 8  # items that each of them meets at a time
ROUNDS = 2000  # of drawing until every user has as many items as it should
MOST = 0.5  # of the items that have come, that a user takes
NEVER = 1e-300  # the popularity of what has not come, where its logarithm is asked for


def walk(rng: np.random.Generator, shape: tuple[int, ...], config: DriftConfig) -> Iterator[Floats]:
    """A stationary AR(1) of standard normal arrays, one a period."""
    state = rng.standard_normal(shape, dtype=np.float32)
    for _ in range(config.periods):
        yield state
        fresh = rng.standard_normal(shape, dtype=np.float32)
        state = _mixed(state, fresh, config.memory**2)


def _mixed(one: Floats, other: Floats, share: float) -> Floats:
    """Two independent standard normal arrays as one, of whose variance the first is the share."""
    weights = np.sqrt([share, 1 - share]).astype(np.float32)
    return np.add(one * weights[0], other * weights[1], dtype=np.float32)


@dataclass(frozen=True)
class Groups:
    """What groups of one kind like: `stable` [G, F], and `drifting`, T times [G, D]."""

    stable: Floats
    drifting: tuple[Floats, ...]

    @staticmethod
    def draw(config: DriftConfig, stream: Stream) -> Groups:
        """The groups of users or of items."""
        rng = generator(config, stream, 0)
        stable = rng.standard_normal((config.groups, config.stable_dim), dtype=np.float32)
        return Groups(stable, tuple(walk(rng, (config.groups, config.drift_dim), config)))


@dataclass(frozen=True)
class People:
    """A block of users or all items of a domain: the period in which each first comes [n], and its factors."""

    born: Ints
    stable: Floats
    drifting: tuple[Floats, ...]

    @staticmethod
    def draw(config: DriftConfig, rng: np.random.Generator, *, groups: Groups, count: int) -> People:
        """Random groups, factors around their group's."""
        late = rng.random(count) < config.late
        born = np.where(late, rng.integers(1, config.periods, size=count), 0)
        group = rng.integers(config.groups, size=count)
        stable = rng.standard_normal((count, config.stable_dim), dtype=np.float32)
        drifting = walk(rng, (count, config.drift_dim), config)
        return People(
            born,
            _mixed(groups.stable[group], stable, config.grouped),
            tuple(_mixed(c[group], x, config.grouped) for c, x in zip(groups.drifting, drifting, strict=True)),
        )

    def at(self, period: int) -> Floats:
        """[n, F + D] factors in a period."""
        return np.hstack([self.stable, self.drifting[period]])


@dataclass(frozen=True)
class DriftDomain:
    """One domain: its items and, by period, how popular they are, T times [I], and how likely they are met."""

    name: str
    config: DriftConfig
    items: People
    popularity: tuple[NDArray[np.float64], ...]

    @staticmethod
    def draw(config: DriftConfig, domain: int, *, name: str) -> DriftDomain:
        """A domain's truth."""
        groups = Groups.draw(config, Stream.ITEMS)
        items = People.draw(config, generator(config, Stream.ITEMS, 1 + domain), groups=groups, count=config.items)
        rng = generator(config, Stream.POPULARITY, 1 + domain)
        base = (rng.permutation(config.items) + 1.0) ** -config.item_zipf
        found: list[NDArray[np.float64]] = []
        for period, level in enumerate(walk(rng, (config.items,), config)):
            weight = np.where(items.born <= period, base * np.exp(config.trend * level.astype(np.float64)), 0)
            found.append(weight / weight.sum())
        return DriftDomain(name, config, items, tuple(found))

    @cached_property
    def _aliases(self) -> tuple[Alias, ...]:
        return tuple(Alias.of(popularity) for popularity in self.popularity)

    def scaled(self, users: Floats) -> Floats:
        """[U, F + D] users' factors, such that their product with the items' is taste."""
        config = self.config
        stable = np.full(config.stable_dim, np.sqrt((1 - config.drift) / config.stable_dim), np.float32)
        drifting = np.full(config.drift_dim, np.sqrt(config.drift / config.drift_dim), np.float32)
        return users * np.concatenate([stable, drifting])

    def chance(self, taste: Floats) -> Floats:
        """How likely an item that is met is taken."""
        whim = np.float32(self.config.whim)
        return whim + (1 - whim) * probability(np.float32(self.config.signal) * (taste - np.float32(self.config.bar)))

    def utility(self, period: int, *, users: Floats, items: Ints) -> NDArray[np.float64]:
        """[N, C] log p_t(i | u) up to a user's constant: for `users` [N, F + D] of that period and `items` [N, C]."""
        taste = np.einsum("nf,ncf->nc", self.scaled(users), self.items.at(period)[items])
        popularity = np.maximum(self.popularity[period], NEVER)
        return np.log(popularity[items]) + np.log(self.chance(taste).astype(np.float64))

    def take(
        self, rng: np.random.Generator, period: int, *, users: Floats, count: Ints, taken: Ints
    ) -> tuple[Ints, Ints]:
        """(users, items) [N] of a period, sorted, `count` [U] of each of the `users` [U, F + D].

        `taken`, sorted, are the u * I + i that users have. `UserError` for a user who would take too much.
        """
        size, users, items = len(self.items.born), self.scaled(users), self.items.at(period)
        self._check(period, count + np.bincount(taken // size, minlength=len(count)))
        found, missing = np.zeros(0, np.int64), count
        for _ in range(ROUNDS):
            user = np.repeat(np.arange(len(count)), missing)
            if not len(user):
                return found // size, found % size
            chosen = self._chosen(rng, period, user=users[user], items=items)
            fresh = np.unique((user * size + chosen)[chosen >= 0])
            fresh = fresh[~_among(fresh, found) & ~_among(fresh, taken)]
            found = np.sort(np.concatenate([found, fresh]))
            missing = count - np.bincount(found // size, minlength=len(count))
        raise UserError(
            f"rows: a user of domain {self.name} does not find the {count[missing > 0].max()} items that it should "
            f"have in period {period}; use fewer rows, a smaller trend or a larger whim"
        )

    def _check(self, period: int, count: Ints) -> None:
        come = int((self.items.born <= period).sum())
        if (most := int(count.max(initial=0))) > MOST * come:
            raise UserError(
                f"rows: the most active user of domain {self.name} would have taken {most} of the {come} items that "
                f"have come by period {period}, over half; use fewer rows, more items or a smaller user_spread"
            )

    def _chosen(self, rng: np.random.Generator, period: int, *, user: Floats, items: Floats) -> Ints:
        """[N] an item for each row's user [N, F + D]; -1 where none of those that it meets is taken."""
        chosen = np.empty(len(user), np.int64)
        for start in range(0, len(user), PIECE):
            part = user[start : start + PIECE]
            met_NC = self._aliases[period].draw(rng, shape=(len(part), MET))
            chance = self.chance(np.einsum("nf,ncf->nc", part, items.take(met_NC, axis=0)))
            yes = rng.random(chance.shape, dtype=np.float32) < chance
            first = np.take_along_axis(met_NC, yes.argmax(1)[:, None], axis=1)[:, 0]
            chosen[start : start + PIECE] = np.where(yes.any(1), first, -1)
        return chosen


def _among(values: Ints, of: Ints) -> NDArray[np.bool_]:
    """Which values are in the sorted array."""
    if not len(of):
        return np.zeros(len(values), bool)
    return of[np.searchsorted(of, values).clip(max=len(of) - 1)] == values
