"""Object stores to test against: a real one, and one that fails as it is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from seaweedfs import Store
from werkzeug.serving import make_server

from mdr_dist.object_store import ObjectStore

Start = Callable[..., Any]


def use(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    """Lead `s3://` there from now on. A value that is empty unsets the variable."""
    for name, value in environment.items():
        if value:
            monkeypatch.setenv(name, value)
        else:
            monkeypatch.delenv(name, raising=False)
    ObjectStore.clear_instance_cache()


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The requests that are made meanwhile: what is asked, and of which key."""
    asked: list[str] = []
    answer = ObjectStore.answer

    async def count(self: ObjectStore, method: str, request: dict[str, Any]) -> dict[str, Any]:
        asked.append(f"{method} {request.get('Key', request.get('Prefix', ''))}")
        return await answer(self, method, request)

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "answer", count)
        yield asked


@dataclass
class Failing:
    """A WSGI program before another, which it lets answer unless a fault is due: one is taken for every request whose
    method and path begin as it says. Faults are `slow`, `truncated`, or a status and S3's code for it."""

    app: Start
    seconds: float = 3.0
    due: list[tuple[str, str]] = field(default_factory=list)  # ("GET /bucket/key", kind)
    seen: list[str] = field(default_factory=list)

    def __call__(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        asked = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
        self.seen.append(f"{asked} {environ.get('HTTP_RANGE', '')}".strip())
        kind = ""
        if self.due and asked.startswith(self.due[0][0]):
            kind = self.due.pop(0)[1]
        if kind in ("truncated", ""):
            return self._answer(environ, start, whole=not kind)
        if kind == "slow":
            time.sleep(self.seconds)
            return self._answer(environ, start, whole=True)
        status, _, code = kind.partition(" ")
        start(f"{status} {code}", [("Content-Type", "application/xml")])
        text = f"<Error><Code>{code}</Code><Message>told so</Message></Error>"
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else text.encode()]

    def _answer(self, environ: dict[str, Any], start: Start, *, whole: bool) -> Iterable[bytes]:
        body = b"".join(self.app(environ, start))
        return [body if whole else body[: len(body) // 2]]


@contextmanager
def failing() -> Iterator[tuple[Failing, Store]]:
    """A store in this process, moto's, behind `Failing`."""
    from moto.server import DomainDispatcherApplication, create_backend_app

    app = Failing(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield app, Store(f"http://127.0.0.1:{server.server_port}", 0)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
