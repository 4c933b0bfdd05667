"""The truth behind ratings with reviews: what users care for, what items are like, and what is written of it.

    score_k(u, i) = base + level * a_i + strictness * c_u + signal * < w_uk, q_i > + noise * e
    rating = score, rounded to the nearest of 1, 2, 3, 4, 5
    truth = 1 + sum over r = 1..4 of Φ((score without noise - r - 1/2) / noise)         the mean rating, given u and i

a, c, e and the qualities q_i of M aspects are standard normal. w_uk, what user u cares for in domain k, adds up to one:
in the source it is drawn from a Dirichlet law, in the target it is (1 - conflict) * w_u P + conflict * another draw.
P = (1 - mixing) * I + mixing * a cyclic permutation: who cares for one aspect of the source cares for another one of
the target, and which that is only users of both domains tell.

A word of a review is filler with the chance `filler`, Zipf over these. Else it is on an aspect, drawn by w_uk, and one
of praise with the chance s(clarity * q_im), s the logistic function, or else of blame; the words of an aspect's praise
are alike likely, of the domain's own ones with the chance `specific`, or else of those that both domains use. So what
users write about tells w, and praise and blame of an item tell its q.

Who rates what follows from (HOMES), (POPULARITY) and (ROWS, domain, block), as in `choice.py`; users are drawn from
(USERS, 0), for the target too from (USERS, 1), items from (ITEMS, 1 + domain), P from (SIGNS).

Shape letters: U users, I items of a domain, M aspects, N rows, T words.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.special import ndtr

from mdr_dist.data.synthetic.choice import DomainChoice, dealt, popularity
from mdr_dist.data.synthetic.planted import Floats, Ints, Stream, generator, homes, probability
from mdr_dist.data.synthetic.review_config import ReviewConfig

STARS = 5
TRAIN, VAL, TEST = range(3)  # as SPLITS orders them


@dataclass(frozen=True)
class Words:
    """Which id means what: 0 padding, then filler, then by domain (first the words of both) those of each aspect."""

    config: ReviewConfig

    @property
    def count(self) -> int:
        """Words, padding not counted."""
        return self.config.fillers + 3 * 2 * self.config.aspects * self.config.words

    def keys(self) -> pa.Array:
        """The words in id order, from id 0, which is empty."""
        config = self.config
        said = [
            f"{whose}aspect{aspect}-{tone}-{number}"
            for whose in ("", *(f"{name}-" for name in config.domains))
            for aspect in range(config.aspects)
            for tone in ("good", "bad")
            for number in range(config.words)
        ]
        return pa.array(["", *(f"filler-{number}" for number in range(config.fillers)), *said])

    def on(self, whose: Ints, *, aspect: Ints, bad: NDArray[np.bool_], number: Ints) -> Ints:
        """[T] the words on aspects; `whose` 0: of both domains, 1 + k: of domain k."""
        tone = (whose * self.config.aspects + aspect) * 2 + bad
        return 1 + self.config.fillers + tone * self.config.words + number

    @cached_property
    def filler(self) -> NDArray[np.float64]:
        """[F] how likely filler is one of the first words of it."""
        upto = np.cumsum(1 / np.arange(1, self.config.fillers + 1))
        return upto / upto[-1]


@dataclass(frozen=True)
class DomainOpinion:
    """One domain: `cares` [U, M], `strict` [U], `level` [I], `quality` [I, M]; all but the first in stars."""

    number: int
    config: ReviewConfig
    words: Words
    cares: Floats
    strict: Floats
    level: Floats
    quality: Floats

    def score(self, user: Ints, item: Ints) -> NDArray[np.float64]:
        """[N] scores without noise."""
        config = self.config
        liked = np.einsum("nm,nm->n", self.cares[user], self.quality[item], dtype=np.float64)
        return config.base + self.level[item] + self.strict[user] + config.signal * liked

    def truth(self, score: NDArray[np.float64]) -> NDArray[np.float64]:
        """[N] the mean of the ratings that scores without noise [N] give."""
        bars = np.arange(1, STARS) + 0.5
        return 1 + ndtr((score[:, None] - bars) / self.config.noise).sum(1)

    def rate(self, rng: np.random.Generator, score: NDArray[np.float64]) -> NDArray[np.float64]:
        """[N] ratings."""
        return np.clip(np.floor(score + self.config.noise * rng.standard_normal(len(score)) + 0.5), 1, STARS)

    def write(self, rng: np.random.Generator, user: Ints, item: Ints) -> tuple[Ints, Ints]:
        """The words [T] of reviews, and how many each has [N], one at least."""
        config = self.config
        lengths = np.minimum(1 + rng.poisson(config.length - 1, size=len(user)), config.document)
        row = np.repeat(np.arange(len(user)), lengths)
        upto = np.cumsum(self.cares[user], axis=1)
        drawn = rng.random(len(row), dtype=np.float32) * upto[row, -1]
        aspect = np.minimum((drawn[:, None] >= upto[row]).sum(1), config.aspects - 1)
        praise = probability(np.float32(config.clarity) * self.quality[item[row], aspect])
        bad = rng.random(len(row), dtype=np.float32) >= praise
        whose = np.where(rng.random(len(row)) < config.specific, 1 + self.number, 0)
        number = rng.integers(config.words, size=len(row))
        words = self.words.on(whose, aspect=aspect, bad=bad, number=number)
        filler = np.flatnonzero(rng.random(len(row)) < config.filler)
        words[filler] = 1 + np.searchsorted(self.words.filler, rng.random(len(filler)), side="right")
        return words, lengths


class Opinions:
    """All of the truth, drawn from the seed; one domain's tables are in memory at a time.

    held [U] tells in which split (TRAIN, VAL or TEST) a user's target rows are. `UserError` for a domain where a user
    would rate more than `choice.MOST` of the items.
    """

    def __init__(self, config: ReviewConfig) -> None:
        self._config, self._words = config, Words(config)
        home = homes(config, np.array(config.interactions))
        rank = generator(config, Stream.POPULARITY).permutation(config.users)
        self._counts = [
            dealt(config, domain, total=total, rank=rank, home=home) for domain, total in enumerate(config.interactions)
        ]
        self.held = np.full(config.users, TRAIN)
        both = generator(config, Stream.HOMES, 1).permutation(np.flatnonzero(home < 0))
        kinds = np.repeat([VAL, TEST, TRAIN], config.held)
        self.held[both] = kinds

    @cached_property
    def transport(self) -> NDArray[np.float64]:
        """[M, M] P: where what users care for in the source goes in the target."""
        size, share = self._config.aspects, self._config.mixing
        order = generator(self._config, Stream.SIGNS).permutation(size)
        moved = np.zeros((size, size))
        moved[order, np.roll(order, 1)] = 1
        return (1 - share) * np.eye(size) + share * moved

    def choice(self, domain: int) -> DomainChoice:
        """Who rates what in a domain: popularity alone tells."""
        config, size = self._config, self._config.items[domain]
        return DomainChoice(
            name=config.domains[domain],
            user=np.zeros((config.users, 1), np.float32),
            item=np.zeros((size, 1), np.float32),
            popularity=popularity(config, domain),
            count=self._counts[domain],
            choices=1,
        )

    def domain(self, domain: int) -> DomainOpinion:
        """What is thought in a domain."""
        config = self._config
        rng = generator(config, Stream.USERS, 0)
        strict = np.float32(config.strictness) * rng.standard_normal(config.users, dtype=np.float32)
        cares = self._drawn(rng)
        if domain:
            own = self._drawn(generator(config, Stream.USERS, 1))
            cares = np.float32(1 - config.conflict) * (cares @ self.transport.astype(np.float32))
            cares += np.float32(config.conflict) * own
        rng = generator(config, Stream.ITEMS, 1 + domain)
        level = np.float32(config.level) * rng.standard_normal(config.items[domain], dtype=np.float32)
        quality = rng.standard_normal((config.items[domain], config.aspects), dtype=np.float32)
        return DomainOpinion(domain, config, self._words, cares, strict, level, quality)

    def _drawn(self, rng: np.random.Generator) -> Floats:
        """[U, M] what users care for, by the Dirichlet law."""
        drawn = rng.standard_gamma(self._config.focus, size=(self._config.users, self._config.aspects)) + 1e-9
        return (drawn / drawn.sum(1, keepdims=True)).astype(np.float32)
