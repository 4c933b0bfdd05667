"""Arrays derived from a data set that all workers of a machine share: built once, memory-mapped, kept for later runs.

They lie in the temporary folder ($TMPDIR). A data set that was written anew gets others, and those of one that is gone
from this machine go when a process makes its first.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mdr_dist import storage
from mdr_dist.data.layout import SCHEMA
from mdr_dist.data.ragged import Array
from mdr_dist.data.reader import Reader
from mdr_dist.errors import UserError

Arrays = dict[str, Array]
_OF = "data-set"  # the file that names the schema of the data set that a folder's arrays are of


def mapped(reader: Reader, kind: str, *, key: tuple[object, ...], build: Callable[[str], Arrays]) -> Arrays:
    """Arrays by name. `kind` and `key` say which of the data set's they are.

    `build` gets a folder for what it needs on the way; arrays that it mapped there itself, at `<name>.npy`, it leaves.
    """
    with _folder(reader, kind, key) as folder:
        done = Path(folder, "DONE")
        if not done.exists():
            for name, array in build(folder).items():
                np.save(f"{folder}/{name}.npy", array)
            done.touch()
        return {path.stem: np.load(path, mmap_mode="r") for path in Path(folder).glob("*.npy")}


def check_free(folder: str, needed: int, *, what: str) -> None:
    """Raise `UserError` unless the folder's disk has `needed` bytes free."""
    if shutil.disk_usage(folder).free < needed:
        raise UserError(f"{folder}: {what} need {needed >> 20} MiB there; set TMPDIR to a larger disk")


@contextmanager
def _folder(reader: Reader, kind: str, key: tuple[object, ...]) -> Iterator[str]:
    """Their folder, locked: of a machine's workers one builds them and the others wait."""
    marker = storage.join(reader.dataset.path, SCHEMA)
    fs, path = storage.filesystem(marker)
    whole = (fs.unstrip_protocol(path), str(fs.modified(path)), reader.dataset.schema.fingerprint, *key)
    root = os.path.join(tempfile.gettempdir(), f"mdr-{os.getuid()}")
    os.makedirs(root, mode=0o700, exist_ok=True)
    if os.stat(root).st_uid != os.getuid():
        raise UserError(f"{root}: belongs to another user; set TMPDIR to a folder of your own")
    folder = os.path.join(root, f"{kind}-" + hashlib.sha256(repr(whole).encode()).hexdigest()[:32])
    if not os.path.exists(folder):
        remove_orphans(root)
        os.makedirs(folder, exist_ok=True)
        Path(folder, _OF).write_text(marker if not storage.is_local(marker) else path)
    with open(os.path.join(folder, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


@functools.cache  # once in a process: there may be thousands
def remove_orphans(root: str) -> None:
    """Remove the arrays of local data sets that are no longer there. Who still maps them keeps them until the end."""
    for of in Path(root).glob(f"*/{_OF}"):
        marker = of.read_text()
        if marker and storage.is_local(marker) and not os.path.exists(marker):
            shutil.rmtree(of.parent, ignore_errors=True)
