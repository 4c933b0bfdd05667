"""Runs that only have metrics by user."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mdr_dist.eval.figures import UserFigures, write_users
from mdr_dist.eval.ties import Floats


def write_ranked(run: Path, metrics: Mapping[str, Mapping[str, Floats]], *, first_user: int = 1) -> str:
    """A run whose users, from `first_user` on, have these values, by domain and metric, in a lane a domain."""
    for domain, values in metrics.items():
        count = len(next(iter(values.values())))
        figures = UserFigures(
            user_key=np.arange(first_user, first_user + count),
            truths=np.ones(count, dtype=np.int64),
            candidates=np.full(count, 100),
            metrics=dict(values),
            skipped=0,
            unrankable=0,
            items=100,
            duplicates=0,
        )
        folder = run / "lanes" / f"lane {domain}"
        folder.mkdir(parents=True)
        write_users(str(folder / "users.parquet"), {domain: figures})
    return str(run)
