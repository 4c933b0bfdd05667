"""Vocabularies counted on the training split, and the table `rows` → encoded Parquet cells, one a shard folder.

Ids go by descending count of exposures in the training split, then by key, so they depend on no order of the rows.
Sampled negatives are no exposures. A data set that grows from an earlier one has all of that one's ids before its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import duckdb
import numpy as np
import pyarrow as pa

from mdr_dist.data.layout import NewDataset
from mdr_dist.data.prepare import engine, history, text
from mdr_dist.data.prepare.encoding import Encoding
from mdr_dist.data.prepare.feature import FeatureRecipe
from mdr_dist.data.prepare.grow import Earlier
from mdr_dist.data.prepare.recipe import Recipe
from mdr_dist.data.prepare.rows import place_of
from mdr_dist.data.prepare.sections import SPLITS
from mdr_dist.data.prepare.split import cuts
from mdr_dist.schema import DOMAIN, Feature


@dataclass(frozen=True)
class _Space:
    """One vocabulary: its number, its features by place, the rows it gives and each domain's first one."""

    number: int
    name: str
    features: dict[int, FeatureRecipe]
    keys: dict[int, str]
    least: int
    domains: tuple[str, ...]

    @property
    def per_domain(self) -> bool:
        return next(iter(self.features.values())).scope == "domain"

    @property
    def table(self) -> str:
        return f"vocabulary{self.number}"


def encode(
    connection: duckdb.DuckDBPyConnection,
    recipe: Recipe,
    *,
    domains: tuple[str, ...],
    dataset: NewDataset,
    where: str,
    earlier: Earlier | None = None,
) -> Encoding:
    """Build and write the vocabularies, and say how rows are encoded; `UserError` where no word is left for one."""
    encoding = Encoding(earlier=earlier, report={feature.name: {} for feature in recipe.features})
    made: dict[int, tuple[Feature, str]] = {}
    for number, space in enumerate(dict.fromkeys(f.space for f in recipe.features if f.looked_up)):
        members = {
            place: feature
            for place, feature in enumerate(recipe.features)
            if feature.looked_up and feature.space == space
        }
        keys = {place: _key(connection, place, feature, encoding) for place, feature in members.items()}
        first = next(iter(members.values()))
        least = max(recipe.min_count if first.min_count is None else first.min_count, 1)
        made |= _vocabulary(connection, _Space(number, space, members, keys, least, domains), dataset, encoding)
    for place, feature in enumerate(recipe.features):
        if feature.kind == "dense":
            column = _dense(connection, place, feature, encoding)
            made[place] = (Feature(name=feature.name, kind="dense"), column)
    made |= text.encode(connection, recipe, dataset=dataset, encoding=encoding, where=where)
    made |= _histories(connection, recipe, made, encoding)
    for place in range(len(recipe.features)):
        encoding.features.append(made[place][0])
        encoding.columns.append(f"{made[place][1]} AS {engine.name(made[place][0].name)}")
    encoding.features.append(Feature(name=DOMAIN, kind="id", rows=len(domains), vocabulary=DOMAIN))
    encoding.digests[DOMAIN] = _write_domains(connection, domains, dataset)
    return encoding


def _key(connection: duckdb.DuckDBPyConnection, place: int, feature: FeatureRecipe, encoding: Encoding) -> str:
    """SQL for the text that is looked up: the raw value, or the name of the range it falls into."""
    if not feature.buckets:
        return f"r.f{place}"
    if encoding.earlier:
        edges = encoding.earlier.edges(feature.name)
    else:
        shares = tuple(part / feature.buckets for part in range(1, feature.buckets))
        edges = sorted(set(cuts(connection, f"SELECT f{place} AS x FROM rows WHERE _s = 0 AND _n = 0", shares)))
    encoding.report[feature.name]["edges"] = edges
    bounds = ["-inf", *(f"{edge:.9g}" for edge in edges), "inf"]
    labels = engine.texts(f"[{low}, {high})" for low, high in pairwise(bounds))
    inside = f"len(list_filter({_doubles(edges)}, lambda edge: edge <= r.f{place}))"
    return f"CASE WHEN r.f{place} IS NOT NULL THEN {labels}[1 + {inside}] END"


def _doubles(values: list[float]) -> str:
    return f"CAST([{', '.join(repr(float(value)) for value in values)}] AS DOUBLE[])"


