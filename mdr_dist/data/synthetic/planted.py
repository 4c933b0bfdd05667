"""The truth behind a synthetic data set: who meets what, and with what probability it is liked.

    logit_k(u, i) = signal * ( sqrt(1 - appeal) * taste_k(u, i) + sqrt(appeal) * a_i ) + b_k
    taste_k(u, i) = sqrt(1 - specific) * < s_gk * w_u, x_i > / sqrt(F) + sqrt(specific) * < v_uk, y_ik > / sqrt(S)

w, x are shared factors, v, y those of domain k, a the item's appeal; all are standard normal, a share `grouped` of
their variance being that of the user's group g or the item's category. s_gk in {-1, 1} per shared factor is where
domains disagree: of the (group, factor) pairs a share `conflict` is contested, and for each of these a random half of
the domains has the other sign. So one (user, item) pair can have opposite likely labels in two domains, and which pairs
do depends on user, item and both domains. b_k is solved for, so that a domain's share of positive labels is as asked.

Shape letters: U users, I items of a domain, G groups, F shared factors, S specific factors, K domains, N rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdr_dist.data.synthetic.config import DriftConfig, ImplicitConfig, SyntheticConfig
from mdr_dist.data.synthetic.review_config import ReviewConfig

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Grouped = SyntheticConfig | ImplicitConfig
Config = Grouped | DriftConfig | ReviewConfig
PROBE = 1 << 16  # pairs drawn to solve for the base rate


class Stream(IntEnum):
    """Independent random streams: each use has its own, so that changing one leaves the others as they are."""

    HOMES, USERS, ITEMS, SIGNS, RATES, POPULARITY, PROBE, FIELDS, ROWS = range(9)


def generator(config: Config, *path: int) -> np.random.Generator:
    """The generator of one purpose, the same on every machine."""
    return np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=path))


def shares(total: int, weights: NDArray[np.floating[Any]], *, least: int) -> Ints:
    """`total` dealt out in proportion to `weights`, each at least `least`; exact, by largest remainder."""
    free = total - least * len(weights)
    exact = weights / weights.sum() * free
    dealt = np.floor(exact).astype(np.int64)
    rest = free - int(dealt.sum())
    dealt[np.argsort(dealt - exact, kind="stable")[:rest]] += 1
    return dealt + least


def probability(logit: Floats) -> Floats:
    """The logistic function of a logit."""
    return np.float32(1) / (np.float32(1) + np.exp(-logit))


@dataclass(frozen=True)
class Population:
    """Entities of one kind and what they like: `group` [n] int64, `factors` [n, F] float32."""

    group: Ints
    factors: Floats

    @staticmethod
    def draw(config: Grouped, rng: np.random.Generator, *, count: int, width: int) -> Population:
        """Groups of near-equal size, factors around their group's centre."""
        group = rng.permutation(np.arange(count) % config.groups)
        return Population(group, grouped_factors(config, rng, group=group, width=width))


def grouped_factors(config: Grouped, rng: np.random.Generator, *, group: Ints, width: int) -> Floats:
    """[n, width] standard normal factors, of which the group's centre explains the share `grouped`."""
    centre = rng.standard_normal((config.groups, width), dtype=np.float32)
    own = rng.standard_normal((len(group), width), dtype=np.float32)
    own *= np.float32(np.sqrt(1 - config.grouped))
    own += (centre * np.float32(np.sqrt(config.grouped)))[group]
    return own


def homes(config: Grouped | ReviewConfig, rows: Ints) -> Ints:
    """[U] the only domain of a user, -1 for one who is active in all; every domain, of `rows` [K], has a user."""
    roaming = min(round(config.users * config.overlap), config.users)
    single = config.users - roaming
    least = int(roaming == 0)
    only = np.repeat(np.arange(len(rows)), shares(single, rows.astype(np.float64), least=least))
    return generator(config, Stream.HOMES).permutation(np.concatenate([np.full(roaming, -1), only]))


@dataclass(frozen=True)
class Frequency:
    """Draws entities: `who` [n] numbers, `upto` [n] the cumulative probability."""

    who: Ints
    upto: NDArray[np.float64]

    @staticmethod
    def zipf(rank: Ints, *, who: Ints, exponent: float) -> Frequency:
        """Entity w is drawn ∝ (rank[w] + 1)^-exponent, among `who`."""
        upto = np.cumsum((rank[who] + 1.0) ** -exponent)
        return Frequency(who, upto / upto[-1])

    def draw(self, rng: np.random.Generator, *, count: int) -> Ints:
        """[count] numbers of entities."""
        return self.who[np.searchsorted(self.upto, rng.random(count), side="right")]


