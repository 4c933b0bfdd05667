"""`prepare`: from a recipe and raw files to a data set, out of core and all or nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import duckdb

from mdr_dist import storage
from mdr_dist.config import load
from mdr_dist.data.layout import NewDataset, arrow_schema
from mdr_dist.data.prepare import engine, periods, read, report, rows, vectors, write
from mdr_dist.data.prepare.core import prune
from mdr_dist.data.prepare.encode import encode
from mdr_dist.data.prepare.encoding import Encoding
from mdr_dist.data.prepare.grow import Earlier, open_earlier
from mdr_dist.data.prepare.inputs import Input, expand
from mdr_dist.data.prepare.negatives import sample
from mdr_dist.data.prepare.recipe import Recipe
from mdr_dist.data.prepare.reject import Rejects
from mdr_dist.data.prepare.sections import SPLITS, Files
from mdr_dist.data.prepare.split import split
from mdr_dist.data.prepare.tasks import Pool
from mdr_dist.errors import UserError
from mdr_dist.schema import Schema


def prepare(
    recipe: str, out: str, *, raw: str = "", workers: int = 0, grow: str = "", settings: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Make the data set `out` (a new folder, local or a URL) of the raw files, as the recipe file says.

    `settings` are `key.path=value` laid over the recipe. `grow` is a data set that the same recipe made of fewer rows:
    its ids stay and new ones follow, as `grow.py` says.

    `raw` is the folder of raw files, default `$MDR_DATA/<the recipe's folder>`. `workers` 0 does everything in this
    process; more reads files and writes shards as Ray tasks, with the same shards as a result. Returns the report,
    which also stands in `report.json`. Intermediate files lie in a folder beside `out` (in the system's folder for
    temporary files if `out` is remote) and need about three times the room of the raw table. `UserError` where recipe
    or data are wrong; then nothing is left behind.
    """
    plan = load(Recipe, recipe, settings)
    name = os.path.basename(os.path.dirname(os.path.abspath(recipe)))
    folder, out = _raw_folder(recipe, raw, plan.folder or name), _absolute(out)
    earlier = open_earlier(grow, plan, recipe) if grow else None
    with NewDataset(out) as dataset, _work(out) as work, Pool(workers) as pool:
        connection = engine.connect(work, memory_gb=plan.memory_gb, database="prepare.duckdb")
        try:
            with engine.blame(recipe, kinds=engine.DATA_FAULTS):
                return _Job(plan, recipe, name, work, connection, earlier=earlier).run(folder, dataset, pool)
        finally:
            connection.close()


def _raw_folder(recipe: str, raw: str, name: str) -> str:
    if not raw and "MDR_DATA" not in os.environ:
        raise UserError(
            f"{recipe}: where are the raw files? Give --raw DIR, or set MDR_DATA to the folder above {name}"
        )
    folder = raw or storage.join(os.environ["MDR_DATA"], name)
    if not storage.exists(folder):
        raise UserError(f"{folder}: no such folder of raw files; --raw names another")
    return _absolute(folder)


def _absolute(url: str) -> str:
    """The URL as a task with another working folder must name it."""
    return storage.filesystem(url)[1] if storage.is_local(url) else url


