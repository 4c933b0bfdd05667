"""`DONE`: what makes a folder a checkpoint, with the bytes and the sha256 of every file in it.

Sums are taken while files are written, by each process of its own. They find what was damaged, cut short or replaced
since; against one who also writes `DONE` they are no defence.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from pydantic import BaseModel, Field
from torch.distributed.checkpoint._fsspec_filesystem import FileSystem, FsspecWriter

from mdr_dist import storage
from mdr_dist.batch import world_size
from mdr_dist.config import validated
from mdr_dist.errors import UserError

DONE = "DONE"
WHAT_NOW = "restore it, or remove the folder to go on from the checkpoint before it"
_CHUNK = 1 << 24  # bytes read at a time


class Sum(BaseModel):
    """A file's bytes and its sha256, in hexadecimal."""

    bytes: int = Field(ge=0)
    sha256: str

    @classmethod
    def of(cls, data: bytes) -> Sum:
        """That of these bytes."""
        return cls(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


class Seal(BaseModel):
    """The sums of a checkpoint's files, by name."""

    files: dict[str, Sum]


class SealedWriter(FsspecWriter):
    """Writes tables as torch does, one file a process, and keeps the `sums` of what this process has written."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder, single_file_per_rank=True)
        summing = _Summing()
        summing.fs = self.fs.fs
        self.fs = summing

    @property
    def sums(self) -> dict[str, Sum]:
        """By name."""
        assert isinstance(self.fs, _Summing)
        return self.fs.sums


class _Summing(FileSystem):
    def __init__(self) -> None:
        super().__init__()
        self.sums: dict[str, Sum] = {}

    @contextmanager
    def create_stream(self, path: Any, mode: str) -> Iterator[Any]:
        with super().create_stream(path, mode) as stream:
            if "w" not in mode:
                yield stream
                return
            summed = _Stream(stream)
            yield summed
            self.sums[_name(path)] = Sum(bytes=summed.tell(), sha256=summed.digest.hexdigest())

    def rename(self, path: Any, new_path: Any) -> None:
        super().rename(path, new_path)
        self.sums[_name(new_path)] = self.sums.pop(_name(path))


class _Stream(io.RawIOBase):
    """Passes what is written on, and sums it up."""

    def __init__(self, stream: Any) -> None:
        self._stream, self.digest = stream, hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self._stream.write(data)

    def tell(self) -> int:
        return self._stream.tell()

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()


def _name(path: Any) -> str:
    return str(path).rpartition("/")[2]


def seal(folder: str, sums: dict[str, Sum]) -> None:
    """Write `DONE`; what all processes wrote must be there."""
    storage.write_json(storage.join(folder, DONE), Seal(files=dict(sorted(sums.items()))).model_dump())


def gathered(sums: dict[str, Sum]) -> dict[str, Sum]:
    """The sums of all processes together, in each of them."""
    if world_size() == 1:
        return sums
    parts: list[dict[str, Sum]] = [{} for _ in range(world_size())]
    dist.all_gather_object(parts, sums)
    return {name: one for part in parts for name, one in part.items()}


def read_seal(folder: str) -> Seal | None:
    """The sums of a checkpoint, `None` of one that has none, as before there were any."""
    where = storage.join(folder, DONE)
    if not storage.read_bytes(where):
        return None
    return validated(Seal, storage.read_json(where), where=where)


def checked(folder: str, name: str) -> bytes:
    """A file's bytes; a `UserError` if they are not those that were written."""
    where, found = storage.join(folder, name), read_seal(folder)
    data = storage.read_bytes(where)
    if found and (name not in found.files or Sum.of(data) != found.files[name]):
        raise UserError(f"{where}: damaged: not what was written; {WHAT_NOW}")
    return data


def verify(folder: str) -> int:
    """The bytes of a checkpoint, each file of which is what was written; else a `UserError` that names the first.

    Called by all processes together, which share the files out.
    """
    found = read_seal(folder)
    if found is None:
        return 0
    rank = dist.get_rank() if world_size() > 1 else 0
    names = sorted(found.files)[rank :: world_size()]
    wrong = [_wrong(folder, name, found.files[name]) for name in names]
    told: list[list[str]] = [wrong]
    if world_size() > 1:
        told = [[] for _ in range(world_size())]
        dist.all_gather_object(told, wrong)
    for line in sorted(filter(None, (line for part in told for line in part))):
        raise UserError(line)
    return sum(each.bytes for each in found.files.values())


def _wrong(folder: str, name: str, expected: Sum) -> str:
    """What is wrong with a file, if anything."""
    where, digest, size = storage.inside(folder, name), hashlib.sha256(), 0
    fs, path = storage.filesystem(where)
    try:
        with fs.open(path, "rb") as file:
            while part := bytes(file.read(_CHUNK)):  # type: ignore[arg-type]
                digest.update(part)
                size += len(part)
    except FileNotFoundError:
        return f"{where}: missing; {WHAT_NOW}"
    if size != expected.bytes:
        return f"{where}: damaged: {size} bytes, {expected.bytes} were written; {WHAT_NOW}"
    return "" if digest.hexdigest() == expected.sha256 else f"{where}: damaged: not what was written; {WHAT_NOW}"