def _vocabulary(
    connection: duckdb.DuckDBPyConnection, space: _Space, dataset: NewDataset, encoding: Encoding
) -> dict[int, tuple[Feature, str]]:
    """Count, number and write one vocabulary; feature's place → its schema entry and the SQL of its column."""
    _count(connection, space, encoding)
    _number(connection, space, encoding.earlier)
    sizes = dict(connection.execute(f"SELECT d, count(*) FROM {space.table} GROUP BY d").fetchall())
    blocks = len(space.domains) if space.per_domain else 1
    ends = np.cumsum([1 + sizes.get(block, 0) for block in range(blocks)])
    starts = tuple(int(start) for start in np.concatenate([[0], ends[:-1]]))
    encoding.digests[space.name] = dataset.write_vocabulary(space.name, _vocabulary_table(connection, space, starts))
    connection.execute("DROP TABLE counts")
    made: dict[int, tuple[Feature, str]] = {}
    for place, feature in space.features.items():
        entry = Feature(
            name=feature.name,
            kind="ids" if feature.kind == "ids" else "id",
            rows=int(ends[-1]),
            width=feature.most,
            scope=feature.scope,
            starts=starts if space.per_domain else (),
            vocabulary=space.name,
        )
        encoding.report[feature.name]["rows"] = entry.rows
        column, join = _lookup(connection, space, place, entry)
        encoding.joins[place] = join
        made[place] = (entry, column)
    return made


def _number(connection: duckdb.DuckDBPyConnection, space: _Space, earlier: Earlier | None) -> None:
    """The vocabulary's table: its keys, known ones first, each with its place in its domain's block, from 1."""
    known = earlier.vocabulary(space.name) if earlier else pa.table({"id": [], "key": []})
    connection.execute(f"CREATE TABLE {space.table} (key VARCHAR, d SMALLINT, train BIGINT, place BIGINT)")
    totals = "SELECT key, d, sum(train) AS train FROM counts WHERE key IS NOT NULL GROUP BY key, d"
    if len(known):
        connection.register("known", known)
        connection.execute(
            f"INSERT INTO {space.table} SELECT k.key, 0, coalesce(t.train, 0), k.id FROM known k "
            f"LEFT JOIN ({totals}) t ON t.key = k.key"
        )
        connection.unregister("known")
    connection.execute(
        f"INSERT INTO {space.table} SELECT key, d, train, {len(known)} + row_number() OVER (PARTITION BY d "
        f"ORDER BY train DESC, key) FROM ({totals}) t WHERE train >= {space.least} "
        f"AND NOT EXISTS (SELECT 1 FROM {space.table} v WHERE v.key = t.key AND v.d = t.d)"
    )


def _count(connection: duckdb.DuckDBPyConnection, space: _Space, encoding: Encoding) -> None:
    """The table `counts` (feature f, domain d or 0, key, rows by split), and what it says of rare and unseen keys."""
    parts = []
    for place, feature in space.features.items():
        key = f"unnest(CASE WHEN len({space.keys[place]}) > 0 THEN {space.keys[place]} ELSE [NULL] END)"
        key = key if feature.kind == "ids" else space.keys[place]
        d = "_d" if space.per_domain else "CAST(0 AS SMALLINT)"
        parts.append(f"SELECT {place} AS f, {d} AS d, _s, {key} AS key FROM rows r WHERE _n = 0")
    by_split = ", ".join(f"count(*) FILTER (_s = {number}) AS {split}" for number, split in enumerate(SPLITS))
    connection.execute(
        f"CREATE TABLE counts AS SELECT f, d, key, {by_split} FROM ({' UNION ALL '.join(parts)}) GROUP BY f, d, key"
    )
    exposures = (
        "SELECT *, CASE WHEN key IS NOT NULL THEN sum(train) OVER (PARTITION BY d, key) END AS exposures FROM counts"
    )
    kinds = {
        "missing": "key IS NULL",
        "unseen": "exposures = 0",
        "rare": f"exposures > 0 AND exposures < {space.least}",
    }
    for place, feature in space.features.items():
        for kind, condition in kinds.items():
            sums = ", ".join(f"coalesce(sum({split}), 0)" for split in SPLITS)
            query = f"SELECT {sums} FROM ({exposures}) WHERE f = {place} AND {condition}"
            row = connection.execute(query).fetchall()[0]
            encoding.report[feature.name][kind] = {split: int(n) for split, n in zip(SPLITS, row, strict=True)}


def _vocabulary_table(connection: duckdb.DuckDBPyConnection, space: _Space, starts: tuple[int, ...]) -> pa.Table:
    """`id, key, count[, domain]` in id order, default rows (key "") first in their blocks with all they stand for."""
    defaults = (
        f"SELECT d, sum(train) AS count FROM counts c WHERE NOT EXISTS "
        f"(SELECT 1 FROM {space.table} v WHERE v.key = c.key AND v.d = c.d) GROUP BY d"
    )
    first = _pick(starts, "d")
    domain = f", {engine.texts(space.domains)}[d + 1] AS domain" if space.per_domain else ""
    return connection.sql(
        f"SELECT CAST({first} + place AS BIGINT) AS id, key, CAST(count AS BIGINT) AS count{domain} FROM ("
        f"SELECT d, place, key, train AS count FROM {space.table} UNION ALL "
        f"SELECT b.d, 0, '', coalesce(x.count, 0) FROM (SELECT unnest(range({len(starts)})) AS d) b "
        f"LEFT JOIN ({defaults}) x ON b.d = x.d) ORDER BY id"
    ).to_arrow_table()


