"""Histories: the items of a user's earlier rows, as a list.

Rows of equal user, item and time are one event, in however many domains they stand: a film of three genres comes once,
and never into its own history. A user's events follow one another by time, those of equal time by their hash, an order
that is random but depends on nothing but the seed. An event counts if one of its rows has a positive first label. Where
domains own their items' ids, the id is the one of the event's first domain.
"""

from __future__ import annotations

import duckdb

from mdr_dist.data.prepare.sections import SPLITS
from mdr_dist.schema import Feature


def number_events(connection: duckdb.DuckDBPyConnection, *, item: str, join: str) -> None:
    """Make the table `events`: a row for each, `id` where it counts, and `n`, how many count before it.

    `item` is the SQL of the item's id, `join` what that looks up.
    """
    connection.execute(
        f"CREATE TABLE events AS SELECT _user, _time, _e, id, count(id) OVER (PARTITION BY _user ORDER BY _time, _e "
        f"ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS n FROM ("
        f"SELECT r._user, r._time, r._e, arg_min({item}, r._d) FILTER (r.l0 > 0) AS id FROM rows r {join} "
        f"WHERE r._n = 0 GROUP BY r._user, r._time, r._e)"
    )


def list_events(connection: duckdb.DuckDBPyConnection, place: int, *, last: int, item: Feature) -> tuple[str, str]:
    """The SQL of the column with the `last` events before a row, and the join that it needs."""
    lists = (
        f"SELECT _user, n + 1 AS n, list(id) OVER (PARTITION BY _user ORDER BY n "
        f"ROWS BETWEEN {last - 1} PRECEDING AND CURRENT ROW) AS ids FROM events WHERE id IS NOT NULL"
    )
    connection.execute(
        f"CREATE TABLE history{place} AS SELECT e._user, e._time, e._e, l.ids FROM events e "
        f"JOIN ({lists}) l ON e._user = l._user AND e.n = l.n"
    )
    integer = "INTEGER" if item.rows <= 2**31 - 1 else "BIGINT"
    alias = f"v{place}"
    same = " AND ".join(f"{alias}.{column} = r.{column}" for column in ("_user", "_time", "_e"))
    return f"coalesce({alias}.ids, CAST([] AS {integer}[]))", f"LEFT JOIN history{place} {alias} ON {same}"


def without(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """How many rows of each split have an empty history."""
    counts = ", ".join(f"count(*) FILTER (r._s = {number})" for number in range(len(SPLITS)))
    first = "e._user = r._user AND e._time = r._time AND e._e = r._e AND e.n = 0"
    row = connection.execute(f"SELECT {counts} FROM rows r JOIN events e ON {first} WHERE r._n = 0").fetchall()[0]
    return dict(zip(SPLITS, row, strict=True))
