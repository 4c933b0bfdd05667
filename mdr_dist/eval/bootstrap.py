"""Whether one scorer is better than another on the same rows or users, with an interval. Shapes: N rows, U users."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mdr_dist.eval.metrics import auc, count_wins, gauc

Array = NDArray[Any]
Times = NDArray[np.int64]
Draw = Callable[[np.random.Generator], float]


class Difference(NamedTuple):
    """`difference` of the metric, a minus b, on all rows, and its interval from `low` to `high`."""

    difference: float
    low: float
    high: float


def bootstrap_difference(
    score_a: ArrayLike,
    score_b: ArrayLike,
    *,
    label: ArrayLike,
    user: ArrayLike,
    metric: Literal["auc", "gauc"] = "gauc",
    rounds: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    """The paired percentile bootstrap: users are drawn with replacement, each with all rows, the same for a and b.

    For `gauc` the users drawn are those with both labels. Rounds in which the metric does not exist are left out; if
    none is left, the interval is `nan`. The order of the rows does not matter.
    """
    a, b, labels, users = (np.asarray(column) for column in (score_a, score_b, label, user))
    if metric == "auc":
        observed, draw = auc(a, labels) - auc(b, labels), _auc_draw(a, b, labels, users)
    else:
        observed, draw = gauc(a, labels, users) - gauc(b, labels, users), _gauc_draw(a, b, labels, users)
    return _interval(observed, draw, rounds=rounds, level=level, seed=seed)


def bootstrap_mean_difference(
    values_a: ArrayLike,
    values_b: ArrayLike,
    *,
    rounds: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    """The paired percentile bootstrap of the difference of means of a metric of users, [U] each, in the same order.

    `ranking.rank_users` gives such values. `ValueError` if the lengths differ or a value is not finite.
    """
    a, b = np.asarray(values_a, np.float64), np.asarray(values_b, np.float64)
    if a.shape != b.shape or a.ndim != 1 or not np.isfinite(a - b).all():
        raise ValueError(f"finite values of the same users are needed, got shapes {a.shape} and {b.shape}")
    if not a.size:
        return Difference(math.nan, math.nan, math.nan)
    gain = a - b

    def draw(rng: np.random.Generator) -> float:
        return float(_times(rng, len(gain)) @ gain) / len(gain)

    return _interval(float(gain.mean()), draw, rounds=rounds, level=level, seed=seed)


def negative_transfer_verdict(difference: Difference) -> Literal["gain", "loss", "no difference"]:
    """What training domains together did to one, by the joint method minus its single-domain twin.

    It is a loss, negative transfer, only where the whole interval lies below 0; an interval that is `nan` tells no
    difference.
    """
    if difference.low > 0:
        return "gain"
    return "loss" if difference.high < 0 else "no difference"


def _interval(observed: float, draw: Draw, *, rounds: int, level: float, seed: int) -> Difference:
    rng = np.random.default_rng(seed)
    drawn = np.array([draw(rng) for _ in range(rounds)])
    drawn = drawn[np.isfinite(drawn)]
    if not drawn.size:
        return Difference(observed, math.nan, math.nan)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Difference(observed, float(low), float(high))


def _times(rng: np.random.Generator, users: int) -> Times:
    """[U] how often each user was drawn in U draws with replacement."""
    return np.bincount(rng.integers(users, size=users), minlength=users)


def _gauc_draw(a: Array, b: Array, label: Array, user: Array) -> Draw:
    """One round's difference of gAUC: users' differences, weighted by rows and by how often each was drawn."""
    wins_a, positive, negative = count_wins(a, label, user)
    wins_b = count_wins(b, label, user)[0]
    both = (positive > 0) & (negative > 0)
    weight = (positive + negative)[both].astype(np.float64)
    part = weight * (wins_a - wins_b)[both] / (2.0 * positive[both] * negative[both])

    def draw(rng: np.random.Generator) -> float:
        times = _times(rng, len(weight))
        whole = float(times @ weight)
        return float(times @ part) / whole if whole else math.nan

    return draw


def _auc_draw(a: Array, b: Array, label: Array, user: Array) -> Draw:
    """One round's difference of AUC, a row counting as often as its user was drawn."""
    names, owner = np.unique(user, return_inverse=True)
    weighted_a, weighted_b = _weighted_auc(a, label, owner), _weighted_auc(b, label, owner)

    def draw(rng: np.random.Generator) -> float:
        times = _times(rng, len(names))
        return weighted_a(times) - weighted_b(times)

    return draw


def _weighted_auc(score: Array, label: Array, owner: Array) -> Callable[[Times], float]:
    """The AUC as a function of users' weights [U]; the rows are sorted once."""
    order = np.argsort(score, kind="stable")
    ranked, owner, positive = score[order], owner[order], label[order] == 1
    first = np.append(0, np.flatnonzero(ranked[1:] != ranked[:-1]) + 1)  # ties are one run

    def weighted(times: Times) -> float:
        weight = times[owner]
        up = np.add.reduceat(np.where(positive, weight, 0), first)
        down = np.add.reduceat(np.where(positive, 0, weight), first)
        pairs = 2.0 * float(up.sum()) * float(down.sum())
        return float((up * (2 * np.cumsum(down) - down)).sum()) / pairs if pairs else math.nan

    return weighted
