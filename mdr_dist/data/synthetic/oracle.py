"""What the best possible ranking reaches on implicit feedback: that by the planted probabilities themselves.

It is asked as `eval/candidates.py` asks: of the items that occur in training, without those that the user took in
training and validation, which did the user take in the test split?

Shape letters: U users, I items of a domain, N rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mdr_dist.data.synthetic.choice import DomainChoice
from mdr_dist.data.synthetic.planted import Ints

USERS = 2000  # of a domain at most, that it is measured on
K = 10


class Oracle:
    """Keeps the rows of a sample of a domain's users, large enough to hold USERS with one of `tests` rows."""

    def __init__(self, truth: DomainChoice, rng: np.random.Generator, *, tests: int) -> None:
        self._truth = truth
        active = np.flatnonzero(truth.count)
        size = min(2 * USERS * -(-len(active) // tests), len(active))
        self._asked = np.zeros(len(truth.count), bool)
        self._asked[rng.choice(active, size, replace=False)] = True
        self._rows: dict[bool, list[tuple[Ints, Ints]]] = {True: [], False: []}

    def keep(self, user: Ints, item: Ints, *, test: bool) -> None:
        """Keep what rows [N] say of the sample."""
        mine = self._asked[user]
        self._rows[test].append((user[mine], item[mine]))

    def ndcg(self, seen: NDArray[np.bool_]) -> tuple[float | None, int]:
        """The mean NDCG@K over the users with an item to find, and their number; `seen` [I] occur in training."""
        taken, tested = (_by_user(self._rows[test]) for test in (False, True))
        values: list[float] = []
        for user, asked in tested.items():
            items = asked[seen[asked]]
            if len(items) and len(values) < USERS:
                score = np.where(seen, self._truth.probability(user), -1)
                score[taken.get(user, [])] = -1
                values.append(_ndcg(score, items))
        return (float(np.mean(values)) if values else None), len(values)


def _by_user(parts: list[tuple[Ints, Ints]]) -> dict[int, Ints]:
    """User → items."""
    user, item = (np.concatenate([np.zeros(0, np.int64), *arrays]) for arrays in zip(*parts, strict=True))
    order = np.argsort(user, kind="stable")
    users, first = np.unique(user[order], return_index=True)
    return dict(zip(users.tolist(), np.split(item[order], first[1:]), strict=False))


def _ndcg(score: NDArray[np.float64], truths: Ints) -> float:
    best = np.argpartition(-score, min(K, len(score) - 1))[:K]
    best = best[np.argsort(-score[best])]
    gain = 1 / np.log2(np.arange(2, K + 2))
    return float(gain[: len(best)][np.isin(best, truths)].sum() / gain[: len(truths)].sum())
