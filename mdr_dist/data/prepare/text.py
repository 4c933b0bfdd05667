"""Vocabularies of words, and texts as lists of word ids.

A vocabulary is chosen on the training reviews, each one document, even if it has no word but not if it is missing. Ids
go by descending count, then by word, from 1. Words are lower-cased letter by letter: where Python minds the letters
around (a sigma that ends a word, a dotted capital I), scikit-learn has another word. A data set that grows keeps the
words of the earlier one, and adds those that are chosen now and were not then.
"""

from __future__ import annotations

import duckdb
import pyarrow as pa

from mdr_dist.data.layout import NewDataset
from mdr_dist.data.prepare import engine
from mdr_dist.data.prepare.encoding import Encoding
from mdr_dist.data.prepare.feature import FeatureRecipe
from mdr_dist.data.prepare.grow import Earlier
from mdr_dist.data.prepare.recipe import Recipe
from mdr_dist.data.prepare.sections import SPLITS
from mdr_dist.errors import UserError
from mdr_dist.schema import Feature

AT_ONCE = 1 << 19  # words: the engine cannot spill the lists that it gathers


def encode(
    connection: duckdb.DuckDBPyConnection, recipe: Recipe, *, dataset: NewDataset, encoding: Encoding, where: str
) -> dict[int, tuple[Feature, str]]:
    """Write the vocabularies of words; text feature's place → its schema entry and the SQL of its column.

    `UserError` if one has no word.
    """
    made: dict[int, tuple[Feature, str]] = {}
    for space, features in _spaces(recipe).items():
        first = next(iter(features.values()))
        least = max(recipe.min_count if first.min_count is None else first.min_count, 1)
        _choose(connection, features, least=least, earlier=encoding.earlier)
        rows = 1 + engine.one(connection, "SELECT count(*) FROM words")
        if rows == 1:
            raise UserError(f"{where}: features: {first.name!r}: {_why_empty(connection, first, least)}")
        encoding.digests[space] = dataset.write_vocabulary(
            space,
            connection.sql(
                "SELECT * FROM (SELECT 0::BIGINT AS id, '' AS key, 0::BIGINT AS count "
                "UNION ALL SELECT id, key, train FROM words) ORDER BY id"
            ).to_arrow_table(),
        )
        for place, feature in features.items():
            column, encoding.joins[place] = _look_up(connection, place, width=feature.most)
            entry = Feature(name=feature.name, kind="text", rows=rows, width=feature.most, vocabulary=space)
            made[place] = entry, column
            encoding.report[feature.name] = {"rows": rows, **_without(connection, place)}
        connection.execute("DROP TABLE words; DROP TABLE counts")
    return made


def _spaces(recipe: Recipe) -> dict[str, dict[int, FeatureRecipe]]:
    """Vocabulary → its text features by place."""
    spaces: dict[str, dict[int, FeatureRecipe]] = {}
    for place, feature in enumerate(recipe.features):
        if feature.kind == "text":
            spaces.setdefault(feature.space, {})[place] = feature
    return spaces


def _choose(
    connection: duckdb.DuckDBPyConnection, features: dict[int, FeatureRecipe], *, least: int, earlier: Earlier | None
) -> None:
    """Make the tables `counts` (key, how often it occurs in training, in how many texts) and `words` (id, key, train).

    Words of an earlier data set come first, with their ids.
    """
    first = next(iter(features.values()))
    texts = " UNION ALL ".join(
        f"SELECT f{place} AS text FROM rows WHERE _s = 0 AND _n = 0 AND f{place} IS NOT NULL" for place in features
    )
    occurring = f"SELECT key, count(*) AS train FROM (SELECT unnest(text) AS key FROM ({texts})) GROUP BY key"
    once = f"SELECT unnest(list_distinct(text)) AS key FROM ({texts})"
    holding = f"SELECT key, count(*) AS texts FROM ({once}) GROUP BY key"
    connection.execute(f"CREATE TABLE counts AS SELECT * FROM ({occurring}) JOIN ({holding}) USING (key)")
    most = first.max_df * engine.one(connection, f"SELECT count(*) FROM ({texts})")
    connection.execute("CREATE TABLE words (id BIGINT, key VARCHAR, train BIGINT)")
    known = earlier.vocabulary(first.space) if earlier else pa.table({"id": [], "key": []})
    if len(known):
        connection.register("known", known)
        connection.execute(
            "INSERT INTO words SELECT k.id, k.key, coalesce(c.train, 0) FROM known k LEFT JOIN counts c USING (key)"
        )
        connection.unregister("known")
    chosen = (
        f"SELECT * FROM counts WHERE texts <= {most!r}::DOUBLE AND train >= {least} "
        f"ORDER BY train DESC, key LIMIT {first.words}"
    )
    connection.execute(
        f"INSERT INTO words SELECT {len(known)} + row_number() OVER (ORDER BY train DESC, key), key, train "
        f"FROM ({chosen}) c WHERE NOT EXISTS (SELECT 1 FROM words w WHERE w.key = c.key)"
    )


def _why_empty(connection: duckdb.DuckDBPyConnection, feature: FeatureRecipe, least: int) -> str:
    total = engine.one(connection, "SELECT count(*) FROM counts")
    if not total:
        return f"no training row has a word in column {feature.source!r}"
    return (
        f"no word is left: each of the {total} in training is in more than max_df {feature.max_df:g} of the reviews "
        f"or occurs fewer than min_count {least} times"
    )


def _look_up(connection: duckdb.DuckDBPyConnection, place: int, *, width: int) -> tuple[str, str]:
    """The SQL of a text's column, and the join that it needs; texts without a known word are not in its table."""
    table, alias = f"text{place}", f"v{place}"
    connection.execute(f"CREATE TABLE {table} (origin BIGINT, ids INTEGER[])")
    mean, end = connection.execute(f"SELECT avg(len(f{place})), max(rowid) + 1 FROM rows").fetchall()[0]
    step = 1 + int(AT_ONCE / max(mean or 0, 1))
    for start in range(0, end, step):
        each = (
            f"SELECT rowid AS origin, unnest(f{place}) AS key, generate_subscripts(f{place}, 1) AS step FROM rows "
            f"WHERE rowid >= {start} AND rowid < {start + step}"
        )
        connection.execute(
            f"INSERT INTO {table} SELECT e.origin, list(CAST(w.id AS INTEGER) ORDER BY e.step)[:{width}] "
            f"FROM ({each}) e JOIN words w USING (key) GROUP BY e.origin"
        )
    return f"coalesce({alias}.ids, CAST([] AS INTEGER[]))", f"LEFT JOIN {table} {alias} ON {alias}.origin = r.rowid"


def _without(connection: duckdb.DuckDBPyConnection, place: int) -> dict[str, dict[str, int]]:
    """Rows of each split without a text (`missing`), and with one that has no known word (`empty`)."""
    found: dict[str, dict[str, int]] = {}
    for kind, condition in (("missing", "IS NULL"), ("empty", "IS NOT NULL")):
        counts = ", ".join(f"count(*) FILTER (_s = {number})" for number in range(len(SPLITS)))
        row = connection.execute(
            f"SELECT {counts} FROM rows r ANTI JOIN text{place} t ON t.origin = r.rowid "
            f"WHERE _n = 0 AND f{place} {condition}"
        ).fetchall()[0]
        found[kind] = dict(zip(SPLITS, row, strict=True))
    return found
