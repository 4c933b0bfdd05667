"""What is shown of runs where nobody says."""

from __future__ import annotations

import pytest

from mdr_dist.compare import usual_metrics


@pytest.mark.parametrize(
    ("measured", "shown"),
    [
        (("auc", "gauc", "logloss", "bayes_auc"), ("auc", "gauc")),
        (("mse", "rmse", "mae", "bayes_mse"), ("mse", "mae")),
        (("recall@5", "recall@10", "ndcg@5", "ndcg@10"), ("recall@10", "ndcg@10")),
        (("recall@20", "ndcg@20", "mrr@20"), ("recall@20", "ndcg@20")),
    ],
)
def test_the_usual_metrics(measured: tuple[str, ...], shown: tuple[str, ...]) -> None:
    assert usual_metrics({"run": {"test": {"macro": dict.fromkeys(measured, 0.5)}}}) == shown