@dataclass(frozen=True)
class DomainTruth:
    """One domain: scaled factors `user` [U, F+S] and `item` [I, F+S], `appeal` [I], and who is met how often."""

    user: Floats
    item: Floats
    appeal: Floats
    users: Frequency
    items: Frequency
    base: float = 0.0

    def logit(self, user: Ints, item: Ints) -> Floats:
        """[N] the true log-odds of pairs."""
        taste = np.einsum("nf,nf->n", self.user[user], self.item[item])
        return taste + self.appeal[item] + np.float32(self.base)

    def pairs(self, rng: np.random.Generator, *, count: int) -> tuple[Ints, Ints]:
        """(users [count], items [count]) as this domain shows them."""
        return self.users.draw(rng, count=count), self.items.draw(rng, count=count)


class Planted:
    """All domains' truth, drawn from the seed; one domain's tables are in memory at a time."""

    def __init__(self, config: SyntheticConfig) -> None:
        self.config = config
        self.rows = shares(config.rows, np.arange(1, config.domains + 1) ** -config.skew, least=1)
        rng = generator(config, Stream.USERS)
        self.users = Population.draw(config, rng, count=config.users, width=config.shared_dim)
        self._user_rank = generator(config, Stream.POPULARITY).permutation(config.users)
        self._home = homes(config, self.rows)

    def items(self, domain: int) -> Population:
        """The items of a domain: the same in all where items are shared."""
        if self.config.shared_items:
            return self._shared_items
        return self._draw_items(1 + domain)

    @cached_property
    def _shared_items(self) -> Population:
        return self._draw_items(0)

    def _draw_items(self, space: int) -> Population:
        rng = generator(self.config, Stream.ITEMS, space)
        return Population.draw(self.config, rng, count=self.config.items, width=self.config.shared_dim)

    @cached_property
    def signs(self) -> NDArray[np.int8]:
        """[K, G, F] the sign of each group's shared tastes in each domain."""
        config = self.config
        rng = generator(config, Stream.SIGNS)
        shape = (config.groups, config.shared_dim)
        camps = rng.permuted(np.broadcast_to(np.arange(config.domains) % 2, (*shape, config.domains)), axis=-1)
        contested = rng.permutation(np.arange(np.prod(shape)) < round(config.conflict * np.prod(shape)))
        return np.moveaxis(np.where(contested.reshape(shape)[..., None] & (camps == 1), -1, 1), -1, 0).astype(np.int8)

    def domain(self, domain: int) -> DomainTruth:
        """The truth of one domain."""
        config = self.config
        items = self.items(domain)
        space = 0 if config.shared_items else 1 + domain
        taste = config.signal * np.sqrt(1 - config.appeal)
        shared = np.float32(taste * np.sqrt((1 - config.specific) / config.shared_dim))
        own = np.float32(taste * np.sqrt(config.specific / config.specific_dim))
        v_US = self._specific(Stream.USERS, self.users.group, domain=domain)
        y_IS = self._specific(Stream.ITEMS, items.group, domain=domain)
        rank = generator(config, Stream.POPULARITY, 1 + space).permutation(config.items)
        appeal = generator(config, Stream.ITEMS, space, 1).standard_normal(config.items, dtype=np.float32)
        truth = DomainTruth(
            user=np.hstack([self.users.factors * self.signs[domain][self.users.group] * shared, v_US * own]),
            item=np.hstack([items.factors, y_IS]),
            appeal=appeal * np.float32(config.signal * np.sqrt(config.appeal)),
            users=Frequency.zipf(
                self._user_rank,
                who=np.flatnonzero((self._home < 0) | (self._home == domain)),
                exponent=config.user_zipf,
            ),
            items=Frequency.zipf(rank, who=np.arange(config.items), exponent=config.item_zipf),
        )
        return self._with_base(truth, domain=domain)

    def _specific(self, stream: Stream, group: Ints, *, domain: int) -> Floats:
        rng = generator(self.config, stream, 1 + domain, 2)
        return grouped_factors(self.config, rng, group=group, width=self.config.specific_dim)

    def _with_base(self, truth: DomainTruth, *, domain: int) -> DomainTruth:
        """The domain with b_k such that the mean probability is the domain's rate, by bisection on a probe."""
        config = self.config
        spread = generator(config, Stream.RATES).standard_normal(config.domains)[domain] * config.rate_spread
        rate = 1 / (1 + np.exp(-(np.log(config.rate / (1 - config.rate)) + spread)))
        logit = truth.logit(*truth.pairs(generator(config, Stream.PROBE, domain), count=PROBE))
        low, high = -100.0, 100.0
        for _ in range(40):
            middle = (low + high) / 2
            below = probability(logit + np.float32(middle)).mean(dtype=np.float64) < rate
            low, high = (middle, high) if below else (low, middle)
        return DomainTruth(truth.user, truth.item, truth.appeal, truth.users, truth.items, (low + high) / 2)
