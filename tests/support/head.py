"""A head that is none: a server with the answers that a test gives it."""

from __future__ import annotations

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import ray

VERSION = {"version": "4", "ray_version": ray.__version__, "ray_commit": "x", "session_name": "x"}


class Head:
    """A server that gives fixed answers, and remembers what was asked.

    `answers`: method and path, or one of them → (status, JSON or text); `then`: method → what happens meanwhile.
    """

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, Any]] = {"/api/version": (200, VERSION), "/api/jobs/": (200, [])}
        self.asked: list[str] = []
        self.sent: dict[str, bytes] = {}  # method → the body of its last request
        self.then: dict[str, Callable[[], None]] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                outer.sent[self.command] = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.asked.append(f"{self.command} {self.path}")
                asked = (f"{self.command} {self.path}", self.path, self.command)
                found = next((outer.answers[key] for key in asked if key in outer.answers), (404, "no"))
                outer.then.get(self.command, lambda: None)()
                body = (found[1] if isinstance(found[1], str) else json.dumps(found[1])).encode()
                self.send_response(found[0])
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = answer  # noqa: N815 (the base class's names)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"

    def has(self, *jobs: tuple[str, str]) -> None:
        """The jobs there are: (submission id, status)."""
        self.answers["/api/jobs/"] = (200, [details(id_, status) for id_, status in jobs])


def details(id_: str, status: str) -> dict[str, Any]:
    code = {"SUCCEEDED": 0, "FAILED": 2}.get(status)
    times = {"start_time": 1000, "end_time": None if status in ("PENDING", "RUNNING") else 2500}
    return {
        "type": "SUBMISSION",
        "submission_id": id_,
        "status": status,
        "entrypoint": "x",
        "driver_exit_code": code,
        **times,
    }
