"""When lanes start: those they need are done and there is room; and what a failure leaves alone."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from mdr_dist.launch.graph import run_lanes
from mdr_dist.stage import Lane, Stage, lanes

NONE = frozenset[str]()


def plan(**needs: tuple[str, ...]) -> dict[str, Lane]:
    stages = tuple(Stage(name=n, loss=lambda rows, batch: {}, lane=n, needs=above) for n, above in needs.items())
    return lanes(stages, (), ())


DIAMOND = {"b1": ("a",), "b2": ("a",), "b3": ("a",), "c": ("b1", "b2", "b3"), "a": ()}


class Recorder:
    """Runs every lane until all that could run beside it have started, or for `beside` lanes."""

    def __init__(self, beside: Callable[[str], int]) -> None:
        self.lock = threading.Condition()
        self.running: set[str] = set()
        self.done: list[str] = []
        self.most = 0
        self.beside = beside

    def __call__(self, lane: str) -> None:
        with self.lock:
            self.running.add(lane)
            self.most = max(self.most, len(self.running))
            self.lock.notify_all()
            assert self.lock.wait_for(lambda: self.most >= self.beside(lane), timeout=10)
            self.running.remove(lane)
            self.done.append(lane)


@pytest.mark.parametrize(("room", "most"), [(3, 3), (2, 2), (1, 1), (0.5, 1)])
def test_lanes_run_beside_each_other_as_far_as_there_is_room(room: float, most: int) -> None:
    record = Recorder(lambda lane: most if lane.startswith("b") else 0)
    run_lanes(plan(**DIAMOND), record, cost=dict.fromkeys(DIAMOND, 1), room=room)
    assert record.done[0] == "a" and record.done[-1] == "c"
    assert sorted(record.done) == sorted(DIAMOND)
    assert record.most == most


def test_a_failure_leaves_its_siblings_alone_and_starts_nothing_new() -> None:
    started, ended, failed = set[str](), set[str](), threading.Event()

    def start(lane: str) -> None:
        started.add(lane)
        if lane == "b1":
            failed.set()
            raise ValueError("b1 is broken")
        if lane == "b2":
            assert failed.wait(10)
        ended.add(lane)

    with pytest.raises(ValueError, match="b1 is broken"):
        run_lanes(plan(**DIAMOND), start, cost=dict.fromkeys(DIAMOND, 1), room=2)
    assert "c" not in started and {"a", "b2"} <= ended
    assert "b3" not in started
