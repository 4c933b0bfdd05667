"""How much better one run ranks than another, user by user, with an interval and a verdict on negative transfer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa

from mdr_dist import storage
from mdr_dist.checkpoint.lanes import USERS
from mdr_dist.errors import UserError
from mdr_dist.eval.bootstrap import bootstrap_mean_difference, negative_transfer_verdict
from mdr_dist.eval.figures import read_users

KEY = ("domain", "user_key")


class Gain(NamedTuple):
    """One domain: the mean over its `users` of a run's metric minus the other's, and its 95 % interval."""

    users: int
    difference: float
    low: float
    high: float
    verdict: Literal["gain", "loss", "no difference"]


def users_of(run: str) -> pa.Table:
    """What `figures.write_users` kept of a run's test split, all domains; a `UserError` if it kept nothing."""
    lanes = storage.join(run, "lanes")
    files = [storage.join(lanes, lane, USERS) for lane in storage.names(lanes)]
    files = [url for url in files if storage.exists(url)]
    if not files:
        raise UserError(
            f"{run}: no metrics by user; the run is unfinished, or its method scores rows and ranks nothing"
        )
    return read_users(files)


def gains(ours: Sequence[str], theirs: Sequence[str], *, metric: str, same_users: bool = True) -> dict[str, Gain]:
    """Domain → by how much the runs `ours` beat the runs `theirs`, a seed each, in the same order.

    A user's metric is the mean over the seeds, and users are drawn with replacement, so the interval is over users and
    not over seeds. `same_users` False: every seed has a data set and users of its own. A `UserError` if the runs were
    measured on different users or without this metric.
    """
    sides = [_by_user(runs, metric, same_users=same_users) for runs in (ours, theirs)]
    columns = [name for name in sides[0].column_names if name != metric]
    if not all(sides[0][name].equals(sides[1][name]) for name in columns):
        raise UserError(f"{ours[0]} and {theirs[0]}: measured on different users or domains; nothing can be paired")
    found: dict[str, Gain] = {}
    domains = sides[0]["domain"].to_numpy()
    for domain in dict.fromkeys(domains.tolist()):
        ours_U, theirs_U = (side[metric].to_numpy()[domains == domain] for side in sides)
        difference = bootstrap_mean_difference(ours_U, theirs_U)
        found[domain] = Gain(len(ours_U), *difference, negative_transfer_verdict(difference))
    return found


def _by_user(runs: Sequence[str], metric: str, *, same_users: bool) -> pa.Table:
    """`domain`, `user_key`, `seed` (0 if all seeds share users) and the metric's mean, sorted."""
    parts: list[pa.Table] = []
    for seed, run in enumerate(runs):
        users = users_of(run)
        if metric not in users.column_names:
            there = ", ".join(name for name in users.column_names if "@" in name)
            raise UserError(f"{run}: no {metric} by user; there are: {there}")
        number = pa.array(np.full(len(users), 0 if same_users else seed))
        parts.append(users.select([*KEY, metric]).append_column("seed", number))
    keys = [*KEY, "seed"]
    joined = pa.concat_tables(parts).group_by(keys).aggregate([(metric, "mean")])
    return joined.rename_columns([*keys, metric]).sort_by([(name, "ascending") for name in keys])
