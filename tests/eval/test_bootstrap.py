"""The paired bootstrap against a plain loop, and against what an interval must do."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mdr_dist.eval.bootstrap import bootstrap_difference, bootstrap_mean_difference, negative_transfer_verdict
from mdr_dist.eval.metrics import auc, gauc


def log(seed, *, users=30, each=20, noise=(0.5, 1.0)):
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), rng.integers(each // 4, 2 * each, size=users))
    logit = rng.normal(0, 1.5, len(user))
    label = (rng.random(len(user)) < 1 / (1 + np.exp(-logit))).astype(int)
    a, b = (np.round(logit + rng.normal(0, sigma, len(user)), 1).astype(np.float32) for sigma in noise)
    return a, b, label, user


def naive(a, b, label, user, *, metric, rounds, seed):
    """Copies the drawn users' rows and measures them afresh."""
    rng = np.random.default_rng(seed)
    differences = []
    for _ in range(rounds):
        names = np.unique(user)
        drawn = names[rng.integers(len(names), size=len(names))]
        rows = np.concatenate([np.flatnonzero(user == name) for name in drawn])
        copy = np.repeat(np.arange(len(drawn)), [np.sum(user == name) for name in drawn])
        if metric == "auc":
            differences.append(roc_auc_score(label[rows], a[rows]) - roc_auc_score(label[rows], b[rows]))
        else:
            differences.append(gauc(a[rows], label[rows], copy) - gauc(b[rows], label[rows], copy))
    return np.quantile(differences, [0.025, 0.975])


@pytest.mark.parametrize("metric", ["auc", "gauc"])
def test_equals_a_plain_bootstrap(metric):
    a, b, label, user = log(0)
    found = bootstrap_difference(a, b, label=label, user=user, metric=metric, rounds=50, seed=4)
    observed = auc(a, label) - auc(b, label) if metric == "auc" else gauc(a, label, user) - gauc(b, label, user)
    assert found.difference == pytest.approx(observed)
    assert [found.low, found.high] == pytest.approx(naive(a, b, label, user, metric=metric, rounds=50, seed=4))


@pytest.mark.parametrize("metric", ["auc", "gauc"])
def test_tells_better_from_equal(metric):
    a, b, label, user = log(1, users=100)
    better = bootstrap_difference(a, b, label=label, user=user, metric=metric, rounds=200)
    assert 0 < better.low < better.difference < better.high
    worse = bootstrap_difference(b, a, label=label, user=user, metric=metric, rounds=200)
    assert (worse.difference, worse.low, worse.high) == pytest.approx((-better.difference, -better.high, -better.low))
    same = bootstrap_difference(a, a, label=label, user=user, metric=metric, rounds=20)
    assert same == (0.0, 0.0, 0.0)


def test_interval_covers_the_true_difference_about_as_often_as_it_says():
    """The gain of the true log-odds over noise, known from a large sample, in 60 small ones at level 0.8."""
    big = log(99, users=4000, noise=(0.3, 1.0))
    truth = gauc(big[0], big[2], big[3]) - gauc(big[1], big[2], big[3])
    hits = 0
    for seed in range(60):
        a, b, label, user = log(seed, users=60, noise=(0.3, 1.0))
        found = bootstrap_difference(a, b, label=label, user=user, rounds=200, level=0.8, seed=seed)
        hits += found.low <= truth <= found.high
    assert 38 <= hits <= 57  # 48 expected, 3 deviations of a binomial


@pytest.mark.parametrize("metric", ["auc", "gauc"])
def test_row_order_does_not_matter(metric):
    a, b, label, user = log(2)
    mixed = np.random.default_rng(0).permutation(len(a))
    first = bootstrap_difference(a, b, label=label, user=user, metric=metric, rounds=20)
    second = bootstrap_difference(a[mixed], b[mixed], label=label[mixed], user=user[mixed], metric=metric, rounds=20)
    assert first == second


@pytest.mark.parametrize("metric", ["auc", "gauc"])
def test_one_class_has_no_interval(metric):
    found = bootstrap_difference([0.1, 0.2], [0.2, 0.1], label=[1, 1], user=[1, 2], metric=metric, rounds=5)
    assert all(math.isnan(value) for value in found)


def test_mean_difference_is_the_paired_bootstrap() -> None:
    """Against a loop that draws users by `choice`; the two draws differ, so do the intervals a little."""
    rng = np.random.default_rng(3)
    b = rng.random(400)
    a = b + rng.normal(0.02, 0.1, 400)
    found = bootstrap_mean_difference(a, b, rounds=4000)
    loop = [np.mean((a - b)[rng.choice(400, 400)]) for _ in range(4000)]
    assert found.difference == pytest.approx(a.mean() - b.mean())
    assert (found.low, found.high) == pytest.approx(np.quantile(loop, [0.025, 0.975]), abs=1e-3)
    assert found.high - found.low < 0.025  # unpaired it would be some 0.08
    assert bootstrap_mean_difference(a, b, rounds=50, seed=1) == bootstrap_mean_difference(a, b, rounds=50, seed=1)


def test_verdicts() -> None:
    zeros = np.zeros(50)
    noise = np.random.default_rng(0).normal(0, 0.1, 50)
    values = {"gain": noise + 1, "loss": noise - 1, "no difference": noise}
    for verdict, value in values.items():
        assert negative_transfer_verdict(bootstrap_mean_difference(value, zeros)) == verdict
    assert negative_transfer_verdict(bootstrap_mean_difference(zeros, zeros)) == "no difference"
    assert negative_transfer_verdict(bootstrap_mean_difference([], [])) == "no difference"


def test_unequal_users_are_refused() -> None:
    for a, b in (([0.1], [0.1, 0.2]), ([float("nan")], [0.1])):
        with pytest.raises(ValueError, match="finite values of the same users"):
            bootstrap_mean_difference(a, b)
