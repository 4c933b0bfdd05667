"""Metrics against scikit-learn, brute force and numbers worked by hand."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, mean_absolute_error, mean_squared_error, roc_auc_score

from mdr_dist.eval.collect import RankCollector, RateCollector
from mdr_dist.eval.metrics import auc, averaged, gauc, logloss, mae, mse, rmse


def brute_auc(score, label):
    """Every pair, counted one by one."""
    pairs = [(p, n) for p in score[label == 1] for n in score[label == 0]]
    return sum(1.0 if p > n else 0.5 if p == n else 0.0 for p, n in pairs) / len(pairs) if pairs else math.nan


def brute_gauc(score, label, user):
    total = weight = 0.0
    for name in set(user.tolist()):
        mine = user == name
        value = brute_auc(score[mine], label[mine])
        if not math.isnan(value):
            total, weight = total + value * mine.sum(), weight + mine.sum()
    return total / weight if weight else math.nan


def rows(seed, count, *, values=12, users=9, dtype=np.float32):
    """Scores with many ties, some negative, some -0.0."""
    rng = np.random.default_rng(seed)
    score = ((rng.integers(values, size=count) - values // 2) * dtype(0.37)).astype(dtype)
    score[rng.random(count) < 0.1] = dtype(-0.0)
    return score, rng.integers(2, size=count), rng.integers(users, size=count)


def test_auc_by_hand():
    # positives 0.9 0.5, negatives 0.5 0.1: wins 1 + 1 + 0.5 + 1 of 4 pairs
    assert auc([0.9, 0.5, 0.5, 0.1], [1, 1, 0, 0]) == 0.875
    assert auc([0.0, -0.0], [1, 0]) == 0.5
    assert auc([-math.inf, math.inf], [0, 1]) == 1.0


def test_gauc_by_hand():
    # user 1: AUC 1 with 2 rows; user 2: AUC 0.5 with 3 rows; user 3 has one class only
    score, label, user = [2, 1, 5, 5, 5, 9], [1, 0, 1, 0, 0, 1], [1, 1, 2, 2, 2, 3]
    assert gauc(score, label, user) == pytest.approx((2 * 1 + 3 * 0.5) / 5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_auc_equals_scikit_learn(dtype):
    score, label, _ = rows(1, 5000, values=400, dtype=dtype)
    assert auc(score, label) == pytest.approx(roc_auc_score(label, score), abs=1e-12)


def test_float64_scores_are_not_rounded_to_float32():
    assert auc(np.array([1.0, 1.0 + 1e-12]), [0, 1]) == 1.0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 12), st.integers(1, 9))
def test_auc_and_gauc_equal_brute_force(seed, count, values, users):
    score, label, user = rows(seed, count, values=values, users=users)
    assert auc(score, label) == pytest.approx(brute_auc(score, label), abs=1e-12, nan_ok=True)
    assert gauc(score, label, user) == pytest.approx(brute_gauc(score, label, user), abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("shift", [-5, 2**40])
def test_gauc_takes_any_user_key(shift):
    score, label, user = rows(2, 300)
    assert gauc(score, label, user.astype(np.int64) + shift) == gauc(score, label, user)


def test_one_class_has_no_auc():
    assert math.isnan(auc([0.1, 0.2], [1, 1]))
    assert math.isnan(gauc([0.1, 0.2], [1, 0], [1, 2]))
    assert math.isnan(auc([], []))


def test_logloss_equals_scikit_learn_and_is_clipped():
    rng = np.random.default_rng(3)
    chance, label = rng.random(1000), rng.integers(2, size=1000)
    assert logloss(chance, label) == pytest.approx(log_loss(label, chance), rel=1e-12)
    assert logloss([0.0, 1.0], [1, 0]) == pytest.approx(-math.log(1e-7), rel=1e-6)


def test_errors_of_ratings_equal_scikit_learn():
    rng = np.random.default_rng(4)
    score, target = rng.normal(3, 1, 500), rng.integers(1, 6, size=500)
    assert mse(score, target) == pytest.approx(mean_squared_error(target, score))
    assert rmse(score, target) == pytest.approx(mean_squared_error(target, score) ** 0.5)
    assert mae(score, target) == pytest.approx(mean_absolute_error(target, score))


@pytest.mark.parametrize(
    ("score", "label", "message"),
    [
        ([0.1, math.nan, math.nan], [0, 1, 1], "2 of 3 scores are NaN, the first in row 1"),
        ([0.1, 0.2], [0, 2], "row 1 has 2"),
        ([0.1, 0.2], [0.0, math.nan], "row 1 has nan"),
        ([0.1, 0.2], [0, 1, 1], "equally long"),
    ],
)
def test_bad_rows_are_named(score, label, message):
    with pytest.raises(ValueError, match=message):
        auc(score, label)


def test_logits_are_no_probabilities():
    with pytest.raises(ValueError, match="are they logits"):
        logloss([-2.0, 0.5], [0, 1])


def log(seed=5, count=4000):
    rng = np.random.default_rng(seed)
    truth = rng.random(count).astype(np.float32)
    return {
        "score": (np.log(truth / (1 - truth)) + rng.normal(0, 1, count)).astype(np.float32),
        "label": (rng.random(count) < truth).astype(np.float32),
        "domain": rng.choice([0, 0, 0, 2, 3], size=count),
        "user": rng.integers(1, 40, size=count),
        "truth": truth,
    }


def collect(log, pick=slice(None), chunk=700):
    collector = RankCollector()
    rows = {name: column[pick] for name, column in log.items()}
    for start in range(0, len(rows["score"]), chunk):
        part = {name: column[start : start + chunk] for name, column in rows.items()}
        collector.add(part.pop("score"), part.pop("label"), **part)
    return collector


def test_collector_measures_each_domain_macro_and_pooled():
    data = log()
    result = collect(data).result(["a", "b", "c", "d"])
    assert list(result) == ["a", "c", "d", "macro", "pooled"]  # no rows in b
    for name, number in [("a", 0), ("c", 2), ("d", 3), ("pooled", None)]:
        here = data["domain"] == number if number is not None else np.ones(len(data["domain"]), bool)
        score, label, user = data["score"][here], data["label"][here], data["user"][here]
        chance = 1 / (1 + np.exp(-score.astype(np.float64)))
        assert result[name] == {
            "auc": pytest.approx(roc_auc_score(label, score)),
            "gauc": pytest.approx(brute_gauc(score, label, user)),
            "logloss": pytest.approx(log_loss(label, chance)),
            "rows": here.sum(),
            "users": len(set(user.tolist())),
            "bayes_auc": pytest.approx(roc_auc_score(label, data["truth"][here])),
        }
    for metric in ("auc", "gauc", "logloss", "bayes_auc"):
        assert result["macro"][metric] == pytest.approx(np.mean([result[name][metric] for name in "acd"]))


def test_result_has_the_same_bits_in_any_order_over_any_workers():
    data = log()
    names = ["a", "b", "c", "d"]
    expected = collect(data).result(names)
    shuffled = np.random.default_rng(0).permutation(len(data["score"]))
    parts = [collect(data, part, chunk=97).state() for part in np.array_split(shuffled, 3)]
    merged = RankCollector.merge([parts[2], {}, parts[0], parts[1]])
    assert json.dumps(merged.result(names)) == json.dumps(expected)


def test_what_cannot_be_measured_is_null():
    collector = RankCollector()
    collector.add([0.1, 0.3, 0.2], [1, 1, 0], domain=[0, 0, 1], user=[1, 2, 3])
    result = collector.result(["a", "b"])
    assert result["a"]["auc"] is None and result["macro"]["auc"] is None and result["pooled"]["gauc"] is None
    assert result["pooled"]["auc"] == 0.5
    assert "bayes_auc" not in result["pooled"]
    assert "NaN" not in json.dumps(result)


def test_nothing_collected():
    assert RankCollector().result(["a"]) == {"macro": {}, "pooled": {}}
    assert RankCollector.merge([{}, RankCollector().state()]).state() == {}


def test_collector_does_not_keep_the_callers_buffers():
    score = np.array([0.1, 0.9], np.float32)
    collector = RankCollector()
    collector.add(score, [0, 1], domain=[0, 0], user=[1, 1])
    score[:] = score[::-1].copy()
    assert collector.result(["a"])["a"]["auc"] == 1.0


def test_collector_refuses_what_does_not_fit():
    collector = RankCollector()
    with pytest.raises(ValueError, match="NaN"):
        collector.add([math.nan], [1], domain=[0], user=[1])
    with pytest.raises(ValueError, match="differ in length"):
        collector.add([0.5, 0.1], [1, 0], domain=[0], user=[1, 1])
    collector.add([0.5, 0.1], [1, 0], domain=[0, 3], user=[1, 1])
    with pytest.raises(ValueError, match="reach 3, but only 2 have names"):
        collector.result(["a", "b"])
    with pytest.raises(ValueError, match="every chunk"):
        collector.add([0.5], [1], domain=[0], user=[1], truth=[0.5])


def test_averaged_by_users():
    tests = [
        {
            "a": {"ndcg@5": 0.2, "random/ndcg@5": 0.1, "users": 1, "items": 9, "truths": 3},
            "b": {"ndcg@5": 0.5, "random/ndcg@5": 0.2, "users": 4, "items": 5, "truths": 4},
            "macro": {"ndcg@5": 0.35, "random/ndcg@5": 0.15},
        },
        {
            "a": {"ndcg@5": 0.6, "random/ndcg@5": 0.3, "users": 3, "items": 8, "truths": 3},
            "b": {"ndcg@5": None, "random/ndcg@5": None, "users": 0, "items": 7, "truths": 0},
            "c": {"ndcg@5": 0.9, "random/ndcg@5": 0.4, "users": 2, "items": 2, "truths": 2},
            "macro": {"ndcg@5": 0.75, "random/ndcg@5": 0.35},
        },
    ]
    found = averaged(tests)
    assert list(found) == ["a", "b", "c", "macro"]
    assert found["a"] == {
        "ndcg@5": pytest.approx((0.2 + 3 * 0.6) / 4), "random/ndcg@5": pytest.approx((0.1 + 3 * 0.3) / 4),
        "users": 4, "items": 9, "truths": 6,
    }  # fmt: skip
    assert found["b"] == {"ndcg@5": 0.5, "random/ndcg@5": 0.2, "users": 4, "items": 7, "truths": 4}
    assert found["c"] == {"ndcg@5": 0.9, "random/ndcg@5": 0.4, "users": 2, "items": 2, "truths": 2}
    assert found["macro"] == {
        "ndcg@5": pytest.approx((0.5 + 0.5 + 0.9) / 3), "random/ndcg@5": pytest.approx((0.25 + 0.2 + 0.4) / 3)
    }  # fmt: skip
    nobody = averaged([{"b": tests[1]["b"], "macro": {}}])
    assert nobody["b"]["ndcg@5"] is None and nobody["macro"]["ndcg@5"] is None


def test_averaged_by_rows():
    """Rows weigh, not users; all domains' rows together are no domain."""
    tests = [
        {
            "a": {"auc": 0.5, "rows": 10, "users": 5},
            "b": {"auc": 0.7, "rows": 20, "users": 1},
            "macro": {"auc": 0.6},
            "pooled": {"auc": 0.9, "rows": 30, "users": 6},
        },
        {
            "a": {"auc": 0.8, "rows": 30, "users": 5},
            "b": {"auc": None, "rows": 5, "users": 1},
            "macro": {"auc": 0.8},
            "pooled": {"auc": 0.5, "rows": 10, "users": 6},
        },
    ]
    found = averaged(tests)
    assert found["a"] == {"auc": pytest.approx(0.725), "rows": 40, "users": 10}
    assert found["b"] == {"auc": 0.7, "rows": 25, "users": 2}
    assert found["pooled"] == {"auc": pytest.approx(0.8), "rows": 40, "users": 12}
    assert found["macro"] == {"auc": pytest.approx((0.725 + 0.7) / 2)}


