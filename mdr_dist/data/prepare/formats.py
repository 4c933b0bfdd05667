"""Each file format as a relation of the engine, and its values as the types the recipe declares."""

from __future__ import annotations

import os

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.io

from mdr_dist.data.prepare import engine
from mdr_dist.data.prepare.inputs import Input
from mdr_dist.data.prepare.reject import csv_reader, open_text
from mdr_dist.data.prepare.sections import Files
from mdr_dist.errors import UserError


def relation_of(connection: duckdb.DuckDBPyConnection, source: Input, path: str) -> tuple[str, dict[str, str]]:
    """The rows of the file at `path` as SQL, and for each declared column the SQL of its raw value.

    `UserError` where a declared column is not there. A relation of JSON lines has the column `_object`: whether a line
    holds an object.
    """
    if source.files.format in ("csv", "tsv"):
        return _csv(source, path)
    if source.files.format == "jsonl":
        return _jsonl(source, path)
    return _parquet(connection, source, path if source.files.format == "parquet" else _unpack_mat(source, path))


def typed(value: str, kind: str, files: Files) -> tuple[str, str]:
    """SQL for a raw value as its type (missing where it does not parse) and for whether it does not parse."""
    if kind == "list":
        return f"TRY_CAST({value} AS VARCHAR[])", f"{value} IS NOT NULL AND TRY_CAST({value} AS VARCHAR[]) IS NULL"
    plain = f"CAST({value} AS VARCHAR)"
    if files.nulls:
        plain = f"CASE WHEN {plain} NOT IN ({', '.join(map(engine.text, files.nulls))}) THEN {plain} END"
    if kind == "text":
        return plain, ""
    number = f"TRY_CAST({plain} AS DOUBLE)"
    if kind == "float":
        return (
            f"CASE WHEN isfinite({number}) THEN {number} END",
            f"{plain} IS NOT NULL AND NOT coalesce(NOT isinf({number}), false)",
        )
    whole = f"TRY_CAST({plain} AS BIGINT)"  # the cast alone would round 4.7 to 5
    return (
        f"CASE WHEN {number} = {whole} THEN {whole} END",
        f"{plain} IS NOT NULL AND NOT coalesce({number} = {whole}, false)",
    )


def _csv(source: Input, path: str) -> tuple[str, dict[str, str]]:
    files = source.files
    names = _header(source, path) if files.header else list(files.columns)
    columns = ", ".join(f"{engine.text(column)}: 'VARCHAR'" for column in names)
    quote = engine.text(files.quote)
    relation = (
        f"read_csv({engine.text(path)}, auto_detect = false, header = {str(files.header).lower()}, "
        f"delim = {engine.text(files.separator)}, quote = {quote}, escape = {quote}, "
        f"encoding = {engine.text(files.encoding)}, columns = {{{columns}}}, "
        f"store_rejects = true, rejects_limit = {source.limit + 1000})"
    )
    return relation, {column: engine.name(column) for column in files.columns}


def _header(source: Input, path: str) -> list[str]:
    """The names in the first line; `UserError` if a declared column is not among them."""
    try:
        with open_text(path, source.files.encoding) as file:
            names = next(csv_reader(file, source.files), [])
    except OSError as error:
        raise UserError(f"{source.url}: cannot be unpacked: {engine.one_line(error)}") from error
    names = [names[0].removeprefix("\ufeff"), *names[1:]] if names else []
    _check_names(source, names)
    return names


def _check_names(source: Input, names: list[str]) -> None:
    shown = ", ".join(names) or "nothing"
    for column in source.files.columns:
        if names.count(column) != 1:
            what = "stands twice" if column in names else "is missing"
            raise UserError(f"{source.url}: column {column!r} {what}; the file has {shown}")
    extra = [column for column in names if column not in source.files.columns]
    if extra and source.files.strict_columns:
        raise UserError(f"{source.url}: column {extra[0]!r} is not in the recipe's columns, which are strict")
    if len(set(names)) < len(names):
        raise UserError(f"{source.url}: two columns have the same name; the file has {shown}")


def _jsonl(source: Input, path: str) -> tuple[str, dict[str, str]]:
    # a unit separator cannot stand unescaped in JSON, so each line is one value
    lines = (
        f"read_csv({engine.text(path)}, auto_detect = false, header = false, delim = chr(31), quote = '', escape = '', "
        f"columns = {{'line': 'VARCHAR'}}, max_line_size = 33554432, buffer_size = 67108864, "
        f"store_rejects = true, rejects_limit = {source.limit + 1000})"
    )
    good = "(json_valid(line) AND json_type(CASE WHEN json_valid(line) THEN line END) = 'OBJECT')"
    relation = (
        f"(SELECT _object, CASE WHEN _object THEN line END AS line FROM "
        f"(SELECT line, coalesce({good}, false) AS _object FROM {lines} WHERE line IS NOT NULL))"
    )
    values: dict[str, str] = {}
    for column, kind in source.files.columns.items():
        place = engine.text(f'$."{column}"')
        values[column] = f"json_extract_string(line, {place})"
        if kind == "list":
            values[column] = f"from_json(json_extract(line, {place}), '[\"VARCHAR\"]')"
    return relation, values


def _parquet(connection: duckdb.DuckDBPyConnection, source: Input, path: str) -> tuple[str, dict[str, str]]:
    relation = f"read_parquet({engine.text(path)})"
    _check_names(source, [row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()])
    return relation, {column: engine.name(column) for column in source.files.columns}


def _unpack_mat(source: Input, path: str) -> str:
    """The matrix as a Parquet file, its columns named as in the recipe."""
    variable, names = source.files.variable, list(source.files.columns)
    try:
        matrix = np.asarray(scipy.io.loadmat(path, variable_names=[variable])[variable])
    except KeyError as error:
        raise UserError(f"{source.url}: no matrix named {variable!r} in the file") from error
    except Exception as error:  # scipy raises what its parser happens to trip over
        raise UserError(
            f"{source.url}: not a readable .mat file (up to version 7): {engine.one_line(error)}"
        ) from error
    if matrix.ndim != 2 or matrix.shape[1] != len(names):
        raise UserError(f"{source.url}: {variable} has the shape {matrix.shape}, the recipe names {len(names)} columns")
    out = os.path.join(source.work, "matrix.parquet")
    pq.write_table(pa.table({column: matrix[:, place] for place, column in enumerate(names)}), out)
    return out
