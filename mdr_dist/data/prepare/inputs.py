"""The raw files that a recipe names: found, brought here, unpacked where the engine cannot."""

from __future__ import annotations

import glob
import os
import re
import shutil
import zipfile
import zlib
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from mdr_dist import storage
from mdr_dist.data.prepare import engine
from mdr_dist.data.prepare.sections import Files
from mdr_dist.errors import UserError


@dataclass(frozen=True)
class Input:
    """One raw file to read: `number` is its place among all files, `staged` the Parquet file to make of it.

    The staged file has the declared columns, the constants, `_file` (the number) and `_bad`, which is missing in a good
    row and else "column, unit separator, kind of fault".
    """

    files: Files
    url: str
    number: int
    staged: str
    constants: tuple[tuple[str, str], ...]
    limit: int
    memory_gb: float
    threads: int

    @property
    def work(self) -> str:
        """The folder for what is only needed while it is read."""
        return f"{self.staged}.work"


def expand(files: Files, raw: str) -> list[tuple[str, dict[str, str]]]:
    """URL and constants of each file, in order; `UserError` if a glob finds none or a name does not match."""
    found: list[tuple[str, dict[str, str]]] = []
    for given in files.files:
        url = below(raw, given)
        matches = _matches(url)
        if not matches:
            raise UserError(f"{url}: no such file; --raw names the folder of raw files")
        for match in matches:
            if match in [earlier for earlier, _ in found]:
                raise UserError(f"{match}: matched twice by `files` of the recipe, which would count its rows twice")
            end = "/".join(match.split("/")[-1 - files.pattern.count("/") :])
            named = re.fullmatch(files.pattern, end) if files.pattern else None
            if files.pattern and not named:
                raise UserError(f"{match}: {end} does not match pattern {files.pattern!r} of the recipe")
            found.append((match, {**files.constants, **(named.groupdict("") if named else {})}))
    return found


def below(raw: str, given: str) -> str:
    """A path that a recipe gives, relative to the raw folder unless it is absolute or a URL."""
    return given if "://" in given or os.path.isabs(given) else storage.join(raw, given)


def _matches(url: str) -> list[str]:
    fs, path = storage.filesystem(url)
    if not any(mark in path for mark in "*?["):
        return [url] if storage.exists(url) and fs.isfile(path) else []
    if storage.is_local(url):
        return sorted(match for match in glob.glob(path, recursive=True) if os.path.isfile(match))
    found: dict[str, dict[str, Any]] = fs.glob(path, detail=True)  # type: ignore[assignment]
    return [str(fs.unstrip_protocol(match)) for match, entry in sorted(found.items()) if entry["type"] == "file"]


def local(url: str, work: str) -> str:
    """A local path to the file, brought to `work` if it is elsewhere; `UserError` if it is empty or cut short."""
    fs, path = storage.filesystem(url)
    if not fs.size(path):
        raise UserError(f"{url}: the file is empty")
    if not storage.is_local(url):
        here = os.path.join(work, path.rsplit("/", 1)[-1])
        fs.get_file(path, here)
        path = here
    if path.endswith(".zip"):
        return _unzip(url, path, work)
    if path.endswith(".zst"):  # the engine takes a truncated zstd stream for a short one
        plain = os.path.join(work, os.path.basename(path)[: -len(".zst")])
        try:
            with pa.input_stream(path, compression="zstd") as packed, open(plain, "wb") as file:
                shutil.copyfileobj(packed, file, 1 << 20)
        except OSError as error:
            raise UserError(f"{url}: cut short or not zstd: {engine.one_line(error)}") from error
        path = plain
    return path


def _unzip(url: str, path: str, work: str) -> str:
    """The one file in an archive, unpacked under the archive's name without its ending."""
    plain = os.path.join(work, os.path.basename(path)[: -len(".zip")])
    try:
        with zipfile.ZipFile(path) as archive:
            names = [entry for entry in archive.infolist() if not entry.is_dir()]
            if len(names) != 1:
                raise UserError(f"{url}: holds {len(names)} files; an archive of one file can be read, unpack others")
            with archive.open(names[0]) as packed, open(plain, "wb") as file:
                shutil.copyfileobj(packed, file, 1 << 20)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        raise UserError(f"{url}: cut short or not a plain zip archive: {engine.one_line(error)}") from error
    return plain
