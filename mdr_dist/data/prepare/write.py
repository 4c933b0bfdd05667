"""The table `rows` → encoded cells → shards. A cell is one (domain, split, period), and one task."""

from __future__ import annotations

import os
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from mdr_dist.data.layout import ROW_GROUP, Shard, ShardWriter
from mdr_dist.data.prepare import engine
from mdr_dist.data.prepare.encoding import Encoding
from mdr_dist.data.prepare.recipe import Recipe
from mdr_dist.data.prepare.sections import SPLITS
from mdr_dist.schema import USER_KEY


@dataclass(frozen=True)
class Cell:
    """One folder of encoded Parquet files and the shards to make of it."""

    folder: str
    root: str
    domain: str
    split: str
    period: int
    columns: pa.Schema
    memory_gb: float
    threads: int


def write_cells(
    connection: duckdb.DuckDBPyConnection, recipe: Recipe, *, encoding: Encoding, work: str
) -> list[tuple[int, int, int]]:
    """Encode all rows into `work/cells`, one folder for each (domain, split, period); returns these numbers."""
    columns = list(encoding.columns)
    columns += [f"CAST(l{place} AS FLOAT) AS {engine.name(label)}" for place, label in enumerate(recipe.labels)]
    columns += [f"r._user AS {USER_KEY}"] + (['r._time AS "time"'] if recipe.time else [])
    # a column of a partition is not written, so the hash and the numbers stand beside the features
    query = f"SELECT {', '.join(columns)}, r._h, r._n, r._d, r._s, r._p FROM rows r {' '.join(encoding.joins.values())}"
    folder = os.path.join(work, "cells")
    connection.execute(f"COPY ({query}) TO {engine.text(folder)} (FORMAT parquet, PARTITION_BY (_d, _s, _p))")
    found = connection.execute("SELECT DISTINCT _d, _s, _p FROM rows ORDER BY ALL").fetchall()
    return [(d, s, p) for d, s, p in found]


def cell_folder(work: str, *, d: int, s: int, p: int) -> str:
    """Where `write_cells` puts a cell."""
    return os.path.join(work, "cells", f"_d={d}", f"_s={s}", f"_p={p}")


def write_cell(cell: Cell) -> list[Shard]:
    """Write one cell's shards: rows by their hash, which is a random order that depends on the seed alone.

    Rows of equal hash (the same user, item and time) are told apart by their other values. In a period rows go by time
    first, then those of the log before sampled negatives: the order in which histories grow.
    """
    names, files = engine.names(cell.columns.names), engine.text(f"{cell.folder}/*.parquet")
    order = f"{'time, _n, ' if cell.period >= 0 else ''}_h, hash({names})"
    spill = f"{cell.folder}.spill"
    writer = ShardWriter(cell.root, cell.columns, domain=cell.domain, split=cell.split, period=cell.period)
    with engine.connect(spill, memory_gb=cell.memory_gb, threads=cell.threads) as connection:
        reader = connection.sql(f"SELECT {names} FROM read_parquet({files}) ORDER BY {order}").to_arrow_reader(
            ROW_GROUP
        )
        for batch in reader:
            writer.write(pa.Table.from_batches([batch]))
    return writer.close()


def split_name(number: int) -> str:
    """The name of a split's number."""
    return SPLITS[number]
