"""Users who are cold in one domain: all that they did there is held out, and what they did elsewhere trains."""

from __future__ import annotations

import duckdb

from mdr_dist.data.prepare.recipe import Recipe
from mdr_dist.data.prepare.rows import HASH, place_of
from mdr_dist.data.prepare.sections import SPLITS
from mdr_dist.errors import UserError


def assign(connection: duckdb.DuckDBPyConnection, recipe: Recipe, where: str) -> str:
    """Make the table `roles`, and return the SQL of a row's split, over its `_user` and `_d`.

    It has the users who have rows in `split.cold_start.domain` and in another domain, each with a `role`: `val` and
    `test`, `common`, or `uncommon`, whose rows are to be dropped. `UserError` if a role that is needed has no user.
    """
    rule = recipe.split.cold_start
    assert rule
    names = [name for (name,) in connection.execute("SELECT _domain FROM domains ORDER BY _d").fetchall()]
    if rule.domain not in names:
        raise UserError(f"{where}: split.cold_start: no domain {rule.domain!r}; there are {', '.join(names)}")
    target = names.index(rule.domain)

    def drawn(word: str, share: float) -> str:
        value = HASH.format(f"'{recipe.seed}', '{word}', u.key")
        return f"{value} < {int(share * 2.0**64)}::HUGEINT"

    both = f"bool_or(k._d = {target}) AND bool_or(k._d <> {target})"
    cold = f"CASE WHEN {drawn('cold val', rule.val)} THEN 'val' ELSE 'test' END"
    warm = f"CASE WHEN {drawn('common', rule.common)} THEN 'common' ELSE 'uncommon' END"
    connection.execute(
        f"CREATE TABLE roles AS SELECT u.number AS _user, CASE WHEN {drawn('cold', rule.users)} THEN {cold} "
        f"ELSE {warm} END AS role FROM kept k JOIN users u ON k.f{place_of(recipe, recipe.user)} = u.key "
        f"GROUP BY u.number, u.key HAVING {both}"
    )
    _check(connection, recipe, where)
    held = [
        f"WHEN _user IN (SELECT _user FROM roles WHERE role = '{split}') THEN {SPLITS.index(split)}"
        for split in ("val", "test")
    ]
    return f"CASE WHEN _d <> {target} THEN 0 {' '.join(held)} ELSE 0 END"


def _check(connection: duckdb.DuckDBPyConnection, recipe: Recipe, where: str) -> None:
    rule = recipe.split.cold_start
    assert rule
    found = dict(connection.execute("SELECT role, count(*) FROM roles GROUP BY role").fetchall())
    total = sum(found.values())
    if not total:
        raise UserError(
            f"{where}: split.cold_start: no user has rows in {rule.domain!r} and in another domain; "
            "cold-start transfer needs users in common"
        )
    for role in ("common", "test", "val") if rule.val else ("common", "test"):
        if role not in found:
            share = "users or common" if role == "common" else "users or val"
            raise UserError(
                f"{where}: split.cold_start: of {total} users who have rows in {rule.domain!r} and in another domain "
                f"none is left for {role}; choose other shares ({share}), or keep more users"
            )
