"""Files by URL: a local path or `s3://bucket/key`, through fsspec; what `s3://` is, `object_store.py` says.

An object store has no folders and no rename: a folder is there when something in it is, and what must appear at once
ends with a marker that is written last. What the store refuses is a `UserError`, from any of these functions and from
whatever else reads or writes through `filesystem`.
"""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
import uuid
from typing import Any

import fsspec
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from mdr_dist.errors import UserError

for _protocol in ("s3", "s3a"):  # by name: s3fs is imported where it is needed; DCP's readers and writers get it too
    fsspec.register_implementation(_protocol, "mdr_dist.object_store.ObjectStore", clobber=True)


def filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system behind a URL and the path inside it."""
    try:
        return fsspec.core.url_to_fs(url)
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(f"{url}: no file system for this URL: {error}; use a local path or s3://bucket/key") from error


def is_local(url: str) -> bool:
    """Whether the URL is on this machine's file system."""
    return isinstance(filesystem(url)[0], LocalFileSystem)


def join(url: str, *parts: str) -> str:
    """The URL with further path parts."""
    return posixpath.join(url, *parts)


def inside(url: str, name: str) -> str:
    """The URL of a file in a folder, by a name that some file told; a `UserError` if that leads out of the folder."""
    if leads_out(name):
        raise UserError(f"{url}: {name!r} leads out of the folder")
    return join(url, name)


def leads_out(name: str) -> bool:
    """Whether a name, put behind a folder's, may be of something that is not in the folder."""
    return posixpath.isabs(name) or "://" in name or ".." in name.split("/")


def exists(url: str) -> bool:
    """Whether a file or folder is there."""
    fs, path = filesystem(url)
    if isinstance(fs, LocalFileSystem):
        return fs.exists(path)
    try:
        return bool(fs.info(path))  # its `exists` hides what else is wrong
    except FileNotFoundError:
        return False


def names(url: str) -> list[str]:
    """The sorted names in a folder, by one listing; empty if there is no such folder. Never from a cache."""
    fs, path = filesystem(url)
    try:
        entries = fs.ls(path, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return []
    paths = (entry["name"].rstrip("/") for entry in entries if entry["name"].strip("/") != path.strip("/"))
    return sorted(posixpath.basename(found) for found in paths)


def files(url: str) -> dict[str, int]:
    """Path below a folder → bytes, of all files in it at any depth, sorted, by one listing."""
    fs, path = filesystem(url)
    root = path.strip("/") + "/"
    entries: dict[str, dict[str, Any]] = fs.find(path, detail=True)  # type: ignore[assignment]
    found = {name.lstrip("/"): int(entry["size"]) for name, entry in entries.items()}
    return {name.removeprefix(root): size for name, size in sorted(found.items()) if name.startswith(root)}


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
    if names(url) and (is_local(url) or files(url)):  # some stores list folders from which everything is gone
        raise UserError(f"{url}: the folder is not empty; name a new one or remove it")


def move(aside: str, url: str) -> None:
    """Give a finished local folder its name, at once. An empty folder may stand there."""
    os.replace(filesystem(aside)[1], filesystem(url)[1])


def create(url: str) -> Any:
    """A new file to write to, which `commit` ends. On an object store it goes up in parts, and is not there before."""
    fs, path = filesystem(url)
    if isinstance(fs, LocalFileSystem):
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        return pa.OSFile(path, "wb")
    return fs.open(path, "wb", autocommit=False)


def commit(file: Any) -> int:
    """Close a file that `create` made, and make it appear; its bytes."""
    size = file.tell()
    file.close()
    if not isinstance(file, pa.NativeFile):
        file.commit()
    return size


def remove(url: str) -> None:
    """Remove a file or a whole folder, if it is there."""
    fs, path = filesystem(url)
    if exists(url):
        with contextlib.nullcontext() if is_local(url) else contextlib.suppress(FileNotFoundError):
            fs.rm(path, recursive=True)  # some stores tell of folders from which everything is gone


def read_bytes(url: str) -> bytes:
    """A file's bytes; `UserError` if it is not there or is no file."""
    fs, path = filesystem(url)
    try:
        return bytes(fs.cat_file(path))  # type: ignore[arg-type]
    except FileNotFoundError as error:
        raise UserError(f"{url}: no such file") from error
    except IsADirectoryError as error:
        raise UserError(f"{url}: a folder, not a file") from error


def version(url: str) -> tuple[int, str]:
    """A file's bytes and, on an object store, the tag of what is there now; `FileNotFoundError` if it is not."""
    fs, path = filesystem(url)
    entry = fs.info(path)
    return int(entry["size"]), str(entry.get("ETag", ""))


def read_range(url: str, span: tuple[int, int], *, etag: str = "") -> bytes:
    """A file's bytes from the first to before the second.

    `FileNotFoundError` if it is not there, `UserError` if it has another tag now.
    """
    fs, path = filesystem(url)
    if etag:
        return fs.read_range(path, span, etag=etag)  # type: ignore[attr-defined]
    return bytes(fs.cat_file(path, start=span[0], end=span[1]))  # type: ignore[arg-type]


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
    return parsed(read_bytes(url), url)


def parsed(data: bytes, url: str) -> Any:
    """The value of a JSON file's bytes; `UserError` if they are not JSON."""
    try:
        return json.loads(data)
    except ValueError as error:  # no JSON, or no text at all
        raise UserError(f"{url}: not valid JSON ({error}); was it written by another program?") from error


def write_json(url: str, value: Any) -> None:
    """Write a value as indented JSON, whole or not at all."""
    write_bytes(url, as_json(value))


def as_json(value: Any) -> bytes:
    """A value as the bytes of a JSON file."""
    return (json.dumps(value, indent=1) + "\n").encode()
