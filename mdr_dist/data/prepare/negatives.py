"""Sampled negative rows for logs that hold positives only, in rounds of vectorised draws."""

from __future__ import annotations

import duckdb

from mdr_dist.data.prepare import engine
from mdr_dist.data.prepare.recipe import Recipe
from mdr_dist.data.prepare.rows import HASH, place_of
from mdr_dist.data.prepare.sections import SPLITS

ROUNDS = 50  # a user who has 9 of 10 items of a domain misses all draws once in 194


def sample(connection: duckdb.DuckDBPyConnection, recipe: Recipe) -> tuple[int, int]:
    """Add the recipe's negatives to `rows`; returns how many there are and how many were given up.

    Draw j of round t for a row takes the item at hash(row's hash, domain, j, t) mod n among the domain's n items
    (`uniform`) or n positive rows (`popularity`), so it depends on no order. A draw is given up after ROUNDS, which
    happens to users who have nearly all of a domain's items.
    """
    if not recipe.negatives:
        return 0, 0
    _items(connection, recipe)
    connection.execute("CREATE TABLE positives AS SELECT DISTINCT _d, _user, _item FROM rows WHERE l0 > 0")
    counts = " ".join(f"WHEN {place} THEN {getattr(recipe.negatives, name)}" for place, name in enumerate(SPLITS))
    connection.execute(
        f"CREATE TABLE waiting AS SELECT rowid AS origin, _d, _user, _h, "
        f"unnest(range(1, 1 + CASE _s {counts} END)) AS j FROM rows WHERE l0 > 0"
    )
    asked = engine.one(connection, "SELECT count(*) FROM waiting")
    connection.execute("CREATE TABLE drawn (origin BIGINT, j BIGINT, _item BIGINT)")
    for turn in range(ROUNDS):
        if not engine.one(connection, "SELECT count(*) FROM waiting"):
            break
        _draw(connection, recipe, turn)
    given_up = engine.one(connection, "SELECT count(*) FROM waiting")
    _insert(connection, recipe)
    for table in ("waiting", "drawn", "positives", "domain_items", "domain_sizes"):
        connection.execute(f"DROP TABLE {table}")
    return asked - given_up, given_up


def _items(connection: duckdb.DuckDBPyConnection, recipe: Recipe) -> None:
    """The items of each domain, each with the numbers [low, low + weight) in that domain."""
    assert recipe.negatives
    weight = "1" if recipe.negatives.sampling == "uniform" else "count(*) FILTER (l0 > 0)"
    connection.execute(
        f"CREATE TABLE domain_items AS SELECT _d, _item, CAST(weight AS BIGINT) AS weight, "
        f"CAST(sum(weight) OVER (PARTITION BY _d ORDER BY _item) - weight AS BIGINT) AS low "
        f"FROM (SELECT _d, _item, {weight} AS weight FROM rows GROUP BY ALL) WHERE weight > 0"
    )
    connection.execute(
        "CREATE TABLE domain_sizes AS SELECT _d, CAST(sum(weight) AS UBIGINT) AS size FROM domain_items GROUP BY _d"
    )


def _draw(connection: duckdb.DuckDBPyConnection, recipe: Recipe, turn: int) -> None:
    """One round: draws that hit no positive go to `drawn`, the others wait on."""
    assert recipe.negatives
    number = HASH.format(f"w._h, w._d, w.j, {turn}")
    draws = f"SELECT w.*, CAST({number} % s.size AS BIGINT) AS place FROM waiting w JOIN domain_sizes s ON w._d = s._d"
    where = (
        "e._d = i._d AND e.place = i.low"
        if recipe.negatives.sampling == "uniform"
        else "e._d = i._d AND e.place >= i.low"
    )
    join = "JOIN" if recipe.negatives.sampling == "uniform" else "ASOF JOIN"
    connection.execute(
        f"CREATE OR REPLACE TABLE round AS SELECT e.* EXCLUDE (place), i._item, p._item IS NOT NULL AS hit "
        f"FROM ({draws}) e {join} domain_items i ON {where} "
        f"LEFT JOIN positives p ON p._d = e._d AND p._user = e._user AND p._item = i._item"
    )
    connection.execute("INSERT INTO drawn SELECT origin, j, _item FROM round WHERE NOT hit")
    connection.execute("CREATE OR REPLACE TABLE waiting AS SELECT * EXCLUDE (_item, hit) FROM round WHERE hit")
    connection.execute("DROP TABLE round")


def _insert(connection: duckdb.DuckDBPyConnection, recipe: Recipe) -> None:
    """Copy each positive row under its sampled item; where an item's features vary in the log, one row's are taken.

    Nobody wrote a text on a sampled item, so there it is missing.
    """
    item = place_of(recipe, recipe.item)
    follow = [f"f{place}" for place, feature in enumerate(recipe.features) if feature.of == "item" or place == item]
    taken = ", ".join(f"arg_min({column}, _h) AS {column}" for column in follow if column != f"f{item}")
    connection.execute(
        f"CREATE TABLE faces AS SELECT _item, any_value(f{item}) AS f{item}{', ' + taken if taken else ''} "
        f"FROM rows GROUP BY _item"
    )
    changed = [f"f.{column} AS {column}" for column in follow]
    changed += [f"NULL AS f{place}" for place, feature in enumerate(recipe.features) if feature.kind == "text"]
    changed += [f"0 AS l{place}" for place in range(len(recipe.labels))]
    changed += ["n._item AS _item", "CAST(n.j AS SMALLINT) AS _n", f"{HASH.format('r._h, n.j')} AS _h"]
    connection.execute(
        f"INSERT INTO rows SELECT r.* REPLACE ({', '.join(changed)}) "
        f"FROM drawn n JOIN rows r ON r.rowid = n.origin JOIN faces f ON f._item = n._item"
    )
    connection.execute("DROP TABLE faces")
