"""Gains of one run over another, user by user, against scipy's bootstrap and numbers worked by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from mdr_dist.errors import UserError
from mdr_dist.eval.gains import gains, users_of
from tests.support.ranked import write_ranked


def test_intervals_agree_with_scipy(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.random(400), rng.random(400) * 0.9
    found = gains(
        [write_ranked(tmp_path / "a", {"books": {"ndcg@5": ours}})],
        [write_ranked(tmp_path / "b", {"books": {"ndcg@5": theirs}})],
        metric="ndcg@5",
    )["books"]
    want = scipy.stats.bootstrap((ours - theirs,), np.mean, n_resamples=5000, method="percentile", rng=1)
    assert found.users == 400 and found.difference == pytest.approx((ours - theirs).mean())
    assert (found.low, found.high) == pytest.approx(want.confidence_interval, abs=0.004)
    assert found.verdict == "gain"


def test_users_of_seeds_with_data_of_their_own_are_not_averaged(tmp_path: Path) -> None:
    def runs(name: str, *values: float) -> list[str]:
        parts = [{"books": {"ndcg@5": np.full(30, value)}} for value in values]
        return [write_ranked(tmp_path / f"{name}{seed}", part) for seed, part in enumerate(parts)]

    ours, theirs = runs("a", 0.5, 0.1), runs("b", 0.2, 0.2)
    same = gains(ours, theirs, metric="ndcg@5")["books"]
    # by user: 0.3 - 0.2, for all alike
    assert same.users == 30 and same[1:4] == pytest.approx((0.1, 0.1, 0.1))
    apart = gains(ours, theirs, metric="ndcg@5", same_users=False)["books"]
    # half of the users gain 0.3, the others lose 0.1
    assert apart.users == 60 and apart.difference == pytest.approx(0.1) and apart.low < 0.07 < 0.13 < apart.high


def test_what_cannot_be_paired(tmp_path: Path) -> None:
    one = write_ranked(tmp_path / "one", {"books": {"ndcg@5": np.ones(3)}})
    moved = write_ranked(tmp_path / "moved", {"books": {"ndcg@5": np.ones(3)}}, first_user=2)
    with pytest.raises(UserError, match="measured on different users or domains"):
        gains([one], [moved], metric="ndcg@5")
    with pytest.raises(UserError, match="no ndcg@7 by user; there are: ndcg@5"):
        gains([one], [one], metric="ndcg@7")
    with pytest.raises(UserError, match="no metrics by user"):
        users_of(str(tmp_path))
