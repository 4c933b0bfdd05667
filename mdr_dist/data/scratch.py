"""What is made of a data set once a machine, and mapped into the memory of every process that asks for it.

It lies in the temporary folder ($TMPDIR) and serves later runs too.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdr_dist import storage
from mdr_dist.data.layout import SCHEMA
from mdr_dist.data.reader import Dataset
from mdr_dist.errors import UserError

Key = tuple[str, *tuple[int | str | None, ...]]


def made_once(
    dataset: Dataset, key: Key, *, names: tuple[str, ...], build: Callable[[str], None]
) -> list[NDArray[Any]]:
    """The arrays `names` of a key, read-only, mapped; `build(folder)` writes each as `<name>.npy` if nobody has yet.

    A data set that was replaced is another one. Of several processes one builds and the others wait.
    """
    folder = _folder(dataset, key)
    with open(os.path.join(folder, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = os.path.join(folder, "DONE")
        if not os.path.exists(done):
            build(folder)
            with open(done, "wb"):
                pass
        return [np.load(os.path.join(folder, f"{name}.npy"), mmap_mode="r") for name in names]


def _folder(dataset: Dataset, key: Key) -> str:
    fs, path = storage.filesystem(storage.join(dataset.path, SCHEMA))
    identity = (fs.unstrip_protocol(path), str(fs.modified(path)), dataset.schema.fingerprint, *key)
    root = os.path.join(tempfile.gettempdir(), f"mdr-{os.getuid()}")
    os.makedirs(root, mode=0o700, exist_ok=True)
    if os.stat(root).st_uid != os.getuid():
        raise UserError(f"{root}: belongs to another user; set TMPDIR to a folder of your own")
    folder = os.path.join(root, f"{key[0]}-" + hashlib.sha256(repr(identity).encode()).hexdigest()[:32])
    os.makedirs(folder, exist_ok=True)
    return folder
