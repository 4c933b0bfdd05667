"""What a lane reports, on a file system that appends and on one that cannot."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mdr_dist import events, storage
from mdr_dist.events import Events, Tail
from support.object_store import counted


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=100.0)
    fake = SimpleNamespace(monotonic=lambda: clock.now, time=lambda: 1e9 + clock.now)
    monkeypatch.setattr(events, "time", fake)
    return clock


def totals(folder: str) -> list[int]:
    lines = storage.read_bytes(f"{folder}/events.jsonl").decode().splitlines()
    return [json.loads(line)["total"] for line in lines]


def step(total: int) -> dict[str, Any]:
    return {"kind": "step", "total": total}


def test_local_files_have_every_event_at_once(tmp_path: Any, clock: SimpleNamespace) -> None:
    folder = str(tmp_path / "lane")
    for first in (0, 3):  # a second attempt appends to what the first left
        lane = Events(folder)
        for total in range(first, first + 3):
            lane.write(step(total))
            assert totals(folder) == list(range(total + 1))
            assert storage.read_json(f"{folder}/progress.json") == {"time": 1e9 + 100, **step(total)}
    lane.write({"kind": "checkpoint", "total": 6})
    assert storage.read_json(f"{folder}/progress.json")["total"] == 5


def test_an_object_store_gets_them_at_a_bounded_rate(
    s3: str, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = Events(s3)
    lane.write(step(0))
    assert totals(s3) == [0]  # the first at once: it shows that the lane has begun
    with counted(monkeypatch) as asked:
        for total in range(1, 100):
            clock.now += 0.05
            lane.write(step(total))
    assert not asked
    clock.now += events.SECONDS
    with counted(monkeypatch) as asked:
        lane.write({"kind": "checkpoint", "total": 100})
        lane.write(step(101))
    assert len(asked) == 2
    assert totals(s3) == list(range(101))
    assert storage.read_json(f"{s3}/progress.json")["total"] == 99
    lane.flush()
    assert totals(s3) == list(range(102))
    assert storage.read_json(f"{s3}/progress.json") == {"time": pytest.approx(1e9 + clock.now), **step(101)}
    again = Events(s3)  # the next attempt keeps what is there
    again.write(step(102))
    assert totals(s3) == list(range(103))


@pytest.mark.parametrize("where", ["disk", "s3"])
def test_who_follows_gets_every_event_once(where: str, s3: str, tmp_path: Path) -> None:
    folder = s3 if where == "s3" else str(tmp_path)
    tail = Tail(folder)
    assert tail.new() == []  # no file yet
    lane = Events(folder)
    for first in (0, 3):
        for total in range(first, first + 3):
            lane.write(step(total))
        lane.flush()
        assert [event["total"] for event in tail.new()] == list(range(first, first + 3))
        assert tail.new() == []


def test_who_follows_waits_for_the_end_of_a_line(tmp_path: Path) -> None:
    tail, file = Tail(str(tmp_path)), tmp_path / "events.jsonl"
    file.write_bytes(b'{"total": 0}\n{"to')
    assert tail.new() == [{"total": 0}]
    file.write_bytes(b'{"total": 0}\n{"total": 1}\n')
    assert tail.new() == [{"total": 1}]


def test_who_follows_reads_what_is_new_alone(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    read = storage.read_range
    monkeypatch.setattr(storage, "read_range", lambda url, span, **rest: asked.append(span) or read(url, span, **rest))
    lane, tail = Events(s3), Tail(s3)
    for total in range(3):
        lane.write(step(total))
        lane.flush()
        tail.new()
    ends = [end for _, end in asked]
    assert asked == list(zip([0, *ends[:-1]], ends, strict=True))
