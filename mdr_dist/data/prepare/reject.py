"""Rows that cannot be used: where they stand in the raw files, and how many are too many."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import pyarrow as pa

from mdr_dist import storage
from mdr_dist.data.prepare.sections import Files
from mdr_dist.errors import UserError


@dataclass(frozen=True)
class Reject:
    """One bad row: `line` counts from 1 (in Parquet and .mat files, rows); `text` is the row as it stands there."""

    file: str
    line: int
    column: str
    reason: str
    text: str


class Rejects:
    """Collects bad rows and stops the job at the first one too many."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.rows: list[Reject] = []

    def add(self, rows: list[Reject]) -> None:
        """Put rows aside; `UserError` naming the first past the limit."""
        self.rows += rows
        if len(self.rows) <= self._limit:
            return
        bad = self.rows[self._limit]
        column = f"{bad.column}: " if bad.column else ""
        raise UserError(
            f"{bad.file}:{bad.line}: {column}{bad.reason}: {bad.text[:120]!r} "
            f"(max_rejected is {self._limit}; raise it in the recipe to put bad rows aside)"
        )

    def write(self, root: str) -> None:
        """Write `rejected/rejected.jsonl` into a data set, if there is anything to write."""
        if self.rows:
            lines = (json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in self.rows)
            storage.write_bytes(storage.join(root, "rejected", "rejected.jsonl"), "".join(lines).encode())


def open_text(path: str, encoding: str = "utf-8") -> io.TextIOWrapper:
    """A raw text file, unpacked by its ending; bytes that are no text become replacement characters."""
    packing = {"gz": "gzip", "zst": "zstd"}.get(path.rsplit(".", 1)[-1])
    stream = pa.input_stream(path, compression=packing, buffer_size=1 << 20)
    return io.TextIOWrapper(stream, encoding=encoding, errors="replace", newline="")


def lines_at(path: str, files: Files, positions: list[int]) -> dict[int, int]:
    """The line, from 1, at each position: a number of bytes before it, of the text as UTF-8, in rising order."""
    found: dict[int, int] = {}
    line, start = 1, 0
    with open_text(path, files.encoding) as file:
        while len(found) < len(set(positions)):
            raw = file.buffer.read(1 << 20) if files.encoding == "utf-8" else file.read(1 << 20).encode()
            part = bytes(raw)  # type: ignore[arg-type]
            here = [p for p in positions if start <= p < start + len(part) or not part]
            found |= {p: line + part[: p - start].count(b"\n") for p in here}
            line, start = line + part.count(b"\n"), start + len(part)
    return found


def locate(path: str, files: Files, *, wanted: set[int], skipped: frozenset[int]) -> dict[int, tuple[int, str]]:
    """Line and text of the rows numbered `wanted` among the rows that are not on the lines `skipped`, counted from 0.

    It reads the text file again, row by row: this is for the few rows of an error message, never for all of them.
    """
    found: dict[int, tuple[int, str]] = {}
    number = 0
    with open_text(path, files.encoding) as file:
        for line, text in _rows(file, files):
            if line in skipped:
                continue
            if number in wanted:
                found[number] = (line, text)
            if len(found) == len(wanted):
                break
            number += 1
    return found


def _rows(file: io.TextIOWrapper, files: Files) -> Iterator[tuple[int, str]]:
    """Line number and text of every row; the header and blank lines are not rows."""
    if files.format == "jsonl":
        for line, text in enumerate(file, 1):
            if text.strip("\r\n"):
                yield line, text.rstrip("\r\n")
        return
    reader = csv_reader(file, files)
    line = 1
    for values in reader:
        if values and not (files.header and line == 1):
            yield line, files.separator.join(values)
        line = reader.line_num + 1


def csv_reader(file: io.TextIOWrapper, files: Files):
    """A reader of delimited text under the recipe's rules."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    if files.quote:
        return csv.reader(file, delimiter=files.separator, quotechar=files.quote)
    return csv.reader(file, delimiter=files.separator, quoting=csv.QUOTE_NONE)
