"""Expected metrics against every order of the candidates written out."""

from __future__ import annotations

from itertools import permutations
from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdr_dist.eval.ties import expected, expected_at_random

KS = (1, 2, 3, 6)
LISTS = st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6).filter(
    lambda items: any(truth for _, truth in items)
)


def enumerated(items: list[tuple[int, bool]]) -> dict[str, float]:
    """The mean over all orders in which no lower score precedes a higher one; `items` hold score and truth."""
    orders = [sorted(order, key=lambda item: -item[0]) for order in permutations(items)]
    truths = sum(truth for _, truth in items)
    sums: dict[str, float] = {}
    for order in orders:
        places = [place for place, (_, truth) in enumerate(order, start=1) if truth]
        for k in KS:
            hits = [place for place in places if place <= k]
            ideal = sum(1 / log2(place + 1) for place in range(1, min(k, truths) + 1))
            one = {
                f"recall@{k}": len(hits) / truths,
                f"precision@{k}": len(hits) / k,
                f"ndcg@{k}": sum(1 / log2(place + 1) for place in hits) / ideal,
                f"hit@{k}": float(bool(hits)),
                f"mrr@{k}": 1 / hits[0] if hits else 0.0,
            }
            for name, value in one.items():
                sums[name] = sums.get(name, 0.0) + value / len(orders)
    return sums


def standing(items: list[tuple[int, bool]]) -> tuple[list[int], list[int]]:
    scores = [score for score, _ in items]
    own = [score for score, truth in items if truth]
    return [sum(s > score for s in scores) for score in own], [scores.count(score) for score in own]


@settings(deadline=None, max_examples=60)
@given(st.lists(LISTS, min_size=1, max_size=3))
def test_is_the_mean_over_all_orders(users: list[list[tuple[int, bool]]]) -> None:
    above, tied, owner = [], [], []
    for user, items in enumerate(users):
        own_above, own_tied = standing(items)
        above, tied, owner = above + own_above, tied + own_tied, owner + [user] * len(own_above)
    found = expected(np.array(above), np.array(tied), owner=np.array(owner), ks=KS)
    for user, items in enumerate(users):
        assert {name: values[user] for name, values in found.items()} == pytest.approx(enumerated(items), abs=1e-12)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 6).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n))), min_size=1, max_size=4))
def test_random_is_all_tied(users: list[tuple[int, int]]) -> None:
    truths, candidates = np.array(users).T
    found = expected_at_random(truths, candidates, ks=KS)
    for user, (t, n) in enumerate(users):
        all_tied = enumerated([(0, at < t) for at in range(n)])
        assert {name: values[user] for name, values in found.items()} == pytest.approx(all_tied, abs=1e-12)


def test_worked_by_hand() -> None:
    """Ten candidates, two truths: the first stands at place 2, the other ties with three others for places 4 to 7."""
    found = expected(np.array([1, 3]), np.array([1, 4]), owner=np.array([0, 0]), ks=(5,))
    assert found["recall@5"] == pytest.approx([(1 + 0.5) / 2])
    assert found["precision@5"] == pytest.approx([1.5 / 5])
    gain = 1 / log2(3) + (1 / log2(5) + 1 / log2(6)) / 4
    assert found["ndcg@5"] == pytest.approx([gain / (1 + 1 / log2(3))])
    assert found["hit@5"] == pytest.approx([1.0])
    assert found["mrr@5"] == pytest.approx([0.5])


def test_large_groups_lose_no_precision() -> None:
    """One truth among a million tied: hit@k is k in a million."""
    found = expected_at_random(np.array([1]), np.array([10**6]), ks=(50,))
    assert found["hit@50"] == pytest.approx([50e-6], rel=1e-12)
    assert found["mrr@50"] == pytest.approx([sum(1 / j for j in range(1, 51)) / 1e6], rel=1e-12)
