"""Shards read by row group: the data set's index, and a bounded cache of what was decoded."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import pyarrow.parquet as pq

from mdr_dist import storage
from mdr_dist.data.columns import Columns, Layout, decode, plain
from mdr_dist.data.layout import FILES, Group, Shard, read_schema, read_shards
from mdr_dist.data.ragged import Array
from mdr_dist.data.remote import FOOTERS, Remote
from mdr_dist.errors import UserError
from mdr_dist.schema import Schema

NOWHERE = Shard("", "", "", -1, 0, (), 0)  # of groups whose rows are of no shard: users, or a sample


@dataclass(frozen=True)
class Dataset:
    """An opened data set: its schema and the index of its shards. No shard is read before it is needed."""

    path: str
    schema: Schema
    shards: tuple[Shard, ...]

    @classmethod
    def open(cls, path: str) -> Dataset:
        """The data set in a folder, local or `s3://`; a `UserError` if there is none."""
        return cls(path, read_schema(path), read_shards(path))

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Every row group, each at its number."""
        all_groups = ((shard, index, rows) for shard in self.shards for index, rows in enumerate(shard.row_groups))
        domains = {name: self.schema.domain_index(name) for name in {shard.domain for shard in self.shards}}
        return tuple(
            Group(number, shard, index, rows, domains[shard.domain])
            for number, (shard, index, rows) in enumerate(all_groups)
        )

    def select(
        self, split: str, *, domains: tuple[int, ...], period: int | None, upto: bool = False
    ) -> tuple[Group, ...]:
        """The row groups of a split, of some domains, and of one period (`None`: all) or `upto` it, in path order."""
        return tuple(
            group
            for group in self.groups
            if group.shard.split == split
            and group.domain in domains
            and (period in (None, group.shard.period) or (upto and group.shard.period < (period or 0)))
            and group.rows > 0
        )


class Reader:
    """Reads row groups of a data set; decoded ones are kept up to `max_bytes`, the longest unused going first.

    Safe to use from several threads. Every method raises `UserError` that names the shard and the row group if the
    file is missing, truncated, corrupt, or not what the index says.
    """

    def __init__(self, dataset: Dataset, *, max_bytes: int = 0) -> None:
        self.dataset, self.layout = dataset, Layout(dataset.schema)
        local = storage.is_local(dataset.path)
        self._remote = None if local else Remote(dataset.path, list(self.layout.types))
        self._lock = threading.Lock()
        self._footers: OrderedDict[str, pq.FileMetaData] = OrderedDict()
        self._decoded: OrderedDict[int, Columns] = OrderedDict()
        self._bytes, self._max_bytes = 0, max_bytes

    def columns(self, group: Group, *, keep: bool = True) -> Columns:
        """A row group, decoded and checked. With `keep=False` it drives nothing else out of the cache."""
        with self._lock:
            if group.number in self._decoded:
                self._decoded.move_to_end(group.number)
                return self._decoded[group.number]
        table = self.table(group, list(self.layout.types))
        columns = decode(table, self.layout, domain=group.domain, where=self.where(group))
        self._keep(group.number, columns, evict=keep)
        return columns

    def table(self, group: Group, names: list[str]) -> pa.Table:
        """Some columns of a row group as they are stored; a name that the shard lacks is left out."""
        with self._reading(group), self._open(group, names) as file:
            self._check_footer(group, file.metadata)
            # one thread: the prefetching one. Decoding outruns training many times over as it is.
            return file.read_row_group(group.index, columns=names, use_threads=False)

    @property
    def is_remote(self) -> bool:
        """Whether bringing a row group takes its time, so that it is worth to `begin` it early."""
        return self._remote is not None

    def begin(self, groups: Iterable[Group]) -> None:
        """Have row groups brought that will soon be asked for, all columns of them, from where that takes its time."""
        if self._remote:
            with self._lock:
                wanted = [group for group in groups if group.number not in self._decoded]
            self._remote.begin(wanted)

    def arrays(self, group: Group, names: list[str]) -> list[Array]:
        """Some columns of a row group, each with a value in every row; none but its type is checked."""
        table, where = self.table(group, names), self.where(group)
        return [plain(table, name, expected=self.layout.types[name], where=where).to_numpy() for name in names]

    def where(self, group: Group) -> str:
        """A row group as messages name it."""
        return f"{storage.join(self.dataset.path, group.shard.path)}: row group {group.index}"

    @contextmanager
    def _open(self, group: Group, names: list[str]) -> Iterator[pq.ParquetFile]:
        """A shard of which at least these columns of the row group can be read."""
        if self._remote:
            stored = self._remote.stored(group.shard)
            self._check_size(group, stored.size)
            yield pq.ParquetFile(self._remote.bring(group, names), metadata=stored.footer, pre_buffer=False)
            return
        path = storage.filesystem(storage.join(self.dataset.path, group.shard.path))[1]
        with pa.OSFile(path) as source:  # not mapped to memory: a file cut short would kill the process
            self._check_size(group, source.size())
            with self._lock:
                footer = self._footers.get(group.shard.path)
            yield pq.ParquetFile(source, metadata=footer, pre_buffer=True)

    @contextmanager
    def _reading(self, group: Group) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise UserError(
                f"{self.where(group)}: the file is gone; restore it or prepare the data set again"
            ) from error
        except (OSError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"{self.where(group)}: cannot be read: {reason}") from error

    def _check_size(self, group: Group, size: int) -> None:
        if size != group.shard.bytes:
            raise UserError(
                f"{self.where(group)}: the file has {size} bytes, {FILES} says {group.shard.bytes}: "
                "truncated or replaced; restore it or prepare the data set again"
            )

    def _check_footer(self, group: Group, footer: pq.FileMetaData) -> None:
        with self._lock:
            if group.shard.path in self._footers:
                self._footers.move_to_end(group.shard.path)
                return
        rows = tuple(footer.row_group(index).num_rows for index in range(footer.num_row_groups))
        if rows != group.shard.row_groups or footer.num_rows != group.shard.rows:
            raise UserError(
                f"{self.where(group)}: the file holds {footer.num_rows} rows in {len(rows)} row groups, {FILES} says "
                f"{group.shard.rows} in {len(group.shard.row_groups)}; restore it or prepare the data set again"
            )
        with self._lock:
            self._footers[group.shard.path] = footer
            if len(self._footers) > FOOTERS:
                self._footers.popitem(last=False)

    def _keep(self, number: int, columns: Columns, *, evict: bool) -> None:
        with self._lock:
            if number in self._decoded or (not evict and self._bytes + columns.bytes > self._max_bytes):
                return
            self._decoded[number] = columns
            self._bytes += columns.bytes
            while self._bytes > self._max_bytes:
                self._bytes -= self._decoded.popitem(last=False)[1].bytes
