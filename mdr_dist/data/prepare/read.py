"""Raw files → typed Parquet beside the output, one file each, so that everything after reads columns it can trust."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass

import duckdb

from mdr_dist.data.prepare import engine
from mdr_dist.data.prepare.formats import relation_of, typed
from mdr_dist.data.prepare.inputs import Input, local
from mdr_dist.data.prepare.reject import Reject, lines_at, locate
from mdr_dist.errors import UserError

_BAD = {
    "int": "not a whole number",
    "float": "not a finite number",
    "list": "not a list",
    "line": "not a JSON object",
}


@dataclass(frozen=True)
class Staged:
    """What came of one file: its good rows, the rejected ones (enough of them to pass the limit, not always all) and
    the lines that have no row in the staged file."""

    rows: int
    rejects: list[Reject]
    skipped: frozenset[int]


def read(source: Input) -> Staged:
    """Stage one file; `UserError` for a file that is empty, cut short or lacks a declared column."""
    os.makedirs(source.work, exist_ok=True)
    connection = engine.connect(source.work, memory_gb=source.memory_gb, threads=source.threads)
    try:
        path = local(source.url, source.work)
        with engine.blame(source.url):
            return _stage(connection, source, path)
    finally:
        connection.close()
        shutil.rmtree(source.work, ignore_errors=True)


def _stage(connection: duckdb.DuckDBPyConnection, source: Input, path: str) -> Staged:
    files = source.files
    relation, values = relation_of(connection, source, path)
    columns, faults = [], []
    for column, kind in files.columns.items():
        value, fault = typed(values[column], kind, files)
        columns.append(f"{value} AS {engine.name(column)}")
        faults.append(f"WHEN {fault} THEN {engine.text(column + chr(31) + kind)}" if fault else "")
    if files.format == "jsonl":
        faults.insert(0, f"WHEN NOT _object THEN {engine.text(chr(31) + 'line')}")
    columns += [f"{engine.text(value)} AS {engine.name(column)}" for column, value in source.constants]
    bad = f"CASE {' '.join(faults)} END" if any(faults) else "NULL"
    connection.execute(
        f"COPY (SELECT {', '.join(columns)}, {source.number} AS _file, CAST({bad} AS VARCHAR) AS _bad FROM {relation}) "
        f"TO {engine.text(source.staged)} (FORMAT parquet)"
    )
    return _result(connection, source, path)


def _result(connection: duckdb.DuckDBPyConnection, source: Input, path: str) -> Staged:
    staged = f"read_parquet({engine.text(source.staged)}, file_row_number = true)"
    shape = _bad_shape(connection, source, path) if source.files.format in ("csv", "tsv", "jsonl") else []
    rows = engine.one(connection, f"SELECT count(*) FROM {staged}")
    if not rows and not shape:
        raise UserError(f"{source.url}: the file holds no rows")
    if source.files.format == "jsonl":
        for column in source.files.columns:
            if not engine.one(connection, f"SELECT count({engine.name(column)}) FROM {staged}"):
                raise UserError(f"{source.url}: column {column!r} is missing: no line has a value for it")
    bad = connection.execute(
        f"SELECT file_row_number, _bad FROM {staged} WHERE _bad IS NOT NULL ORDER BY 1 LIMIT {source.limit + 1}"
    ).fetchall()
    faults = {number: (fault.split(chr(31))[0], _BAD[fault.split(chr(31))[1]]) for number, fault in bad}
    skipped = frozenset(reject.line for reject in shape)
    rejects = shape + _explain(source, path, faults, skipped)
    return Staged(rows - len(bad), sorted(rejects, key=lambda reject: reject.line), skipped)


def _bad_shape(connection: duckdb.DuckDBPyConnection, source: Input, path: str) -> list[Reject]:
    """Rows with too many or too few columns, or that are no text; one a line."""
    found: dict[int, Reject] = {}
    # the engine's own line numbers are off after blank lines and quoted line breaks; its byte positions are not
    errors = connection.execute(
        "SELECT line_byte_position - 1, error_type, coalesce(csv_line, ''), error_message FROM reject_errors "
        "ORDER BY line_byte_position, column_idx"
    ).fetchall()
    lines = lines_at(path, source.files, [position for position, *_ in errors]) if errors else {}
    for position, kind, row, reason in errors:
        text = row.lstrip("\r\n")  # blank lines before a row count as part of it
        line = lines[position] + row[: len(row) - len(text)].count("\n")
        if kind == "UNQUOTED VALUE":  # it swallows the lines that follow, so nothing can be put aside
            raise UserError(
                f"{source.url}:{line}: a quoted value does not end as it should: {text[:80]!r}; "
                "set `quote` in the recipe ('' for none)"
            )
        why = " ".join(str(reason).split())
        found.setdefault(line, Reject(source.url, line, "", why, text.rstrip("\r\n")))
    return list(found.values())


def explain(source: Input, faults: dict[int, tuple[str, str]], skipped: frozenset[int]) -> list[Reject]:
    """Rejects for rows that turned out bad after the file was staged: row number in it → (column, reason)."""
    os.makedirs(source.work, exist_ok=True)
    try:
        return _explain(source, local(source.url, source.work), faults, skipped)
    finally:
        shutil.rmtree(source.work, ignore_errors=True)


def _explain(source: Input, path: str, faults: dict[int, tuple[str, str]], skipped: frozenset[int]) -> list[Reject]:
    if source.files.format in ("parquet", "mat"):
        places = {number: (number + 1, _staged_text(source, number)) for number in faults}
    else:
        places = locate(path, source.files, wanted=set(faults), skipped=skipped)
    return [
        Reject(source.url, places[number][0], column, reason, places[number][1])
        for number, (column, reason) in sorted(faults.items())
    ]


def _staged_text(source: Input, number: int) -> str:
    """A row of the staged file as JSON; what did not parse is null in it."""
    columns = engine.names(source.files.columns)
    with duckdb.connect() as connection:
        return engine.one(
            connection,
            f"SELECT to_json(row) FROM (SELECT {columns} FROM read_parquet({engine.text(source.staged)}, "
            f"file_row_number = true) WHERE file_row_number = {number}) AS row",
        )
