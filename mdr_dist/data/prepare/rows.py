"""Staged files → the table `kept`: one row for each sample, with everything later steps need and nothing else.

Columns: `f0, f1, …` the features' raw values in the recipe's order (text, list of text, or double; of kind `text` the
list of words), `l0, …` labels, `_d` the domain's number, `_time` (seconds), `_h` the row's hash, `_s` the shipped split
(0 train, 1 val, 2 test) or missing, `_r`, where the recipe has `split.relevant`, whether it is true, and `_file, _row`,
where it came from.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import duckdb

from mdr_dist.data.prepare import engine
from mdr_dist.data.prepare.feature import FeatureRecipe
from mdr_dist.data.prepare.grow import Earlier
from mdr_dist.data.prepare.recipe import Recipe
from mdr_dist.data.prepare.sections import SPLITS
from mdr_dist.errors import UserError

# the hash of a row's identity: the last 8 bytes, little-endian, of an MD5 over parts joined by the unit separator
HASH = "md5_number_lower(concat_ws(chr(31), {}))"
_WORD = r"[\p{L}\p{N}_]{2,}"  # Python's \w\w+; the engine's \w is ASCII


@dataclass
class Kept:
    """What `keep` made: domain names in order, and how many rows went where on the way."""

    domains: tuple[str, ...] = ()
    dropped: dict[str, int] = field(default_factory=dict)
    deduplicated: int = 0


def parse(
    connection: duckdb.DuckDBPyConnection, recipe: Recipe, *, where: str, staged: dict[str, list[str]]
) -> list[tuple[int, int, str, str]]:
    """Make the table `parsed` and return its bad rows, `(file, row, column, reason)`, enough to pass the limit.

    `staged` holds the staged files of each side table by its name, and those of the log under "". A row is bad where
    its user, item, domain, time, split or label is missing, its label is not within its bounds, or a required side
    table lacks it.
    """
    relation = _joined(connection, recipe, where, staged)
    for column, expression in recipe.derive.items():
        _check(connection, relation, expression, f"{where}: derive.{column}: {expression!r}")
        relation = f"(SELECT *, ({expression}) AS {engine.name(column)} FROM {relation})"
    for place, condition in enumerate(recipe.where):
        _check(connection, relation, condition, f"{where}: where.{place}: {condition!r}")
    values = _values(connection, recipe, where, relation)
    drop = " ".join(f"WHEN NOT coalesce(({condition}), false) THEN {n}" for n, condition in enumerate(recipe.where))
    values["_drop"] = f"CASE {drop} END" if drop else "NULL"
    columns = ", ".join(f"{value} AS {column}" for column, value in values.items())
    user, item = (f"f{place_of(recipe, role)}" for role in (recipe.user, recipe.item))
    identity = HASH.format(f"'{recipe.seed}', {user}, {item}, _time")
    connection.execute(
        f"CREATE TABLE parsed AS SELECT *, {_bad(recipe)} AS _bad, {identity} AS _h "
        f"FROM (SELECT {columns} FROM {relation})"
    )
    rows = connection.execute(
        f"SELECT _file, _row, _bad FROM parsed WHERE _bad IS NOT NULL AND _drop IS NULL "
        f"ORDER BY 1, 2 LIMIT {recipe.max_rejected + 1}"
    ).fetchall()
    return [(file, row, *bad.split(chr(31))) for file, row, bad in rows]


def place_of(recipe: Recipe, feature: str) -> int:
    """The place of a feature in the recipe."""
    return [each.name for each in recipe.features].index(feature)


def _joined(connection: duckdb.DuckDBPyConnection, recipe: Recipe, where: str, staged: dict[str, list[str]]) -> str:
    log = engine.names(recipe.log[0].types)
    relation = (
        f"(SELECT {log}, _file, file_row_number AS _row FROM "
        f"read_parquet({engine.texts(staged[''])}, file_row_number = true, union_by_name = true) WHERE _bad IS NULL)"
    )
    for number, (table, files) in enumerate(recipe.tables.items()):
        keys = engine.names(files.keys.values())
        side = f"(SELECT * FROM read_parquet({engine.texts(staged[table])}, union_by_name = true) WHERE _bad IS NULL)"
        twice = connection.execute(f"SELECT {keys} FROM {side} GROUP BY ALL HAVING count(*) > 1 LIMIT 1").fetchall()
        if twice:
            raise UserError(f"{where}: tables.{table}: key {', '.join(map(str, twice[0]))} stands twice in its files")
        new = [column for column in files.types if column not in files.keys.values()]
        match = " AND ".join(f"a.{engine.name(ours)} = b.{engine.name(theirs)}" for ours, theirs in files.keys.items())
        taken = "".join(f", b.{engine.name(column)}" for column in new)
        relation = (
            f"(SELECT a.*{taken}, b._file IS NOT NULL AS _m{number} FROM {relation} a LEFT JOIN {side} b ON {match})"
        )
    return relation


def _check(connection: duckdb.DuckDBPyConnection, relation: str, expression: str, what: str) -> None:
    """`UserError` beginning with `what` where an expression does not fit the columns."""
    with engine.blame(what):
        connection.execute(f"SELECT ({expression}) FROM {relation} LIMIT 0").fetchall()


def _values(connection: duckdb.DuckDBPyConnection, recipe: Recipe, where: str, relation: str) -> dict[str, str]:
    """Column of `parsed` → SQL over the joined and derived columns."""
    values = {"_file": "_file", "_row": "_row"}
    values |= {f"_m{number}": f"_m{number}" for number in range(len(recipe.tables))}
    values |= {f"f{place}": _feature(feature) for place, feature in enumerate(recipe.features)}
    for place, (label, expression) in enumerate(recipe.labels.items()):
        number = f"CAST(({expression}) AS DOUBLE)"
        _check(connection, relation, number, f"{where}: labels.{label}: {expression!r}")
        values[f"l{place}"] = f"CASE WHEN isfinite({number}) THEN {number} END"
    values["_domain"] = _domain(recipe)
    values["_time"] = _time(recipe)
    values["_s"] = _shipped(recipe)
    if recipe.split.relevant:
        _check(connection, relation, recipe.split.relevant, f"{where}: split.relevant: {recipe.split.relevant!r}")
        values["_r"] = f"coalesce(({recipe.split.relevant}), false)"
    values["_v"] = "NULL"
    if recipe.dedupe and recipe.dedupe.value:
        _check(connection, relation, recipe.dedupe.value, f"{where}: dedupe.value: {recipe.dedupe.value!r}")
        values["_v"] = f"({recipe.dedupe.value})"
    return values


def _feature(feature: FeatureRecipe) -> str:
    if feature.last:
        return "CAST(NULL AS VARCHAR[])"
    column = engine.name(feature.source)
    if feature.kind == "text":
        return f"regexp_extract_all(lower(nullif(CAST({column} AS VARCHAR), '')), {engine.text(_WORD)})"
    if feature.kind == "dense" or feature.buckets:
        number = f"TRY_CAST({column} AS DOUBLE)"
        return f"CASE WHEN isfinite({number}) THEN {number} END"
    if feature.kind == "id":
        return f"nullif(CAST({column} AS VARCHAR), '')"
    values = (
        f"string_split(CAST({column} AS VARCHAR), {engine.text(feature.separator)})" if feature.separator else column
    )
    return f"list_filter(CAST({values} AS VARCHAR[]), lambda x: x <> '')[:{feature.most}]"


def _domain(recipe: Recipe) -> str:
    domain = recipe.domain
    if domain.flags:
        flags = (
            f"CASE WHEN TRY_CAST({engine.name(flag)} AS BOOLEAN) THEN {engine.text(domain.names.get(flag, flag))} END"
            for flag in domain.flags
        )
        return f"list_filter([{', '.join(flags)}], lambda x: x IS NOT NULL)"
    value = f"nullif(CAST({engine.name(domain.column)} AS VARCHAR), '')"
    cases = " ".join(f"WHEN {engine.text(old)} THEN {engine.text(new)}" for old, new in domain.names.items())
    return f"CASE {value} {cases} ELSE {value} END" if cases else value


def _time(recipe: Recipe) -> str:
    if not recipe.time:
        return "CAST(NULL AS BIGINT)"
    column = engine.name(recipe.time.column)
    if recipe.time.format in ("unix", "unix_ms"):
        scale = 1000 if recipe.time.format == "unix_ms" else 1
        return f"TRY_CAST(floor(TRY_CAST({column} AS DOUBLE) / {scale}) AS BIGINT)"
    moment = f"try_strptime(CAST({column} AS VARCHAR), {engine.text(recipe.time.format)})"
    return f"CAST(floor(epoch({moment})) AS BIGINT)"


def _shipped(recipe: Recipe) -> str:
    if not recipe.split.column:
        return "CAST(NULL AS TINYINT)"
    value = f"CAST({engine.name(recipe.split.column.column)} AS VARCHAR)"
    cases = " ".join(
        f"WHEN {engine.text(theirs)} THEN {SPLITS.index(ours)}" for theirs, ours in recipe.split.column.names.items()
    )
    return f"CAST(CASE {value} {cases} END AS TINYINT)"


def _bad(recipe: Recipe) -> str:
    """SQL for "column, unit separator, reason" of a bad row, missing in a good one."""
    domain = recipe.domain.column or "domain"
    needed = [
        (f"f{place_of(recipe, recipe.user)}", recipe.features[place_of(recipe, recipe.user)].source, "is missing"),
        (f"f{place_of(recipe, recipe.item)}", recipe.features[place_of(recipe, recipe.item)].source, "is missing"),
        ("_domain", domain, "is missing"),
    ]
    needed += [(f"l{place}", label, "the label is missing or no number") for place, label in enumerate(recipe.labels)]
    if recipe.time:
        needed.append(("_time", recipe.time.column, f"is not a time of format {recipe.time.format}"))
    if recipe.split.column:
        known = ", ".join(recipe.split.column.names)
        needed.append(("_s", recipe.split.column.column, f"is not a split; they are {known}"))
    cases = [
        f"WHEN NOT _m{number} THEN {engine.text(f'{next(iter(table.keys))}{chr(31)}has no row in table {name}')}"
        for number, (name, table) in enumerate(recipe.tables.items())
        if table.required
    ]
    cases += [f"WHEN {value} IS NULL THEN {engine.text(f'{column}{chr(31)}{why}')}" for value, column, why in needed]
    for place, label in enumerate(recipe.labels):
        if label in recipe.within:
            low, high = recipe.within[label]
            why = engine.text(f"{label}{chr(31)}the label is not within [{low:.9g}, {high:.9g}]")
            cases.append(f"WHEN l{place} NOT BETWEEN '{low!r}'::DOUBLE AND '{high!r}'::DOUBLE THEN {why}")
    return f"CASE {' '.join(cases)} END"


def keep(connection: duckdb.DuckDBPyConnection, recipe: Recipe, *, where: str, earlier: Earlier | None = None) -> Kept:
    """Make `kept` of the good rows of `parsed`: the chosen domains, a row for each, deduplicated.

    It is a table, or a view of `parsed` where all of those are kept. The domains of an `earlier` data set come first.
    """
    kept = Kept()
    for place, rows in connection.execute("SELECT _drop, count(*) FROM parsed GROUP BY 1 ORDER BY 1").fetchall():
        if place is not None:
            kept.dropped[f"where {recipe.where[place]}"] = rows
    good = "SELECT * EXCLUDE (_drop, _bad) FROM parsed WHERE _drop IS NULL AND _bad IS NULL"
    if recipe.domain.flags:
        kept.dropped["in no domain"] = engine.one(connection, f"SELECT count(*) FROM ({good}) WHERE len(_domain) = 0")
        good = f"SELECT * REPLACE (unnest(_domain) AS _domain) FROM ({good})"
    by_size = f"SELECT _domain, count(*) FROM ({good}) GROUP BY 1 ORDER BY 2 DESC, 1"
    sizes = dict(connection.execute(by_size).fetchall())
    if not sizes:
        raise UserError(f"{where}: no row is left; where and domain drop them all")
    kept.domains = _chosen(recipe, where, sizes)
    if earlier:
        kept.domains = earlier.order(kept.domains, where)
    kept.dropped["other domain"] = sum(rows for domain, rows in sizes.items() if domain not in kept.domains)
    connection.execute(
        "CREATE TABLE domains AS SELECT unnest(?::VARCHAR[]) AS _domain, unnest(range(?))::SMALLINT AS _d",
        [list(kept.domains), len(kept.domains)],
    )
    connection.execute(
        f"CREATE {'TABLE' if recipe.table else 'VIEW'} kept AS SELECT r.* EXCLUDE (_domain, _v), d._d FROM ({good}) r "
        f"JOIN domains d ON r._domain = d._domain {_one_of_equals(recipe)}"
    )
    if recipe.table:
        connection.execute("DROP TABLE parsed")
        chosen = sum(sizes[domain] for domain in kept.domains)
        kept.deduplicated = chosen - engine.one(connection, "SELECT count(*) FROM kept")
    return kept


def _chosen(recipe: Recipe, where: str, sizes: dict[str, int]) -> tuple[str, ...]:
    domain = recipe.domain
    absent = [name for name in domain.keep if name not in sizes]
    if absent:
        raise UserError(f"{where}: domain.keep: domain {absent[0]!r} has no rows; there are {', '.join(sizes)}")
    if domain.largest > len(sizes):
        raise UserError(f"{where}: domain.largest is {domain.largest}, but there are {len(sizes)}: {', '.join(sizes)}")
    return domain.keep or tuple(sizes)[: domain.largest or None]


def _one_of_equals(recipe: Recipe) -> str:
    """A QUALIFY clause that keeps one row of those the recipe calls equal, whatever the order of the files."""
    dedupe = recipe.dedupe
    if not dedupe:
        return ""
    columns = {
        "user": f"f{place_of(recipe, recipe.user)}",
        "item": f"f{place_of(recipe, recipe.item)}",
        "domain": "d._d",
        "time": "_time",
        "split": "_s",
    }
    order = {"last": "_time DESC", "first": "_time", "max": "_v DESC NULLS LAST"}[dedupe.keep]
    ties = [f"l{place} DESC" for place in range(len(recipe.labels))]
    ties += ["_time DESC", *(f"f{place} DESC" for place in range(len(recipe.features)))]
    return (
        f"QUALIFY row_number() OVER (PARTITION BY {', '.join(columns[key] for key in dedupe.by)} "
        f"ORDER BY {', '.join([order, *ties])}) = 1"
    )
