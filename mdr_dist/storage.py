"""Files by URL: a local path or `s3://bucket/key`, through fsspec."""

from __future__ import annotations

import json
import os
import posixpath
import uuid
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from mdr_dist.errors import UserError


def filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system behind a URL and the path inside it."""
    try:
        return fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise UserError(f"{url}: no file system for this URL: {error}; use a local path or s3://bucket/key") from error


def is_local(url: str) -> bool:
    """Whether the URL is on this machine's file system."""
    return isinstance(filesystem(url)[0], LocalFileSystem)


def join(url: str, *parts: str) -> str:
    """The URL with further path parts."""
    return posixpath.join(url, *parts)


def inside(url: str, name: str) -> str:
    """The URL of a file in a folder, by a name that some file told; a `UserError` if that leads out of the folder."""
    if posixpath.isabs(name) or "://" in name or ".." in name.split("/"):
        raise UserError(f"{url}: {name!r} leads out of the folder")
    return join(url, name)


def exists(url: str) -> bool:
    """Whether a file or folder is there."""
    fs, path = filesystem(url)
    return fs.exists(path)


def names(url: str) -> list[str]:
    """The sorted names in a folder; empty if there is no such folder. Never a cached listing."""
    fs, path = filesystem(url)
    fs.invalidate_cache(path)
    if not fs.isdir(path):
        return []
    return sorted(posixpath.basename(entry.rstrip("/")) for entry in fs.ls(path, detail=False))


def make_folder(url: str) -> None:
    """Make a folder and those above it; nothing to do on an object store."""
    fs, path = filesystem(url)
    fs.makedirs(path, exist_ok=True)


def check_folder(url: str) -> None:
    """Refuse, by a `UserError`, a file where a folder is needed."""
    fs, path = filesystem(url)
    if fs.isfile(path):
        raise UserError(f"{url}: a file, not a folder")


def check_free(url: str) -> None:
    """Refuse, by a `UserError`, a place for a new folder that holds something already."""
    fs, path = filesystem(url)
    if fs.isfile(path):
        raise UserError(f"{url}: a file is there; name a new folder")
    if names(url):
        raise UserError(f"{url}: the folder is not empty; name a new one or remove it")


def move(aside: str, url: str) -> None:
    """Give a finished local folder its name, at once. An empty folder may stand there."""
    os.replace(filesystem(aside)[1], filesystem(url)[1])


def remove(url: str) -> None:
    """Remove a file or a whole folder, if it is there."""
    fs, path = filesystem(url)
    if fs.exists(path):
        fs.rm(path, recursive=True)


def read_bytes(url: str) -> bytes:
    """A file's bytes; `UserError` if it is not there or is no file."""
    fs, path = filesystem(url)
    try:
        return bytes(fs.cat_file(path))  # type: ignore[arg-type]
    except FileNotFoundError as error:
        raise UserError(f"{url}: no such file") from error
    except IsADirectoryError as error:
        raise UserError(f"{url}: a folder, not a file") from error


def write_bytes(url: str, data: bytes) -> None:
    """Write a file so that a reader sees all of it or nothing: aside and renamed, or one object put."""
    fs, path = filesystem(url)
    if not isinstance(fs, LocalFileSystem):
        fs.pipe_file(path, data)
        return
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    aside = f"{path}.{uuid.uuid4().hex[:8]}.part"
    try:
        with open(aside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        if os.path.exists(aside):
            os.remove(aside)
        raise


def read_json(url: str) -> Any:
    """A JSON file's value; `UserError` if it is missing or not JSON."""
    try:
        return json.loads(read_bytes(url))
    except ValueError as error:  # no JSON, or no text at all
        raise UserError(f"{url}: not valid JSON ({error}); was it written by another program?") from error


def write_json(url: str, value: Any) -> None:
    """Write a value as indented JSON, whole or not at all."""
    write_bytes(url, (json.dumps(value, indent=1) + "\n").encode())
