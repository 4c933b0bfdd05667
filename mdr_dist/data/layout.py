"""A data set on disk: Parquet shards, their index, the schema, vocabularies.

    schema.json                    written last: a folder without it is not a data set
    files.json                     every shard with its rows and row groups, so that opening lists no folder
    vocabulary/<space>.parquet     id int64, key string, count int64 (and domain string, in a per-domain space)
    vectors/<space>.parquet        id int64, vector fixed-size list of float32: pretrained ones of words that have one
    users.parquet                  user_key int64, key string: every user of a data set that `prepare` made
    report.json  rejected/         what `prepare` kept and dropped, and why
    domain=<name>/split=<name>/part-00000.parquet

A shard holds rows of one domain, one split and one period, in row groups of ROW_GROUP rows. Columns: one a feature
(`id` int32 or int64; `ids` and `text` list of those; `dense` float32, or a fixed-size list of float32 where the width
is over 1), one a label (float32), `user_key` int64 and, where the log had it, `time` int64 in seconds. A `text` is one
review: ids from 1 on of its known words in order; id 0, whose key is "", stands in no list and is for padding.

Where time is cut into periods, `prepare` writes the rows of a domain, split and period in time order, through all part
files; elsewhere their order is random. So in a period a user's first row of a domain carries the history up to that
row: of one domain and one split, that up to the period's begin. With more of them it also has what the user did in the
others since then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Annotated, Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, Field

from mdr_dist import storage
from mdr_dist.config import validated
from mdr_dist.errors import UserError
from mdr_dist.new_folder import NewFolder
from mdr_dist.schema import DOMAIN, USER_KEY, Feature, Schema

ROW_GROUP = 65_536
FILE_ROWS = 64 * ROW_GROUP
SCHEMA, FILES, REPORT = "schema.json", "files.json", "report.json"
USERS = "users.parquet"
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Shard:
    """One Parquet file: `row_groups` holds the rows of each; `period` is -1 where time is not cut."""

    path: str
    domain: str
    split: str
    period: int
    rows: Count
    row_groups: tuple[Count, ...]
    bytes: Count


@dataclass(frozen=True)
class Group:
    """Row group `index` of a shard; `number` counts all row groups of the data set in path order."""

    number: int
    shard: Shard
    index: int
    rows: int
    domain: int


class _Index(BaseModel):
    files: tuple[Shard, ...]


def arrow_schema(schema: Schema, *, time: bool = False) -> pa.Schema:
    """The columns of a shard."""
    fields = [pa.field(feature.name, _arrow_type(feature)) for feature in schema.features if feature.name != DOMAIN]
    fields += [pa.field(label, pa.float32()) for label in schema.labels] + [pa.field(USER_KEY, pa.int64())]
    return pa.schema(fields + ([pa.field("time", pa.int64())] if time else []))


def _arrow_type(feature: Feature) -> pa.DataType:
    if feature.kind == "dense":
        return pa.float32() if feature.width == 1 else pa.list_(pa.float32(), feature.width)
    integer = pa.int32() if feature.rows <= 2**31 - 1 else pa.int64()
    return integer if feature.kind == "id" else pa.list_(integer)


class ShardWriter:
    """Writes one (domain, split, period) as part files of bounded size, row groups of exactly ROW_GROUP rows.

    `first` numbers the first part, so that several writers may fill one folder.
    """

    def __init__(
        self, root: str, columns: pa.Schema, *, domain: str, split: str, period: int = -1, first: int = 0
    ) -> None:
        self._root, self._columns, self._part = root, columns, first
        self._domain, self._split, self._period = domain, split, period
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0
        self._writer: pq.ParquetWriter | None = None
        self._file: Any = None
        self._path = ""
        self._groups: list[int] = []
        self.shards: list[Shard] = []

    def write(self, table: pa.Table) -> None:
        """Add rows; their order is kept."""
        self._waiting.append(table.select(self._columns.names).cast(self._columns))
        self._waiting_rows += table.num_rows
        if self._waiting_rows < ROW_GROUP:
            return
        whole = pa.concat_tables(self._waiting).combine_chunks()
        for start in range(0, whole.num_rows - ROW_GROUP + 1, ROW_GROUP):
            self._write_group(whole.slice(start, ROW_GROUP))
        rest = whole.slice(whole.num_rows - whole.num_rows % ROW_GROUP)
        self._waiting, self._waiting_rows = [rest], rest.num_rows

    def close(self) -> list[Shard]:
        """Write what is left and return the shards."""
        if self._waiting_rows:
            self._write_group(pa.concat_tables(self._waiting))
            self._waiting, self._waiting_rows = [], 0
        self._close_file()
        return self.shards

    def _write_group(self, group: pa.Table) -> None:
        if self._writer is None:
            period = f"period-{self._period:04d}-" if self._period >= 0 else ""
            self._path = (
                f"domain={quote(self._domain, safe='')}/split={self._split}/{period}part-{self._part:05d}.parquet"
            )
            self._file = storage.create(storage.join(self._root, self._path))
            self._writer = pq.ParquetWriter(self._file, self._columns, compression="zstd", compression_level=1)
            self._groups = []
        self._writer.write_table(group, row_group_size=ROW_GROUP)
        self._groups.append(group.num_rows)
        if sum(self._groups) >= FILE_ROWS:
            self._close_file()

    def _close_file(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        size, groups = storage.commit(self._file), tuple(self._groups)
        self.shards.append(Shard(self._path, self._domain, self._split, self._period, sum(groups), groups, size))
        self._writer, self._part = None, self._part + 1


class NewDataset:
    """A data set being made, which is there only after `commit`. Use as a context manager."""

    def __init__(self, out: str) -> None:
        self._folder = NewFolder(out)
        self.root = self._folder.root

    def __enter__(self) -> NewDataset:
        self._folder.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._folder.__exit__(*error)

    def write_vocabulary(self, space: str, table: pa.Table) -> str:
        """Write `id, key, count[, domain]` in id order and return the digest of its keys."""
        self._write(_vocabulary(space), table)
        digest = hashlib.sha256()
        for name in [c for c in ("id", "key", "domain") if c in table.column_names]:
            for batch in table.select([name]).to_batches(1 << 20):  # how the table is chunked must not matter
                digest.update(b"".join(str(value).encode() + b"\x1e" for value in batch.column(0).to_pylist()))
            digest.update(b"\x1d")
        return digest.hexdigest()

    def write_vectors(self, space: str, table: pa.Table) -> None:
        """Write `id, vector` of the words of a vocabulary that have a pretrained vector, in id order."""
        self._write(_vectors(space), table)

    def write_users(self, table: pa.Table) -> None:
        """Write `user_key, key`, in order of `user_key`."""
        self._write(USERS, table)

    def _write(self, name: str, table: pa.Table) -> None:
        file = storage.create(storage.join(self.root, name))
        pq.write_table(table, file, compression="zstd")
        storage.commit(file)

    def commit(self, schema: Schema, shards: Iterable[Shard], report: dict[str, Any]) -> None:
        """Write index, report and schema, and make the data set appear."""
        ordered = sorted(shards, key=lambda shard: shard.path)
        storage.write_json(storage.join(self.root, FILES), {"files": [asdict(shard) for shard in ordered]})
        storage.write_json(storage.join(self.root, REPORT), report)
        told = schema.model_dump(mode="json", exclude=None if schema.grown_from else {"grown_from"})
        storage.write_json(storage.join(self.root, SCHEMA), told)
        self._folder.commit()


def read_schema(path: str) -> Schema:
    """The schema of a data set; a `UserError` if there is none or it is not one."""
    if not storage.exists(storage.join(path, SCHEMA)):
        raise UserError(f"{path}: not a data set (no {SCHEMA}); make one with `mdr prepare` or `mdr synth`")
    return validated(
        Schema,
        storage.read_json(storage.join(path, SCHEMA)),
        where=f"{path}/{SCHEMA}: not a schema of this version",
    )


def read_shards(path: str) -> tuple[Shard, ...]:
    """The index of a data set's shards, in path order."""
    where = storage.join(path, FILES)
    index = validated(_Index, storage.read_json(where), where=f"{where}: not an index of shards")
    for shard in index.files:
        storage.inside(path, shard.path)
    return index.files


def read_vocabulary(path: str, space: str) -> pa.Table:
    """A vocabulary of a data set, in id order; a `UserError` if it is not there."""
    return _read(storage.join(path, _vocabulary(space)))


def read_vectors(path: str, space: str) -> pa.Table | None:
    """`id, vector` of the words of a vocabulary that have a pretrained vector, in id order; `None` without such."""
    url = storage.join(path, _vectors(space))
    return _read(url) if storage.exists(url) else None


def read_users(path: str) -> pa.Table:
    """`user_key, key` of every user of a data set that `prepare` made; a `UserError` if it is not there."""
    return _read(storage.join(path, USERS))


def _vocabulary(space: str) -> str:
    return f"vocabulary/{quote(space, safe='')}.parquet"


def _vectors(space: str) -> str:
    return f"vectors/{quote(space, safe='')}.parquet"


def _read(url: str) -> pa.Table:
    fs, path = storage.filesystem(url)
    try:
        with fs.open(path, "rb") as file:
            return pq.ParquetFile(file).read()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserError(f"{url}: no such file; prepare the data set again") from error
