"""A trained model as files that other programs read.

    manifest.json               what it is: method, job, schema fingerprint, every file with its sha256
    schema.json  vocabulary/    what the ids mean
    dense.safetensors           dense parameters and buffers
    tables/<name>/part-00000.*  embedding rows in id order, parts of PART_ROWS rows: safetensors (`rows` [n, dim]) or
                                Parquet (`id` int64, `row` fixed-size list of float32)

The format `checkpoint` holds instead of `tables/` the sharded checkpoints themselves, `checkpoint/<lane>/`, with
optimizer state, to train on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from mdr_dist import __version__, catalog, storage
from mdr_dist.checkpoint.checkpoint import contiguous, reading
from mdr_dist.checkpoint.lanes import Outputs
from mdr_dist.config import Job, validated
from mdr_dist.data.layout import SCHEMA, read_schema
from mdr_dist.errors import UserError
from mdr_dist.methods.base import Method
from mdr_dist.new_folder import NewFolder
from mdr_dist.stage import TableSpec
from mdr_dist.tables import PlainTables, read_table

MANIFEST, DENSE = "manifest.json", "dense.safetensors"
PART_ROWS = 2**20
VERSION = 1
Form = Literal["safetensors", "parquet", "checkpoint"]


def is_export(path: str) -> bool:
    """Whether a folder is an export."""
    return storage.exists(storage.join(path, MANIFEST))


def export(saved: Outputs, *, out: str, method: Method, job: Job, form: Form) -> dict[str, Any]:
    """Write what a run's lanes saved to the new folder `out` and return the manifest."""
    with NewFolder(out) as new:
        writer = _Writer(new.root)
        writer.write(DENSE, save_tensors(contiguous(saved.dense())))
        writer.copy(job.data.path, (SCHEMA, *(f"vocabulary/{n}" for n in _vocabularies(job.data.path))))
        tables = [_table(saved, spec, writer, form=form) for spec in method.tables() if spec.name in saved.tables]
        for lane, folder in saved.folders.items() if form == "checkpoint" else ():
            writer.copy_folder(folder, f"checkpoint/{lane}")
        manifest = {
            "format": form,
            "version": VERSION,
            "made_by": f"mdr_dist {__version__}",
            "step": saved.step,
            "schema": method.schema.fingerprint,
            "job": job.model_dump(mode="json"),
            "tables": tables,
            "bytes": writer.bytes,
            "files": writer.files,
        }
        storage.write_json(storage.join(new.root, MANIFEST), manifest)
        new.commit()
    return manifest


def load_export(path: str) -> tuple[Job, Method, PlainTables]:
    """The job, the method and its unsharded tables; a `UserError` where a file is missing or not what was written."""
    manifest = _read_manifest(path)
    job = validated(Job, manifest["job"], where=f"{path}/{MANIFEST}: job")
    reader = _Reader(path, manifest["files"])
    reader.verify(SCHEMA)
    method = catalog.build(job.method, read_schema(path), seed=job.train.seed)
    method.load_state_dict(load_tensors(reader.read(DENSE)))
    there = {entry["name"] for entry in manifest["tables"]}
    tables = PlainTables(tuple(spec for spec in method.tables() if spec.name in there))
    for entry in manifest["tables"]:
        parts = list(_parts(path, entry, reader, form=manifest["format"], spec=tables.specs[entry["name"]]))
        tables.load_table(entry["name"], torch.cat(parts))
    return job, method, tables


def _read_manifest(path: str) -> dict[str, Any]:
    where = storage.join(path, MANIFEST)
    manifest = storage.read_json(where)
    keys = ("version", "format", "job", "tables", "files")
    lacking = [key for key in keys if not isinstance(manifest, dict) or key not in manifest]
    if lacking or manifest["version"] != VERSION:
        what = f"no {lacking[0]!r}" if lacking else f"version {manifest['version']!r}"
        raise UserError(f"{where}: not a manifest of version {VERSION} ({what}); export again")
    return manifest


def _vocabularies(dataset: str) -> list[str]:
    return storage.names(storage.join(dataset, "vocabulary"))


def _table(saved: Outputs, spec: TableSpec, writer: _Writer, *, form: Form) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": spec.name, "rows": spec.rows, "dim": spec.dim, "features": list(spec.features)}
    if form == "checkpoint":
        return {**entry, "lane": saved.lane(spec.name), "parts": []}
    names, folder = [], saved.folder(spec.name)
    for number, start in enumerate(range(0, spec.rows, PART_ROWS)):
        with reading(folder):
            part = read_table(folder, spec, row_start=start, row_end=min(start + PART_ROWS, spec.rows))
        names.append(f"tables/{quote(spec.name, safe='')}/part-{number:05d}.{form}")
        data = save_tensors({"rows": part.contiguous()}) if form == "safetensors" else _parquet(part, start)
        writer.write(names[-1], data)
    return {**entry, "parts": names}


def _parquet(part: Tensor, start: int) -> bytes:
    values = pa.FixedSizeListArray.from_arrays(pa.array(part.numpy().reshape(-1)), part.shape[1])
    ids = pa.array(np.arange(start, start + len(part), dtype=np.int64))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"id": ids, "row": values}), sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def _parts(path: str, entry: dict[str, Any], reader: _Reader, *, form: Form, spec: TableSpec) -> Iterator[Tensor]:
    if form == "checkpoint":
        folder = storage.join("checkpoint", entry["lane"])
        reader.verify(f"{folder}/")
        yield read_table(storage.inside(path, folder), spec)
    for name in entry["parts"]:
        data = reader.read(name)
        if form == "safetensors":
            yield load_tensors(data)["rows"]
        else:
            table = pq.read_table(pa.BufferReader(data))
            flat = table["row"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            yield torch.from_numpy(flat.reshape(table.num_rows, spec.dim).copy())


class _Writer:
    """Writes files below a root and keeps their checksums."""

    def __init__(self, root: str) -> None:
        self._root = root
        self.files: dict[str, str] = {}
        self.bytes = 0

    def write(self, name: str, data: bytes) -> None:
        storage.write_bytes(storage.join(self._root, name), data)
        self.files[name] = hashlib.sha256(data).hexdigest()
        self.bytes += len(data)

    def copy(self, source: str, names: tuple[str, ...]) -> None:
        for name in names:
            self.write(name, storage.read_bytes(storage.join(source, name)))

    def copy_folder(self, source: str, into: str) -> None:
        for name in storage.names(source):
            self.write(f"{into}/{name}", storage.read_bytes(storage.join(source, name)))


class _Reader:
    """Reads files of an export; one that is not what the manifest says is refused before it is parsed."""

    def __init__(self, root: str, checksums: dict[str, str]) -> None:
        self._root, self._checksums = root, checksums

    def read(self, name: str) -> bytes:
        if name not in self._checksums:
            raise UserError(f"{self._root}/{MANIFEST}: file {name!r} is not listed with a checksum")
        data = storage.read_bytes(storage.inside(self._root, name))
        if hashlib.sha256(data).hexdigest() != self._checksums[name]:
            raise UserError(f"{self._root}/{name}: its sha256 is not the manifest's; export again")
        return data

    def verify(self, prefix: str) -> None:
        """Check every file below a prefix."""
        for name in self._checksums:
            if name.startswith(prefix):
                self.read(name)
