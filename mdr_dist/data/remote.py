"""Row groups of shards on an object store: one request for neighbouring columns, some row groups ahead of their use."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from mdr_dist import storage
from mdr_dist.data.layout import Group, Shard

GAP = 1 << 20  # bytes between two columns that are rather read than left out by a request more
TAIL = 1 << 18  # bytes read for a footer; pyarrow wants 64 KiB
AHEAD, THREADS = 128 << 20, 8  # bytes that may be on their way, and requests
FOOTERS = 256  # shards whose footer stays parsed


class Stored(NamedTuple):
    """What is there under a shard's name: bytes, version, and the footer unless the bytes are not the index's."""

    size: int
    etag: str
    footer: pq.FileMetaData | None


class Remote:
    """Reads a data set's shards from an object store. What is replaced meanwhile is refused, as a `UserError`."""

    def __init__(self, root: str, names: list[str]) -> None:
        self._root, self._names = root, names
        self._lock = threading.Lock()
        self._coming: dict[int, Future[Stretches]] = {}
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="ahead")
        self.stored = lru_cache(FOOTERS)(self._stored)

    def begin(self, groups: Iterable[Group]) -> None:
        """Have these row groups brought, all of `names`; of earlier ones those that are not among these are let go."""
        wanted = {group.number: group for group in groups}
        with self._lock:
            for number in self._coming.keys() - wanted.keys():
                self._coming.pop(number).cancel()
            room = AHEAD - sum(_bytes(wanted[number]) for number in self._coming)
            for number, group in wanted.items():
                if number not in self._coming and (room := room - _bytes(group)) >= 0:
                    self._coming[number] = self._pool.submit(self._bring, group, self._names)

    def bring(self, group: Group, names: list[str]) -> Stretches:
        """The parts of a shard that hold columns of a row group; a name that the shard lacks is left out."""
        with self._lock:
            coming = self._coming.pop(group.number, None) if names == self._names else None
        return coming.result() if coming else self._bring(group, names)

    def _bring(self, group: Group, names: list[str]) -> Stretches:
        stored = self.stored(group.shard)
        if stored.footer is None:
            return Stretches(stored.size, {})
        url, parts = storage.join(self._root, group.shard.path), {}
        for span in _spans(stored.footer.row_group(group.index), names):
            parts[span[0]] = storage.read_range(url, span, etag=stored.etag)
        return Stretches(stored.size, parts)

    def _stored(self, shard: Shard) -> Stored:
        url = storage.join(self._root, shard.path)
        size, etag = storage.version(url)
        if size != shard.bytes:
            return Stored(size, etag, None)
        at = max(size - TAIL, 0)
        tail = storage.read_range(url, (at, size), etag=etag)
        needed = int.from_bytes(tail[-8:-4], "little") + 8
        if len(tail) < needed <= size:
            at, tail = size - needed, storage.read_range(url, (size - needed, size), etag=etag)
        return Stored(size, etag, pq.ParquetFile(Stretches(size, {at: tail})).metadata)


class Stretches(io.RawIOBase):
    """A file of which some stretches are here, by the byte at which they begin; to be read whole columns at a time."""

    def __init__(self, size: int, parts: dict[int, bytes]) -> None:
        super().__init__()
        self._size, self._at = size, 0
        self._parts = {start: pa.py_buffer(data) for start, data in parts.items()}

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        """The byte that is next."""
        return self._at

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def read_buffer(self, amount: int) -> pa.Buffer:
        """The next bytes, not copied; an `OSError` if they are not here."""
        for start, data in self._parts.items():
            if start <= self._at and self._at + amount <= start + data.size:
                found = data.slice(self._at - start, amount)
                self._at += amount
                return found
        raise OSError(f"bytes {self._at} to {self._at + amount} lie outside the columns that its footer names")

    def read(self, amount: int = -1) -> bytes:
        """The next bytes; errors as in `read_buffer`."""
        return self.read_buffer(amount if amount >= 0 else self._size - self._at).to_pybytes()


def _bytes(group: Group) -> int:
    """About how many bytes a row group has."""
    return group.shard.bytes * group.rows // max(group.shard.rows, 1)


def _spans(footer: pq.RowGroupMetaData, names: list[str]) -> list[tuple[int, int]]:
    """Where columns lie in the file, those that are near each other as one."""
    wanted, found = set(names), list[tuple[int, int]]()
    for index in range(footer.num_columns):
        column = footer.column(index)
        if column.path_in_schema.split(".")[0] in wanted:
            start = min(at for at in (column.dictionary_page_offset, column.data_page_offset) if at)
            found.append((start, start + column.total_compressed_size))
    spans: list[tuple[int, int]] = []
    for start, end in sorted(found):
        if spans and start - spans[-1][1] <= GAP:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((start, end))
    return spans
