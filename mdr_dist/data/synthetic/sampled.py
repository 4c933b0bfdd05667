"""What the best possible ranking reaches against sampled negatives: that by the planted utility itself.

A row's item is ranked among NEGATIVES others, or all there are, drawn evenly and each once from the items that have
come by its period and that its user has not taken by then, as SML does (Zhang et al., SIGIR 2020). `best` ranks by the
utility of the row's own period; `previous` by that of the period before, about the most that a model trained on what
came before can know.

Shape letters: N rows, C candidates, the row's item first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdr_dist.data.synthetic.drift import DriftDomain, People
from mdr_dist.data.synthetic.planted import Ints

NEGATIVES, ROWS = 999, 2000  # rows of a period at most, that it is measured on
KS = (5, 10, 20)


class Sampled:
    """Sums of recall and NDCG over a sample of each period's rows."""

    def __init__(self, truth: DriftDomain) -> None:
        self._truth = truth
        periods = truth.config.periods
        self._sums = {name: np.zeros((periods, 2 * len(KS))) for name in ("best", "previous")}
        self._counts = np.zeros(periods, np.int64)

    def add(self, rng: np.random.Generator, period: int, *, users: People, user: Ints, item: Ints, taken: Ints) -> None:
        """Measure rows `user`, `item` [N] of a block's `users`; `taken`, sorted, holds all u * I + i by this period."""
        if not len(user):
            return
        come = np.flatnonzero(self._truth.items.born <= period)
        items = np.full((len(user), 1 + NEGATIVES), -1)
        items[:, 0] = item
        for row, mine in enumerate(user):
            others = _negatives(rng, come, _of(taken, mine, self._truth))
            items[row, 1 : 1 + len(others)] = others
        for name, at in (("best", period), ("previous", period - 1)):
            if at >= 0:
                score = self._truth.utility(at, users=users.at(at)[user], items=items)
                self._sums[name][period] += _figures(np.where(items < 0, -np.inf, score)).sum(0)
        self._counts[period] += len(user)

    def told(self, period: int) -> dict[str, Any]:
        """The means over a period's rows; no `previous` for the first, and nothing but `measured` without rows."""
        count, names = int(self._counts[period]), [f"{word}@{k}" for word in ("recall", "ndcg") for k in KS]
        found: dict[str, Any] = {"measured": count}
        for name, sums in self._sums.items():
            if count and (period or name == "best"):
                found[name] = dict(zip(names, (sums[period] / count).round(6).tolist(), strict=True))
        return found


def _of(taken: Ints, user: int, truth: DriftDomain) -> Ints:
    """The items of a user."""
    size = len(truth.items.born)
    first, last = np.searchsorted(taken, [user * size, (user + 1) * size])
    return taken[first:last] - user * size


def _negatives(rng: np.random.Generator, come: Ints, taken: Ints) -> Ints:
    """NEGATIVES of the items that have come and are not taken, or all there are."""
    drawn = come[rng.choice(len(come), size=min(NEGATIVES + len(taken), len(come)), replace=False)]
    return drawn[~np.isin(drawn, taken)][:NEGATIVES]


def _figures(score: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N, 2 * len(KS)] recall and NDCG of the first of the candidates [N, C]; ties count against it."""
    rank = 1 + (score[:, 1:] >= score[:, :1]).sum(1)
    hits = rank[:, None] <= np.array(KS)
    return np.hstack([hits, hits / np.log2(1 + rank)[:, None]])
