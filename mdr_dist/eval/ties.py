"""Ranking metrics of users, exact in expectation over a random order of candidates whose scores are equal.

A truth is an item that a user did take. Its tie group holds every candidate of its score, itself included, and fills
the places `above + 1` to `above + tied` of the user's list in random order. Recall, precision and NDCG are sums over
truths, so a truth counts the share of its group's places that lie within k. Hit and MRR depend on the first truth
alone, which is one of the t truths in the best group: it stands at place j of the e there with probability
C(e - j, t - 1) / C(e, t), a negative hypergeometric law.

Shape letters: T truths, U users, K the largest k.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
METRICS = ("recall", "precision", "ndcg", "hit", "mrr")


def expected(above: Ints, tied: Ints, *, owner: Ints, ks: tuple[int, ...]) -> dict[str, Floats]:
    """`recall@k precision@k ndcg@k hit@k mrr@k`, [U] each, for every k.

    above [T] how many of the user's candidates score higher than the truth; tied [T] how many have its score, itself
    included; owner [T] the truth's user, sorted, every one of 0 to U-1 having a truth. NDCG's ideal list holds
    min(k, truths) truths; `mrr@k` is 0 where the first truth stands beyond k.
    """
    truths = np.bincount(owner)
    discount = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, max(ks) + 2)))])
    first = _first_truth(above, tied, owner, longest=max(ks))
    found: dict[str, Floats] = {}
    for k in ks:
        low, high = np.minimum(above, k), np.minimum(above + tied, k)
        hits = np.bincount(owner, weights=(high - low) / tied)
        gain = np.bincount(owner, weights=(discount[high] - discount[low]) / tied)
        found[f"recall@{k}"] = hits / truths
        found[f"precision@{k}"] = hits / k
        found[f"ndcg@{k}"] = gain / discount[np.minimum(truths, k)]
        found[f"hit@{k}"] = first[:, :k].sum(1)
        # no matrix product: a user's sum would depend on how many others are beside it
        found[f"mrr@{k}"] = (first[:, :k] / np.arange(1, k + 1)).sum(1)
    return {f"{name}@{k}": found[f"{name}@{k}"] for name in METRICS for k in ks}


def expected_at_random(truths: Ints, candidates: Ints, *, ks: tuple[int, ...]) -> dict[str, Floats]:
    """The same metrics, [U] each, of a list in random order; `truths` and `candidates` [U] count."""
    pairs, place = np.unique(np.stack([truths, candidates], axis=1), axis=0, return_inverse=True)
    owner = np.repeat(np.arange(len(pairs)), pairs[:, 0])
    values = expected(np.zeros_like(owner), pairs[owner, 1], owner=owner, ks=ks)
    return {name: value[place] for name, value in values.items()}


def _first_truth(above: Ints, tied: Ints, owner: Ints, *, longest: int) -> Floats:
    """[U, K] how probable it is that the user's first truth stands at each place."""
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    best = np.minimum.reduceat(above, starts)
    is_best = above == best[owner]
    t, e = np.bincount(owner[is_best])[:, None], np.maximum.reduceat(np.where(is_best, tied, 0), starts)[:, None]
    # P(j+1) / P(j) = (e - j - t + 1) / (e - j), which is 0 once the places that are left only hold the truths
    j = np.arange(1, longest)
    ratio = np.maximum(e - j - t + 1, 0) / np.maximum(e - j, 1)
    chance = np.cumprod(np.concatenate([t / e, ratio], axis=1), axis=1)
    place = np.arange(longest) - best[:, None]
    return np.where(place >= 0, np.take_along_axis(chance, np.maximum(place, 0), axis=1), 0.0)
