"""How good scores are: exact, vectorised, and independent of the order of the rows.

Ranking metrics count pairs in integers; every float sum runs over sorted float64 terms. So a result does not depend on
how rows were shuffled or shared out over workers. Shapes: N rows. Labels are 0 or 1 where a metric ranks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.int64]
Keys = NDArray[np.uint64]
CLIP = 1e-7  # probabilities are kept this far from 0 and 1
SCORE_BITS, USER_LIMIT = np.uint64(33), 1 << 31  # a key: user, 32 bits of score, the label


def auc(score: ArrayLike, label: ArrayLike) -> float:
    """The chance that a positive row outranks a negative one, a tie counting half.

    `nan` if all labels are alike; `ValueError` for a NaN score, a label other than 0 and 1, or unequal lengths.
    """
    wins, positives, negatives = count_wins(score, label)
    return _ratio(float(wins.sum()), 2.0 * float(positives.sum()) * float(negatives.sum()))


def gauc(score: ArrayLike, label: ArrayLike, user: ArrayLike) -> float:
    """Per-user AUC weighted by the user's rows; users whose labels are all alike are left out.

    `user` [N] integers. `nan` if no user has both labels; errors as in `auc`.
    """
    return weighted(*count_wins(score, label, user))


def logloss(probability: ArrayLike, label: ArrayLike) -> float:
    """Mean negative log-likelihood in nats of probabilities [N], which are clipped to [1e-7, 1 - 1e-7]."""
    chance, target = checked(probability, label)
    if chance.size and (chance.min() < 0 or chance.max() > 1):
        raise ValueError(f"probabilities must lie in [0, 1], got {chance.min()} to {chance.max()}; are they logits?")
    chance = np.clip(chance.astype(np.float64), CLIP, 1 - CLIP)
    return mean(-np.log(np.where(target == 1, chance, 1 - chance)))


def mse(score: ArrayLike, target: ArrayLike) -> float:
    """Mean squared error."""
    return mean((_float64(score) - _float64(target)) ** 2)


def rmse(score: ArrayLike, target: ArrayLike) -> float:
    """Root of the mean squared error, in the target's unit."""
    return math.sqrt(mse(score, target))


def mae(score: ArrayLike, target: ArrayLike) -> float:
    """Mean absolute error, in the target's unit."""
    return mean(np.abs(_float64(score) - _float64(target)))


def mean(terms: Floats) -> float:
    """The mean of float64 terms [N], whatever their order; `nan` if there are none."""
    return float(np.sort(terms, axis=None).sum() / terms.size) if terms.size else math.nan


def count_wins(
    score: ArrayLike, label: ArrayLike, user: ArrayLike | None = None
) -> tuple[Integers, Integers, Integers]:
    """For each user, in the order of their numbers: (wins, positives, negatives), int64 [users].

    A win counts 2 for each pair of one user's rows in which the positive one scores higher, 1 for a tie, so a user's
    AUC is wins / (2 * positives * negatives). Without `user`, all rows are one user's.
    """
    scores, labels = checked(score, label)
    keys = _keys(scores, labels, None if user is None else np.asarray(user))
    if not keys.size:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64)
    # ties are runs of equal (user, score); what follows counts rows up to the end of each run
    end = np.append(np.flatnonzero((keys[1:] ^ keys[:-1]) > 1), keys.size - 1)
    owner = (keys[end] >> SCORE_BITS).astype(np.uint32)
    is_positive = (keys & np.uint64(1)).astype(np.uint8)
    del keys  # a hundred million rows should fit a small machine
    positive = np.cumsum(is_positive, dtype=np.int64)[end]
    negative = end + 1 - positive
    last = np.append(np.flatnonzero(owner[1:] != owner[:-1]), owner.size - 1)
    first = np.append(0, last[:-1] + 1)
    positives, negatives = _steps(positive[last]), _steps(negative[last])
    wins = np.add.reduceat(_steps(positive) * (2 * negative - _steps(negative)), first)
    return wins - 2 * (negative[last] - negatives) * positives, positives, negatives


def _keys(scores: Floats, labels: NDArray[Any], users: NDArray[Any] | None) -> Keys:
    """[N] sorted (user, score, label) packed into 64 bits: one sort of integers instead of a lexsort of columns."""
    keys = _ordinal(scores) << np.uint64(1)
    keys |= labels.astype(np.uint64)
    if users is not None:
        if len(users) != len(keys):
            raise ValueError(f"user has {len(users)} rows where score has {len(keys)}")
        if users.size and (int(users.min()) < 0 or int(users.max()) >= USER_LIMIT):
            users = np.unique(users, return_inverse=True)[1]
        keys |= users.astype(np.uint64) << SCORE_BITS
    keys.sort()
    return keys