@contextmanager
def _work(out: str) -> Iterator[str]:
    """A folder for intermediate files, removed at the end."""
    if storage.is_local(out):
        folder = f"{out.rstrip('/')}.{uuid.uuid4().hex[:8]}.work"
        os.makedirs(folder)
    else:
        folder = tempfile.mkdtemp(prefix="mdr-prepare-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Job:
    """One run of `prepare`: the steps in order, sharing a connection and the rejected rows."""

    def __init__(
        self,
        recipe: Recipe,
        where: str,
        name: str,
        work: str,
        connection: duckdb.DuckDBPyConnection,
        *,
        earlier: Earlier | None = None,
    ) -> None:
        self._recipe, self._where, self._name = recipe, where, name
        self._work, self._connection, self._earlier = work, connection, earlier
        self._rejects = Rejects(recipe.max_rejected)
        self._inputs: list[Input] = []
        self._skipped: list[frozenset[int]] = []

    def run(self, raw: str, dataset: NewDataset, pool: Pool) -> dict[str, Any]:
        """All steps; returns the report."""
        result: dict[str, Any] = {"name": self._name, "seed": self._recipe.seed}
        pretrained = vectors.find(self._recipe, raw)
        staged, result["rows"] = self._read(raw, pool)
        self._parse(staged)
        kept = rows.keep(self._connection, self._recipe, where=self._where, earlier=self._earlier)
        rare = prune(self._connection, self._recipe, self._where)
        shutil.rmtree(os.path.join(self._work, "staged"))
        starts, left_out = self._split(dataset)
        negatives, given_up = sample(self._connection, self._recipe)
        counts = report.row_counts(self._connection, kept.domains)
        self._check_empty(counts)
        encoding = self._encode(kept.domains, dataset, pretrained)
        written = sum(sum(by_domain.values()) for by_domain in counts.values())
        result["rows"] |= {
            "rejected": len(self._rejects.rows),
            "dropped": kept.dropped,
            "deduplicated": kept.deduplicated,
            "rare": rare,
            **left_out,
            "kept": written - negatives,
            "negatives": negatives,
            "negatives_given_up": given_up,
            "written": written,
        }
        result |= report.describe(self._connection, kept.domains, list(self._recipe.labels))
        result |= periods.describe(self._connection, kept.domains, starts=starts)
        result |= {"features": encoding.report, "recipe": self._recipe.model_dump(mode="json", exclude_defaults=True)}
        schema = self._schema(kept.domains, encoding, counts, periods=len(starts) + 1 if starts else 0)
        cells = write.write_cells(self._connection, self._recipe, encoding=encoding, work=self._work)
        self._connection.close()  # its memory is the tasks' now
        shards = pool.map(write.write_cell, self._cells(cells, schema, dataset.root, pool))
        self._rejects.write(dataset.root)
        dataset.commit(schema, [shard for part in shards for shard in part], result)
        return result

    def _read(self, raw: str, pool: Pool) -> tuple[dict[str, list[str]], dict[str, Any]]:
        """Stage every file; the staged files by table ("" for the log), and the counts of rows read."""
        os.makedirs(os.path.join(self._work, "staged"))
        staged: dict[str, list[str]] = {}
        sources: list[tuple[str, Files]] = [("", files) for files in self._recipe.log]
        for table, files in (*sources, *self._recipe.tables.items()):
            for url, constants in expand(files, raw):
                path = os.path.join(self._work, "staged", f"{len(self._inputs):05d}.parquet")
                staged.setdefault(table, []).append(path)
                self._inputs.append(
                    Input(
                        files=files,
                        url=url,
                        number=len(self._inputs),
                        staged=path,
                        constants=tuple(constants.items()),
                        limit=self._recipe.max_rejected,
                        memory_gb=self._recipe.memory_gb / pool.share,
                        threads=0 if pool.share == 1 else 1,
                    )
                )
        results = pool.map(read.read, self._inputs)
        for result in results:
            self._rejects.add(result.rejects)
            self._skipped.append(result.skipped)
        files_rows = {
            source.url: result.rows + len(result.rejects) for source, result in zip(self._inputs, results, strict=True)
        }
        logged = len(staged[""])
        return staged, {"files": files_rows, "read": sum(list(files_rows.values())[:logged])}

    def _parse(self, staged: dict[str, list[str]]) -> None:
        bad: dict[int, dict[int, tuple[str, str]]] = {}
        for file, row, column, reason in rows.parse(self._connection, self._recipe, where=self._where, staged=staged):
            bad.setdefault(file, {})[row] = (column, reason)
        for file, faults in bad.items():
            self._rejects.add(read.explain(self._inputs[file], faults, self._skipped[file]))

    def _split(self, dataset: NewDataset) -> tuple[tuple[int, ...], dict[str, int]]:
        """Split the rows and cut them into periods; the starts of these, and how many rows were dropped and why."""
        starts = periods.cut(self._connection, self._recipe, self._where)
        if self._earlier:
            self._earlier.check_starts(starts, self._where)
        users = self._earlier.users() if self._earlier else None
        dropped = split(self._connection, self._recipe, where=self._where, starts=starts, users=users)
        periods.check(self._connection, self._where, starts=starts)
        dataset.write_users(
            self._connection.sql("SELECT number AS user_key, key FROM users ORDER BY number").to_arrow_table()
        )
        return starts, dropped

    def _check_empty(self, counts: dict[str, dict[str, int]]) -> None:
        cold = self._recipe.split.cold_start
        for split_name in sorted(set(counts) | self._wanted(), key=SPLITS.index):
            for domain in next(iter(counts.values())):
                needed = not cold or split_name == "train" or domain == cold.domain
                if needed and not counts.get(split_name, {}).get(domain):
                    raise UserError(
                        f"{self._where}: domain {domain!r} has no rows in split {split_name!r}; "
                        "leave it out with domain.keep or domain.largest, or split otherwise"
                    )

    def _wanted(self) -> set[str]:
        """The splits that the recipe asks for."""
        rule = self._recipe.split
        if rule.last:
            return set(SPLITS)
        if rule.cold_start:
            return {"train", "test"} | ({"val"} if rule.cold_start.val else set())
        if rule.column:
            return {"train"} | ({"val"} if rule.column.val else set())
        shares = rule.random or rule.user or rule.time
        if shares and (shares.val or shares.test):
            return {"train"} | {split for split in ("val", "test") if getattr(shares, split)}
        return {"train"} | {split for split in ("val", "test") if rule.time and getattr(rule.time, f"{split}_from")}

    def _encode(self, domains: tuple[str, ...], dataset: NewDataset, pretrained: dict[str, str]) -> Encoding:
        """Write vocabularies, and vectors from these files by vocabulary, and say how rows are encoded."""
        encoding = encode(
            self._connection,
            self._recipe,
            domains=domains,
            dataset=dataset,
            where=self._where,
            earlier=self._earlier,
        )
        told = vectors.add(pretrained, dataset, os.path.join(self._work, "vectors"))
        for feature in self._recipe.features:
            if feature.vectors:
                encoding.report[feature.name]["vectors"] = told[feature.space]
        return encoding

    def _schema(
        self, domains: tuple[str, ...], encoding: Encoding, counts: dict[str, dict[str, int]], *, periods: int
    ) -> Schema:
        return Schema(
            name=self._name,
            domains=domains,
            features=tuple(encoding.features),
            user=self._recipe.user,
            item=self._recipe.item,
            labels=tuple(self._recipe.labels),
            periods=periods,
            rows=counts,
            digests=encoding.digests,
            grown_from=self._earlier.fingerprints if self._earlier else (),
        )

    def _cells(self, numbers: list[tuple[int, int, int]], schema: Schema, root: str, pool: Pool) -> list[write.Cell]:
        columns = arrow_schema(schema, time=self._recipe.time is not None)
        return [
            write.Cell(
                folder=write.cell_folder(self._work, d=d, s=s, p=p),
                root=root,
                domain=schema.domains[d],
                split=SPLITS[s],
                period=p,
                columns=columns,
                memory_gb=self._recipe.memory_gb / pool.share,
                threads=0 if pool.share == 1 else 1,
            )
            for d, s, p in numbers
        ]
