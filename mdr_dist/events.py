"""What a lane reports while it goes: events, one JSON object a line, and the newest of its steps."""

from __future__ import annotations

import json
import time
from typing import Any

from mdr_dist import storage
from mdr_dist.redact import redacted

EVENTS, PROGRESS = "events.jsonl", "progress.json"
SECONDS = 10.0  # between two rewrites on an object store


class Events:
    """Appends events to `events.jsonl` of a folder; each has `time` (unix seconds), `kind` and that kind's fields.

    The newest of kind `step` is `progress.json` besides. On an object store, which cannot append, both are written anew
    from memory, once in SECONDS and by `flush`: a process that is killed loses what it reported since.
    """

    def __init__(self, folder: str) -> None:
        self._url, self._progress_url = storage.join(folder, EVENTS), storage.join(folder, PROGRESS)
        self._local = storage.is_local(folder)
        self._lines: list[str] = []
        self._progress: dict[str, Any] = {}
        self._written = float("-inf")
        if self._local:
            storage.make_folder(folder)
        elif storage.exists(self._url):
            self._lines = storage.read_bytes(self._url).decode().splitlines(keepends=True)

    def write(self, event: dict[str, Any]) -> None:
        """Add one event."""
        event = {"time": round(time.time(), 3), **event}
        self._lines.append(redacted(json.dumps(event)) + "\n")
        if event["kind"] == "step":
            self._progress = event
        if self._local or time.monotonic() - self._written >= SECONDS:
            self.flush()

    def flush(self) -> None:
        """Make everything written so far readable by others."""
        if self._lines and self._local:
            with open(storage.filesystem(self._url)[1], "a", encoding="utf-8") as file:
                file.writelines(self._lines)
            self._lines.clear()
        elif self._lines:
            storage.write_bytes(self._url, "".join(self._lines).encode())
        if self._progress:
            storage.write_json(self._progress_url, self._progress)
            self._progress = {}
        self._written = time.monotonic()


class Tail:
    """Reads a folder's events as they come; of the file only what was added since, whoever writes it."""

    def __init__(self, folder: str) -> None:
        self._url = storage.join(folder, EVENTS)
        self._read = 0  # bytes, whole lines only

    def new(self) -> list[dict[str, Any]]:
        """The events written since this was last asked; none if there is no file yet."""
        try:
            size, _ = storage.version(self._url)
            added = storage.read_range(self._url, (self._read, size)) if size > self._read else b""
        except FileNotFoundError:
            return []
        whole = added[: added.rfind(b"\n") + 1]
        self._read += len(whole)
        return [json.loads(line) for line in whole.splitlines()]
