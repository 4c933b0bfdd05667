"""Where time is cut, and what each period holds."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import duckdb

from mdr_dist.data.prepare.dates import date, moment
from mdr_dist.data.prepare.recipe import Recipe
from mdr_dist.data.prepare.split import cuts
from mdr_dist.errors import UserError


def cut(connection: duckdb.DuckDBPyConnection, recipe: Recipe, where: str) -> tuple[int, ...]:
    """The first moments (unix seconds) of periods 1, 2, …; empty where time is not cut."""
    if not recipe.periods:
        return ()
    starts: list[float] = [
        moment(start, f"{where}: periods.starts.{place}") for place, start in enumerate(recipe.periods.starts)
    ]
    if recipe.periods.count:
        parts = recipe.periods.count
        starts = cuts(connection, "SELECT _time AS x FROM kept", tuple(part / parts for part in range(1, parts)))
    if sorted(set(starts)) != starts:
        raise UserError(f"{where}: periods: two periods would begin at the same time or out of order; ask for fewer")
    return tuple(int(start) for start in starts)


def check(connection: duckdb.DuckDBPyConnection, where: str, *, starts: tuple[int, ...]) -> None:
    """`UserError` naming the first period without rows."""
    if not starts:
        return
    there = {p for (p,) in connection.execute("SELECT DISTINCT _p FROM rows WHERE _n = 0").fetchall()}
    for p in range(len(starts) + 1):
        if p not in there:
            begin = f"from {date(starts[p - 1])}" if p else ""
            end = f"to {date(starts[p])}" if p < len(starts) else ""
            bounds = " ".join(part for part in (begin, end) if part)
            raise UserError(f"{where}: periods: period {p} ({bounds}) has no rows; cut where there are some")


def describe(
    connection: duckdb.DuckDBPyConnection, domains: tuple[str, ...], *, starts: tuple[int, ...]
) -> dict[str, Any]:
    """What the report says of periods, which none may lack; nothing where time is not cut.

    `periods`: each with its bounds, `from` that moment on and before `to`, at the ends its first and last row; its rows
    by domain, users and items, and how many of these were not there before. `first_seen`: those of the last period.
    Sampled negatives do not count.
    """
    if not starts:
        return {}
    new = {column: _new(connection, column) for column in ("_user", "_item")}
    by_domain: dict[int, dict[str, int]] = {}
    for p, d, rows in connection.execute(
        "SELECT _p, _d, count(*) FROM rows WHERE _n = 0 GROUP BY ALL ORDER BY ALL"
    ).fetchall():
        by_domain.setdefault(p, dict.fromkeys(domains, 0))[domains[d]] = rows
    found: list[dict[str, Any]] = []
    for p, rows, users, items, first, last in connection.execute(
        "SELECT _p, count(*), count(DISTINCT _user), count(DISTINCT _item), min(_time), max(_time) FROM rows "
        "WHERE _n = 0 GROUP BY _p ORDER BY _p"
    ).fetchall():
        bounds = (starts[p - 1] if p else first, starts[p] if p < len(starts) else last)
        entry = {"period": p, "from": date(bounds[0]), "to": date(bounds[1]), "rows": rows}
        entry |= {"users": users, "items": items, "new_users": new["_user"][p], "new_items": new["_item"][p]}
        found.append({**entry, "domains": by_domain[p]})
    return {"periods": found, "first_seen": {"users": found[-1]["new_users"], "items": found[-1]["new_items"]}}


def _new(connection: duckdb.DuckDBPyConnection, column: str) -> dict[int, int]:
    """Period → how many users (items) are first seen in it."""
    firsts = f"SELECT min(_p) AS first FROM rows WHERE _n = 0 GROUP BY {column}"
    found = connection.execute(f"SELECT first, count(*) FROM ({firsts}) GROUP BY 1").fetchall()
    return defaultdict(int, found)
