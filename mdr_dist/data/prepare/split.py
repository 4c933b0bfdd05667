"""The table `kept` → the table `rows`: users and items numbered, each row with its split and its period.

New columns: `_user`, `_item` (dense numbers of the raw keys, in key order), `_s` (0 train, 1 val, 2 test), `_p`
(period, -1 where time is not cut), `_n` (0: a row of the log; a sampled negative's number counts from 1) and, where
there are histories, `_e` (the hash of the row, which a sampled negative has of the row it was drawn for).
"""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa

from mdr_dist.data.prepare import cold, engine
from mdr_dist.data.prepare.dates import moment
from mdr_dist.data.prepare.recipe import Recipe
from mdr_dist.data.prepare.rows import HASH, place_of
from mdr_dist.data.prepare.sections import Fractions, LastOut


def split(
    connection: duckdb.DuckDBPyConnection,
    recipe: Recipe,
    *,
    where: str,
    starts: tuple[int, ...] = (),
    users: pa.Table | None = None,
) -> dict[str, int]:
    """Make the table `rows`, cut into periods at `starts`; returns how many rows were dropped and why.

    `users` are those of an earlier data set, which keep their `user_key`.
    """
    _number(connection, "users", f"f{place_of(recipe, recipe.user)}", known=users)
    _number(connection, "items", f"f{place_of(recipe, recipe.item)}", known=None)
    user, item = (f"f{place_of(recipe, role)}" for role in (recipe.user, recipe.item))
    numbered = (
        f"SELECT k.*, u.number AS _user, i.number AS _item FROM kept k "
        f"JOIN users u ON k.{user} = u.key JOIN items i ON k.{item} = i.key"
    )
    period = _cases([(start, ">=", place) for place, start in reversed([*enumerate(starts, 1)])]) if starts else "-1"
    event = ", _h AS _e" if recipe.histories else ""
    connection.execute(
        f"CREATE TABLE rows AS SELECT * REPLACE (CAST({_split(connection, recipe, where)} AS TINYINT) AS _s), "
        f"CAST({period} AS SMALLINT) AS _p, CAST(0 AS SMALLINT) AS _n{event} "
        f"FROM ({numbered})"
    )
    connection.execute(f"DROP {'TABLE kept' if recipe.table else 'VIEW kept; DROP TABLE parsed'}")
    dropped: dict[str, int] = {"uncommon": 0, "leaked": 0, "irrelevant": 0}
    if recipe.split.cold_start:
        dropped["uncommon"] = _drop(connection, "_user IN (SELECT _user FROM roles WHERE role = 'uncommon')")
    if recipe.split.drop_leaks:
        heldout = "SELECT (_user, _item) FROM rows WHERE _s > 0"
        dropped["leaked"] = _drop(connection, f"_s = 0 AND (_user, _item) IN ({heldout})")
    if recipe.split.relevant:
        dropped["irrelevant"] = _drop(connection, "_s > 0 AND NOT _r")
    return dropped


def _drop(connection: duckdb.DuckDBPyConnection, condition: str) -> int:
    """Drop the rows that meet a condition; how many they were."""
    return engine.one(connection, f"DELETE FROM rows WHERE {condition}")


def _number(connection: duckdb.DuckDBPyConnection, table: str, column: str, *, known: pa.Table | None) -> None:
    """Make a table of `key` and `number`, in key order, those `known` before all others."""
    connection.execute(f"CREATE TABLE {table} (key VARCHAR, number BIGINT)")
    if known is not None:
        connection.register("known", known)
        connection.execute(f"INSERT INTO {table} SELECT key, user_key FROM known")
        connection.unregister("known")
    connection.execute(
        f"INSERT INTO {table} SELECT key, {0 if known is None else len(known)} + row_number() OVER (ORDER BY key) - 1 "
        f"FROM (SELECT DISTINCT {column} AS key FROM kept) k WHERE NOT EXISTS "
        f"(SELECT 1 FROM {table} t WHERE t.key = k.key)"
    )


def _split(connection: duckdb.DuckDBPyConnection, recipe: Recipe, where: str) -> str:
    """SQL for a row's split."""
    rule = recipe.split
    if rule.random:
        return _by_hash("_h", rule.random)
    if rule.user:
        return _by_hash(HASH.format(f"'{recipe.seed}', 'user', f{place_of(recipe, recipe.user)}"), rule.user)
    if rule.last:
        return _last_out(rule.last)
    if rule.cold_start:
        return cold.assign(connection, recipe, where)
    if rule.column:
        by_hash = _by_hash("_h", Fractions(val=rule.column.val, test=0))
        return f"CASE WHEN _s = 0 THEN {by_hash} ELSE _s END"
    if not rule.time:
        return "0"
    if rule.time.val_from or rule.time.test_from:
        val = moment(rule.time.val_from, f"{where}: split.time.val_from") if rule.time.val_from else None
        test = moment(rule.time.test_from, f"{where}: split.time.test_from") if rule.time.test_from else None
    else:
        edges = (1 - rule.time.val - rule.time.test, 1 - rule.time.test)
        val, test = cuts(connection, "SELECT _time AS x FROM kept", edges)
        val, test = (val if rule.time.val else None), (test if rule.time.test else None)
    return _cases([(test, ">=", 2), (val, ">=", 1)])


def _cases(rules: list[tuple[float | None, str, int]]) -> str:
    given = [f"WHEN _time {sign} {int(edge)} THEN {value}" for edge, sign, value in rules if edge is not None]
    return f"CASE {' '.join(given)} ELSE 0 END"


def _by_hash(value: str, shares: Fractions) -> str:
    """A hash is uniform on [0, 2^64): the first part trains, the next is val, the rest test."""
    test = int((1 - shares.test) * 2.0**64) if shares.test else 2**64
    val = int((1 - shares.test - shares.val) * 2.0**64)
    return f"CASE WHEN {value} < {val}::HUGEINT THEN 0 WHEN {value} < {test}::HUGEINT THEN 1 ELSE 2 END"


def _last_out(rule: LastOut) -> str:
    group = "_user, _d" if rule.per == "user_domain" else "_user"
    place = f"row_number() OVER (PARTITION BY {group} ORDER BY _time DESC, _h, _d)"
    rows = f"count(*) OVER (PARTITION BY {group})"
    return f"CASE WHEN {place} = 1 AND {rows} >= 2 THEN 2 WHEN {place} = 2 AND {rows} >= 3 THEN 1 ELSE 0 END"


def cuts(connection: duckdb.DuckDBPyConnection, query: str, shares: tuple[float, ...]) -> list[float]:
    """For each rising share, the value of the query's `x` at place floor(share * count) in order; exact.

    Equal values stay together: those equal to a cut fall to its right. Only counts of distinct values are read, in
    order and batch by batch, so memory stays bounded.
    """
    total = engine.one(connection, f"SELECT count(x) FROM ({query})")
    wanted = [int(share * total + 1e-6) for share in shares]
    found: list[float] = []
    seen = 0
    reader = connection.sql(
        f"SELECT x, count(*) AS n FROM ({query}) WHERE x IS NOT NULL GROUP BY x ORDER BY x"
    ).to_arrow_reader(100_000)
    for batch in reader:
        values = batch.column(0).to_numpy(zero_copy_only=False)
        upto = seen + np.cumsum(batch.column(1).to_numpy())
        seen = int(upto[-1])
        while len(found) < len(wanted) and wanted[len(found)] < seen:
            found.append(values[np.searchsorted(upto, wanted[len(found)], side="right")].item())
    return found
