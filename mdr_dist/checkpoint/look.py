"""What a run's checkpoints hold, from their folders alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from mdr_dist import storage
from mdr_dist.checkpoint.checkpoint import Checkpoints, reading
from mdr_dist.checkpoint.lanes import checkpoints_of
from mdr_dist.checkpoint.seal import verify
from mdr_dist.errors import UserError
from mdr_dist.tables.saved import SavedTables


def checkpoints_in(run: str) -> list[dict[str, Any]]:
    """Every finished checkpoint, by lane and age: where it stood, how many processes wrote it, its files and tables."""
    return [_told(checkpoints, lane=lane, number=number) for lane, checkpoints, number in _finished(run)]


def verified(run: str) -> list[dict[str, Any]]:
    """`{lane, number, bytes}` of every finished checkpoint, all of whose files are what was written.

    `bytes` is 0 where `DONE` tells no sums. Raises `UserError` that names the first file that is not.
    """
    return [
        {"lane": lane, "number": number, "bytes": verify(checkpoints.folder(number))}
        for lane, checkpoints, number in _finished(run)
    ]


def _finished(run: str) -> Iterator[tuple[str, Checkpoints, int]]:
    """Lane, its checkpoints, and the number of one of them."""
    names = [unquote(name) for name in storage.names(storage.join(run, "lanes"))]
    if not names:
        raise UserError(f"{run}: not a run with checkpoints (no lanes/)")
    for name in names:
        checkpoints = checkpoints_of(run, name)
        yield from ((name, checkpoints, number) for number in checkpoints.numbers())


def _told(checkpoints: Checkpoints, *, lane: str, number: int) -> dict[str, Any]:
    folder, saved = checkpoints.folder(number), checkpoints.progress(number)
    files = storage.files(folder)
    with reading(folder):
        entries = SavedTables(folder).read_metadata().state_dict_metadata
    tensors = {name: list(entry.size) for name, entry in entries.items() if isinstance(entry, TensorStorageMetadata)}
    return {
        "lane": lane,
        "number": number,
        "method": saved["identity"]["method"],
        **{key: saved["progress"][key] for key in ("stage", "epoch", "step")},
        "workers": saved["world"],
        "files": len(files),
        "bytes": sum(files.values()),
        "tables": {name.removesuffix("/weight"): size for name, size in tensors.items() if name.endswith("/weight")},
        "optimizer": sorted(name for name in tensors if not name.endswith("/weight")),
    }
