"""A folder that is made as a whole or not at all, on a disk and on an object store."""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path

from mdr_dist import storage
from mdr_dist.errors import UserError

MARK = "UNFINISHED"


class NewFolder:
    """A folder being made: written to at `root`, and there after `commit`. Use as a context manager.

    On a disk `root` stands aside and is renamed. An object store has no rename: there `root` is the folder itself, with
    a mark in it until it is done. What a command that was killed has left there, the next one removes; of two commands
    that write to one folder from two machines the first cannot commit. A `UserError` where something is there already.
    """

    def __init__(self, url: str) -> None:
        self._url, aside = url.rstrip("/"), storage.is_local(url)
        self.root = f"{self._url}.{uuid.uuid4().hex[:8]}.part" if aside else self._url
        self._mark = "" if aside else storage.join(self.root, MARK)
        self._by = {"host": socket.gethostname(), "process": os.getpid(), "started": _started(os.getpid())}
        self._done = False
        if self._mark and _is_abandoned(self._mark):
            _remove(self.root)
        storage.check_free(url)

    def __enter__(self) -> NewFolder:
        storage.make_folder(self.root)
        if self._mark:
            storage.write_json(self._mark, self._by)
        return self

    def __exit__(self, *error: object) -> None:
        if not self._done and self._is_ours():
            _remove(self.root)

    def commit(self) -> None:
        """Make the folder appear."""
        if not self._is_ours():
            raise UserError(f"{self._url}: another command writes there; name another folder")
        if self._mark:
            storage.remove(self._mark)
        else:
            storage.move(self.root, self._url)
        self._done = True

    def _is_ours(self) -> bool:
        return not self._mark or (storage.exists(self._mark) and storage.read_json(self._mark) == self._by)


def _is_abandoned(mark: str) -> bool:
    """Whether there is a mark of a command that is not known to be at work; a `UserError` if it is."""
    if not storage.exists(mark):
        return False
    by = storage.read_json(mark)
    here = by["host"] == socket.gethostname() and by["process"] != os.getpid()
    if here and by["started"] and by["started"] == _started(by["process"]):
        raise UserError(
            f"{os.path.dirname(mark)}: process {by['process']} writes there; wait for it, or name another folder"
        )
    return True


def _started(process: int) -> str:
    """When a process of this machine was started, in the kernel's ticks; nothing if it does not run."""
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state == "Z" else fields[18]


def _remove(root: str) -> None:
    """Remove a folder, its mark last."""
    for name in storage.names(root):
        if name != MARK:
            storage.remove(storage.join(root, name))
    storage.remove(root)
