"""An object store's front that answers 500 for a while: whatever is asked until then, by whomever.

A file holds the time, in seconds since 1970, at which the storm is over; without the file there is none.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from seaweedfs import Store

BROKEN = b"<Error><Code>InternalError</Code><Message>a storm</Message></Error>"
HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive"}
Headers = list[tuple[str, str]]


@contextlib.contextmanager
def front(store: Store, until: Path) -> Iterator[Store]:
    """The store as seen through its front."""
    server = Front(urlsplit(store.endpoint).netloc, until)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield replace(store, endpoint=f"http://127.0.0.1:{server.server_address[1]}")
    finally:
        server.shutdown()
        server.server_close()


class Front(ThreadingHTTPServer):
    """A server on loopback that hands every request on, unless there is a storm."""

    daemon_threads = True

    def __init__(self, behind: str, until: Path) -> None:
        self._behind = behind
        self._until = until
        super().__init__(("127.0.0.1", 0), Handler)

    def ask(self, method: str, path: str, *, headers: dict[str, str], body: bytes) -> tuple[int, Headers, bytes]:
        """Status, headers and body of the answer."""
        if self._storming():
            return 500, [("Content-Type", "application/xml")], BROKEN
        with contextlib.closing(HTTPConnection(self._behind, timeout=60)) as connection:
            # the signature covers the host that the client asked for: it goes on as it is
            connection.request(method, path, body, headers)
            found = connection.getresponse()
            return found.status, found.getheaders(), found.read()

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing of clients that hang up, as those do that are killed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    def _storming(self) -> bool:
        try:
            return time.time() < float(self._until.read_text())
        except FileNotFoundError:
            return False


class Handler(BaseHTTPRequestHandler):
    """One connection to the front."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        """Ask, and tell what was answered."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        asked = dict(self.headers.items())
        status, headers, found = cast(Front, self.server).ask(self.command, self.path, headers=asked, body=body)
        whole = self.command != "HEAD"  # whose length is that of a body which does not come
        dropped = HOP_BY_HOP | ({"content-length"} if whole else set())
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in dropped:
                self.send_header(name, value)
        if whole:
            self.send_header("Content-Length", str(len(found)))
        self.end_headers()
        if whole:
            self.wfile.write(found)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815 (the base class's names)

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Nothing."""
