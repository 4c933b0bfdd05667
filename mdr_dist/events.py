"""What a run reports while it goes: one JSON object a line."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from mdr_dist import storage
from mdr_dist.redact import redacted


class Events:
    """Appends events to `events.jsonl`; each has `time` (unix seconds), `kind` and that kind's fields.

    On an object store, which cannot append, the file is rewritten from memory at every flush.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._local = storage.is_local(url)
        self._lines: list[str] = []
        if self._local:
            os.makedirs(os.path.dirname(storage.filesystem(url)[1]), exist_ok=True)
        elif storage.exists(url):
            self._lines = storage.read_bytes(url).decode().splitlines(keepends=True)

    def write(self, event: dict[str, Any]) -> None:
        """Add one event."""
        self._lines.append(redacted(json.dumps({"time": round(time.time(), 3), **event})) + "\n")
        if self._local:
            self.flush()

    def flush(self) -> None:
        """Make everything written so far readable by others."""
        if not self._lines:
            return
        if not self._local:
            storage.write_bytes(self._url, "".join(self._lines).encode())
            return
        with open(storage.filesystem(self._url)[1], "a", encoding="utf-8") as file:
            file.writelines(self._lines)
        self._lines.clear()