def _ordinal(scores: Floats) -> Keys:
    """[N] integers below 2^32 in the order of the scores: the bits of a float32, or the rank of a float64."""
    if scores.dtype != np.float32:
        return np.unique(scores, return_inverse=True)[1].astype(np.uint64)
    bits = (scores + np.float32(0)).view(np.uint32)  # the sum turns -0 into 0, which is its equal
    bits ^= np.where(bits >> 31, np.uint32(0xFFFFFFFF), np.uint32(0x80000000))
    return bits.astype(np.uint64)


def _steps(total: Integers) -> Integers:
    """The steps of a running total."""
    return np.diff(total, prepend=0)


def weighted(wins: Integers, positives: Integers, negatives: Integers) -> float:
    """Users' AUC, of what `count_wins` counts, weighted by rows; `nan` if no user has both labels."""
    both = (positives > 0) & (negatives > 0)
    rows, pairs = (positives + negatives)[both], 2.0 * positives[both] * negatives[both]
    return _ratio(float((rows * (wins[both] / pairs)).sum()), float(rows.sum()))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _float64(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if np.isnan(array).any():
        raise ValueError(f"{int(np.isnan(array).sum())} of {array.size} values are NaN")
    return array


def checked(score: ArrayLike, label: ArrayLike) -> tuple[Floats, NDArray[Any]]:
    """Scores [N] (float32, or float64 for anything else) and labels [N]; `ValueError` that names the first bad row."""
    scores, labels = np.asarray(score), np.asarray(label)
    if scores.shape != labels.shape or scores.ndim != 1:
        raise ValueError(f"score {scores.shape} and label {labels.shape} must be one-dimensional and equally long")
    if scores.dtype != np.float32:
        scores = scores.astype(np.float64)
    nan = np.isnan(scores)
    if nan.any():
        raise ValueError(f"{int(nan.sum())} of {scores.size} scores are NaN, the first in row {int(nan.argmax())}")
    odd = (labels != 0) & (labels != 1)
    if odd.any():
        raise ValueError(f"labels must be 0 or 1: row {int(odd.argmax())} has {labels[odd.argmax()]}")
    return scores, labels


def combined(
    parts: Sequence[Mapping[str, dict[str, float | int | None]]], domains: Sequence[str]
) -> dict[str, dict[str, float | int | None]]:
    """Results that were measured on different domains as one, with `macro` over all of them and no `pooled`."""
    found = {name: part[name] for name in domains for part in parts if name in part}
    return {**found, "macro": macro(list(found.values()))}


def averaged(
    tests: Sequence[Mapping[str, dict[str, float | int | None]]],
) -> dict[str, dict[str, float | int | None]]:
    """Results of one thing measured several times as one, weighted by what each was measured on: `rows`, or `users`.

    Counts are added up, but of `items` the most are told; a metric that does not exist in a test counts nowhere there.
    """
    found: dict[str, dict[str, float | int | None]] = {}
    for domain in dict.fromkeys(name for test in tests for name in test if name != "macro"):
        entries = [test[domain] for test in tests if domain in test]
        weights = [int(entry.get("rows") or entry.get("users") or 0) for entry in entries]
        found[domain] = {name: _pooled([e[name] for e in entries], weights) for name in entries[0]}
        if "items" in entries[0]:
            found[domain]["items"] = max(int(entry["items"] or 0) for entry in entries)
    return {**found, "macro": macro([entry for name, entry in found.items() if name != "pooled"])}


def _pooled(values: list[float | int | None], weights: list[int]) -> float | int | None:
    if all(isinstance(value, int) for value in values):
        return sum(int(value) for value in values if value is not None)
    known = [(value, weight) for value, weight in zip(values, weights, strict=True) if value is not None and weight]
    return sum(value * weight for value, weight in known) / sum(weight for _, weight in known) if known else None


def macro(entries: list[dict[str, float | int | None]]) -> dict[str, float | int | None]:
    """The mean of each metric over the entries that have it, None where none has; counts have no mean worth telling."""
    names = [name for name, value in (entries[0] if entries else {}).items() if not isinstance(value, int)]
    columns = {name: [entry[name] for entry in entries] for name in names}
    known = {name: [value for value in values if value is not None] for name, values in columns.items()}
    return {name: sum(values) / len(values) if values else None for name, values in known.items()}


def known(value: float) -> float | None:
    """A metric that does not exist is None."""
    return None if math.isnan(value) else value
