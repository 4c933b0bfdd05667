"""The truth behind implicit feedback: which items a user takes.

    taste_k(u, i) = sqrt(1 - specific) * < w_u, x_i > / sqrt(F) + sqrt(specific) * < v_uk, y_ik > / sqrt(S)
    p_k(i | u) = P_uk(taste_k(u, i))^C - P_uk(taste_k(u, i)-)^C

w, x are shared factors, v, y those of domain k; all are standard normal, a share `grouped` of their variance being that
of the user's group or the item's category. Items belong to one domain, but what makes a user like them is in part the
same everywhere. A user meets C items at a time, drawn by popularity π (Zipf), and takes the one liked most: P_uk(t) is
the popularity, summed, of the items that user u likes no more than t, P_uk(t-) of those liked less. So p is π lifted by
about C P^(C-1), at most C times, and 1 choice is popularity alone. A user's items are drawn one after the other until
there are as many as there should be, each item once.

Shape letters: U users, I items of a domain, F shared factors, S specific factors, K domains, N rows, C choices.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mdr_dist.data.synthetic.config import ImplicitConfig
from mdr_dist.data.synthetic.planted import (
    Floats,
    Ints,
    Population,
    Stream,
    generator,
    grouped_factors,
    homes,
    shares,
)
from mdr_dist.data.synthetic.review_config import ReviewConfig
from mdr_dist.errors import UserError

BLOCK = 1 << 20  # rows of a block, or of all if there are fewer
PIECE = 1 << 13  # rows chosen at a time, so that what they are chosen from stays near the processor
ROUNDS = 1000  # of drawing until every user has as many items as there should be
MOST = 0.5  # of a domain's items, that a user takes


@dataclass(frozen=True)
class Alias:
    """Draws numbers below n, each with its own probability, in constant time (Walker 1977, in Vose's form).

    A number is drawn evenly and kept with the chance `keep` [n], else it becomes `other` [n].
    """

    keep: NDArray[np.float64]
    other: NDArray[np.int32]

    @staticmethod
    def of(probability: NDArray[np.float64]) -> Alias:
        """For probabilities [n] that add up to one."""
        keep = probability * len(probability)
        other = np.arange(len(keep), dtype=np.int32)
        small, large = np.flatnonzero(keep < 1).tolist(), np.flatnonzero(keep >= 1).tolist()
        while small and large:
            poor, rich = small.pop(), large[-1]
            other[poor] = rich
            keep[rich] -= 1 - keep[poor]
            if keep[rich] < 1:
                small.append(large.pop())
        keep[small] = 1  # but for rounding they are
        return Alias(keep, other)

    def draw(self, rng: np.random.Generator, *, shape: tuple[int, ...]) -> NDArray[np.int32]:
        """Independent numbers of this shape."""
        point = rng.random(shape) * len(self.keep)
        number = point.astype(np.int32)
        return np.where(point - number < self.keep.take(number), number, self.other.take(number))


@dataclass(frozen=True)
class Block:
    """Users `[first, last)`, whose rows are `[start, stop)` of the domain's, in user order."""

    number: int
    first: int
    last: int
    start: int
    stop: int


@dataclass(frozen=True)
class DomainChoice:
    """One domain: scaled factors `user` [U, F+S] and `item` [I, F+S], `popularity` [I], and `count` [U] of rows."""

    name: str
    user: Floats
    item: Floats
    popularity: NDArray[np.float64]
    count: Ints
    choices: int

    def blocks(self) -> Iterator[Block]:
        """All users, in blocks of BLOCK rows or somewhat more."""
        ends = np.cumsum(self.count)
        number = max(1, int(ends[-1]) // BLOCK)
        cuts = np.searchsorted(ends, np.arange(number) * ends[-1] // number, side="right")
        cuts = np.unique([*cuts, len(ends)])
        rows = np.concatenate([[0], ends])[cuts]
        for number, ((first, last), (start, stop)) in enumerate(zip(pairwise(cuts), pairwise(rows), strict=True)):
            yield Block(number, int(first), int(last), int(start), int(stop))

    def take(self, rng: np.random.Generator, block: Block) -> tuple[Ints, Ints]:
        """(users, items) [N] of a block's rows; a `UserError` if a user does not find as many items as it should."""
        count, size = self.count[block.first : block.last], len(self.item)
        missing, held, done = count, np.zeros(0, np.int64), [np.zeros(0, np.int64)]
        for _ in range(ROUNDS):
            user = np.repeat(np.arange(len(count)), missing)
            found = np.sort(np.concatenate([held, user * size + self._chosen(rng, user + block.first)]))
            found = found[np.diff(found, prepend=-1) > 0]
            owner = found // size
            missing = np.where(missing > 0, count - np.bincount(owner, minlength=len(count)), 0)
            waiting = missing[owner] > 0
            done.append(found[~waiting])
            held = found[waiting]
            if not len(held):
                user, item = np.divmod(np.concatenate(done), size)
                return user + block.first, item
        raise UserError(
            f"interactions: a user of domain {self.name} does not find the {count[missing > 0].max()} of {size} items "
            "that it should have; use a smaller item_zipf, fewer choices or fewer interactions"
        )

    def _chosen(self, rng: np.random.Generator, user: Ints) -> Ints:
        """[N] an item for each of these users."""
        chosen = np.empty(len(user), np.int64)
        for start in range(0, len(user), PIECE):
            part = user[start : start + PIECE]
            met_NC = self._alias.draw(rng, shape=(len(part), self.choices))
            taste_NC = np.einsum("nf,ncf->nc", self.user.take(part, axis=0), self.item.take(met_NC, axis=0))
            best = taste_NC.argmax(1)
            chosen[start : start + PIECE] = np.take_along_axis(met_NC, best[:, None], axis=1)[:, 0]
        return chosen

    @cached_property
    def _alias(self) -> Alias:
        return Alias.of(self.popularity)

    def probability(self, user: int) -> NDArray[np.float64]:
        """[I] p(i | u): how likely the next item is each of them."""
        order = np.argsort(self.item @ self.user[user])
        own = self.popularity[order]
        upto = np.cumsum(own)
        found = np.empty(len(own))
        found[order] = upto**self.choices - (upto - own) ** self.choices
        return found


def dealt(config: ImplicitConfig | ReviewConfig, domain: int, *, total: int, rank: Ints, home: Ints) -> Ints:
    """[U] each user's rows in a domain, over all splits; `UserError` if one would take more than MOST of the items."""
    active = np.flatnonzero((home < 0) | (home == domain))
    count = np.zeros(config.users, np.int64)
    weights = (rank[active] + 1.0) ** -config.user_zipf
    count[active] = shares(total, weights, least=int(total >= len(active)))
    if (most := int(count.max())) > MOST * config.items[domain]:
        raise UserError(
            f"interactions: the most active user of domain {config.domains[domain]} would take {most} of its "
            f"{config.items[domain]} items, over half; use fewer interactions, more items or a smaller user_zipf"
        )
    return count


def popularity(config: ImplicitConfig | ReviewConfig, domain: int) -> NDArray[np.float64]:
    """[I] how often each item of a domain is met."""
    rank = generator(config, Stream.POPULARITY, 1 + domain).permutation(config.items[domain])
    weight = (rank + 1.0) ** -config.item_zipf
    return weight / weight.sum()


class Choices:
    """All domains' truth, drawn from the seed; one domain's tables are in memory at a time.

    `UserError` for a domain where a user would take more than MOST of the items.
    """

    def __init__(self, config: ImplicitConfig) -> None:
        self._config = config
        rng = generator(config, Stream.USERS)
        self._users = Population.draw(config, rng, count=config.users, width=config.shared_dim)
        totals = np.array([sum(config.rows(k).values()) for k in range(len(config.domains))])
        rank, home = generator(config, Stream.POPULARITY).permutation(config.users), homes(config, totals)
        self._counts = [dealt(config, k, total=int(total), rank=rank, home=home) for k, total in enumerate(totals)]

    def domain(self, domain: int) -> DomainChoice:
        """The truth of one domain."""
        config, size = self._config, self._config.items[domain]
        rng = generator(config, Stream.ITEMS, 1 + domain)
        items = Population.draw(config, rng, count=size, width=config.shared_dim)
        shared = np.float32(np.sqrt((1 - config.specific) / config.shared_dim))
        own = np.float32(np.sqrt(config.specific / config.specific_dim))
        return DomainChoice(
            name=config.domains[domain],
            user=np.hstack([self._users.factors * shared, self._specific(Stream.USERS, self._users, domain) * own]),
            item=np.hstack([items.factors, self._specific(Stream.ITEMS, items, domain)]),
            popularity=popularity(config, domain),
            count=self._counts[domain],
            choices=config.choices,
        )

    def _specific(self, stream: Stream, of: Population, domain: int) -> Floats:
        """[n, S] the domain's own factors of users or items."""
        rng = generator(self._config, stream, 1 + domain, 2)
        return grouped_factors(self._config, rng, group=of.group, width=self._config.specific_dim)