def test_ratings_by_domain() -> None:
    rng = np.random.default_rng(3)
    score, label = rng.normal(3, 1, 200).astype(np.float32), rng.integers(1, 6, 200)
    domain, user = rng.integers(0, 2, 200), rng.integers(0, 30, 200)
    parts = [RateCollector() for _ in range(3)]
    for part, rows in zip(parts, np.array_split(np.arange(200), 3), strict=True):
        part.add(score[rows], label[rows], domain=domain[rows], user=user[rows])
    found = RateCollector.merge(part.state() for part in parts).result(["a", "b", "c"])
    assert list(found) == ["a", "b", "macro", "pooled"]
    for name, here in {"a": domain == 0, "b": domain == 1, "pooled": domain >= 0}.items():
        squared = mean_squared_error(label[here], score[here])
        assert found[name]["mse"] == pytest.approx(squared) and found[name]["rmse"] == pytest.approx(squared**0.5)
        assert found[name]["mae"] == pytest.approx(mean_absolute_error(label[here], score[here]))
        assert found[name]["rows"] == here.sum() and found[name]["users"] == len(set(user[here]))
    assert not any("bayes_mse" in own for own in found.values())
    truth = rng.uniform(1, 5, 200).astype(np.float32)
    known = RateCollector()
    known.add(score, label, domain=domain, user=user, truth=truth)
    found = known.result(["a", "b"])
    best = {
        name: mean_squared_error(label[here], truth[here])
        for name, here in {"a": domain == 0, "b": domain == 1}.items()
    }
    assert {name: found[name]["bayes_mse"] for name in best} == pytest.approx(best)
    assert found["macro"]["bayes_mse"] == pytest.approx((best["a"] + best["b"]) / 2)
    assert found["pooled"]["bayes_mse"] == pytest.approx(mean_squared_error(label, truth))
    with pytest.raises(ValueError, match="2 of 3 scores are NaN"):
        RateCollector().add([1.0, np.nan, np.nan], [1, 2, 3], domain=[0, 0, 0], user=[0, 0, 0])
