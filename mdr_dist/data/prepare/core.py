"""The k-core of each domain: users and items met too rarely are dropped until none is left."""

from __future__ import annotations

import duckdb

from mdr_dist.data.prepare import engine
from mdr_dist.data.prepare.recipe import Recipe
from mdr_dist.data.prepare.rows import place_of
from mdr_dist.errors import UserError


def prune(connection: duckdb.DuckDBPyConnection, recipe: Recipe, where: str) -> int:
    """Reduce the table `kept` to its core and return how many rows were dropped; a `UserError` if none is left."""
    core = recipe.core
    if not core:
        return 0
    before = left = engine.one(connection, "SELECT count(*) FROM kept")
    roles = [(recipe.user, core.user), (recipe.item, core.item)]
    rare = " OR ".join(f"count(*) OVER (PARTITION BY _d, f{place_of(recipe, role)}) < {least}" for role, least in roles)
    while True:  # dropping a user takes rows from items, and the other way round
        connection.execute(f"CREATE TABLE pruned AS SELECT * FROM kept QUALIFY NOT ({rare})")
        connection.execute("DROP TABLE kept; ALTER TABLE pruned RENAME TO kept")
        rows = engine.one(connection, "SELECT count(*) FROM kept")
        if not rows:
            raise UserError(f"{where}: core: no user has {core.user} rows with items of {core.item}; ask for fewer")
        if rows == left:
            return before - rows
        left = rows