def _pick(starts: tuple[int, ...], domain: str) -> str:
    """SQL for the first id of a domain's block; 0 where there are no blocks."""
    return f"CAST([{', '.join(map(str, starts))}] AS BIGINT[])[{domain} + 1]" if len(starts) > 1 else "0"


def _lookup(connection: duckdb.DuckDBPyConnection, space: _Space, place: int, entry: Feature) -> tuple[str, str]:
    """The SQL of a feature's column, and the join that it needs."""
    first = _pick(entry.starts, "r._d")
    integer = "INTEGER" if entry.rows <= 2**31 - 1 else "BIGINT"
    key, alias = space.keys[place], f"v{place}"
    same = f" AND {alias}.d = r._d" if space.per_domain else ""
    if entry.kind == "id":
        column = f"CAST({first} + coalesce({alias}.place, 0) AS {integer})"
        return column, f"LEFT JOIN {space.table} {alias} ON {alias}.key = {key}{same}"
    # each distinct list is looked up once, element by element
    d = "r._d" if space.per_domain else "0"
    connection.execute(
        f"CREATE TABLE lists{place} AS SELECT list, d, list(place ORDER BY step) AS places FROM ("
        f"SELECT e.list, e.d, e.step, coalesce(v.place, 0) AS place FROM ("
        f"SELECT list, d, unnest(list) AS key, unnest(range(len(list))) AS step FROM "
        f"(SELECT DISTINCT {key} AS list, {d} AS d FROM rows r)) e "
        f"LEFT JOIN {space.table} v ON v.key = e.key AND v.d = e.d) GROUP BY list, d"
    )
    ids = f"list_transform({alias}.places, lambda place: CAST({first} + place AS {integer}))"
    column = f"coalesce({ids}, CAST([] AS {integer}[]))"
    return column, f"LEFT JOIN lists{place} {alias} ON {alias}.list = {key}{same}"


def _histories(
    connection: duckdb.DuckDBPyConnection, recipe: Recipe, made: dict[int, tuple[Feature, str]], encoding: Encoding
) -> dict[int, tuple[Feature, str]]:
    """Feature's place → its schema entry and the SQL of its column, for those made of the user's earlier rows."""
    if not recipe.histories:
        return {}
    place_of_item = place_of(recipe, recipe.item)
    item, column = made[place_of_item]
    history.number_events(connection, item=column, join=encoding.joins[place_of_item])
    missing = history.without(connection)
    found: dict[int, tuple[Feature, str]] = {}
    for place, feature in recipe.histories.items():
        column, encoding.joins[place] = history.list_events(connection, place, last=feature.last, item=item)
        entry = item.model_copy(update={"name": feature.name, "kind": "ids", "width": feature.last})
        encoding.report[feature.name] = {"rows": entry.rows, "missing": missing}
        found[place] = entry, column
    connection.execute("DROP TABLE events")
    return found


def _dense(connection: duckdb.DuckDBPyConnection, place: int, feature: FeatureRecipe, encoding: Encoding) -> str:
    value = f"coalesce(r.f{place}, {feature.default!r}::DOUBLE)"
    if feature.log1p:
        value = f"(sign({value}) * ln(1 + abs({value})))"
    report = encoding.report[feature.name]
    missing = connection.execute(
        f"SELECT {', '.join(f'count(*) FILTER (_s = {number})' for number in range(len(SPLITS)))} "
        f"FROM rows r WHERE f{place} IS NULL AND _n = 0"
    ).fetchall()[0]
    report["missing"] = dict(zip(SPLITS, missing, strict=True))
    if feature.standardise:
        mean, deviation = encoding.earlier.scale(feature.name) if encoding.earlier else _scale(connection, value)
        report |= {"mean": mean, "deviation": deviation}
        value = f"(({value} - {mean!r}::DOUBLE) / {deviation or 1.0!r}::DOUBLE)"
    return f"CAST({value} AS FLOAT)"


def _scale(connection: duckdb.DuckDBPyConnection, value: str) -> tuple[float, float]:
    """Mean and deviation over the training split."""
    # summed in whatever order: nine digits are the same in any
    mean = float(f"{engine.one(connection, f'SELECT favg({value}) FROM rows r WHERE _s = 0 AND _n = 0'):.9g}")
    spread = f"SELECT sqrt(favg(({value} - {mean!r}) ** 2)) FROM rows r WHERE _s = 0 AND _n = 0"
    return mean, float(f"{engine.one(connection, spread):.9g}")


def _write_domains(connection: duckdb.DuckDBPyConnection, domains: tuple[str, ...], dataset: NewDataset) -> str:
    counts = dict(connection.execute("SELECT _d, count(*) FROM rows WHERE _s = 0 AND _n = 0 GROUP BY _d").fetchall())
    table = pa.table(
        {
            "id": pa.array(range(len(domains)), pa.int64()),
            "key": pa.array(domains, pa.string()),
            "count": pa.array([counts.get(place, 0) for place in range(len(domains))], pa.int64()),
        }
    )
    return dataset.write_vocabulary(DOMAIN, table)
