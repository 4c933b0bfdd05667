"""duckdb, the out-of-core engine of `prepare`: connections with a memory bound, and safe SQL text."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import duckdb

from mdr_dist.errors import UserError


def connect(work: str, *, memory_gb: float, threads: int = 0, database: str = "") -> duckdb.DuckDBPyConnection:
    """A connection that spills to `work` past `memory_gb`; `threads` 0: one a core.

    With a `database` file name the tables live in that file of `work`, and the connection is locked down: it reaches no
    file outside `work`, loads no extension and takes no further settings, for it evaluates a recipe's expressions.
    """
    spill = os.path.join(work, "spill")
    os.makedirs(spill, exist_ok=True)
    config: dict[str, Any] = {
        "memory_limit": f"{max(int(memory_gb * 1024), 128)}MiB",
        "temp_directory": spill,
        "threads": threads or os.cpu_count() or 1,
        # reading keeps the order of a file, by which a row is found again; the big tables carry their own order
        "preserve_insertion_order": not database,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    connection = duckdb.connect(os.path.join(work, database) if database else ":memory:", config=config)
    connection.execute("SET TimeZone = 'UTC'")
    if database:
        connection.execute(f"SET allowed_directories = [{text(work + '/')}]")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
    return connection


# what data or machine can do to a sound query; any other error of the engine is a fault of ours
DATA_FAULTS = (
    duckdb.OutOfMemoryException,
    duckdb.IOException,
    duckdb.ConversionException,
    duckdb.OutOfRangeException,
    duckdb.InvalidInputException,
)


@contextmanager
def blame(what: str, *, kinds: tuple[type[Exception], ...] = (duckdb.Error,)) -> Iterator[None]:
    """Turn an engine's error of these kinds into a `UserError` that begins with `what`."""
    try:
        yield
    except kinds as error:
        memory = "memory_gb of the recipe is too small: " if isinstance(error, duckdb.OutOfMemoryException) else ""
        raise UserError(f"{what}: {memory}{one_line(error)}") from error


def one_line(error: Exception) -> str:
    """The first line of an error's text."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


def name(identifier: str) -> str:
    """A quoted SQL identifier."""
    return '"' + identifier.replace('"', '""') + '"'


def names(identifiers: Iterable[str]) -> str:
    """Quoted SQL identifiers, comma-separated."""
    return ", ".join(name(identifier) for identifier in identifiers)


def text(value: str) -> str:
    """A quoted SQL string."""
    return "'" + value.replace("'", "''") + "'"


def texts(values: Iterable[str]) -> str:
    """A SQL list of quoted strings."""
    return "[" + ", ".join(text(value) for value in values) + "]"


def one(connection: duckdb.DuckDBPyConnection, query: str) -> Any:
    """The single value of a query."""
    return connection.execute(query).fetchall()[0][0]
